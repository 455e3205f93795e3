"""Which series of a study is its T1-weighted scan: by tags, as a radiographer would tell it, or refused with the list.

The T1 of a brain is a three-dimensional gradient echo with a short echo time, prepared by an inversion (MPRAGE, TFE,
BRAVO) or spoiled with a short repetition time (SPGR, FLASH, VIBE), of the whole head.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from client.dicom.headers import TOGETHER, Volume
from configs.contrast import T1

ECHO = 10.0
"""ms: longest echo time of a T1-weighted gradient echo; iron and veins (SWI, QSM) are shown by longer ones."""

SPOILED, PREPARED = 40.0, 3500.0
"""ms: longest repetition time without an inversion, and with one; the two images of MP2RAGE have 4 s and more."""

INVERSION = (200.0, 1400.0)
"""ms: inversion times of T1 contrast, from GE's 400 to Siemens' 1100, with room; fluid is nulled by longer ones."""

FLIP = 5.0
"""Degrees: below it a spoiled gradient echo shows proton density."""

COVERED = 120.0
"""mm that a whole head has at least in each direction, so that slabs of angiography and localisers are left out."""

EVEN = 0.02
"""Share of a slice's distance that slices may be off an even distance; headers round positions."""

LISTED = 30
"""Series that a message lists at most."""

MADE = frozenset({"MPR", "REFORMATTED", "RESAMPLED", "PROJECTION IMAGE", "MIP", "MINIP", "SUBTRACTION", "CSA MPR"})
PHASE = frozenset({"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY"})
CORRECTED = frozenset({"NORM", "DIS2D", "DIS3D"})
"""Words of ImageType: made from other images, no magnitude, corrected by the scanner."""


@dataclass(frozen=True)
class Choice:
    """What is taken of a study, and the list that says why, without a word of its headers."""

    volume: Volume | None
    text: str


def choose(volumes: Sequence[Volume], number: int | None = None, contrast: str = T1) -> Choice:
    """Choose the scan of one study.

    Args:
        volumes: of the study.
        number: of the series that the user names; None leaves it to the tags.
        contrast: of the scans; only T1-weighted ones are known by their tags.
    """
    if number is not None:
        named = [one for one in volumes if one.number == number]
        usable = [one for one in named if not fault(one)]
        plain = [one for one in usable if not why_not(one)] if len(usable) > 1 else usable
        if len(plain) == 1:
            return Choice(plain[0], f"series {number}, as --series says: {describe(plain[0])}")
        why = "is not in it" if not named else "cannot be used" if not usable else f"has {len(usable)} volumes"
        return Choice(None, f"series {number} {why}; there are {_list(volumes, why_not)}")
    if contrast != T1:
        listed = _list(volumes, fault)
        return Choice(None, f"which series is {contrast} is not told by tags; name it (--series N) of {listed}")
    tagged = [one for one in volumes if not unlike(one)]
    best = [one for one in tagged if not fault(one) and _rank(one) == min(map(_rank, tagged))]
    if len(best) > 1 and len({(one.when, one.size, len(one.slices), one.echo, one.kind[:2]) for one in best}) == 1:
        most = max(len(CORRECTED.intersection(one.kind)) for one in best)  # one acquisition, reconstructed twice
        best = [one for one in best if len(CORRECTED.intersection(one.kind)) == most]
    if len(best) == 1:
        others = _list([one for one in volumes if one is not best[0]], _why_other)
        given = ", after contrast agent, as there is no other" if best[0].agent else ""
        return Choice(best[0], f"its T1 is {describe(best[0])}{given}" + (f"; not {others}" if others else ""))
    listed = _list(volumes, lambda one: "" if one in best else _why_other(one))
    if best:
        return Choice(None, f"{len(best)} series are T1-weighted; name one (--series N) of {listed}")
    why = "its T1-weighted series is not whole" if tagged else "no series is a T1-weighted scan by its tags"
    return Choice(None, f"{why}; name one (--series N) of {listed}")


def why_not(volume: Volume) -> str:
    """Say why a volume is not the T1-weighted scan of a head, or cannot be used as it is; "" where it may be."""
    return unlike(volume) or fault(volume)


