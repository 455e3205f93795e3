"""`sst evaluate`: a folder of label maps against a reference, by structure and by group.

Rules for what is not there, the same in every table: a structure that neither map holds has no figures and counts in
no mean; one that only one map holds has a Dice of 0, no distance, and its whole volume as error.
"""

# mypy: untyped-calls-exclude="SimpleITK"

import csv
import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.layouts import stem_of
from client.nifti import array_of, read_geometry, read_labels
from configs.errors import DataError
from configs.structures import PAPER, LabelTable
from sst_models.volume.metrics import dice_per_class
from sst_models.wire.files import replace_file, write_json

MEASURES = ("dice", "hd95_mm", "assd_mm", "volume_error_ml", "volume_error_percent")

_SUFFIX = re.compile(r"_(dseg|seg|seg35|aseg|labels?|T1w)$")
_OWN = re.compile(r"_(desc|space|res|label)-[A-Za-z0-9]+")


@dataclass(frozen=True)
class Agreement:
    """How one label map agrees with its reference: of each structure or group, each of `MEASURES`; nan: no figure."""

    case: str
    figures: dict[str, dict[str, float]]  # structure or group name -> measure -> value

    def mean(self, names: Iterable[str], measure: str) -> float:
        """Give the mean of a measure over names that have one; nan if none has."""
        known = [value for name in names if not math.isnan(value := self.figures[name][measure])]
        return sum(known) / len(known) if known else math.nan

    @property
    def mean_dice(self) -> float:
        """Mean Dice of the groups that have one, 0 to 1; nan if none has."""
        return self.mean([name for name in self.figures if name.startswith(GROUP)], "dice")


GROUP = "group:"
"""Comes before the name of a group in `Agreement.figures`: some groups are called as their only member."""


def compare(
    found: Tensor, truth: Tensor, spacing: Sequence[float], table: LabelTable = PAPER
) -> dict[str, dict[str, float]]:
    """Compare two label maps on the same voxels; Dice is ours, distances are MONAI's.

    Args:
        found: (i, j, k) class indices.
        truth: likewise.
        spacing: sides of a voxel, mm.
        table: of labels.

    Returns:
        As `Agreement.figures`. HD95 is the larger of the two directed 95th percentiles, ASSD the mean over both
        surfaces; a group's figures are the means over its members that have one.

    Raises:
        ValueError: the shapes differ, or a label is no class index.
    """
    dice = dice_per_class(found, truth, table.classes)
    counts = [torch.bincount(labels.reshape(-1), minlength=table.classes).double() for labels in (found, truth)]
    ml = math.prod(spacing) / 1000
    figures = {}
    for structure in table.structures:
        ours, theirs = float(counts[0][structure.index]), float(counts[1][structure.index])
        own = dict.fromkeys(MEASURES, math.nan)
        if ours or theirs:
            own["dice"] = float(dice[structure.index])
            own["volume_error_ml"] = (ours - theirs) * ml
        if theirs:
            own["volume_error_percent"] = 100 * (ours - theirs) / theirs
        if ours and theirs:
            own["hd95_mm"], own["assd_mm"] = _distances(found == structure.index, truth == structure.index, spacing)
        figures[structure.name] = own
    whole = Agreement("", figures)
    names = {structure.index: structure.name for structure in table.structures}
    for group, members in table.members.items():
        figures[GROUP + group] = {m: whole.mean([names[index] for index in members], m) for m in MEASURES}
    return figures


