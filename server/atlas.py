"""The hub's atlas: a labelled scan on the run's grid, or several, of which the first says where the grid is."""

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
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

from configs.errors import ConfigError, DataError
from configs.structures import PAPER, LabelTable, table_from
from sst_models.volume.grid import (
    CPU,
    Affine,
    Grid,
    centred,
    check_geometry,
    check_voxels,
    on_voxels_of,
    sample_image,
    sample_labels,
    sample_parts,
    to_classes,
)
from sst_models.volume.intensity import robust_scale
from sst_models.volume.labels import AtlasLabels, LabelledVolume


@dataclass(frozen=True)
class Atlas:
    """One brain with its labels on the run's grid."""

    image: Tensor  # (1, D, H, W) float32 in [0, 1]
    labels: AtlasLabels
    affine: Affine  # voxel to RAS mm
    spacing: float  # mm, isotropic
    digest: str  # sha256 of image, labels and affine, and of further ones
    source: str  # file name of the scan
    further: tuple[LabelledVolume, ...] = ()  # more atlases, brought to the first by an affine

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        return self.labels.shape

    @property
    def each(self) -> tuple[LabelledVolume, ...]:
        """All atlases, the first one first."""
        return ((self.image, self.labels), *self.further)

    def packed(self) -> np.ndarray:
        """Give the labels of all atlases as `AtlasLabels.packed`."""
        return self.labels.packed(*(labels for _, labels in self.further))


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


