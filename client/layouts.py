"""Find the scans of a site: BIDS, CANDIShare and OASIS as they are distributed, loose files, or a table of files."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from configs.contrast import CONTRASTS, T1
from configs.errors import ConfigError, DataError

EXPECTED = (
    "a BIDS folder (sub-*/anat/*_{contrast}.nii.gz, labels in derivatives/*/sub-*/anat/*_dseg.nii.gz), "
    "CANDIShare (*_procimg.nii.gz beside *_seg.nii.gz), OASIS (*norm.nii.gz beside *seg35.nii.gz, "
    "or OAS1_*/PROCESSED/MPRAGE/T88_111/*_masked_gfc.img), or any .nii and .nii.gz files"
)

_NIFTI = (".nii.gz", ".nii")
_NO_SCAN = re.compile(r"_(mask|dseg|seg|aseg|labels?|probseg|seg35|T2star|bold|sbref|dwi|epi|swi|angio)$")
"""Ends of the names of files that lie beside scans and are none (the suffixes of BIDS)."""

_FILE = re.compile(rf"(_({'|'.join(CONTRASTS)}))?\.(nii\.gz|nii|img|hdr)$")
"""Ends the name of a file that is given by itself; what is before it is the case."""

COLUMNS = ("image", "case", "person", "labels", "mask")
"""Columns of a table of files (.csv or .tsv); only `image` must be there. Paths start at the table's own folder."""
_OASIS_PERSON = re.compile(r"(OAS\d+_[^_]+)")


@dataclass(frozen=True)
class Scan:
    """One scan of one person, with its label map where the site has one."""

    case: str  # unique at the site, e.g. "sub-IXI051", "sub-A01_ses-2", "OAS1_0001_MR1"
    person: str  # the patient: two scans of one person never fall into two splits
    image: Path
    labels: Path | None
    mask: Path | None = None  # of the brain, on the voxels of `image`


def _first(candidates: Iterator[Path] | list[Path]) -> Path | None:
    return min((path for path in candidates if path.is_file()), default=None)


def _bids_labels(folder: Path, subject: str, session: str, run: str) -> Path | None:
    """The label map of one BIDS scan; the session's own first, one without a session only if there is just one."""
    where = f"derivatives/*/{subject}/{session}/anat" if session else f"derivatives/*/{subject}/anat"
    found = [path for end in _NIFTI for path in folder.glob(f"{where}/{subject}_*dseg{end}")]
    return _first([path for path in found if run in path.name] if run else found)


def _bids_mask(folder: Path, subject: str, session: str, run: str) -> Path | None:
    """The brain mask of one BIDS scan, beside it or in a derivative."""
    inside = f"{subject}/{session}/anat" if session else f"{subject}/anat"
    names = [f"{subject}_*{kind}_mask{end}" for kind in ("desc-brain", "label-brain") for end in _NIFTI]
    found = [
        path
        for where in (inside, f"derivatives/*/{inside}")
        for name in names
        for path in folder.glob(f"{where}/{name}")
    ]
    return _first([path for path in found if run in path.name] if run else found)


def _bids(folder: Path, contrast: str) -> list[Scan]:
    scans = []
    images = [p for end in _NIFTI for way in ("", "ses-*/") for p in folder.glob(f"sub-*/{way}anat/*_{contrast}{end}")]
    for image in sorted(images):
        subject = next(part for part in image.relative_to(folder).parts if part.startswith("sub-"))
        session = image.parent.parent.name if image.parent.parent.name.startswith("ses-") else ""
        case = image.name.removesuffix(".gz").removesuffix(".nii").removesuffix(f"_{contrast}")
        run = match.group() if (match := re.search(r"run-\w+?(?=_|$)", case)) else ""
        labels, mask = (find(folder, subject, session, run) for find in (_bids_labels, _bids_mask))
        scans.append(Scan(case, subject, image, labels, mask))
    return scans


def _candi(folder: Path) -> list[Scan]:
    """CANDIShare, e.g. SchizBull_2008/BPDwPsy/BPDwPsy_065/BPDwPsy_065_procimg.nii.gz and, beside it, *_seg.nii.gz."""
    scans = []
    for image in sorted(p for end in _NIFTI for p in folder.rglob(f"*_procimg{end}")):
        person = image.name.split("_procimg")[0]
        labels = _first([image.with_name(f"{person}_seg{end}") for end in _NIFTI])
        scans.append(Scan(person, person, image, labels))
    return scans


def _oasis_name(folders: Sequence[str]) -> str:
    """The innermost folder that names an OASIS session."""
    named = [name for name in folders if _OASIS_PERSON.search(name)]
    return named[-1].removeprefix("OASIS_") if named else folders[-1]


def _oasis_person(case: str) -> str:
    match = _OASIS_PERSON.search(case)
    return match.group() if match else case


def _oasis_norm(folder: Path) -> list[Scan]:
    """OASIS by neurite and Learn2Reg: OASIS_OAS1_0001_MR1/aligned_norm.nii.gz, or norm.nii.gz, one scan a folder."""
    scans = []
    for home in sorted(
        {p.parent for end in _NIFTI for p in folder.rglob(f"*norm{end}") if p.name[:4] in ("norm", "alig")}
    ):
        for way in ("aligned_", ""):
            image = _first([home / f"{way}norm{end}" for end in _NIFTI])
            if image is None:
                continue
            case = _oasis_name(home.parts)
            ends = [f"{way}{kind}{end}" for kind in ("seg35", "aseg") for end in _NIFTI]
            labels = next((home / end for end in ends if (home / end).is_file()), None)
            scans.append(Scan(case, _oasis_person(case), image, labels))
            break
    return scans


