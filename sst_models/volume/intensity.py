"""Intensities of a scan, brought to [0, 1] the same way at the hub and at every site."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def _percentile(ordered: Tensor, percent: float) -> Tensor:
    """Linear percentile of a vector that is ascending, at least where it is read.

    `torch.quantile` refuses more than 16 M elements.
    """
    place = percent / 100.0 * (ordered.numel() - 1)
    below = int(place)
    above = min(below + 1, ordered.numel() - 1)
    return torch.lerp(ordered[below], ordered[above], place - below)


def robust_scale(volume: Tensor, mask: Tensor | None = None, low: float = 0.5, high: float = 99.5) -> Tensor:
    """Scale a skull-stripped volume to [0, 1], so that a few bright voxels do not set the contrast of all others.

    Args:
        volume: any shape, in the scanner's own units; background is 0.
        mask: same shape, true in the brain; non-zero voxels if not given.
        low: percentile over the brain that becomes 0.
        high: percentile over the brain that becomes 1.

    Returns:
        float32 of the same shape, clamped to [0, 1], 0 outside the mask; all 0 if the brain is empty or constant.
    """
    inside = volume != 0 if mask is None else mask.to(torch.bool)
    values = volume[inside].to(torch.float32)
    if values.numel() == 0:
        return torch.zeros_like(volume, dtype=torch.float32)
    places = [percent / 100.0 * (values.numel() - 1) for percent in (low, high)]
    needed = [min(int(place) + more, values.numel() - 1) for place in places for more in (0, 1)]
    ordered = torch.from_numpy(np.partition(values.cpu().numpy(), needed)).to(values.device)  # a tenth of sorting all
    lowest, highest = _percentile(ordered, low), _percentile(ordered, high)
    if not highest > lowest:
        return torch.zeros_like(volume, dtype=torch.float32)
    scaled = ((volume.to(torch.float32) - lowest) / (highest - lowest)).clamp(0.0, 1.0)
    return torch.where(inside, scaled, torch.zeros_like(scaled))


def brain_moments(volumes: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation, at least 1e-3, of each brain of (N, 1, D, H, W): both (N, 1, 1, 1, 1)."""
    axes = (1, 2, 3, 4)
    count = (volumes > 0).sum(dim=axes, keepdim=True).clamp(min=2)  # voxels that hold signal; the others add nothing
    mean = volumes.sum(dim=axes, keepdim=True) / count
    spread = (volumes.square().sum(dim=axes, keepdim=True) / count - mean.square()).clamp(min=0).sqrt()
    return mean, spread.clamp(min=1e-3)


def match_quantiles(volume: Tensor, target: Tensor, count: int = 65) -> Tensor:
    """Give a volume the intensities of another by a rising curve, so that as many voxels are as bright.

    Args:
        volume: any shape, in [0, 1], background 0.
        target: likewise; of another shape, if need be.
        count: quantiles, evenly spaced, that the curve goes through; straight lines between them.

    Returns:
        The shape of `volume`, in [0, 1], background 0; `volume` itself where one of the two is empty.
    """
    ours, theirs = volume[volume > 0].sort().values, target[target > 0].sort().values
    if not (len(ours) and len(theirs)):
        return volume
    x, y = (torch.stack([_percentile(v, 100.0 * n / (count - 1)) for n in range(count)]) for v in (ours, theirs))
    above = torch.searchsorted(x, volume.contiguous()).clamp(1, count - 1)
    share = (volume - x[above - 1]) / (x[above] - x[above - 1]).clamp(min=1e-6)
    matched = torch.lerp(y[above - 1], y[above], share.clamp(0, 1))
    return matched.clamp(0, 1) * (volume > 0)


def closest_to_mean(volumes: Sequence[np.ndarray]) -> int:
    """Choose the atlas as the paper does (Sec. 4): the scan closest to its site's mean, by mean squared difference.

    Args:
        volumes: prepared scans of one site, all on one grid, (D, H, W) in [0, 1]. Read twice, one at a time.

    Returns:
        The position of the closest scan; the first of equals.

    Raises:
        ValueError: there is no volume.
    """
    if len(volumes) == 0:
        raise ValueError("no volumes to choose from")
    mean = np.zeros(volumes[0].shape, dtype=np.float64)
    for position in range(len(volumes)):
        mean += volumes[position] / len(volumes)
    distances = [float(np.square(volumes[position] - mean).mean()) for position in range(len(volumes))]
    return int(np.argmin(distances))


def brain_mask(volume: Tensor) -> Tensor:
    """Give the brain mask of skull-stripped (N, 1, D, H, W): non-zero voxels, pin holes closed."""
    seen = volume > 0
    for axis in (2, 3, 4):  # or of neighbours, axis by axis: a tenth of the time of `max_pool3d`
        before, after, rest = seen.narrow(axis, 0, 1), seen.narrow(axis, -1, 1), seen.shape[axis] - 1
        low = torch.cat([before, seen.narrow(axis, 0, rest)], axis)
        high = torch.cat([seen.narrow(axis, 1, rest), after], axis)
        seen = seen | low | high
    return seen.to(volume.dtype)
