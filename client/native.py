"""From the run's grid back to the scan's own voxels, and into a file that any viewer lays over the scan."""

# mypy: untyped-calls-exclude="nibabel"

import os
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from client.box import box_of
from client.nifti import open_image
from configs.structures import PAPER, LabelTable
from sst_models.volume.grid import Affine

SLAB = 8
"""Planes of the scan at a time: all classes of a slab of 1 mm are about 40 MB."""

_LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL


def to_native(
    probabilities: Tensor, grid: Affine, atlas_to_scan: np.ndarray, scan: np.ndarray, inside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Carry class probabilities to a scan's voxels: linear interpolation of all classes, then the likeliest.

    Args:
        probabilities: (classes, D, H, W) on the run's grid.
        grid: 4 x 4, its voxels to the atlas's world, RAS mm.
        atlas_to_scan: 4 x 4 between RAS worlds, mm.
        scan: 4 x 4, the scan's voxels to its world, RAS mm.
        inside: (i, j, k) bool, the scan's brain: voxels beyond it are background.

    Returns:
        Class indices uint8 and the probability of each voxel's class float32, (i, j, k).
    """
    labels, certainty = np.zeros(inside.shape, np.uint8), np.zeros(inside.shape, np.float32)
    i, j, k = box_of(inside)
    to_grid = np.linalg.inv(np.array(grid)) @ np.linalg.inv(atlas_to_scan) @ scan
    half = (np.array(probabilities.shape[1:]) - 1) / 2
    rows, columns = np.meshgrid(np.arange(j.start, j.stop), np.arange(k.start, k.stop), indexing="ij")
    plane = rows[..., None] * to_grid[:3, 1] + columns[..., None] * to_grid[:3, 2] + to_grid[:3, 3]
    classes_last = probabilities[None].contiguous(memory_format=torch.channels_last_3d)  # as they are read
    for first in range(i.start, i.stop, SLAB):
        slab = np.arange(first, min(first + SLAB, i.stop))
        box = (slice(slab[0], slab[-1] + 1), j, k)
        places = (plane[None] + slab[:, None, None, None] * to_grid[:3, 0])[inside[box]]
        if len(places):
            most, index = _likeliest(classes_last, torch.from_numpy((places / half - 1)[:, ::-1].astype(np.float32)))
            labels[box][inside[box]], certainty[box][inside[box]] = index.cpu().numpy(), most.cpu().numpy()
    return labels, certainty


def _likeliest(probabilities: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Give the largest probability at each place (M, 3), in the units and order of `grid_sample`, and its class."""
    rows = F.pad(places, (0, 0, 0, -len(places) % SLAB)).view(SLAB, 1, 1, -1, 3).to(probabilities.device)
    each = probabilities.expand(SLAB, -1, -1, -1, -1)  # torch shares the work out by volumes
    most, index = F.grid_sample(each, rows, "bilinear", "zeros", align_corners=True).max(dim=1)
    return most.flatten()[: len(places)], index.flatten()[: len(places)]


def ids_of(classes: np.ndarray, table: LabelTable = PAPER) -> np.ndarray:
    """Give the ids of class indices: uint8, or uint16 where the table has larger ones."""
    ids: np.ndarray = np.array(table.ids, np.uint8 if max(table.ids) < 256 else np.uint16)[classes]
    return ids


def keep_largest(labels: np.ndarray) -> np.ndarray:
    """Keep each structure's largest piece; smaller pieces become what is nearest to them.

    Args:
        labels: (i, j, k) class indices.

    Returns:
        Likewise; the same array's content where every structure is in one piece.
    """
    strays = np.zeros(labels.shape, bool)
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        pieces, count = ndimage.label(labels[box] == index)
        if count > 1:
            largest = int(np.bincount(pieces.ravel())[1:].argmax()) + 1
            strays[box] |= (pieces != 0) & (pieces != largest)
    if not strays.any():
        return labels
    nearest = ndimage.distance_transform_edt(strays, return_distances=False, return_indices=True)
    return np.asarray(labels[tuple(nearest)])


def write_labels(labels: np.ndarray, like: Path, path: Path, table: LabelTable = PAPER) -> None:
    """Write class indices as a label table's ids, with the header's geometry of their scan; whole or not at all.

    Args:
        labels: (i, j, k) class indices.
        like: the scan.
        path: `.nii` or `.nii.gz`.
        table: of labels.
    """
    source: Any = open_image(like)
    ids, what = ids_of(labels, table), "FreeSurfer ids" if table == PAPER else "ids of the label table"
    image = nib.Nifti1Image(ids, source.affine)
    if isinstance(source, nib.Nifti1Pair):
        header = nib.Nifti1Header.from_header(source.header)
        header.set_data_dtype(ids.dtype)
        header["scl_slope"], header["scl_inter"] = 1, 0
        header["cal_min"] = header["cal_max"] = 0
        header["descrip"] = f"sst: {what}".encode()
        image = nib.Nifti1Image(ids, None, header)
        sform, code = source.get_sform(coded=True)
        image.set_sform(sform, int(code))
        qform, code = source.get_qform(coded=True)
        image.set_qform(qform, int(code))
    image.header.set_intent(_LABEL_INTENT, (), what[:15])
    save_nifti(image, path)


def save_nifti(image: nib.Nifti1Image, path: Path) -> None:
    """Write an image under another name, then rename it; folders are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    end = ".nii.gz" if path.name.endswith(".gz") else ".nii"
    part = path.with_name(f".{path.name}.{os.getpid()}{end}")
    try:
        nib.save(image, part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
