"""A scan and its label map from disk, refused with an error code and a reason when a site cannot use them.

Each message begins with its code (`unreadable`, `not-3d`, `size`, `not-finite`, `constant`, `negative`, `clipped`,
`spacing`, `affine`, `mismatch`, `unknown-label`): the code may be counted at the hub, the text stays at the site.
"""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from configs.errors import DataError
from configs.structures import PAPER, LabelTable
from sst_models.volume.grid import check_geometry, check_voxels, on_voxels_of, structures_among, to_classes

SEG35_TO_ASEG: dict[int, int] = {
    index: id_
    for index, id_ in enumerate(
        [0, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 26, 28, 30, 31]
        + [41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 62, 63]
    )
}
"""The 35 structures of the neurite and Learn2Reg release of OASIS (`*seg35.nii.gz`), in the order of its label list."""


_DAMAGE = (OSError, EOFError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError) + (
    zlib.error,
    struct.error,
    ImageFileError,
    HeaderDataError,
)
"""What reading a damaged file raises in nibabel."""

MOST_VOXELS = 1 << 29
"""Voxels beyond which a header is damaged rather than a scan large: 512 MB of bytes, 0.4 mm over a whole head."""

DISAGREEMENT = 0.5
"""Voxels that sform and qform may put a corner apart; more, and left and right or the place are anybody's guess."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""NIfTI's world is RAS, SimpleITK's LPS."""


def affine_of(image: sitk.Image) -> np.ndarray:
    """4 x 4 of a SimpleITK image, voxel (i, j, k, 1) to RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return np.asarray(LPS @ affine)


def array_of(image: sitk.Image) -> np.ndarray:
    """Voxels (i, j, k) of a SimpleITK image, whose own arrays are (k, j, i)."""
    return np.ascontiguousarray(sitk.GetArrayViewFromImage(image).transpose(2, 1, 0))


def to_sitk(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """(i, j, k) and its RAS affine as a SimpleITK image."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    world = LPS @ affine
    sides = np.linalg.norm(world[:3, :3], axis=0)
    image.SetSpacing(sides.tolist())
    image.SetDirection((world[:3, :3] / sides).ravel().tolist())
    image.SetOrigin(world[:3, 3].tolist())
    return image


@dataclass(frozen=True)
class Turn:
    """From the order of a scan's axes to right, front, top, as nearly as they go, and back; without loss.

    What works along axes, in blocks of voxels or on a random sample of them, would give another result of the same head
    stored in another order.
    """

    order: np.ndarray  # as nibabel's orientations

    @staticmethod
    def of(affine: np.ndarray) -> "Turn":
        """Give that of an affine, voxels to RAS mm."""
        return Turn(nib.orientations.io_orientation(affine))

    def straight(self, voxels: np.ndarray) -> np.ndarray:
        """Turn an array (i, j, k)."""
        return np.ascontiguousarray(nib.orientations.apply_orientation(voxels, self.order))

    def affine(self, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Give the affine of the turned array; both arguments are the scan's own."""
        return np.asarray(affine @ nib.orientations.inv_ornt_aff(self.order, shape))

    def back(self, voxels: np.ndarray) -> np.ndarray:
        """Turn an array back to the scan's own order."""
        straight = np.array([[0, 1], [1, 1], [2, 1]])
        inverse = nib.orientations.ornt_transform(straight, self.order)
        return np.ascontiguousarray(nib.orientations.apply_orientation(voxels, inverse))


def open_image(path: Path) -> Any:
    """Open a file of one volume, header only; its place in space is checked, its voxels are not read.

    Returns:
        nibabel's image, whose types say no more than `Any`.

    Raises:
        DataError: `unreadable`, `not-3d`, `size`, `affine` or `spacing`.
    """
    try:
        file: Any = nib.load(path, mmap=False)  # a file that shrinks under a map kills the process
        if not isinstance(file, SpatialImage):  # CIFTI, of surfaces, has NIfTI's endings
            raise DataError(f"not-3d: {path} holds no volume ({type(file).__name__}); give the scan itself")
        shape = tuple(int(side) for side in file.shape)
        affine = np.asarray(file.affine, dtype=np.float64)
    except _DAMAGE as error:
        raise _unreadable(path) from error
    if len(shape) == 4 and shape[3] == 1:
        shape = shape[:3]
    if len(shape) != 3 or min(shape) < 2:
        raise DataError(f"not-3d: {path} has shape {shape}; expected one 3-D volume")
    if math.prod(shape) > MOST_VOXELS:
        raise DataError(f"size: the header of {path} states {shape} voxels; it is damaged, restore the file")
    _check_forms(file, path)
    check_geometry(affine, str(path))
    return file


def _unreadable(path: Path) -> DataError:
    text = "it is damaged, cut short or not an image" if path.exists() else "no such file"
    return DataError(f"unreadable: {path}: {text}; restore it or take it out of the folder")


def _check_forms(file: Any, path: Path) -> None:
    """Refuse a NIfTI file whose header does not say where it lies, or says it twice and differently."""
    if not isinstance(file, nib.Nifti1Pair):  # Analyze has no such codes
        return
    try:
        sform, qform = file.get_sform(coded=True)[0], file.get_qform(coded=True)[0]
    except _DAMAGE as error:
        raise DataError(f"affine: the qform of {path} is no rotation; convert it again from its source") from error
    if sform is None and qform is None:
        raise DataError(
            f"affine: sform and qform of {path} are not set, so left and right are unknown; convert it again"
        )
    if sform is None or qform is None:
        return
    corners = np.array([[*corner, 1.0] for corner in np.ndindex(2, 2, 2)]).T
    corners[:3] *= np.array(file.shape[:3])[:, None] - 1
    apart = float(np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max())
    side = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    if not apart <= DISAGREEMENT * side:
        raise DataError(f"affine: sform and qform of {path} disagree by {apart:.3g} mm; set both to the true one")


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, np.dtype[Any]]:
    """Voxels (i, j, k) float32, RAS affine and type on disk of one 3-D volume; a fourth axis of one is dropped.

    nibabel, because SimpleITK's reader turns NaN into 0 and fills a file that was cut short with 0, without a word.
    """
    file = open_image(path)
    if file.get_data_dtype().kind not in "iuf":
        raise DataError(f"unreadable: {path} holds {_no_numbers(file)} instead of one number a voxel; export it again")
    try:
        voxels = np.asarray(file.dataobj, dtype=np.float32)
    except _DAMAGE as error:
        raise _unreadable(path) from error
    return voxels.reshape(voxels.shape[:3]), np.asarray(file.affine, dtype=np.float64), file.get_data_dtype()


