"""Find the scans of a site: any BIDS folder, CANDIShare and OASIS as they are distributed."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from configs.errors import DataError

EXPECTED = (
    "a BIDS folder (sub-*/anat/*_T1w.nii.gz, labels in derivatives/*/sub-*/anat/*_dseg.nii.gz), "
    "CANDIShare (*_procimg.nii.gz beside *_seg.nii.gz) or OASIS (*norm.nii.gz beside *seg35.nii.gz, "
    "or OAS1_*/PROCESSED/MPRAGE/T88_111/*_masked_gfc.img)"
)

_NIFTI = (".nii.gz", ".nii")
_OASIS_PERSON = re.compile(r"(OAS\d+_[^_]+)")


@dataclass(frozen=True)
class Scan:
    """One scan of one person, with its label map where the site has one."""

    case: str  # unique at the site, e.g. "sub-IXI051", "sub-A01_ses-2", "OAS1_0001_MR1"
    person: str  # the patient: two scans of one person never fall into two splits
    image: Path
    labels: Path | None


def _first(candidates: Iterator[Path] | list[Path]) -> Path | None:
    return min((path for path in candidates if path.is_file()), default=None)


def _bids_labels(folder: Path, subject: str, session: str, run: str) -> Path | None:
    """The label map of one BIDS scan; the session's own first, one without a session only if there is just one."""
    where = f"derivatives/*/{subject}/{session}/anat" if session else f"derivatives/*/{subject}/anat"
    found = [path for end in _NIFTI for path in folder.glob(f"{where}/{subject}_*dseg{end}")]
    return _first([path for path in found if run in path.name] if run else found)


def _bids(folder: Path) -> list[Scan]:
    scans = []
    images = [p for end in _NIFTI for way in ("", "ses-*/") for p in folder.glob(f"sub-*/{way}anat/*_T1w{end}")]
    for image in sorted(images):
        subject = next(part for part in image.relative_to(folder).parts if part.startswith("sub-"))
        session = image.parent.parent.name if image.parent.parent.name.startswith("ses-") else ""
        case = image.name.removesuffix(".gz").removesuffix(".nii").removesuffix("_T1w")
        run = match.group() if (match := re.search(r"run-\w+?(?=_|$)", case)) else ""
        scans.append(Scan(case, subject, image, _bids_labels(folder, subject, session, run)))
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


LAYOUTS: tuple[Callable[[Path], list[Scan]], ...] = (_bids, _candi, _oasis_norm, _oasis_discs)


def _scans_of(folder: Path) -> list[Scan]:
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}; give a site folder that holds {EXPECTED}")
    for layout in LAYOUTS:
        if scans := layout(folder):
            return scans
    raise DataError(f"no scans found in {folder}; expected {EXPECTED}")


def find_scans(folders: Sequence[Path]) -> list[Scan]:
    """List what a site has, in the order of case names; nothing is read but folder names.

    Args:
        folders: one or more folders of the site, each in any of the layouts.

    Raises:
        DataError: a folder is missing or holds no scan, or two scans have one case name.
    """
    scans = sorted((scan for folder in folders for scan in _scans_of(Path(folder))), key=lambda scan: scan.case)
    for before, after in zip(scans, scans[1:], strict=False):
        if before.case == after.case:
            raise DataError(f"two scans are called {before.case}: {before.image} and {after.image}; keep one of them")
    return scans