def _oasis_discs(folder: Path) -> list[Scan]:
    """OASIS-1, its skull-stripped averages; FSL_SEG beside them has three tissues and is not read as a label map."""
    scans = []
    for image in sorted(folder.rglob("PROCESSED/MPRAGE/T88_111/*_masked_gfc.hdr")):
        case = _oasis_name(image.parts[:-1])
        scans.append(Scan(case, _oasis_person(case), image, None))
    return scans


def stem_of(path: Path) -> str:
    """Give a file's name without `.nii` or `.nii.gz`."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _loose(folder: Path, contrast: str) -> list[Scan]:
    """Any NIfTI files, in folders or not; a file is a person of its own, for nothing says otherwise."""
    others = tuple(f"_{other}" for other in CONTRASTS if other != contrast)
    scans = []
    for image in sorted(path for end in _NIFTI for path in folder.rglob(f"*{end}")):
        within = image.relative_to(folder)
        stem = stem_of(image)
        if (
            stem.endswith(others)
            or _NO_SCAN.search(stem)
            or any(part.startswith(".") or part == "derivatives" for part in within.parts)
        ):
            continue
        case = "_".join([*within.parts[:-1], stem_of(image)])
        beside = [
            [image.with_name(f"{stem_of(image)}_{kind}{end}") for end in _NIFTI] for kind in ("dseg", "seg", "mask")
        ]
        labels, segmented, mask = map(_first, beside)
        scans.append(Scan(case, case, image, labels or segmented, mask))
    return scans


def read_table(path: Path) -> list[Scan]:
    """List the scans of a table of files, see `COLUMNS`.

    Raises:
        DataError: it cannot be read, has no column `image`, or a row has no image.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the table {path}; give a text file, .csv or .tsv") from error
    reader = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix == ".tsv" else ",")
    if "image" not in (reader.fieldnames or ()):
        raise DataError(f"no column image in {path}; expected {', '.join(COLUMNS)}, of which only image must be there")
    scans = []
    for number, row in enumerate(reader, start=2):
        given = {name: (row.get(name) or "").strip() for name in COLUMNS}
        if not given["image"]:
            raise DataError(f"line {number} of {path} has no image; fill it in or take the line out")
        image, labels, mask = (
            path.parent / given[name] if given[name] else None for name in ("image", "labels", "mask")
        )
        assert image is not None
        case = given["case"] or stem_of(image)
        scans.append(Scan(case, given["person"] or case, image, labels, mask))
    if not scans:
        raise DataError(f"no rows in {path}; add one for each scan")
    return scans


def _layouts(contrast: str) -> tuple[Callable[[Path], list[Scan]], ...]:
    """List what finds scans of a contrast, in the order in which it is tried."""
    distributed = (_candi, _oasis_norm, _oasis_discs) if contrast == T1 else ()
    return (partial(_bids, contrast=contrast), *distributed, partial(_loose, contrast=contrast))


def _scans_of(folder: Path, contrast: str) -> list[Scan]:
    if folder.suffix in (".csv", ".tsv") and folder.is_file():
        return read_table(folder)
    if folder.is_file():
        name = _FILE.sub("", folder.name)
        return [Scan(name, name, folder, None)]
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}; give a folder or a table that holds {_expected(contrast)}")
    for layout in _layouts(contrast):
        if scans := layout(folder):
            return scans
    raise DataError(f"no scans found in {folder}; expected {_expected(contrast)}")


def _expected(contrast: str) -> str:
    return EXPECTED.format(contrast=contrast)


def find_scans(folders: Sequence[Path], contrast: str = T1) -> list[Scan]:
    """List what a site has, in the order of case names; nothing is read but folder names and tables of files.

    Args:
        folders: one or more folders of the site, each in any of the layouts, tables of files, or single scans.
        contrast: of the scans, by the suffix that BIDS has for it; of files in other layouts nothing else says it.

    Raises:
        DataError: a folder or file is missing or holds no scan, or two scans have one case name.
    """
    return in_order(scan for folder in folders for scan in _scans_of(Path(folder), contrast))


def in_order(found: Iterable[Scan]) -> list[Scan]:
    """Sort scans by their case names.

    Raises:
        DataError: two have one name.
    """
    scans = sorted(found, key=lambda scan: scan.case)
    for before, after in zip(scans, scans[1:], strict=False):
        if before.case == after.case:
            raise DataError(f"two scans are called {before.case}: {before.image} and {after.image}; keep one of them")
    return scans


def with_masks(scans: Sequence[Scan], pattern: str) -> list[Scan]:
    """Give each scan the mask that a pattern names, e.g. "{stem}_brainmask.nii.gz" or "../masks/{case}.nii.gz".

    Args:
        scans: what was found.
        pattern: a path from the scan's own folder, with {stem}, {case} and {person}; "" changes nothing.

    Returns:
        The scans; one whose mask is not there keeps what it had.

    Raises:
        ConfigError: the pattern has another field.
    """
    if not pattern:
        return list(scans)
    found = []
    for scan in scans:
        try:
            name = pattern.format(stem=stem_of(scan.image), case=scan.case, person=scan.person)
        except (LookupError, ValueError) as error:
            raise ConfigError(f"--mask-pattern: '{pattern}' may hold {{stem}}, {{case}} and {{person}} only") from error
        path = scan.image.parent / name
        found.append(replace(scan, mask=path) if path.is_file() else scan)
    return found
