"""The run's grid (RAS, isotropic), and what both the hub and the sites ask of a volume before they put it there.

Only arrays and affines are seen here; reading files is the business of `client/nifti.py` and `server/atlas.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample

from configs.errors import DataError
from configs.structures import PAPER, LabelTable

Affine = tuple[tuple[float, float, float, float], ...]  # 4 x 4, voxel (i, j, k, 1) to RAS mm, as in NIfTI

VOXEL_MM = (0.2, 10.0)
"""Voxel sizes outside of this are a header in the wrong unit, not a scan of a head."""

GEOMETRY_TOLERANCE = 0.01
"""Voxel sides that a label map may lie off its image at any corner: tools round affines to float32 or fewer digits."""

OTHER_ASEG_IDS = frozenset(
    [1, 5, 6, 9, 18, 19, 20, 21, 22, 23, 25, 26, 27, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40]
    + [44, 45, 48, 55, 56, 57, 58, 59, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 77, 78, 79, 80]
    + [81, 82, 83, 84, 85, 251, 252, 253, 254, 255]
)
"""Ids of FreeSurfer's `aseg` and of the CMA protocol (CANDIShare) that are not among the paper's 28: dropped."""

_PARCELS = {
    range(1000, 1213): 3,
    range(11100, 11176): 3,
    range(2000, 2213): 42,
    range(12100, 12176): 42,
    range(3000, 3213): 2,
    range(5001, 5002): 2,
    range(13100, 13176): 2,
    range(4000, 4213): 41,
    range(5002, 5003): 41,
    range(14100, 14176): 41,
}
"""Ids of `aparc+aseg`, `aparc.a2009s+aseg` and `wmparc` (FreeSurferColorLUT.txt) -> cortex, white matter of a side."""

_LARGEST_ID = 65535

ROUNDING = 1e-3
"""What an id may be off a whole number."""

CPU = torch.device("cpu")

_SLAB = 8  # planes of a grid at a time
_VOTE = 3  # samples a voxel side when a label map is resampled


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a run are: RAS axes, one voxel size."""

    shape: tuple[int, int, int]  # (D, H, W) = (i, j, k)
    spacing: float  # mm
    origin: tuple[float, float, float]  # RAS mm of the centre of voxel (0, 0, 0)

    @property
    def affine(self) -> Affine:
        """Voxel to RAS mm."""
        s, (x, y, z) = self.spacing, self.origin
        return ((s, 0.0, 0.0, x), (0.0, s, 0.0, y), (0.0, 0.0, s, z), (0.0, 0.0, 0.0, 1.0))

    def finer(self, factor: int) -> "Grid":
        """The same box of space, each voxel cut into `factor` ** 3."""
        spacing = self.spacing / factor
        d, h, w = (n * factor for n in self.shape)
        x, y, z = (o - self.spacing / 2 + spacing / 2 for o in self.origin)
        return Grid((d, h, w), spacing, (x, y, z))


def centred(volume: np.ndarray, affine: np.ndarray, shape: Sequence[int], spacing: float, where: str) -> Grid:
    """Give the grid whose centre is that of an atlas's brain (its bounding box), in world axes.

    Args:
        volume: (i, j, k), background 0.
        affine: 4 x 4, its voxels to RAS mm.
        shape: of the grid.
        spacing: of the grid, mm.
        where: names the atlas.

    Raises:
        DataError: the brain is larger than the grid (`too-large:`).
    """
    world = np.argwhere(volume != 0) @ affine[:3, :3].T + affine[:3, 3]
    low, high = world.min(axis=0), world.max(axis=0)
    size, room = high - low + np.abs(affine[:3, :3]).max(axis=1), np.array(shape) * spacing
    if (size > room + 1e-3).any():
        brain, box = (" x ".join(f"{side:.0f}" for side in sides) for sides in (size, room))
        raise DataError(
            f"too-large: the brain (non-zero voxels) of atlas {where} measures {brain} mm, the grid {box} mm; "
            "strip its skull, or choose a larger grid or voxel size"
        )
    x, y, z = ((low + high) / 2 - spacing * (np.array(shape) - 1) / 2).tolist()
    d, h, w = shape
    return Grid((d, h, w), spacing, (x, y, z))


