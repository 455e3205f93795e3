"""Data sets as they are distributed, CANDIShare and OASIS (by neurite and on discs), and FreeSurfer's subjects."""

import re
from collections.abc import Sequence
from pathlib import Path

from client.layouts.scan import ENDS, Scan, first, stem_of

_OASIS_PERSON = re.compile(r"(OAS\d+_[^_]+)")

_BIDS_PERSON = re.compile(r"^sub-[A-Za-z0-9]+")

FREESURFER = ("norm.mgz", "brain.mgz", "brainmask.mgz", "T1.mgz")
"""Images of one subject in FreeSurfer's `mri` folder, the first that is there; all but the last are stripped."""


def candi(folder: Path) -> list[Scan]:
    """CANDIShare, e.g. SchizBull_2008/BPDwPsy/BPDwPsy_065/BPDwPsy_065_procimg.nii.gz and, beside it, *_seg.nii.gz."""
    scans = []
    for image in sorted(p for end in ENDS for p in folder.rglob(f"*_procimg{end}")):
        person = stem_of(image).split("_procimg")[0]
        labels = first(image.with_name(f"{person}_seg{end}") for end in ENDS)
        scans.append(Scan(person, person, image, labels))
    return scans


def _oasis_name(folders: Sequence[str]) -> str:
    """The innermost folder that names an OASIS session."""
    named = [name for name in folders if _OASIS_PERSON.search(name)]
    return named[-1].removeprefix("OASIS_") if named else folders[-1]


def _oasis_person(case: str) -> str:
    match = _OASIS_PERSON.search(case)
    return match.group() if match else case


def oasis_norm(folder: Path) -> list[Scan]:
    """OASIS by neurite and Learn2Reg: OASIS_OAS1_0001_MR1/aligned_norm.nii.gz, or norm.nii.gz, one scan a folder."""
    scans = []
    homes = {p.parent for end in ENDS for p in folder.rglob(f"*norm{end}") if p.name[:4] in ("norm", "alig")}
    for home in sorted(homes):
        for way in ("aligned_", ""):
            image = first(home / f"{way}norm{end}" for end in ENDS)
            if image is None:
                continue
            case = _oasis_name(home.parts)
            labels = first(home / f"{way}{kind}{end}" for kind in ("seg35", "aseg") for end in ENDS)
            scans.append(Scan(case, _oasis_person(case), image, labels))
            break
    return scans


def oasis_discs(folder: Path) -> list[Scan]:
    """OASIS-1, its skull-stripped averages; FSL_SEG beside them has three tissues and is not read as a label map."""
    scans = []
    for image in sorted(folder.rglob("PROCESSED/MPRAGE/T88_111/*_masked_gfc.hdr")):
        case = _oasis_name(image.parts[:-1])
        scans.append(Scan(case, _oasis_person(case), image, None))
    return scans


def freesurfer(folder: Path) -> list[Scan]:
    """FreeSurfer's SUBJECT/mri, a folder of such subjects or one of them: the stripped image and its aseg.mgz.

    Its templates (`fsaverage`) are nobody's scan. Sessions that BIDS tools named (`sub-01_ses-2`) are one person's.
    """
    scans = []
    for home in sorted({*folder.glob("*/mri"), *folder.glob("mri")}):
        subject = stem_of(home.absolute().parent)
        image = first(home / name for name in FREESURFER)
        if image is None or subject.startswith("fsaverage"):
            continue
        person = match.group() if (match := _BIDS_PERSON.search(subject)) else subject
        scans.append(Scan(subject, person, image, first([home / "aseg.mgz"])))
    return scans
