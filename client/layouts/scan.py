"""One scan of a site, and how its files are called."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ENDS = (".nii.gz", ".nii")
"""Of the names of images that a folder may hold; others are read where a layout, a table or the user names them."""


@dataclass(frozen=True)
class Scan:
    """One scan of one person, with its label map where the site has one."""

    case: str  # unique at the site, e.g. "sub-IXI051", "sub-A01_ses-2", "OAS1_0001_MR1"
    person: str  # the patient: two scans of one person never fall into two splits
    image: Path
    labels: Path | None
    mask: Path | None = None  # of the brain, on the voxels of `image`
    mask_note: str = ""  # what a person should know of the choice of the mask
    labels_note: str = ""  # likewise of the label map


def stem_of(path: Path) -> str:
    """Give a file's name without `.nii`, `.nii.gz` or FreeSurfer's `.mgz`; one that is not UTF-8 is read as Latin-1.

    Names that old Windows shares hold ("M\\xfcller.nii.gz") are no text to Python: whatever writes them fails.
    """
    name = path.name
    try:
        name.encode()
    except UnicodeEncodeError:
        name = os.fsencode(name).decode("latin-1")
    return name.removesuffix(".gz").removesuffix(".nii").removesuffix(".mgz")


def first(candidates: Iterable[Path]) -> Path | None:
    """Give the first of these files that is there."""
    return next((path for path in candidates if path.is_file()), None)