def block_mean(volume: Tensor, factor: int) -> Tensor:
    """Average blocks of `factor` ** 3 voxels: (fD, fH, fW) float to (D, H, W). Down-sampling without aliasing."""
    return volume if factor == 1 else avg_pool3d(volume[None, None], factor)[0, 0]


def block_vote(labels: Tensor, factor: int) -> Tensor:
    """Take the most frequent class of each block: (fD, fH, fW) uint8 to (D, H, W) uint8; the lower class of equals.

    On labels sampled to the nearest voxel this is one-hot, linear, arg max (docs/decisions.md, "Label
    interpolation": nearest alone loses 0.7 Dice),
    at the price of one fine uint8 volume.
    """
    d, h, w = (n // factor for n in labels.shape)
    blocks = labels.reshape(d, factor, h, factor, w, factor).permute(0, 2, 4, 1, 3, 5).reshape(d * h * w, factor**3)
    vote = blocks[:, 0].clone()
    mixed = (blocks != blocks[:, :1]).any(dim=1)  # most blocks are all background or all one tissue
    members = blocks[mixed].to(torch.int64)
    counts = torch.zeros(len(members), int(labels.max()) + 1, dtype=torch.int64, device=members.device)
    counts.scatter_add_(1, members, torch.ones_like(members))
    vote[mixed] = most_frequent(counts)
    return vote.reshape(d, h, w)


def most_frequent(counts: Tensor) -> Tensor:
    """Give the class that is counted most, (M,) uint8, the lower of equals; counts (M, classes) are whole numbers."""
    classes = counts.shape[1]
    order = torch.arange(classes, 0, -1, device=counts.device)  # makes every count unlike the others
    return (counts * (classes + 1) + order).argmax(dim=1).to(torch.uint8)


def _sample(volume: Tensor, to_voxel: np.ndarray, grid: Grid, mode: str) -> Tensor:
    """Volume at the grid's voxels, 0 outside; some planes at once: a fine grid has 12 bytes of places a voxel."""
    half = ((torch.tensor(volume.shape, dtype=torch.float64) - 1) / 2).to(volume.device)
    matrix = torch.from_numpy(to_voxel @ np.array(grid.affine)).to(volume.device)
    _, h, w = grid.shape
    rows, columns = (torch.arange(side, dtype=torch.float64, device=volume.device) for side in (h, w))
    j, k = torch.meshgrid(rows, columns, indexing="ij")
    plane = j[..., None] * matrix[:3, 1] + k[..., None] * matrix[:3, 2] + matrix[:3, 3]
    result = torch.empty(grid.shape, dtype=torch.float32, device=volume.device)
    for slab in torch.split(torch.arange(grid.shape[0], device=volume.device), _SLAB):
        places = (plane + slab[:, None, None, None] * matrix[:3, 0]) / half - 1
        unit = places.flip(-1).to(torch.float32)[:, None]  # grid_sample wants (k, j, i)
        each = volume.expand(len(slab), 1, *volume.shape)  # torch shares the work out by volumes
        result[slab] = grid_sample(each, unit, mode, "zeros", align_corners=True)[:, 0, 0]
    return result


def sample_image(volume: np.ndarray, affine: np.ndarray, grid: Grid, device: torch.device = CPU) -> Tensor:
    """Bring a volume to a grid: (D, H, W) float32; a finer volume is averaged over the grid's voxels, not skipped.

    Args:
        volume: (i, j, k) float32, on any axes.
        affine: 4 x 4, its voxels to the grid's world, RAS mm.
        grid: where to.
        device: to work on; the result stays there.
    """
    side = float(np.linalg.norm(affine[:3, :3], axis=0).mean())
    factor = max(1, round(grid.spacing / side))
    fine = _sample(torch.from_numpy(volume).to(device), np.linalg.inv(affine), grid.finer(factor), "bilinear")
    return block_mean(fine, factor)


def sample_labels(classes: np.ndarray, affine: np.ndarray, grid: Grid, device: torch.device = CPU) -> Tensor:
    """Bring class indices to a grid: (D, H, W) uint8, the majority within each voxel; arguments as `sample_image`."""
    return block_vote(sample_parts(classes, affine, grid, _VOTE, device), _VOTE)


def sample_parts(
    classes: np.ndarray, affine: np.ndarray, grid: Grid, factor: int, device: torch.device = CPU
) -> Tensor:
    """Bring class indices to parts of a grid's voxels: (fD, fH, fW) uint8, the nearest; arguments as `sample_image`.

    `factor` is f, the number of parts along a side of a voxel.
    """
    volume = torch.from_numpy(classes.astype(np.float32)).to(device)
    return _sample(volume, np.linalg.inv(affine), grid.finer(factor), "nearest").to(torch.uint8)


def check_geometry(affine: np.ndarray, where: str) -> None:
    """Refuse a volume that has no place in space. `affine` is 4 x 4, `where` names the file.

    Raises:
        DataError: the affine is not invertible (`affine:`) or a voxel side is not that of a head scan (`spacing:`).
    """
    directions = affine[:3, :3]
    sides = np.linalg.norm(directions, axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(directions / np.maximum(sides, 1e-9))) < 1e-3:
        raise DataError(f"affine: the orientation in {where} cannot be inverted; convert it again from its source")
    if sides.min() < VOXEL_MM[0] or sides.max() > VOXEL_MM[1]:
        size = " x ".join(f"{side:.3g}" for side in sides)
        raise DataError(f"spacing: voxels of {size} mm in {where}; expected {VOXEL_MM[0]} to {VOXEL_MM[1]} mm a side")


def check_voxels(voxels: np.ndarray, where: str) -> None:
    """Refuse an image that cannot be scaled or registered.

    Raises:
        DataError: NaN or infinite voxels (`not-finite:`), or all voxels equal (`constant:`).
    """
    if not np.isfinite(voxels).all():
        raise DataError(f"not-finite: NaN or infinite voxels in {where}; export it again or repair it")
    if voxels.size == 0 or voxels.min() == voxels.max():
        raise DataError(f"constant: all voxels of {where} are equal; it holds no brain")


def on_voxels_of(
    image: tuple[tuple[int, ...], np.ndarray], labels: tuple[np.ndarray, np.ndarray], where: str
) -> np.ndarray:
    """Give a label map or mask in the voxel order of its image; without loss, for only axes are swapped and turned.

    Args:
        image: its shape and affine, voxels to RAS mm.
        labels: the map, (i, j, k) in an order of its own, and its affine.
        where: names the map.

    Raises:
        DataError: it lies on other voxels than the image (`mismatch:`).
    """
    shape, affine = image
    voxels, own = labels
    turn = np.rint((np.linalg.inv(affine) @ own)[:3, :3])
    if (np.abs(turn).sum(axis=0) == 1).all() and (np.abs(turn).sum(axis=1) == 1).all():
        order = np.abs(turn).argmax(axis=1)  # the axis of the map that runs along each of the image
        signs = turn.sum(axis=1)
        voxels = voxels.transpose(order)[tuple(slice(None, None, int(sign)) for sign in signs)]
        back = np.eye(4)
        back[:3, :3] = turn.T
        back[order, 3] = np.where(signs < 0, np.array(voxels.shape) - 1, 0)
        own = own @ back
    if shape != voxels.shape:
        raise DataError(f"mismatch: {where} has shape {labels[0].shape}, its image {shape}; resample it to the image")
    corners = np.array([[*corner, 1.0] for corner in np.ndindex(2, 2, 2)]).T
    corners[:3] *= np.array(shape)[:, None] - 1
    apart = float(np.linalg.norm(((own - affine) @ corners)[:3], axis=0).max())
    if not apart <= GEOMETRY_TOLERANCE * float(np.linalg.norm(affine[:3, :3], axis=0).min()):
        raise DataError(
            f"mismatch: the affine of {where} puts it {apart:.3g} mm off its image; resample it to the image"
        )
    return voxels


def to_classes(
    ids: np.ndarray, where: str, table: LabelTable = PAPER, numbering: Mapping[int, int] | None = None
) -> np.ndarray:
    """Turn the ids of a label file into class indices (uint8, same shape).

    With a table of some of the paper's structures FreeSurfer's parcels of cortex and of the white matter below it count
    as cortex and white matter, and other ids of its `aseg` as background.

    Args:
        ids: whole numbers, any numeric type; what resampling or a slope in the header added (`ROUNDING`) is taken off.
        where: names the file.
        table: of labels.
        numbering: id in the file to id of the table, where the file has a numbering of its own.

    Raises:
        DataError: an id that the table does not know, or ids that are evidently another table's (`unknown-label:`).
    """
    whole = np.rint(np.nan_to_num(ids, nan=-1.0).clip(-1, _LARGEST_ID)).astype(np.int64)
    odd = ids[~(np.abs(ids - whole) <= ROUNDING)]  # fractions, NaN, and what lies outside of any table
    classes = np.zeros(_LARGEST_ID + 2, dtype=np.uint8)
    freesurfer = table.structures_named <= PAPER.structures_named
    if freesurfer:
        dropped, known = (
            OTHER_ASEG_IDS | set(PAPER.ids),
            "a FreeSurfer aseg id; map it to one or to 0, or name its label table",
        )
    else:
        dropped, known = table.dropped, "in the label table; add it, with the group 'background' if it means nothing"
    present = np.flatnonzero(np.bincount(whole.ravel() + 1)) - 1
    for value in [*odd[:1].tolist(), *present]:
        id_ = value if numbering is None else numbering.get(value, -1)
        if freesurfer and id_ not in table.index_of:
            id_ = aseg_of(id_)
        if id_ in table.index_of:
            classes[int(value)] = table.index_of[id_]
        elif id_ not in dropped:
            raise DataError(f"unknown-label: id {value:.6g} in {where} is not {known}")
    if freesurfer and numbering is None:
        _check_sides(present, where)
    return np.asarray(classes[whole])


def _check_sides(present: np.ndarray, where: str) -> None:
    """Refuse a map of tissues (BIDS, FSL, SPM), or one that numbers its structures from 1, read as FreeSurfer's ids."""
    pairs = {structure.id: structure.mirror for structure in PAPER.structures if structure.mirror > structure.id}
    left = [id_ for id_ in present.tolist() if id_ in pairs]
    if len(left) > 1 and not any(aseg_of(id_) in pairs.values() for id_ in present.tolist()):
        listed = ", ".join(str(id_) for id_ in present[present > 0][:8])
        raise DataError(
            f"unknown-label: {where} holds the ids {listed} and none of the right side; it numbers tissues, or "
            "structures in another way than FreeSurfer: map it, name its label table, or take it out"
        )


def aseg_of(id_: int) -> int:
    """Give the id of FreeSurfer's `aseg` for one of its parcels (Desikan, DKT, Destrieux); other ids as they are."""
    for parcels, structure in _PARCELS.items():
        if id_ in parcels:
            return structure
    return id_


def structures_among(ids: np.ndarray, table: LabelTable) -> int:
    """Count the structures of a label table whose own ids are in a file."""
    return len(set(np.rint(np.unique(ids)).astype(np.int64).tolist()) & set(table.ids[1:]))
