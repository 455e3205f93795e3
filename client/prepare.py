"""Bring a site's scans onto the run's grid: brain, bias, reorient, affine to the atlas, resample, scale; once, on disk.

The store is a folder of files that several processes may fill and read at once: a file is written under another name,
locked while its writer lives, and renamed when it is whole.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from client.affine import from_array, one_thread, register, scaled, to_matrix
from client.box import box_of
from client.brain import brain_of, unbias
from client.layouts import Scan, find_scans, with_masks
from client.nifti import Turn, affine_of, array_of, read_image, read_labels, to_sitk
from client.preparation import Preparation
from configs.errors import DataError, RunError, legible
from configs.structures import PAPER
from sst_models.volume.grid import Affine, Grid, sample_image, sample_labels
from sst_models.volume.intensity import robust_scale
from sst_models.wire import weights
from sst_models.wire.files import lock

PLAIN = Preparation()
"""What is done where a site says nothing."""

PREPARE_VERSION = 3
"""Part of the cache key: raised whenever the same files would be prepared differently."""


PART = ".part"
"""Ends the name of a file that is being written."""


@dataclass(frozen=True)
class AtlasFrame:
    """What a site needs of the atlas to prepare its scans: image and place, no labels."""

    image: np.ndarray  # (D, H, W) float32 in [0, 1]
    shape: tuple[int, int, int]
    spacing: float  # mm, isotropic
    affine: Affine  # voxel to RAS mm
    digest: str  # sha256 of the atlas, from the hub

    @staticmethod
    def of(volume: Tensor, affine: Sequence[Sequence[float]], digest: str) -> "AtlasFrame":
        """Make one of a volume (1, D, H, W) on a grid of equal spacing and its affine, voxel to RAS mm, (4, 4) rows."""
        rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
        depth, height, width = volume.shape[1:]
        return AtlasFrame(volume[0].float().numpy(), (depth, height, width), rows[0][0], rows, digest)

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

    @staticmethod
    def of(scan: Scan, error: DataError) -> "SetAside":
        """Set a scan aside for an error whose message begins with its code."""
        reason = scan.nameless(str(error))
        return SetAside(legible(scan.name), reason.split(":")[0], reason)


@dataclass(frozen=True)
class Prepared:
    """What a site can work with."""

    cases: tuple[PreparedCase, ...]
    set_aside: tuple[SetAside, ...]
    notes: tuple[str, ...] = ()  # what a person should know of the files of scans that are used


def _key(scan: Scan, atlas: AtlasFrame, how: Preparation) -> str:
    """Digest of all that the prepared file depends on."""
    facts = [PREPARE_VERSION, atlas.digest, atlas.shape, atlas.affine, how.key]
    if how.table != PAPER:
        facts.append([astuple(row) for row in how.table.rows])
    return digest_with(facts, (*scan.files, scan.labels, scan.mask))


def digest_with(facts: Sequence[object], files: Sequence[Path | None]) -> str:
    """Digest settings and the bytes of files; of an Analyze image both.

    Raises:
        DataError: a file cannot be read.
    """
    digest = hashlib.sha256(json.dumps(facts).encode())
    for path in files:
        pair = [] if path is None else [path, path.with_suffix(".img")] if path.suffix == ".hdr" else [path]
        try:
            digest.update(b"".join(_digest_of(part) for part in pair) + b"/")
        except OSError as error:
            raise DataError(f"unreadable: {path}: {error.strerror}; restore it or take it out of the folder") from error
    return digest.hexdigest()


def _digest_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _holds(path: Path, key: str) -> bool:
    """Whether a prepared file is there and was made from the same input."""
    return path.is_file() and _about(path).startswith(key)


def _about(path: Path) -> str:
    """Give what a prepared file says of itself: its key, its case and, on a second line, what became of its labels."""
    try:
        with safe_open(path, framework="pt") as file:
            return str((file.metadata() or {}).get("about", ""))
    except (SafetensorError, OSError):
        return ""


def _save(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Whole or not at all: an interrupted run leaves no half file under the final name.

    One entry of metadata: safetensors writes several in an order that changes from run to run.

    Raises:
        RunError: the disk is full, or the folder cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write(part, serialise(tensors, metadata), path)
        except FileNotFoundError:  # another process cleaned up between the file's birth and its lock
            _write(part, serialise(tensors, metadata), path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}; make room, or give another folder") from error


def _write(part: Path, content: bytes, path: Path) -> None:
    with part.open("wb") as file:
        with suppress(RunError):  # without locks nobody cleans up, either
            lock(file, fcntl.LOCK_EX, part)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.replace(part, path)


def clean(store: Path) -> None:
    """Take away what writers that were killed left half-written; those at work hold a lock on theirs."""
    for part in store.glob(f".*{PART}"):
        try:
            with part.open("rb") as file:
                lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, part)
                part.unlink(missing_ok=True)
        except (OSError, RunError):
            continue


def prepare(scan: Scan, atlas: AtlasFrame, store: Path, how: Preparation = PLAIN) -> Path:
    """Prepare one scan, or find it prepared: `store`/CASE.safetensors.

    The file holds "image" (D, H, W) float32 in [0, 1], "labels" (D, H, W) uint8 classes if the scan has them, and
    "atlas_to_scan" (4, 4) float64, RAS mm, to carry a segmentation back to the scan. A label map that cannot be used
    costs the scan nothing but its labels, which a site does not need; `Prepared.notes` says why.

    Raises:
        DataError: the scan cannot be used; the message begins with an error code and names the file.
        RunError: the prepared file cannot be written.
    """
    path, key = Path(store) / f"{scan.case}.safetensors", _key(scan, atlas, how)
    if _holds(path, key):
        return path
    with scan.as_nifti() as image:
        tensors, note = _tensors(image, atlas, how)
    _save(tensors, {"about": f"{key} {scan.case}" + (f"\n{note}" if note else "")}, path)
    return path


def bring(image: sitk.Image, scan: Scan, atlas: AtlasFrame, how: Preparation) -> tuple[dict[str, Tensor], np.ndarray]:
    """Bring an image to the grid, in memory.

    Args:
        image: the voxels of `scan`.
        scan: names it, and has its mask.
        atlas: where to.
        how: what is done on the way.

    Returns:
        "image" and "atlas_to_scan" as `prepare` keeps them, and the scan's brain (i, j, k) bool.

    Raises:
        DataError: as `prepare`.
    """
    where = str(scan.image)
    with one_thread():
        inside, own = _brain(image, scan, how)
        turn = Turn.of(affine_of(image))
        voxels, affine = turn.straight(own), turn.affine(affine_of(image), own.shape)
        brain = to_sitk(voxels, affine)
        atlas_to_scan = to_matrix(register(from_array(atlas.image, atlas.grid), scaled(brain), where))
    volume = robust_scale(sample_image(voxels, np.linalg.inv(atlas_to_scan) @ affine, atlas.grid))
    if not bool(volume.any()):
        raise DataError(f"registration: {scan.image} does not overlap the atlas; check its orientation and mask")
    return {"image": volume, "atlas_to_scan": torch.from_numpy(atlas_to_scan)}, inside


def _brain(image: sitk.Image, scan: Scan, how: Preparation) -> tuple[np.ndarray, np.ndarray]:
    """Give a scan's brain and its voxels: (i, j, k) bool, and float32 without the bias field, 0 outside the brain.

    Nothing of it depends on the atlas: where brains are kept, that of an earlier call is read.
    """
    if how.brains is None:
        return _find_brain(image, scan, how)
    path = how.brains / f"{scan.case}.safetensors"
    key = digest_with([PREPARE_VERSION, "brain", how.key], (*scan.files, scan.mask))
    if not _holds(path, key):
        inside, voxels = _find_brain(image, scan, how)
        box: tuple[slice, ...] = box_of(inside)
        cropped = {"inside": inside[box].astype(np.uint8), "voxels": voxels[box]}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in cropped.items()}
        tensors["corner"] = torch.tensor([side.start for side in box])
        _save(tensors, {"about": f"{key} {scan.case}"}, path)
        return inside, voxels
    kept = weights.load(path)
    shape = array_of(image).shape
    inside, voxels = np.zeros(shape, bool), np.zeros(shape, np.float32)
    box = tuple(slice(a, a + n) for a, n in zip(kept["corner"].tolist(), kept["voxels"].shape, strict=True))
    inside[box], voxels[box] = kept["inside"].numpy().astype(bool), kept["voxels"].numpy()
    return inside, voxels


def _find_brain(image: sitk.Image, scan: Scan, how: Preparation) -> tuple[np.ndarray, np.ndarray]:
    inside = brain_of(image, scan.mask, how.stripping, str(scan.image))
    voxels = unbias(image, inside) if how.bias else np.where(inside, array_of(image), 0).astype(np.float32)
    return inside, voxels


def _tensors(scan: Scan, atlas: AtlasFrame, how: Preparation) -> tuple[dict[str, Tensor], str]:
    """What `prepare` keeps of one scan, and why its label map cannot be used; "" where it can, or there is none."""
    image = read_image(scan.image)
    labels, note = None, ""
    if scan.labels is not None:
        try:
            labels = read_labels(scan.labels, image, how.table)
        except DataError as error:
            note = f"{scan.case}: its label map is not used: {error}"
    tensors, _ = bring(image, scan, atlas, how)
    if labels is not None:
        place = np.linalg.inv(tensors["atlas_to_scan"].numpy()) @ affine_of(image)
        tensors["labels"] = sample_labels(array_of(labels), place, atlas.grid)
    return tensors, note


def store_of(folder: Path, atlas: AtlasFrame) -> Path:
    """Give the store of one atlas: what was prepared for another one stays beside it."""
    return folder / atlas.digest[:16]


def prepare_site(
    folders: Sequence[Path],
    atlas: AtlasFrame,
    store: Path,
    progress: Callable[[int, int], None] | None = None,
    how: Preparation = PLAIN,
    *,
    begin: Callable[[int, int, str], None] | None = None,
) -> Prepared:
    """Prepare all scans of a site; one that cannot be used is set aside with its reason, and the rest goes on.

    Args:
        folders: the site's folders or tables of files, see `client.layouts`.
        atlas: where the scans are brought to.
        store: folder for the prepared files; what is there already is not made again.
        progress: called with (scans done, scans in all) after each.
        how: what is done to each scan, and how many at a time.
        begin: called with (number of the scan, scans in all, its case) before each; no federation asks for names.

    Raises:
        DataError: a folder is missing or empty, or no scan can be used.
        RunError: a prepared file cannot be written.
    """
    scans = with_masks(find_scans(folders, how.contrast, how.table, how.series), how.mask)
    roots = tuple(Path(folder).absolute() for folder in folders if Path(folder).is_dir())
    clean(Path(store))
    work = [(scan, atlas, Path(store), how, roots) for scan in scans]
    cases, aside = [], []
    notes: list[str] = []
    results = _each(work, how.jobs)
    for number, scan in enumerate(scans, start=1):
        if begin is not None:
            begin(number, len(scans), scan.case)
        result = next(results)
        if isinstance(result, Path):
            _, _, note = _about(result).partition("\n")
            cases.append(PreparedCase(scan.case, scan.person, result, scan.labels is not None and not note))
            notes += filter(None, (scan.series_note, scan.mask_note, scan.labels_note, note))
        else:
            aside.append(result)
        if progress is not None:
            progress(number, len(scans))
    if not cases:
        raise DataError(f"none of {len(scans)} scans can be used; the first: {aside[0].reason}")
    return Prepared(tuple(cases), tuple(aside), tuple(notes))


Work = tuple[Scan, AtlasFrame, Path, Preparation, tuple[Path, ...]]


def _each(work: Sequence[Work], jobs: int) -> Iterator[Path | SetAside]:
    """Prepare scan after scan, or several at a time in processes of their own, in the order given."""
    if min(jobs, len(work)) < 2:
        yield from map(_one, work)
        return
    # Fresh processes: a copy of this one would inherit the locks of its threads.
    with ProcessPoolExecutor(min(jobs, len(work)), mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(_one, work)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one(work: Work) -> Path | SetAside:
    scan, atlas, store, how, roots = work
    try:
        check_inside((*scan.files, scan.labels, None if how.mask else scan.mask), roots)
        return prepare(scan, atlas, store, how)
    except DataError as error:
        return SetAside.of(scan, error)


def check_inside(files: Sequence[Path | None], roots: tuple[Path, ...]) -> None:
    """Refuse a link, of a file or of a folder above it, that leads out of the site's folders.

    What is used is what the site said: a scan that a table names, or a mask that a pattern names, may lie anywhere.
    """
    for path in filter(None, files):
        found = any(path.absolute().is_relative_to(root) for root in roots)
        if found and not any(path.resolve().is_relative_to(root.resolve()) for root in roots):
            raise DataError(
                f"outside: {path} is reached by a link out of the site's folder; copy the file, or name its folder too"
            )
