"""A DICOM series as a NIfTI file in a private folder that goes away, converted by dcm2niix and held against its slices.

Of dcm2niix's output voxels and geometry alone are taken: it leaves the patient's comments and the time of acquisition
in the header, and names of files and protocols in what it prints.
"""

# mypy: untyped-calls-exclude="nibabel"

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dcm2niix
import nibabel as nib
import numpy as np

from client.dicom.headers import Volume, read_volumes
from client.layouts.scan import Scan
from client.nifti import LPS
from configs.errors import DataError

SECONDS = 600.0
"""Time that the conversion of one series has; a T1 of 0.6 mm takes one second."""

ASIDE = 0.1
"""Voxels that a corner of a converted volume may lie off its slices: headers of both kinds round."""


@contextmanager
def converted(scan: Scan) -> Iterator[Scan]:
    """Give the scan of a series with a NIfTI file as its image; the file goes away with the block, whatever happens.

    Raises:
        DataError: `dicom`: no series could be chosen, or it cannot be converted. Any error inside the block comes out
            with the name of the series in the place of the file's.
    """
    series = scan.series
    assert series is not None
    if series.refused:
        raise DataError(f"dicom: {scan.case}: {series.refused}")
    with tempfile.TemporaryDirectory(prefix="sst-dicom-") as folder:
        image = Path(folder) / f"{scan.case}.nii"
        _convert(volume_of(scan), Path(folder), image, series.name)
        try:
            yield replace(scan, image=image)
        except DataError as error:
            raise type(error)(str(error).replace(str(image), series.name)) from None


def volume_of(scan: Scan) -> Volume:
    """Read the headers of a scan's series again.

    Raises:
        DataError: a file is gone or cannot be read.
    """
    assert scan.series is not None
    volumes, broken = read_volumes(scan.series.files)
    if len(volumes) != 1 or broken:
        raise DataError(f"dicom: {scan.series.name} has changed or cannot be read; look for damaged files")
    return volumes[0]


def on_slices(voxels: np.ndarray, affine: np.ndarray, volume: Volume, name: str) -> np.ndarray:
    """Turn an array to the order of a series' own slices; nothing is resampled.

    Args:
        voxels: (i, j, k) of the converted file.
        affine: 4 x 4 of the converted file, to RAS mm.
        volume: whose slices.
        name: of the series, for errors.

    Returns:
        (slice, row, column), slices in the order of `volume.slices`.

    Raises:
        DataError: the array does not lie on the slices.
    """
    to_voxels = np.linalg.inv(affine) @ LPS @ volume.affine  # (column, row, slice) -> (i, j, k)
    axes = np.abs(to_voxels[:3, :3]).argmax(axis=0)
    shape = (*volume.size, len(volume.slices))
    if sorted(axes) == [0, 1, 2] and tuple(voxels.shape[axis] for axis in axes) == shape:
        turned = voxels.transpose(axes)
        exact = np.eye(4)
        exact[:3, :3] = 0
        for source, axis in enumerate(axes):
            down = to_voxels[axis, source] < 0
            exact[axis, source], exact[axis, 3] = (-1, shape[source] - 1) if down else (1, 0)
            turned = np.flip(turned, source) if down else turned
        corners = np.array([[*corner, 1.0] for corner in np.ndindex(2, 2, 2)]).T
        corners[:3] *= np.array(shape)[:, None] - 1
        if float(np.abs((to_voxels - exact) @ corners).max()) <= ASIDE:
            return np.ascontiguousarray(turned.transpose(2, 1, 0))
    raise DataError(f"dicom: what {name} was converted to does not lie on its slices; convert it by other means")


def _convert(volume: Volume, folder: Path, image: Path, name: str) -> None:
    """Write voxels and geometry of a series; text of its headers stays behind."""
    source, out = folder / "slices", folder / "converted"
    source.mkdir()
    out.mkdir()
    for number, file in enumerate(volume.files):
        (source / f"{number:06d}.dcm").symlink_to(file.absolute())
    words = [dcm2niix.bin, "-b", "n", "-z", "n", "-f", "image", "-o", str(out), str(source)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DataError(f"dicom: dcm2niix could not convert {name}: {type(error).__name__}") from None
    found = sorted(out.glob("*.nii"))
    if done.returncode or len(found) != 1:
        what = f"made {len(found)} volumes of it" if not done.returncode else f"exit {done.returncode}"
        raise DataError(f"dicom: dcm2niix could not convert {name} ({what}); look for damaged files")
    made: Any = nib.load(found[0])
    scaled = made.dataobj.slope != 1 or made.dataobj.inter != 0
    voxels = np.asarray(made.dataobj, np.float32) if scaled else np.asarray(made.dataobj)
    if voxels.ndim != 3 or voxels.dtype.names:
        raise DataError(f"dicom: {name} holds colours or several volumes; export it as one volume of grey values")
    on_slices(voxels, made.affine, volume, name)
    clean = nib.Nifti1Image(voxels, made.affine)
    clean.set_qform(made.affine, code=1)
    clean.set_sform(made.affine, code=1)
    nib.save(clean, image)
    found[0].unlink()
