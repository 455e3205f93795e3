"""Demons: the iteration that brings a moving image closer to a fixed one, computed instead of learnt.

Thirion (1998) takes registration as diffusion: at each voxel the images' difference, divided by its gradient, pulls
the moving image. On images that are normalised in a small window it is blind to the scanners' contrast. A few
iterations at each level of a pyramid give a network of few steps of training what it would need thousands to learn.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from configs.schema import Propagation
from sst_models.losses.structural import lncc
from sst_models.volume.intensity import brain_moments
from sst_models.volume.separable import Filter, apply, bands, box, gaussian
from sst_models.volume.warp import compose, resize_flow, warp

WINDOW = 5
"""Voxels of the window in which intensities are normalised; 5 and 7 were alike on validation scans."""

FLOOR = 0.05
"""Added to the local standard deviation, intensities in [0, 1]: noise in flat regions is not blown up."""

STEP_SIGMA, FLOW_SIGMA = 0.8, 0.7
"""Voxels of the Gaussians that smooth each step and the flow after it (fluid and elastic regularisation).

Chosen on validation scans of two sites among 0.8 to 1.5 and 0.6 to 1.2; benchmarks/LEARNING.md."""

HALVINGS = (16, 8, 4, 2)
"""Voxels of a side that are one at each level of `multiresolution_demons`: those of a pyramid of four levels over
folded voxels."""

ASCENT_STEP, ASCENT_SIGMA = 0.25, 1.7
"""Voxels: the longest vector of a step up the correlation, and its smoothing (ANTs: gradient step 0.1 to 0.25, flow
sigma 3 voxels squared)."""


def local_normalise(volume: Tensor) -> Tensor:
    """Give (N, 1, D, H, W) zero mean and about unit spread in every window."""
    mean, square = _box(torch.cat([volume, volume * volume])).chunk(2)
    return (volume - mean) / ((square - mean * mean).clamp(min=1e-8).sqrt() + FLOOR)


def features(volume: Tensor, intensity: float = 0.0) -> Tensor:
    """Give (N, C, D, H, W) what demons compare of (N, 1, D, H, W): what is left of intensities in a window, and more.

    With a `intensity` of more than 0 the intensities themselves are a second channel, of that spread over the brain:
    a window that lies within a large ventricle knows nothing of it but its noise.
    """
    local = local_normalise(volume)
    if not intensity:
        return local
    mean, spread = brain_moments(volume)
    return torch.cat([local, intensity * (volume - mean) / spread * (volume > 0)], dim=1)


def demons_iteration(moving: Tensor, fixed: Tensor, flow: Tensor, gain: Tensor) -> Tensor:
    """Improve a flow by one demons iteration.

    Args:
        moving: (N, C, D, H, W), by `features`.
        fixed: likewise.
        flow: (N, 3, D, H, W) voxels, fixed -> moving.
        gain: length of the step; 1 is Thirion's, at most half a voxel.

    Returns:
        (N, 3, D, H, W) voxels; the given flow, smoothed, where the images agree.
    """
    warped = warp(moving, flow)
    difference = fixed - warped
    slope = _gradient((warped + fixed) / 2).view(len(flow), 3, -1, *flow.shape[2:])  # by axis, by channel
    squares = slope.square().sum(dim=(1, 2)) + difference.square().sum(dim=1)
    step = (difference[:, None] * slope).sum(dim=2) / (squares[:, None] + 1e-3)
    return _smooth(flow + gain * _smooth(step, STEP_SIGMA), FLOW_SIGMA)


def demons(both: Tensor, flow: Tensor, iterations: int, gain: Tensor, intensity: float = 0.0) -> Tensor:
    """Improve a flow by some demons iterations.

    Args:
        both: moving and fixed volumes in one batch, (2 N, 1, D, H, W), intensities in [0, 1].
        flow: as of `demons_iteration`.
        iterations: how many.
        gain: as of `demons_iteration`.
        intensity: what intensities themselves count for, see `features`.
    """
    moving, fixed = features(both, intensity).chunk(2)
    for _ in range(iterations):
        flow = demons_iteration(moving, fixed, flow, gain)
    return flow


@torch.no_grad()
def multiresolution_demons(moving: Tensor, fixed: Tensor, iterations: int, intensity: float) -> Tensor:
    """Give a flow by demons iterations from coarse to fine, of which nothing is learnt.

    Args:
        moving: (N, 1, D, H, W), intensities in [0, 1].
        fixed: likewise, as bright as `moving` where their tissues are the same.
        iterations: how many at each level.
        intensity: as of `demons`.

    Returns:
        (N, 3, D, H, W) voxels, fixed -> moving.
    """
    both, one = torch.cat([moving, fixed]), fixed.new_ones(())
    flow = fixed.new_zeros(len(fixed), 3, *(side // HALVINGS[0] for side in fixed.shape[2:]))
    for size in HALVINGS:
        coarse = avg_pool3d(both, size)
        flow = resize_flow(flow, coarse.shape[2:])
        flow = demons(coarse, flow, iterations, one, intensity)
    return resize_flow(flow, fixed.shape[2:])


def refine_by_demons(moving: Tensor, fixed: Tensor, flow: Tensor, iterations: int, intensity: float = 0.0) -> Tensor:
    """Improve a flow by demons iterations at full resolution, where a network's flow is only half as fine.

    Args:
        moving: (N, 1, D, H, W), intensities in [0, 1].
        fixed: likewise.
        flow: (N, 3, D, H, W) voxels, fixed -> moving.
        iterations: how many; 0 gives `flow` back.
        intensity: as of `demons`.

    Returns:
        (N, 3, D, H, W) voxels, without gradient unless `iterations` is 0.
    """
    if not iterations:
        return flow
    with torch.no_grad():
        return demons(torch.cat([moving, fixed]), flow, iterations, flow.new_ones(()), intensity)


def ascend_lncc(moving: Tensor, fixed: Tensor, flow: Tensor, iterations: int) -> Tensor:
    """Improve a flow by steps up the gradient of local correlation, each composed with the flow so far.

    The update of SyN's greedy half (Avants et al. 2008): smoothed, and scaled so that its longest vector is
    `ASCENT_STEP`. It finds what demons leave, at twenty times their cost.

    Takes and gives what `refine_by_demons` does without intensity.
    """
    flow = flow.detach() if iterations else flow
    for _ in range(iterations):
        with torch.enable_grad():
            warped = warp(moving, flow).detach().requires_grad_()
            (rise,) = torch.autograd.grad(lncc(warped, fixed, WINDOW), warped)
        with torch.no_grad():
            step = _smooth(rise * _gradient(warped), ASCENT_SIGMA)
            longest = step.square().sum(dim=1, keepdim=True).amax(dim=(2, 3, 4), keepdim=True).sqrt()
            flow = compose(flow, step * (ASCENT_STEP / longest.clamp(min=1e-12)))
    return flow


def finish(moving: Tensor, fixed: Tensor, flow: Tensor, settings: Propagation) -> Tensor:
    """End a network's flow as the preset says: `refine_by_demons`, then `ascend_lncc`."""
    flow = refine_by_demons(moving, fixed, flow, settings.demons_iterations_full_resolution)
    return ascend_lncc(moving, fixed, flow, settings.lncc_ascent_iterations)


def _gradient(volume: Tensor) -> Tensor:
    """Central differences of (N, C, D, H, W): (N, 3 C, D, H, W), axis by axis. Borders wrap round; they are empty."""
    return torch.cat([(volume.roll(-1, axis) - volume.roll(1, axis)) / 2 for axis in (2, 3, 4)], dim=1)


def _box(volume: Tensor) -> Tensor:
    return _filter(volume, box(WINDOW))


def _smooth(flow: Tensor, sigma: float) -> Tensor:
    return _filter(flow, gaussian(2 * round(2 * sigma) + 1, sigma, same=True))


def _filter(maps: Tensor, filter_: Filter) -> Tensor:
    each = maps.flatten(0, 1)
    return apply(bands(each, filter_), each).view_as(maps)