def unlike(volume: Volume) -> str:
    """Say why a volume's tags are not those of a T1-weighted scan of a head; "" where they are."""
    kind, sequence = set(volume.kind), volume.sequence
    reasons = (
        (volume.modality != "MR" or not volume.size[0], "no MR image"),
        ("LOCALIZER" in kind, "a localiser"),
        (bool(MADE & kind) or volume.kind[1:2] == ("SECONDARY",), "made from other images"),
        (bool(PHASE.intersection(volume.kind[2:])), "no magnitude image"),
        (volume.acquisition == "2D", "two-dimensional"),
        (volume.acquisition != "3D", "not said to be three-dimensional"),
        ("SE" in sequence, "a spin echo"),
        ("EP" in sequence, "echo planar"),
        (not sequence & {"GR", "RM"} and not volume.variant & {"MP"}, "not said to be a gradient echo"),
        (volume.angiography, "angiography"),
        (not volume.echo <= ECHO, "echo time too long, or not said"),
        (not _weighted(volume), "its times or flip angle are not those of T1"),
        ({"SS"} <= volume.variant and not volume.variant & {"SP", "MP"}, "balanced, not spoiled"),
        (_short(volume), "does not cover a head"),
    )
    return next((why for holds, why in reasons if holds), "")


def fault(volume: Volume) -> str:
    """Say what keeps a volume's slices from being one; "" where nothing does."""
    count = len(volume.slices)
    if not volume.size[0] or min(volume.spacing) <= 0 or not all(map(math.isfinite, volume.spacing)):
        return "no image with a place in space"
    if not all(one.placed for one in volume.slices):
        return "its slices have no place in space"
    turns = np.array([one.orientation for one in volume.slices])
    if float(np.abs(turns - turns[0]).max()) > 1e-3:
        return "its slices lie in several directions"
    if count < 2:
        return "a single slice"
    apart = np.diff(volume.places)
    if doubled := int((apart <= TOGETHER).sum()):
        return f"several volumes in one series: {count} slices at {count - doubled} places"
    step = volume.step
    if float(np.abs(apart - step).max()) > EVEN * step:
        after = int(np.abs(apart - step).argmax()) + 1
        lacking = round(float(apart.max()) / step) - 1
        what = f"slices are missing: {count} are there, {lacking} or more are not" if lacking > 0 else "uneven slices"
        return f"{what} (after slice {after})"
    places = np.array([one.position for one in volume.slices])
    line = places[0] + np.outer(volume.places - volume.places[0], volume.normal)
    if float(np.abs(places - line).max()) > 0.5 * min(volume.spacing):
        return "its slices are shifted against each other"
    return ""


def describe(volume: Volume) -> str:
    """Give number, size, voxel and times of a series, in numbers and the standard's words alone."""
    sides = " x ".join(f"{side:.3g}" for side in (*volume.spacing, _thick(volume)))
    sequence = " ".join(filter(None, (volume.acquisition, *sorted(volume.sequence))))
    times = ((name, value) for name, value in zip(("TR", "TE", "TI"), _times(volume), strict=True) if value == value)
    ms = ", ".join(f"{name} {value:.4g}" for name, value in times)
    what = ", ".join(filter(None, (sequence, f"{ms} ms" if ms else "")))
    columns, rows = volume.size
    size = f"{len(volume.slices)} of {columns} x {rows}, {sides} mm"
    return f"series {volume.number} ({', '.join(filter(None, (size, what)))})"


def _list(volumes: Sequence[Volume], why: Callable[[Volume], str]) -> str:
    lines = [(describe(one), why(one)) for one in volumes[:LISTED]]
    more = [f"and {len(volumes) - LISTED} more"] if len(volumes) > LISTED else []
    return "; ".join([*(f"{line}: {said}" if said else line for line, said in lines), *more])


def _why_other(volume: Volume) -> str:
    return why_not(volume) or ("after contrast agent" if volume.agent else "derived, or reconstructed less well")


def _rank(volume: Volume) -> int:
    """Put originals before what a scanner derived, and both before images after contrast agent."""
    return 2 if volume.agent else int(volume.kind[:1] == ("DERIVED",))


def _weighted(volume: Volume) -> bool:
    if not volume.repetition <= PREPARED:
        return False
    if volume.inversion > 0:
        return INVERSION[0] <= volume.inversion <= INVERSION[1]
    if "IR" in volume.sequence or "MP" in volume.variant:
        return True
    return volume.repetition <= SPOILED and not volume.flip < FLIP


def _short(volume: Volume) -> bool:
    counts, sides = (*volume.size, len(volume.slices)), (*volume.spacing, _thick(volume))
    return not min(count * side for count, side in zip(counts, sides, strict=True)) >= COVERED


def _thick(volume: Volume) -> float:
    return volume.step if all(one.placed for one in volume.slices) else 0.0


def _times(volume: Volume) -> tuple[float, float, float]:
    return volume.repetition, volume.echo, volume.inversion