def _digest(image: Tensor, labels: AtlasLabels, affine: Affine, further: Sequence[LabelledVolume] = ()) -> str:
    digest = hashlib.sha256(json.dumps([affine, list(image.shape)]).encode())
    if labels.table != PAPER:
        digest.update(json.dumps([asdict(row) for row in labels.table.rows]).encode())
    for volume, own in ((image, labels), *further):
        digest.update(volume.contiguous().numpy().tobytes())
        digest.update(own.parts.contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_atlas(
    image: Path,
    labels: Path,
    shape: Sequence[int],
    spacing: float,
    finer: int = 1,
    device: torch.device = CPU,
    table: LabelTable = PAPER,
) -> Atlas:
    """Read the hub's labelled scan and put it on the run's grid, its brain in the middle.

    Args:
        image: skull-stripped T1-weighted volume, background 0.
        labels: label map on the same voxels, with the ids of the table.
        shape: (D, H, W) of the run's grid.
        spacing: voxel side of the grid, mm.
        finer: parts along a side of a voxel that labels are kept of.
        device: to work on; half a minute of a CPU at 128 x 160 x 160 with parts. The atlas is on the CPU.
        table: of labels.

    Raises:
        DataError: either cannot be read or used, they do not lie on each other, an id is unknown, none of the table's
            structures is there, or the brain is larger than the grid.
    """
    volume, classes, affine = read_labelled(image, labels, table)
    grid = centred(volume, affine, shape, spacing, str(image))
    scaled, kept = _on_grid((volume, classes, affine), grid, finer, labels, device, table)
    return Atlas(scaled[None], kept, grid.affine, float(spacing), _digest(scaled, kept, grid.affine), image.name)


MOST_ATLASES = 16
"""Atlases of one run: each is sent to the sites, and aligned to every scan."""

Bring = Callable[[np.ndarray, np.ndarray, Atlas, str], np.ndarray]
"""Seeks the affine (4, 4) from an atlas's world to a scan's, both RAS mm, by the scan's voxels (i, j, k) and its own
affine; the last argument names the scan. It is how a site brings its scans, which the hub has no code for."""


def load_atlases(
    files: Sequence[tuple[Path, Path]],
    shape: Sequence[int],
    spacing: float,
    finer: int,
    bring: Bring | None,
    device: torch.device = CPU,
    table: LabelTable = PAPER,
) -> Atlas:
    """Read several labelled scans: the first as `load_atlas` does, each other one brought to it by an affine.

    Args:
        files: of each atlas its image and its labels, 1 to `MOST_ATLASES`.
        shape: as of `load_atlas`, like all that follows.
        spacing: likewise.
        finer: likewise.
        bring: finds where a further atlas lies; None where there is one alone.
        device: as of `load_atlas`.
        table: likewise.

    Raises:
        DataError: as `load_atlas`; or there are too many, one is there twice, or cannot be brought to the first.
    """
    if len(files) > MOST_ATLASES:
        raise DataError(f"{len(files)} atlases: give {MOST_ATLASES} at the most")
    first = load_atlas(*files[0], shape, spacing, finer, device, table)
    further: tuple[LabelledVolume, ...] = ()
    if len(files) > 1:
        assert bring is not None
        further = tuple(_brought(pair, first, finer, bring, device) for pair in files[1:])
    each = [first.image, *(image for image, _ in further)]
    for number, (image, _) in enumerate(further, start=1):
        if any(torch.equal(image, other) for other in each[:number]):
            raise DataError(f"the atlas {files[number][0]} is there twice; name each scan once")
    if not further:
        return first
    return replace(first, further=further, digest=_digest(first.image[0], first.labels, first.affine, further))


def read_labelled(image: Path, labels: Path, table: LabelTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a labelled scan: voxels (i, j, k) float32, classes of the same shape, and its affine to RAS mm.

    Raises:
        DataError: a file cannot be used, or the labels do not lie on the image.
    """
    volume, affine = read_volume(image)
    check_voxels(volume, f"atlas {image}")
    ids = on_voxels_of((volume.shape, affine), read_volume(labels), f"atlas labels {labels}")
    return volume, to_classes(ids, f"atlas labels {labels}", table), affine


def _on_grid(
    scan: tuple[np.ndarray, np.ndarray, np.ndarray],
    grid: Grid,
    finer: int,
    labels: Path,
    device: torch.device,
    table: LabelTable,
) -> tuple[Tensor, AtlasLabels]:
    """Give what `_labelled` read on a grid, (D, H, W) in [0, 1], and its labels; `labels` names their file."""
    volume, classes, affine = scan
    scaled = robust_scale(sample_image(volume, affine, grid, device)).cpu()
    on = (classes, affine, grid)
    parts = (sample_labels(*on, device) if finer == 1 else sample_parts(*on, finer, device)).cpu()
    if not bool(parts.any()):
        raise DataError(f"empty: atlas labels {labels} hold no structure of the label table; give its segmentation")
    return scaled, AtlasLabels(parts, finer, table)


def _brought(files: tuple[Path, Path], first: Atlas, finer: int, bring: Bring, device: torch.device) -> LabelledVolume:
    """Read a further atlas and bring it to the grid of the first, as sites bring their scans."""
    volume, classes, affine = read_labelled(*files, first.labels.table)
    place = (first.affine[0][3], first.affine[1][3], first.affine[2][3])
    grid = Grid(first.shape, first.spacing, place)
    found = bring(volume, affine, first, f"atlas {files[0]}")
    scan = (volume, classes, np.linalg.inv(found) @ affine)
    image, labels = _on_grid(scan, grid, finer, files[1], device, first.labels.table)
    return image[None], labels


def published(atlas: Atlas) -> dict[str, np.ndarray]:
    """Give what joining sites are sent of an atlas.

    Returns:
        "image" (1, D, H, W) float32 in [0, 1], of several atlases (N, D, H, W); "affine" (4, 4) float64.
    """
    images = torch.cat([image for image, _ in atlas.each])
    return {"image": images.numpy(), "affine": np.array(atlas.affine, dtype=np.float64)}


def save_atlas(atlas: Atlas, folder: Path) -> None:
    """Write `atlas.safetensors` and `atlas.json` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = torch.stack([labels.parts for _, labels in atlas.each])
    images = torch.cat([image for image, _ in atlas.each])
    save_file({"image": images, "labels": parts if atlas.further else parts[0].clone()}, folder / "atlas.safetensors")
    facts = {"affine": atlas.affine, "spacing": atlas.spacing, "digest": atlas.digest, "source": atlas.source}
    if atlas.labels.table != PAPER:
        facts["label_table"] = [asdict(row) for row in atlas.labels.table.rows]
    (folder / "atlas.json").write_text(json.dumps(facts, indent=2) + "\n")


def read_atlas(folder: Path) -> Atlas:
    """Read what `save_atlas` wrote.

    Raises:
        DataError: a file is missing or damaged, or the content is not that of the digest.
    """
    try:
        tensors = load_file(folder / "atlas.safetensors")
        facts = json.loads((folder / "atlas.json").read_text())
        images, parts = tensors["image"], tensors["labels"]
        each = parts[None] if len(images) == 1 else parts
        finer, table = each.shape[1] // images.shape[1], table_from(facts.get("label_table", []))
        (image, labels), *more = ((images[n : n + 1], AtlasLabels(each[n], finer, table)) for n in range(len(images)))
        affine: Affine = tuple((row[0], row[1], row[2], row[3]) for row in facts["affine"])
        atlas = Atlas(image, labels, affine, facts["spacing"], facts["digest"], facts["source"], tuple(more))
    except (OSError, SafetensorError, ValueError, KeyError, ConfigError) as error:
        raise DataError(f"unreadable: no whole atlas in {folder}; delete the folder and start again") from error
    if _digest(image[0], labels, affine, more) != atlas.digest:
        raise DataError(f"changed: the atlas in {folder} is not the one that was saved; delete it and start again")
    return atlas
