"""The hub's atlas: one labelled scan, put on the run's grid, kept in the run folder."""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from configs.errors import DataError
from sst_models.volume.grid import (
    CPU,
    Affine,
    centred,
    check_geometry,
    check_same_place,
    check_voxels,
    sample_image,
    sample_labels,
    sample_parts,
    to_classes,
)
from sst_models.volume.intensity import robust_scale
from sst_models.volume.labels import AtlasLabels


@dataclass(frozen=True)
class Atlas:
    """One brain with its labels on the run's grid."""

    image: Tensor  # (1, D, H, W) float32 in [0, 1]
    labels: AtlasLabels
    affine: Affine  # voxel to RAS mm
    spacing: float  # mm, isotropic
    digest: str  # sha256 of image, labels and affine
    source: str  # file name of the scan

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.labels.shape


def read_volume(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the voxels (i, j, k) float32 of one 3-D volume and its affine, voxel (i, j, k, 1) to RAS mm.

    Raises:
        DataError: it cannot be read, or is no 3-D volume.
    """
    try:
        file: Any = nib.load(path)  # a spatial image of any format; nibabel types only what all have
        voxels = np.asarray(file.dataobj, dtype=np.float32)
        affine = np.asarray(file.affine, dtype=np.float64)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        text = "no such file" if not path.exists() else "it is damaged, cut short or not an image"
        raise DataError(f"unreadable: atlas {path}: {text}; give another file") from error
    voxels = voxels[..., 0] if voxels.ndim == 4 and voxels.shape[3] == 1 else voxels
    if voxels.ndim != 3 or min(voxels.shape) < 2:
        raise DataError(f"not-3d: atlas {path} has shape {voxels.shape}; expected one 3-D volume")
    check_geometry(affine, f"atlas {path}")
    return voxels, affine


def _digest(image: Tensor, labels: AtlasLabels, affine: Affine) -> str:
    digest = hashlib.sha256(json.dumps([affine, list(image.shape)]).encode())
    digest.update(image.contiguous().numpy().tobytes())
    digest.update(labels.parts.contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_atlas(
    image: Path, labels: Path, shape: Sequence[int], spacing: float, finer: int = 1, device: torch.device = CPU
) -> Atlas:
    """Read the hub's labelled scan and put it on the run's grid, its brain in the middle.

    Args:
        image: skull-stripped T1-weighted volume, background 0.
        labels: label map on the same voxels, FreeSurfer ids.
        shape: (D, H, W) of the run's grid.
        spacing: voxel side of the grid, mm.
        finer: parts along a side of a voxel that labels are kept of.
        device: to work on; half a minute of a CPU at 128 x 160 x 160 with parts. The atlas is on the CPU.

    Raises:
        DataError: either cannot be read or used, they do not lie on each other, an id is unknown, none of the 28
            structures is there, or the brain is larger than the grid.
    """
    volume, affine = read_volume(image)
    check_voxels(volume, f"atlas {image}")
    ids, ids_affine = read_volume(labels)
    check_same_place((volume.shape, affine), (ids.shape, ids_affine), f"atlas labels {labels}")
    classes = to_classes(ids, f"atlas labels {labels}")
    grid = centred(volume, affine, shape, spacing, str(image))
    scaled = robust_scale(sample_image(volume, affine, grid, device)).cpu()
    on = (classes, affine, grid)
    parts = (sample_labels(*on, device) if finer == 1 else sample_parts(*on, finer, device)).cpu()
    if not bool(parts.any()):
        raise DataError(f"empty: atlas labels {labels} hold none of the 28 structures; give its segmentation")
    kept = AtlasLabels(parts, finer)
    return Atlas(scaled[None], kept, grid.affine, float(spacing), _digest(scaled, kept, grid.affine), image.name)


def published(atlas: Atlas) -> dict[str, np.ndarray]:
    """Give what joining sites are sent of an atlas: "image" (1, D, H, W) float32 in [0, 1], "affine" (4, 4) float64."""
    return {"image": atlas.image.numpy(), "affine": np.array(atlas.affine, dtype=np.float64)}


def save_atlas(atlas: Atlas, folder: Path) -> None:
    """Write `atlas.safetensors` and `atlas.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {"image": atlas.image.contiguous(), "labels": atlas.labels.parts.contiguous()}
    save_file(tensors, folder / "atlas.safetensors")
    facts = {"affine": atlas.affine, "spacing": atlas.spacing, "digest": atlas.digest, "source": atlas.source}
    (folder / "atlas.json").write_text(json.dumps(facts, indent=2) + "\n")


def read_atlas(folder: Path) -> Atlas:
    """Read what `save_atlas` wrote.

    Raises:
        DataError: a file is missing or damaged, or the content is not that of the digest.
    """
    try:
        tensors = load_file(folder / "atlas.safetensors")
        facts = json.loads((folder / "atlas.json").read_text())
        image, parts = tensors["image"], tensors["labels"]
        labels = AtlasLabels(parts, parts.shape[0] // image.shape[1])
        affine: Affine = tuple((row[0], row[1], row[2], row[3]) for row in facts["affine"])
        atlas = Atlas(image, labels, affine, facts["spacing"], facts["digest"], facts["source"])
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DataError(f"unreadable: no whole atlas in {folder}; delete the folder and start again") from error
    if _digest(image[0], labels, affine) != atlas.digest:
        raise DataError(f"changed: the atlas in {folder} is not the one that was saved; delete it and start again")
    return atlas
