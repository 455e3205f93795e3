"""One scan of a site, and how its files are called."""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

ENDS = (".nii.gz", ".nii")
"""Of the names of images that a folder may hold; others are read where a layout, a table or the user names them."""


@dataclass(frozen=True)
class Series:
    """The DICOM files that hold a scan. Their names may be a patient's, so nothing that is written names them."""

    name: str  # in messages, in the place of paths: "series 2 of sub-a2b3c4d5e6"
    files: tuple[Path, ...] = field(default=(), repr=False)
    refused: str = ""  # why none of a study's series can be used


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
    series: Series | None = None  # of a scan in DICOM, whose `image` is no file's path, but its case
    series_note: str = ""  # what a person should know of the choice of the series

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of the scan itself."""
        return self.series.files if self.series else (self.image,)

    @property
    def name(self) -> str:
        """What results call the scan's file."""
        return self.case if self.series else self.image.name

    def as_nifti(self) -> "AbstractContextManager[Scan]":
        """Give the scan with an image that is read as it is: of DICOM a converted one, which goes away with the block.

        Raises:
            DataError: `dicom`: it cannot be converted, or no series could be chosen.
        """
        if self.series is None:
            return nullcontext(self)
        from client.dicom.convert import converted

        return converted(self)

    def nameless(self, text: str) -> str:
        """Take the paths of a scan in DICOM out of a message."""
        if self.series is None:
            return text
        for path in self.files:
            text = text.replace(str(path), f"a file of {self.series.name}")
        return text.replace(str(self.mask), f"the mask of {self.case}") if self.mask else text


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
