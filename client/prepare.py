"""Bring a site's scans onto the run's grid: reorient, affine to the atlas, resample, scale; once, kept on disk."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from client.affine import from_array, one_thread, register, scaled, to_matrix
from client.layouts import Scan, find_scans
from client.nifti import affine_of, array_of, read_image, read_labels
from configs.errors import DataError
from sst_models.grid import Affine, Grid, sample_image, sample_labels
from sst_models.intensity import robust_scale

PREPARE_VERSION = 1
"""Part of the cache key: raised whenever the same files would be prepared differently."""


@dataclass(frozen=True)
class AtlasFrame:
    """What a site needs of the atlas to prepare its scans: image and place, no labels."""

    image: np.ndarray  # (D, H, W) float32 in [0, 1]
    shape: tuple[int, int, int]
    spacing: float  # mm, isotropic
    affine: Affine  # voxel to RAS mm
    digest: str  # sha256 of the atlas, from the hub

    @property
    def grid(self) -> Grid:
        """The run's grid."""
        rows = self.affine
        return Grid(self.shape, self.spacing, (rows[0][3], rows[1][3], rows[2][3]))


@dataclass(frozen=True)
class PreparedCase:
    """One prepared scan on disk."""

    case: str
    person: str
    path: Path
    labelled: bool


@dataclass(frozen=True)
class SetAside:
    """One scan that could not be used. The code may be counted at the hub; file and reason stay at the site."""

    file: str
    code: str  # one word, e.g. "unreadable"
    reason: str


@dataclass(frozen=True)
class Prepared:
    """What a site can work with."""

    cases: tuple[PreparedCase, ...]
    set_aside: tuple[SetAside, ...]


def _key(scan: Scan, atlas: AtlasFrame) -> str:
    """Digest of all that the prepared file depends on."""
    digest = hashlib.sha256(json.dumps([PREPARE_VERSION, atlas.digest, atlas.shape, atlas.affine]).encode())
    for path in (scan.image, scan.labels):
        pair = [] if path is None else [path, path.with_suffix(".img")] if path.suffix == ".hdr" else [path]
        try:
            digest.update(b"".join(hashlib.sha256(part.read_bytes()).digest() for part in pair) + b"/")
        except OSError as error:
            raise DataError(f"unreadable: {path}: {error.strerror}; restore it or take it out of the folder") from error
    return digest.hexdigest()


def _holds(path: Path, key: str) -> bool:
    """Whether a prepared file is there and was made from the same input."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return bool((file.metadata() or {}).get("about", "").startswith(key))
    except (SafetensorError, OSError):
        return False


def _save(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Whole or not at all: an interrupted run leaves no half file under the final name.

    One entry of metadata: safetensors writes several in an order that changes from run to run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(tensors, part, metadata)
    os.replace(part, path)


def prepare(scan: Scan, atlas: AtlasFrame, store: Path) -> Path:
    """Prepare one scan, or find it prepared: `store`/CASE.safetensors.

    The file holds "image" (D, H, W) float32 in [0, 1], "labels" (D, H, W) uint8 classes if the scan has them, and
    "atlas_to_scan" (4, 4) float64, RAS mm, to carry a segmentation back to the scan.

    Raises:
        DataError: the scan or its label map cannot be used; the message begins with a code word and names the file.
    """
    path, key = Path(store) / f"{scan.case}.safetensors", _key(scan, atlas)
    if _holds(path, key):
        return path
    _save(_tensors(scan, atlas), {"about": f"{key} {scan.case}"}, path)
    return path


def _tensors(scan: Scan, atlas: AtlasFrame) -> dict[str, Tensor]:
    """What `prepare` keeps of one scan."""
    image = read_image(scan.image)
    labels = None if scan.labels is None else read_labels(scan.labels, image)
    with one_thread():
        atlas_to_scan = to_matrix(register(from_array(atlas.image, atlas.grid), scaled(image), str(scan.image)))
    place = np.linalg.inv(atlas_to_scan) @ affine_of(image)
    tensors = {
        "image": robust_scale(sample_image(array_of(image), place, atlas.grid)),
        "atlas_to_scan": torch.from_numpy(atlas_to_scan),
    }
    if labels is not None:
        tensors["labels"] = sample_labels(array_of(labels), place, atlas.grid)
    if not bool(tensors["image"].any()):
        raise DataError(f"registration: {scan.image} does not overlap the atlas; check its orientation and mask")
    return tensors


def prepare_site(
    folders: Sequence[Path], atlas: AtlasFrame, store: Path, progress: Callable[[int, int], None] | None = None
) -> Prepared:
    """Prepare all scans of a site; one that cannot be used is set aside with its reason, and the rest goes on.

    Args:
        folders: the site's folders, see `client.layouts`.
        atlas: where the scans are brought to.
        store: folder for the prepared files; what is there already is not made again.
        progress: called with (scans done, scans in all) after each.

    Raises:
        DataError: a folder is missing or empty, or no scan can be used.
    """
    scans = find_scans(folders)
    cases, aside = [], []
    for done, scan in enumerate(scans, start=1):
        try:
            path = prepare(scan, atlas, store)
            cases.append(PreparedCase(scan.case, scan.person, path, scan.labels is not None))
        except DataError as error:
            aside.append(SetAside(scan.image.name, str(error).split(":")[0], str(error)))
        if progress is not None:
            progress(done, len(scans))
    if not cases:
        raise DataError(f"none of {len(scans)} scans can be used; the first: {aside[0].reason}")
    return Prepared(tuple(cases), tuple(aside))
