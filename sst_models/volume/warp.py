"""Flows and what they do to volumes and label maps; the one place that knows the convention.

A flow is (N, 3, D, H, W): displacement in voxels, channels in the order of the axes (i, j, k), from the fixed grid to
the moving volume, so that `warped(x) = moving(x + flow(x))`. Corners are aligned: a voxel's centre is its index.
"""

from functools import lru_cache, reduce
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, ...]

# grid_sample uses one CPU thread per batch element. Slabs of the grid as a batch use more, and a fixed number of them
# keeps the sums of the gradient in one order whatever the number of threads.
_SLABS = 4
# Voxels that vote at once on a CPU: as many as stay in a processor's cache.
_BLOCK = 32768
# In place of a label: beyond the border, and a cell whose corners differ.
_OUTSIDE, _MIXED = -1, -2


def warp(volume: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """Deform a volume with a flow: `warped(x) = volume(x + flow(x))`, 0 (background) outside the volume.

    Args:
        volume: (N, C, D, H, W), the moving volume; or (1, C, D, H, W), one for all flows.
        flow: (N, 3, D, H, W) in voxels. Used in float32 at least: half precision cannot count voxels.
        mode: "bilinear" (on volumes: trilinear) or "nearest".

    Returns:
        (N, C, D, H, W) in the volume's type, differentiable in both.
    """
    return _sample(volume, flow, mode, "zeros")


def warp_labels(labels: Tensor, flow: Tensor) -> Tensor:
    """Deform a label map as its classes' linear interpolation says: the argmax of the warped one-hot volume.

    The one-hot volume is never built: the interpolation weights of equal labels among a voxel's 8 neighbours are
    summed. Neighbours outside the volume have no weight, ties go to the smaller class, and a voxel that sees nothing
    is background.

    Args:
        labels: (N, D, H, W) class indices, 0 to 32767, any integer type.
        flow: (N, 3, D, H, W) in voxels.

    Returns:
        (N, D, H, W) in the type of `labels`.
    """
    padded = functional.pad(labels.to(torch.int16), (1, 1) * 3, value=_OUTSIDE)
    corner, fractions = _locate(flow, padded.stride())
    warped = _cells(padded).take(corner).flatten()
    mixed = (warped == _MIXED).nonzero().squeeze(1)
    offsets = [sum(map(int.__mul__, steps, padded.stride()[1:])) for steps in product((0, 1), repeat=3)]
    for block in blocks(mixed):
        first = corner.take(block)
        neighbours = torch.stack([padded.take(first + offset) for offset in offsets])
        warped[block] = _vote(neighbours, [fraction.take(block) for fraction in fractions])
    return warped.clamp_min(0).view(flow.shape[0], *flow.shape[2:]).to(labels.dtype)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """One flow for two warps in a row: `warp(v, compose(outer, inner))` is `warp(warp(v, outer), inner)`.

    Beyond the border the outer flow continues with its value at the border, so that constant flows add up everywhere.

    Args:
        outer: (N, 3, D, H, W) in voxels, nearest to the volume.
        inner: (N, 3, D, H, W) in voxels.

    Returns:
        (N, 3, D, H, W): `inner(x) + outer(x + inner(x))`, differentiable in both.
    """
    return inner + _sample(outer, inner, "bilinear", "border")


def integrate(velocity: Tensor, steps: int) -> Tensor:
    """Flow of a stationary velocity over unit time, smooth and invertible: scaling and squaring.

    Args:
        velocity: (N, 3, D, H, W) in voxels per unit of time.
        steps: number of squarings; 0 returns the velocity. VoxelMorph uses 7.

    Returns:
        (N, 3, D, H, W) in voxels; the inverse is `integrate(-velocity, steps)`.
    """
    flow: Tensor = velocity / 2**steps
    for _ in range(steps):
        flow = compose(flow, flow)
    return flow


def resize_flow(flow: Tensor, size: Size) -> Tensor:
    """The same deformation on a coarser or finer grid over the same corners; displacements in voxels of the new grid.

    Args:
        flow: (N, 3, D, H, W) in voxels of its own grid.
        size: sides of the new grid.

    Returns:
        (N, 3, *size). A flow that is linear in x stays exactly that map: resize volumes with `align_corners=True` too.
    """
    resized = functional.interpolate(flow, size=size, mode="trilinear", align_corners=True)
    ratios = [(new - 1) / max(old - 1, 1) for new, old in zip(size, flow.shape[2:], strict=True)]
    return resized * _per_axis(ratios, flow.dtype, flow.device)


def _sample(volume: Tensor, flow: Tensor, mode: str, padding: str) -> Tensor:
    """Values of `volume` at x + flow(x)."""
    dtype = torch.promote_types(torch.promote_types(volume.dtype, flow.dtype), torch.float32)
    size, moving_size = flow.shape[2:], volume.shape[2:]
    scale = _per_axis([2 / max(side - 1, 1) for side in moving_size], dtype, flow.device)
    zero = _normalised_identity(size, moving_size, flow.device).to(dtype)
    grid = torch.addcmul(zero, flow.to(dtype), scale).permute(0, 2, 3, 4, 1)
    # grid_sample reads coordinates last axis first: turning the volume around is free, turning the grid is a copy.
    moving = volume.to(dtype).expand(len(flow), -1, -1, -1, -1).transpose(2, 4)
    slabs = _SLABS if len(flow) == 1 and flow.device.type == "cpu" and size[0] % _SLABS == 0 else 1
    grid = grid.reshape(-1, size[0] // slabs, *grid.shape[2:])
    moving = moving.expand(len(grid), -1, -1, -1, -1)
    with torch.autocast(flow.device.type, enabled=False):
        sampled = functional.grid_sample(moving, grid, mode=mode, padding_mode=padding, align_corners=True)
    sampled = sampled.view(len(flow), slabs, volume.shape[1], -1, *size[1:])
    return sampled.transpose(1, 2).flatten(2, 3).to(volume.dtype)


@lru_cache(maxsize=8)
def _identity(size: Size, device: torch.device) -> Tensor:
    """(1, 3, D, H, W) float32: the index of each voxel."""
    # Cached across callers: a tensor made in inference mode could never be used in training again.
    with torch.inference_mode(False):
        axes = [torch.arange(side, dtype=torch.float32, device=device) for side in size]
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).unsqueeze(0)


@lru_cache(maxsize=8)
def _normalised_identity(size: Size, moving_size: Size, device: torch.device) -> Tensor:
    """(1, 3, D, H, W) float32: the index of each voxel in grid_sample's units, -1 to 1 across the moving volume."""
    with torch.inference_mode(False):
        last = torch.tensor([max(side - 1, 1) for side in moving_size], device=device).view(3, 1, 1, 1)
        return _identity(size, device) * 2 / last - 1


def _per_axis(values: list[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(3, 1, 1, 1), to multiply a flow with."""
    return torch.tensor(values, dtype=dtype, device=device).view(3, 1, 1, 1)


def _cells(padded: Tensor) -> Tensor:
    """The label that all 8 corners of each cell share, or `_MIXED`: most voxels need no vote.

    Outside counts as background here: where there is nothing else, it is what a voxel becomes.
    """
    return functional.pad(shared(padded.clamp_min(0), 2, _MIXED), (0, 1) * 3)


def blocks(places: Tensor, most: int = _BLOCK) -> tuple[Tensor, ...]:
    """Cut a list (M, ...) into what is worked on at once: `most` on a CPU, all on a GPU, whose launches cost."""
    return torch.split(places, most) if places.device.type == "cpu" else (places,)


def shared(labels: Tensor, window: int, mixed: int) -> Tensor:
    """Give the label that all of each window holds, `mixed` where there are several.

    Args:
        labels: (..., D, H, W), of a type that holds `mixed`, too.
        window: labels along each of its sides.
        mixed: none of the labels.

    Returns:
        (..., D - window + 1, H - window + 1, W - window + 1), by each window's first corner.
    """
    low = high = labels
    for axis in (-3, -2, -1):
        size = low.shape[axis] - window + 1
        low = reduce(torch.minimum, [low.narrow(axis, step, size) for step in range(window)])
        high = reduce(torch.maximum, [high.narrow(axis, step, size) for step in range(window)])
    return torch.where(low == high, low, mixed)


def _locate(flow: Tensor, strides: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    """Where each point x + flow(x) lies in a volume with a border of one voxel that stands for all outside.

    Returns the index (N, D, H, W) of its cell's first corner, and how far into the cell it lies along each axis.
    """
    size = flow.shape[2:]
    points = flow.detach().to(torch.promote_types(flow.dtype, torch.float32)) + _identity(size, flow.device)
    for axis, side in enumerate(size):
        points[:, axis].clamp_(-1, side)
    base = points.floor()
    for axis, side in enumerate(size):
        base[:, axis].clamp_(max=side - 1)
    fractions = list(points.sub_(base).unbind(1))
    # Whole numbers of a float32 are exact up to 2^24: one conversion instead of three.
    base = base if strides[0] < 2**24 else base.double()
    first = base[:, 2].add(sum(strides[1:]))
    first.add_(base[:, 0], alpha=strides[1]).add_(base[:, 1], alpha=strides[2])
    volumes = torch.arange(len(flow), device=flow.device).view(-1, 1, 1, 1) * strides[0]
    return first.to(torch.int64) + volumes, fractions


def _vote(neighbours: Tensor, fractions: list[Tensor]) -> Tensor:
    """The label with most weight among the 8 corners (8, M) of cells, `fractions` (three of (M,)) into them; (M,)."""
    i, j, k = fractions
    rows = torch.stack([(1 - i) * (1 - j), (1 - i) * j, i * (1 - j), i * j])
    weights = torch.stack([rows * (1 - k), rows * k], dim=1).flatten(0, 1)
    lowest, highest = neighbours.amin(dim=0), neighbours.amax(dim=0)
    # Nearly all hold two labels: no corner lies between them then, and one sum decides.
    wide = neighbours.to(torch.int32)
    third = ((wide - lowest) * (wide - highest)).amin(dim=0) < 0
    share = (weights * (neighbours == highest)).sum(dim=0)
    winner = torch.where(share > 0.5, highest, lowest)
    rest = (third | (lowest == _OUTSIDE)).nonzero().squeeze(1)
    if len(rest):
        winner[rest] = _count(neighbours.index_select(1, rest), weights.index_select(1, rest))
    return winner


def _count(neighbours: Tensor, weights: Tensor) -> Tensor:
    """As `_vote`, for any number of labels in a cell, by the corners' weights (8, M)."""
    weights = weights.masked_fill(neighbours == _OUTSIDE, 0)
    labels = neighbours.clamp_min(0).to(weights.dtype)
    votes, same = torch.zeros_like(weights), torch.empty_like(weights)
    for label, weight in zip(labels, weights, strict=True):
        votes.addcmul_(torch.eq(labels, label, out=same), weight)
    leading = votes == votes.amax(dim=0)
    return labels.masked_fill(~leading, torch.inf).amin(dim=0).to(neighbours.dtype)
