"""Demons forces: what a polished flow is worth, and that it changes nothing else."""

import torch

from sst_models.forces import ascend, polish
from sst_models.losses.flow import folded_fraction
from sst_models.losses.structural import lncc
from sst_models.warp import warp


def ball(centre: float, radius: float = 6.0) -> torch.Tensor:
    """Give a smooth ball in (1, 1, 24, 24, 24), intensities in [0, 1], with a second one inside."""
    axes = torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij")
    distance = sum((axis - centre) ** 2 for axis in axes).sqrt()
    return (0.6 * torch.sigmoid(radius - distance) + 0.4 * torch.sigmoid(radius / 2 - distance))[None, None]


def test_polishing_brings_the_moving_image_onto_the_fixed_one_without_folds() -> None:
    """Two balls a voxel apart along each axis: most of their difference goes, whatever the contrast of one."""
    moving, fixed = ball(11.0), ball(12.0)
    zero = torch.zeros(1, 3, 24, 24, 24)
    before = (moving - fixed).abs().mean()
    for brighter in (1.0, 0.6):
        flow = polish(brighter * moving, fixed, zero, steps=16)
        assert (warp(moving, flow) - fixed).abs().mean() < before / 3
        assert folded_fraction(flow) == 0.0


def test_ascending_the_correlation_brings_the_images_closer_whatever_their_contrast() -> None:
    """Local correlation rises and nothing folds, with one image darker than the other."""
    moving, fixed = 0.6 * ball(11.0), ball(12.0)
    flow = ascend(moving, fixed, torch.zeros(1, 3, 24, 24, 24), steps=8)
    assert lncc(warp(moving, flow), fixed, 5) > lncc(moving, fixed, 5) + 0.05
    assert folded_fraction(flow) == 0.0


def test_a_flow_that_is_not_polished_is_the_same_flow() -> None:
    """No steps: the network's flow, with its gradient."""
    flow = torch.ones(1, 3, 24, 24, 24, requires_grad=True)
    assert polish(ball(11.0), ball(12.0), flow, steps=0) is flow
