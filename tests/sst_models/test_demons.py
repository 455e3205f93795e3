"""Demons: what a refined flow is worth, and that it changes nothing else."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sst_models.losses.flow import folded_fraction
from sst_models.losses.structural import lncc
from sst_models.propagation.demons import (
    ASCENT_STEP,
    FLOOR,
    ascend_lncc,
    demons_iteration,
    features,
    local_normalise,
    multiresolution_demons,
    refine_by_demons,
)
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


def speck(seed: int, channels: int = 1, side: int = 14) -> Tensor:
    """Noise in the middle of an empty volume, (1, C, side, side, side), so that nothing reaches the border."""
    volume = torch.zeros(1, channels, side, side, side)
    inside = volume[:, :, 5:-5, 5:-5, 5:-5]
    inside.copy_(torch.rand(inside.shape, generator=torch.Generator().manual_seed(seed)))
    return volume


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """A plain convolution with a Gaussian cut at twice its sigma, channel by channel."""
    half = round(2 * sigma)
    taps = torch.exp(-torch.arange(-half, half + 1.0).square() / (2 * sigma**2))
    taps = taps / taps.sum()
    kernel = torch.einsum("i,j,k->ijk", taps, taps, taps)[None, None]
    return F.conv3d(maps.transpose(0, 1), kernel, padding=half).transpose(0, 1)


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_an_iteration_is_thirions(gain: float) -> None:
    """(f - m) g / (g^2 + (f - m)^2), with g the gradient of the two images' mean and both sums over channels, smoothed
    by 0.8 voxels, added to the flow and smoothed by 0.7."""
    moving, fixed = speck(1, 2), speck(2, 2)
    flow = torch.zeros(1, 3, 14, 14, 14)
    middle = (moving + fixed) / 2
    slope = torch.zeros(1, 3, 2, 14, 14, 14)
    for axis in range(3):
        ahead, behind = (middle.narrow(axis + 2, start, 12) for start in (2, 0))
        slope[:, axis].narrow(axis + 2, 1, 12).copy_((ahead - behind) / 2)
    force = ((fixed - moving)[:, None] * slope).sum(dim=2)
    power = (slope**2).sum(dim=(1, 2)) + ((fixed - moving) ** 2).sum(dim=1)
    expected = smoothed(flow + gain * smoothed(force / (power[:, None] + 1e-3), 0.8), 0.7)
    torch.testing.assert_close(
        demons_iteration(moving, fixed, flow, torch.tensor(gain)), expected, rtol=1e-4, atol=1e-6
    )


def test_a_window_takes_out_brightness_and_contrast() -> None:
    """Each voxel less the mean of its 5 x 5 x 5 neighbours, over their deviation and a floor; outside is 0."""
    volume = torch.rand(1, 1, 7, 8, 9, generator=torch.Generator().manual_seed(1))
    padded = F.pad(volume[0, 0], (2,) * 6)
    expected = torch.zeros(7, 8, 9)
    for place in torch.cartesian_prod(torch.arange(7), torch.arange(8), torch.arange(9)).tolist():
        i, j, k = place
        near = padded[i : i + 5, j : j + 5, k : k + 5]
        expected[i, j, k] = (volume[0, 0, i, j, k] - near.mean()) / (near.std(unbiased=False) + FLOOR)
    torch.testing.assert_close(local_normalise(volume)[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_intensities_are_a_second_channel_where_they_count() -> None:
    """Of the brain's mean 0 and the spread that is asked for, background 0; else there is one channel."""
    volume = speck(3)
    assert torch.equal(features(volume), local_normalise(volume))
    first, second = features(volume, 2.0)[0]
    assert torch.equal(first, local_normalise(volume)[0, 0])
    brain = volume[0, 0] > 0
    assert float(second[brain].mean()) == pytest.approx(0, abs=1e-4)
    assert float(second[brain].std(unbiased=False)) == pytest.approx(2, rel=1e-3)
    assert not second[~brain].any()


def test_a_step_of_ascent_is_a_quarter_of_a_voxel_at_most() -> None:
    """And at its longest vector exactly, for each pair of a batch on its own; two steps are composed."""
    moving = torch.cat([ball(11.0), ball(10.0)])
    fixed = torch.cat([ball(12.0), 0.5 * ball(12.0)])
    flow = ascend_lncc(moving, fixed, torch.zeros(2, 3, 24, 24, 24), iterations=1)
    longest = flow.norm(dim=1).amax(dim=(1, 2, 3))
    torch.testing.assert_close(longest, torch.full((2,), ASCENT_STEP))
    twice = ascend_lncc(moving, fixed, flow, iterations=1)
    assert torch.equal(twice, ascend_lncc(moving, fixed, torch.zeros(2, 3, 24, 24, 24), iterations=2))
    assert ASCENT_STEP < float(twice.norm(dim=1).max()) <= 2 * ASCENT_STEP


def test_demons_from_coarse_to_fine_find_what_those_at_full_resolution_cannot() -> None:
    """A ball that lies six voxels off: a window of full resolution does not reach it."""
    axes = torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij")
    moving, fixed = (
        torch.sigmoid(5 - sum((axis - centre) ** 2 for axis in axes).sqrt())[None, None] for centre in (12.5, 16.0)
    )
    flow = multiresolution_demons(moving, fixed, 8, 1.0)
    before, after = (moving - fixed).abs().mean(), (warp(moving, flow) - fixed).abs().mean()
    assert after < 0.2 * before
    still = refine_by_demons(moving, fixed, torch.zeros_like(flow), 8, 1.0)
    assert (warp(moving, still) - fixed).abs().mean() > after
    assert multiresolution_demons(fixed, fixed, 8, 1.0).abs().max() < 1e-5
