"""A scan and its label map from disk, refused with a code word and a reason when a site cannot use them.

Each message begins with its code (`unreadable`, `not-3d`, `not-finite`, `constant`, `spacing`, `affine`, `mismatch`,
`unknown-label`): the code may be counted at the hub, the text stays at the site.
"""

# mypy: untyped-calls-exclude="SimpleITK"

import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from configs.errors import DataError
from sst_models.grid import check_geometry, check_same_place, check_voxels, to_classes

SEG35_TO_ASEG: dict[int, int] = {
    index: id_
    for index, id_ in enumerate(
        [0, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 18, 26, 28, 30, 31]
        + [41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60, 62, 63]
    )
}
"""The 35 structures of the neurite and Learn2Reg release of OASIS (`*seg35.nii.gz`), in the order of its label list."""


_DAMAGE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)

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


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (i, j, k) float32 and RAS affine of one 3-D volume; a fourth axis of length one is dropped.

    nibabel, because SimpleITK's reader turns NaN into 0 and fills a file that was cut short with 0, without a word.
    """
    try:
        file: Any = nib.load(path)  # a spatial image of any format; nibabel types only what all have
        voxels = np.asarray(file.dataobj, dtype=np.float32)
        affine = np.asarray(file.affine, dtype=np.float64)
    except _DAMAGE as error:
        text = "no such file" if not path.exists() else "it is damaged, cut short or not an image"
        raise DataError(f"unreadable: {path}: {text}; restore it or take it out of the folder") from error
    if voxels.ndim == 4 and voxels.shape[3] == 1:
        voxels = voxels[..., 0]
    if voxels.ndim != 3 or min(voxels.shape) < 2:
        raise DataError(f"not-3d: {path} has shape {voxels.shape}; expected one 3-D volume")
    check_geometry(affine, str(path))
    return voxels, affine


def read_image(path: Path) -> sitk.Image:
    """Read a T1-weighted scan (`.nii`, `.nii.gz`, or an `.img`/`.hdr` pair) as float32.

    Raises:
        DataError: it cannot be read or used; see the codes above.
    """
    voxels, affine = _read(path)
    check_voxels(voxels, str(path))
    return to_sitk(voxels, affine)


def read_labels(path: Path, image: sitk.Image) -> sitk.Image:
    """Read the label map of `image` as class indices 0 to 28, uint8, in the geometry of `image`.

    Raises:
        DataError: it cannot be read, does not lie on the image, or holds an id that no table knows.
    """
    ids, affine = _read(path)  # some tools write ids as floats; to_classes refuses fractions
    check_same_place((image.GetSize(), affine_of(image)), (ids.shape, affine), str(path))
    table = SEG35_TO_ASEG if "seg35" in path.name else None
    classes = to_sitk(to_classes(ids, str(path), table), affine)
    classes.CopyInformation(image)
    return classes
