"""Scans of a BIDS folder, each with the mask and the label map that bear its own entities, and no other scan's.

Which entities and suffixes there are is said by the specification's own schema (bidsschematools).
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bidsschematools.schema import load_schema

from client.layouts.scan import ENDS, Scan, stem_of
from client.nifti import structures_of
from configs.contrast import T1
from configs.errors import DataError
from configs.structures import LabelTable

NATIVE = ("", "T1w", "T2w", "orig", "individual", "native", "scanner")
"""Values of `space` that mean the voxels of the scan itself; all others are templates."""

OWN_OF_DERIVATIVES = frozenset({"space", "res", "den", "desc", "label", "seg", "atlas", "hemi", "cohort"})
"""Entities of a derivative that say nothing of which scan it was made of."""

NO_MAGNITUDE = ("phase", "real", "imag")
"""Values of `part` whose image shows no tissue."""

UNIT1 = "UNIT1"
"""The T1-weighted image of MP2RAGE, taken where a session has no T1w."""

MASKS = ("desc-brain", "label-brain")
"""How the mask of a brain is marked."""


@dataclass(frozen=True)
class Name:
    """What a file's name says: `sub-01_ses-2_run-01_T1w.nii.gz`."""

    entities: Mapping[str, str]  # short name -> value, in the order of the name; indices without leading zeros
    suffix: str

    @property
    def scan(self) -> frozenset[tuple[str, str]]:
        """What tells this scan, or the scan that a derivative was made of, from all others."""
        return frozenset(
            (key, value)
            for key, value in self.entities.items()
            if key not in OWN_OF_DERIVATIVES and (key, value) != ("part", "mag")
        )

    @property
    def native(self) -> bool:
        """Whether it lies on the voxels of the scan."""
        return self.entities.get("space", "") in NATIVE


@cache
def _schema() -> Any:
    return load_schema()


@cache
def suffixes() -> frozenset[str]:
    """List the suffixes that BIDS has for images of any kind."""
    rules = (rule for kind in _schema().rules.files.raw.values() for rule in kind.values())
    names = (name for rule in rules if ".nii.gz" in rule.extensions for name in rule.suffixes)
    return frozenset(str(_schema().objects.suffixes[name].value) for name in names)


@cache
def _indices() -> frozenset[str]:
    return frozenset(str(one.name) for one in _schema().objects.entities.values() if one.format == "index")


@cache
def _datatypes() -> frozenset[str]:
    return frozenset(str(one.value) for one in _schema().objects.datatypes.values())


def name_of(path: Path) -> Name | None:
    """Read the name of a file; None where it is not BIDS's, which begins with `sub-`."""
    *parts, suffix = stem_of(path).split("_")
    pairs = [part.partition("-")[::2] for part in parts]
    if not pairs or pairs[0][0] != "sub" or not all(value for _, value in pairs):
        return None
    return Name({key: (value.lstrip("0") or "0") if key in _indices() else value for key, value in pairs}, suffix)


def is_bids(folder: Path) -> bool:
    """Whether a folder holds people as BIDS has them, or says that it does."""
    if (folder / "dataset_description.json").is_file():
        return True
    inside = (path for way in ("sub-*", "sub-*/ses-*") for path in folder.glob(f"{way}/*"))
    return any(path.name in _datatypes() and path.is_dir() for path in inside)


def _images(folder: Path, datatype: str = "anat") -> Iterator[tuple[Path, Name]]:
    """Give the images of all people with what their names say, those of a session in the order of their names."""
    for way in ("sub-*", "sub-*/ses-*"):
        for path in sorted(folder.glob(f"{way}/{datatype}/*")):
            if path.name.endswith(ENDS) and (name := name_of(path)):
                yield path, name