def _no_numbers(file: Any) -> str:
    return "complex numbers" if file.get_data_dtype().kind == "c" else "colours"


def read_image(path: Path) -> sitk.Image:
    """Read a T1-weighted scan (`.nii`, `.nii.gz`, or an `.img`/`.hdr` pair) as float32.

    Raises:
        DataError: it cannot be read or used; see the codes above.
    """
    voxels, affine, kind = _read(path)
    check_voxels(voxels, str(path))
    _check_range(voxels, kind, path)
    return to_sitk(voxels, affine)


def _check_range(voxels: np.ndarray, kind: np.dtype[Any], path: Path) -> None:
    """Refuse intensities that no magnitude image of a scanner has."""
    seen = voxels[voxels != 0]
    high = float(np.percentile(np.abs(seen), 99))
    negative = float((seen < -0.02 * high).mean())  # ringing of a resampled image stays above that
    if negative > 0.05:
        raise DataError(
            f"negative: {negative:.0%} of the voxels of {path} are negative: a CT, or numbers that overflowed; "
            "export it again as a T1-weighted magnitude image"
        )
    most = float((seen == seen.max()).mean())
    if kind.kind in "iu" and kind.itemsize == 1 and most > 0.05:
        raise DataError(f"clipped: {most:.0%} of the voxels of {path} have its highest value; export it with 16 bits")


def read_geometry(path: Path) -> sitk.Image:
    """Give an empty image on the voxels of a file, for label maps that have no scan beside them.

    Raises:
        DataError: it cannot be opened, or has no place in space.
    """
    file = open_image(path)
    shape = tuple(int(side) for side in file.shape[:3])
    return to_sitk(np.zeros(shape, np.uint8), np.asarray(file.affine, dtype=np.float64))


def read_mask(path: Path, image: sitk.Image) -> np.ndarray:
    """Read the brain mask of `image`: (i, j, k) bool.

    Raises:
        DataError: it cannot be read, does not lie on the image, or is empty.
    """
    voxels, affine, _ = _read(path)
    inside: np.ndarray = on_voxels_of((image.GetSize(), affine_of(image)), (voxels, affine), str(path)) > 0.5
    if not inside.any():
        raise DataError(f"constant: the mask {path} is empty; make it again")
    return inside


def read_labels(path: Path, image: sitk.Image, table: LabelTable = PAPER) -> sitk.Image:
    """Read the label map of `image` as class indices of a label table, uint8, in the geometry of `image`.

    Raises:
        DataError: it cannot be read, does not lie on the image, or holds an id that the table does not know.
    """
    found, affine, _ = _read(path)  # some tools write ids as floats; to_classes refuses fractions
    ids = on_voxels_of((image.GetSize(), affine_of(image)), (found, affine), str(path))
    classes = to_sitk(to_classes(ids, str(path), table, _numbering(path)), affine_of(image))
    classes.CopyInformation(image)
    return classes


def _numbering(path: Path) -> dict[int, int] | None:
    return SEG35_TO_ASEG if "seg35" in path.name else None


def structures_of(path: Path, table: LabelTable = PAPER) -> int:
    """Count the structures of a label table that a map holds by the table's own ids, wherever it lies.

    Raises:
        DataError: it cannot be read, or holds an id that the table does not know.
    """
    ids, _, _ = _read(path)
    to_classes(ids, str(path), table, _numbering(path))
    return structures_among(ids, table)
