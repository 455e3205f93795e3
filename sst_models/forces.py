"""Demons forces: the step that brings a moving image closer to a fixed one, computed instead of learnt.

Thirion (1998) takes registration as diffusion: at each voxel the images' difference, divided by its gradient, pulls
the moving image. On images that are normalised in a small window it is blind to the scanners' contrast. A few such
steps at each level of a pyramid give a network of few steps of training what it would need thousands to learn.
"""

import torch
from torch import Tensor

from configs.schema import Registration
from sst_models.losses.structural import lncc
from sst_models.separable import Filter, apply, bands, box, gaussian
from sst_models.warp import compose, warp

WINDOW = 5
"""Voxels of the window in which intensities are normalised; 5 and 7 were alike on validation scans."""

FLOOR = 0.05
"""Added to the local standard deviation, intensities in [0, 1]: noise in flat regions is not blown up."""

STEP_SIGMA, FLOW_SIGMA = 0.8, 0.7
"""Voxels of the Gaussians that smooth each step and the flow after it (fluid and elastic regularisation).

Chosen on validation scans of two sites among 0.8 to 1.5 and 0.6 to 1.2; benchmarks/LEARNING.md."""


ASCENT_STEP, ASCENT_SIGMA = 0.25, 1.7
"""Voxels: the longest vector of a step up the correlation, and its smoothing (ANTs: gradient step 0.1 to 0.25, flow
sigma 3 voxels squared)."""


def local_normalise(volume: Tensor) -> Tensor:
    """Give (N, 1, D, H, W) zero mean and about unit spread in every window."""
    mean, square = _box(torch.cat([volume, volume * volume])).chunk(2)
    return (volume - mean) / ((square - mean * mean).clamp(min=1e-8).sqrt() + FLOOR)


def pull(moving: Tensor, fixed: Tensor, flow: Tensor, gain: Tensor) -> Tensor:
    """Improve a flow by one demons step.

    Args:
        moving: (N, 1, D, H, W), normalised by `local_normalise`.
        fixed: likewise.
        flow: (N, 3, D, H, W) voxels, fixed -> moving.
        gain: length of the step; 1 is Thirion's, at most half a voxel.

    Returns:
        (N, 3, D, H, W) voxels; the given flow, smoothed, where the images agree.
    """
    warped = warp(moving, flow)
    difference = fixed - warped
    slope = (_gradient(warped) + _gradient(fixed)) / 2
    step = difference * slope / (slope.square().sum(dim=1, keepdim=True) + difference.square() + 1e-3)
    return _smooth(flow + gain * _smooth(step, STEP_SIGMA), FLOW_SIGMA)


def polish(moving: Tensor, fixed: Tensor, flow: Tensor, steps: int) -> Tensor:
    """Improve a flow by demons steps at full resolution, where a network's flow is only half as fine.

    Args:
        moving: (N, 1, D, H, W), intensities in [0, 1].
        fixed: likewise.
        flow: (N, 3, D, H, W) voxels, fixed -> moving.
        steps: how many; 0 gives `flow` back.

    Returns:
        (N, 3, D, H, W) voxels, without gradient unless `steps` is 0.
    """
    if not steps:
        return flow
    with torch.no_grad():
        ours, theirs = local_normalise(torch.cat([moving, fixed])).chunk(2)
        one = flow.new_ones(())
        for _ in range(steps):
            flow = pull(ours, theirs, flow, one)
    return flow


def ascend(moving: Tensor, fixed: Tensor, flow: Tensor, steps: int) -> Tensor:
    """Improve a flow by steps up the gradient of local correlation, each composed with the flow so far.

    The update of SyN's greedy half (Avants et al. 2008): smoothed, and scaled so that its longest vector is
    `ASCENT_STEP`. It finds what demons leave, at twenty times their cost.

    Takes and gives what `polish` does.
    """
    flow = flow.detach() if steps else flow
    for _ in range(steps):
        with torch.enable_grad():
            warped = warp(moving, flow).detach().requires_grad_()
            (rise,) = torch.autograd.grad(lncc(warped, fixed, WINDOW), warped)
        with torch.no_grad():
            step = _smooth(rise * _gradient(warped), ASCENT_SIGMA)
            longest = step.square().sum(dim=1, keepdim=True).amax(dim=(2, 3, 4), keepdim=True).sqrt()
            flow = compose(flow, step * (ASCENT_STEP / longest.clamp(min=1e-12)))
    return flow


def finish(moving: Tensor, fixed: Tensor, flow: Tensor, settings: Registration) -> Tensor:
    """End a network's flow as the preset says: `polish`, then `ascend`."""
    return ascend(moving, fixed, polish(moving, fixed, flow, settings.polish), settings.ascent)


def _gradient(volume: Tensor) -> Tensor:
    """Central differences, (N, 3, D, H, W). The border wraps round; it is background."""
    return torch.cat([(volume.roll(-1, axis) - volume.roll(1, axis)) / 2 for axis in (2, 3, 4)], dim=1)


def _box(volume: Tensor) -> Tensor:
    return _filter(volume, box(WINDOW))


def _smooth(flow: Tensor, sigma: float) -> Tensor:
    return _filter(flow, gaussian(2 * round(2 * sigma) + 1, sigma, same=True))


def _filter(maps: Tensor, filter_: Filter) -> Tensor:
    each = maps.flatten(0, 1)
    return apply(bands(each, filter_), each).view_as(maps)