def _distances(one: Tensor, other: Tensor, spacing: Sequence[float]) -> tuple[float, float]:
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    both = (one | other).nonzero()
    low, high = both.amin(dim=0), both.amax(dim=0) + 1  # MONAI works on the whole volume otherwise
    box = tuple(slice(max(0, int(a) - 1), int(b) + 1) for a, b in zip(low, high, strict=True))
    pair = (one[box][None, None], other[box][None, None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of an argument that it passes to itself
        hausdorff = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=list(spacing))
        surface = compute_average_surface_distance(
            *pair, include_background=True, symmetric=True, spacing=list(spacing)
        )
    return float(hausdorff), float(surface)


def pair_up(found: Path, reference: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Pair label maps by the names of their scans.

    Args:
        found: a label map, or a folder of them, in folders or not.
        reference: likewise.

    Returns:
        (case, found, reference) of each pair, and the cases that are on one side only.

    Raises:
        DataError: a path is missing, two maps are of one case, or nothing fits.
    """
    if found.is_file() and reference.is_file():
        return [(case_of(found), found, reference)], []
    ours, theirs = _maps(found), _maps(reference)
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        raise DataError(
            f"no label map in {found} has a reference in {reference}; a scan's two files must have the same name "
            f"up to _desc-..., _space-... and _dseg, but there are {_some(ours)} and {_some(theirs)}"
        )
    return [(case, ours[case], theirs[case]) for case in shared], sorted(set(ours) ^ set(theirs))


def case_of(path: Path) -> str:
    """Give the scan that a label map is of, by its name."""
    return _SUFFIX.sub("", _OWN.sub("", stem_of(path)))


def evaluate_pair(case: str, found: Path, reference: Path, table: LabelTable = PAPER) -> Agreement:
    """Compare two files.

    Raises:
        DataError: one cannot be read, or they do not lie on each other.
    """
    place = read_geometry(reference)
    truth, ours = (array_of(read_labels(path, place, table)).astype(np.int64) for path in (reference, found))
    figures = compare(torch.from_numpy(ours), torch.from_numpy(truth), place.GetSpacing(), table)
    return Agreement(case, figures)


def evaluate_folder(
    found: Path,
    reference: Path,
    out: Path,
    watch: Callable[[int, int], None] | None = None,
    table: LabelTable = PAPER,
    *,
    begin: Callable[[int, int, str], None] | None = None,
) -> tuple[list[Agreement], list[str]]:
    """Compare all pairs, and write `evaluation.csv`, `evaluation.json` and `dice.png` into `out`.

    Returns:
        The agreements, and a line on everything that was left out.

    Raises:
        DataError: nothing could be compared.
    """
    pairs, alone = pair_up(found, reference)
    left = [f"{case} is on one side only" for case in alone]
    done = []
    for number, (case, ours, theirs) in enumerate(pairs, start=1):
        if begin is not None:
            begin(number, len(pairs), case)
        try:
            done.append(evaluate_pair(case, ours, theirs, table))
        except DataError as error:
            left.append(str(error))
        if watch is not None:
            watch(number, len(pairs))
    if not done:
        raise DataError(f"none of {len(pairs)} pairs could be compared; the first: {left[-1]}")
    _write(done, left, out)
    return done, left


def _write(done: Sequence[Agreement], left: Sequence[str], out: Path) -> None:
    rows = [
        [agreement.case, "group" if name.startswith(GROUP) else "structure", name.removeprefix(GROUP)]
        + [_text(own[measure]) for measure in MEASURES]
        for agreement in done
        for name, own in agreement.figures.items()
    ]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([["case", "kind", "name", *MEASURES], *rows])
    replace_file(out / "evaluation.csv", file.getvalue())
    cases = {
        agreement.case: {
            name: {measure: _known(value) for measure, value in own.items()} for name, own in agreement.figures.items()
        }
        for agreement in done
    }
    summary = {
        name: {measure: _spread([agreement.figures[name][measure] for agreement in done]) for measure in MEASURES}
        for name in done[0].figures
    }
    rules = " ".join((__doc__ or "").split("\n\n", 1)[1].split())
    write_json({"rules": rules, "left_out": list(left), "summary": summary, "cases": cases}, out / "evaluation.json", 2)
    replace_file(out / "dice.png", _plot(done))


def _plot(done: Sequence[Agreement]) -> bytes:
    """Draw Dice by group, a dot a scan."""
    from matplotlib.figure import Figure

    groups = [name.removeprefix(GROUP) for name in done[0].figures if name.startswith(GROUP)]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.subplots()
    values = [[v for a in done if not math.isnan(v := 100 * a.figures[GROUP + g]["dice"])] for g in groups]
    axes.boxplot(values, showfliers=False, medianprops={"color": "#1a5fb0"})
    for place, column in enumerate(values, start=1):
        axes.plot([place] * len(column), column, "o", color="#1a5fb0", alpha=0.5, markersize=4)
    axes.set_xticks(range(1, len(groups) + 1), groups, rotation=40, ha="right")
    axes.set_ylabel("Dice, %")
    axes.set_ylim(0, 100)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(f"Agreement with the reference, {len(done)} scan{'s' if len(done) > 1 else ''}")
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _maps(folder: Path) -> dict[str, Path]:
    if folder.is_file():
        return {case_of(folder): folder}
    if not folder.is_dir():
        raise DataError(f"no such file or folder: {folder}; give a label map or a folder of them")
    paths = sorted(p for end in (".nii", ".nii.gz") for p in folder.rglob(f"*{end}") if not p.name.startswith("."))
    named = [path for path in paths if re.search(r"(seg|seg35|labels?)$", stem_of(path))]
    found: dict[str, Path] = {}
    for path in named or [path for path in paths if not re.search(r"_(T1w|mask)$", stem_of(path))]:
        case = case_of(path)
        if case in found:
            raise DataError(f"two label maps of {case}: {found[case]} and {path}; keep one of them")
        found[case] = path
    if not found:
        raise DataError(f"no label maps in {folder}; expected .nii or .nii.gz files")
    return found


def _some(maps: dict[str, Path]) -> str:
    return ", ".join(list(maps)[:2])


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 8)


def _text(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}"


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return {"mean": None, "std": None, "scans": 0}
    std = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"mean": float(np.mean(known)), "std": std, "scans": len(known)}