def find(folder: Path, contrast: str, table: LabelTable) -> list[Scan]:
    """List the scans of a contrast; label maps are read only where a scan has several.

    Raises:
        DataError: it is a BIDS folder, and holds no such scan.
    """
    sessions: dict[Path, list[tuple[Path, Name]]] = {}  # folder, from the data set's own -> its images
    derived: dict[Path, list[tuple[Path, Name]]] = {}  # likewise, of all derivatives
    homes = [home for home in sorted(folder.glob("derivatives/*")) if home.is_dir()]
    for home, kept in ((folder, sessions), *((home, derived) for home in homes)):
        for path, name in _images(home):
            kept.setdefault(path.parent.relative_to(home), []).append((path, name))
    scans = []
    for session, images in sessions.items():
        names = [name for _, name in images]
        beside = [*images, *derived.get(session, ())]
        scans += [_scan(path, name, beside, table) for path, name in images if _is_scan(name, contrast, names)]
    if not scans and is_bids(folder):
        has = Counter(name.suffix for _, name in _images(folder, "*"))
        listed = ", ".join(f"{suffix}: {count}" for suffix, count in sorted(has.items())) or "no image at all"
        raise DataError(f"it is a BIDS folder without sub-*/anat/*_{contrast}.nii.gz (it has {listed})")
    return scans


def _is_scan(name: Name, contrast: str, others: Sequence[Name]) -> bool:
    """Whether it is a scan of the contrast; `others` are all images of its session."""
    if name.entities.get("part") in NO_MAGNITUDE:
        return False
    if not name.native and any(other.suffix == name.suffix and other.native for other in others):
        return False  # the same scan on a template's voxels, in a folder of derivatives
    if contrast == T1 and name.suffix == UNIT1:
        return not any(other.suffix == T1 for other in others)
    return name.suffix == contrast


def _scan(path: Path, name: Name, beside: Sequence[tuple[Path, Name]], table: LabelTable) -> Scan:
    case = stem_of(path).removesuffix(f"_{name.suffix}")
    near = [(at, other) for at, other in beside if other.native]
    own = [(at, other) for at, other in near if other.scan == name.scan]
    mask, mask_note = _mask([at for at, other in own if _is_mask(at, other)], path, case)
    if mask is None and (strange := [at for at, other in near if _is_mask(at, other)]):
        mask_note = f"{case}: {strange[0].name} is the mask of another scan, and not taken"
    labels, labels_note = _labels([at for at, other in own if other.suffix == "dseg"], case, table)
    if not (labels or labels_note) and (strange := [at for at, other in near if other.suffix == "dseg"]):
        labels_note = f"{case}: {strange[0].name} is the label map of another scan, and not taken"
    return Scan(case, f"sub-{name.entities['sub']}", path, labels, mask, mask_note, labels_note)


def _mask(found: Sequence[Path], image: Path, case: str) -> tuple[Path | None, str]:
    """Choose a scan's mask, one beside the scan first, and say where others might have been meant."""
    if not found:
        return None, ""
    beside = [path for path in found if path.parent == image.parent]
    if beside or len(found) == 1:
        return (beside or found)[0], ""
    return found[0], f"{case}: {len(found)} masks are its own; taken: {found[0]}"


def _is_mask(path: Path, name: Name) -> bool:
    return name.suffix == "mask" and any(re.search(rf"_{mark}(_|$)", stem_of(path)) for mark in MASKS)


def _labels(found: Sequence[Path], case: str, table: LabelTable) -> tuple[Path | None, str]:
    """Choose a scan's label map by what is in it: the one with most structures of the table as the table has them."""
    if len(found) < 2:
        return (found[0] if found else None), ""
    held: dict[Path, int] = {}
    for path in found:
        try:
            held[path] = structures_of(path, table)
        except DataError:
            continue
    best = [path for path, count in held.items() if count == max(held.values()) > 0]
    if len(best) == 1:
        return best[0], ""
    names = ", ".join(str(path) for path in best or found)
    why = "hold equally many structures" if best else "cannot be used"
    return None, f"{case}: its label maps {names} {why}, and none is taken; name one in a table of files"
