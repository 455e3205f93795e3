"""Demons: what a refined flow is worth, and that it changes nothing else."""

import torch
from torch import Tensor

from sst_models.losses.flow import folded_fraction
from sst_models.losses.structural import lncc
from sst_models.propagation.demons import ascend_lncc, multiresolution_demons, refine_by_demons
from sst_models.volume.warp import warp, warp_labels


def hollow(radius: float, seed: int) -> tuple[Tensor, Tensor]:
    """A bright ball with a dark one of some radius inside, of the half side: image and mask (48, 48, 48)."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 48)] * 3, indexing="ij")
    distance = torch.stack(axes).square().sum(0).sqrt()
    noise = 0.03 * torch.randn(distance.shape, generator=torch.Generator().manual_seed(seed))
    dark = distance < radius
    return (torch.where(dark, 0.2, 0.8) + noise).clamp(0, 1) * (distance < 0.9), dark


def ball(centre: float, radius: float = 6.0) -> torch.Tensor:
    """Give a smooth ball in (1, 1, 24, 24, 24), intensities in [0, 1], with a second one inside."""
    axes = torch.meshgrid(*[torch.arange(24.0)] * 3, indexing="ij")
    distance = sum((axis - centre) ** 2 for axis in axes).sqrt()
    return (0.6 * torch.sigmoid(radius - distance) + 0.4 * torch.sigmoid(radius / 2 - distance))[None, None]


def test_demons_bring_the_moving_image_onto_the_fixed_one_without_folds() -> None:
    """Two balls a voxel apart along each axis: most of their difference goes, whatever the contrast of one."""
    moving, fixed = ball(11.0), ball(12.0)
    zero = torch.zeros(1, 3, 24, 24, 24)
    before = (moving - fixed).abs().mean()
    for brighter in (1.0, 0.6):
        flow = refine_by_demons(brighter * moving, fixed, zero, iterations=16)
        assert (warp(moving, flow) - fixed).abs().mean() < before / 3
        assert folded_fraction(flow) == 0.0


def test_ascending_the_correlation_brings_the_images_closer_whatever_their_contrast() -> None:
    """Local correlation rises and nothing folds, with one image darker than the other."""
    moving, fixed = 0.6 * ball(11.0), ball(12.0)
    flow = ascend_lncc(moving, fixed, torch.zeros(1, 3, 24, 24, 24), iterations=8)
    assert lncc(warp(moving, flow), fixed, 5) > lncc(moving, fixed, 5) + 0.05
    assert folded_fraction(flow) == 0.0


def test_no_iterations_leave_a_flow_as_it_is() -> None:
    """No iterations: the network's flow, with its gradient."""
    flow = torch.ones(1, 3, 24, 24, 24, requires_grad=True)
    assert refine_by_demons(ball(11.0), ball(12.0), flow, iterations=0) is flow


def test_brightness_brings_a_flow_to_ventricles_that_windows_do_not_see() -> None:
    """An atlas's ventricle of a fifth, a scan's of half: windows inside it hold noise, and only brightness knows."""
    (atlas, inner), (scan, outer) = hollow(0.2, seed=1), hollow(0.5, seed=2)

    def overlap(brightness: float) -> float:
        flow = multiresolution_demons(atlas[None, None], scan[None, None], 8, brightness)
        flow = refine_by_demons(atlas[None, None], scan[None, None], flow, 16, brightness)
        found = warp_labels(inner[None].to(torch.uint8), flow)[0] > 0
        return 2 * int((found & outer).sum()) / int(found.sum() + outer.sum())

    assert overlap(2.0) > 2 * overlap(0.0) > 0
