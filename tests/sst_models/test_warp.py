"""Identities of flows, and the fast label warp against the slow one."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sst_models.volume.warp import compose, integrate, resize_flow, warp, warp_labels


def random(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def smooth_flow(size: tuple[int, int, int], amplitude: float, seed: int = 0, batch: int = 1) -> Tensor:
    """A smooth flow of at most `amplitude` voxels on each axis."""
    coarse = (random(batch, 3, 3, 3, 3, seed=seed) * 2 - 1) * amplitude
    return functional.interpolate(coarse, size=size, mode="trilinear", align_corners=True)


def blobs(size: tuple[int, int, int], classes: int, seed: int = 0, batch: int = 1) -> Tensor:
    """A label map of connected regions."""
    scores = functional.interpolate(random(batch, classes, 5, 5, 5, seed=seed), size=size, mode="trilinear")
    return scores.argmax(dim=1)


def constant_flow(shift: tuple[float, float, float], size: tuple[int, int, int]) -> Tensor:
    """The same displacement everywhere."""
    return torch.tensor(shift, dtype=torch.float32).view(1, 3, 1, 1, 1).expand(1, 3, *size).contiguous()


def warped_one_hot(labels: Tensor, flow: Tensor, classes: int) -> Tensor:
    """The slow version's votes (N, classes, D, H, W), corner by corner from the definition."""
    size = labels.shape[1:]
    axes = torch.meshgrid(*[torch.arange(side, dtype=torch.float32) for side in size], indexing="ij")
    point = flow + torch.stack(axes)
    base = point.floor()
    votes = torch.zeros(len(labels), classes, *size)
    batch = torch.arange(len(labels)).view(-1, 1, 1, 1)
    for corner in product((0, 1), repeat=3):
        weight, inside, index = torch.ones_like(point[:, 0]), torch.ones_like(point[:, 0], dtype=torch.bool), []
        for axis, side in enumerate(size):
            fraction = point[:, axis] - base[:, axis]
            weight = weight * (fraction if corner[axis] else 1 - fraction)
            at = base[:, axis].long() + corner[axis]
            inside &= (at >= 0) & (at < side)
            index.append(at.clamp(0, side - 1))
        one_hot = functional.one_hot(labels[batch, *index], classes).movedim(-1, 1)
        votes += one_hot * (weight * inside).unsqueeze(1)
    return votes


@pytest.mark.parametrize("size", [(16, 18, 20), (15, 9, 7)])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_zero_flow_is_identity(size: tuple[int, int, int], mode: str) -> None:
    """A flow of zeros changes nothing."""
    volume = random(2, 2, *size)
    torch.testing.assert_close(warp(volume, torch.zeros(2, 3, *size), mode), volume, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shift", [(3, 0, 0), (0, -2, 0), (0, 0, 4), (1, 2, -3)])
def test_integer_shift_moves_voxels(shift: tuple[int, int, int]) -> None:
    """warped(x) is moving(x + flow), axis by axis in the order ijk, and zero where that is outside."""
    size = (12, 14, 16)
    volume, labels = random(1, 1, *size), blobs(size, 5, seed=1) + 1
    expected, expected_labels = torch.zeros_like(volume), torch.zeros_like(labels)
    to = tuple(slice(max(-s, 0), side - max(s, 0)) for s, side in zip(shift, size, strict=True))
    from_ = tuple(slice(max(s, 0), side - max(-s, 0)) for s, side in zip(shift, size, strict=True))
    expected[0, 0][to] = volume[0, 0][from_]
    expected_labels[0][to] = labels[0][from_]
    flow = constant_flow(shift, size)
    torch.testing.assert_close(warp(volume, flow), expected, atol=2e-5, rtol=0)
    assert torch.equal(warp_labels(labels, flow), expected_labels)


def test_warp_equals_interpolation_by_hand() -> None:
    """Values between voxels are those of the eight corners, weighted, on all axes."""
    size = (8, 9, 10)
    labels = torch.randint(0, 6, (1, *size), generator=torch.Generator().manual_seed(3))
    flow = smooth_flow(size, 3.0)
    classes = warped_one_hot(labels, flow, 6)
    torch.testing.assert_close(
        warp(functional.one_hot(labels, 6).movedim(-1, 1).float(), flow), classes, atol=1e-5, rtol=0
    )


def test_warp_of_a_batch_equals_one_by_one() -> None:
    """A batch of volumes and flows is warped as each of them alone, and one volume serves all flows."""
    size = (16, 12, 8)
    volume, flow = random(3, 2, *size), smooth_flow(size, 2.0, batch=3)
    alone = torch.cat([warp(volume[n : n + 1], flow[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(warp(volume, flow), alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(warp(volume[:1], flow), warp(volume[:1].expand(3, -1, -1, -1, -1), flow))


def test_warp_has_gradients_for_volume_and_flow() -> None:
    """Both gradients agree with finite differences."""
    size = (4, 5, 3)
    volume = random(1, 1, *size).double().requires_grad_()
    flow = (random(1, 3, *size, seed=1).double() * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(warp, (volume, flow), eps=1e-7, atol=1e-4)


def test_warp_keeps_the_volume_type_and_the_precision_of_the_flow() -> None:
    """A half precision volume is sampled at full precision coordinates."""
    size = (16, 16, 16)
    volume, flow = random(1, 1, *size), smooth_flow(size, 2.0)
    warped = warp(volume.bfloat16(), flow)
    assert warped.dtype == torch.bfloat16
    torch.testing.assert_close(warped.float(), warp(volume.bfloat16().float(), flow), atol=4e-3, rtol=0)


def test_warp_after_inference_mode_still_trains() -> None:
    """What is cached in inference mode can be used for a gradient afterwards."""
    size = (5, 6, 11)
    flow = torch.zeros(1, 3, *size)
    with torch.inference_mode():
        warp(random(1, 1, *size), flow)
        warp_labels(torch.zeros(1, *size, dtype=torch.long), flow)
    flow.requires_grad_()
    warp(random(1, 1, *size), flow).sum().backward()
    assert flow.grad is not None


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("amplitude", [0.7, 4.0, 40.0])
def test_warp_labels_equals_argmax_of_one_hot(amplitude: float, batch: int) -> None:
    """The vote among corners gives the label that the one-hot volumes give, outside the volume too."""
    size = (16, 13, 18)
    labels, flow = blobs(size, 7, batch=batch), smooth_flow(size, amplitude, batch=batch)
    assert torch.equal(warp_labels(labels, flow), warped_one_hot(labels, flow, 7).argmax(dim=1))


def test_warp_labels_agrees_with_warp() -> None:
    """Labels and volumes move alike: warp of one-hot volumes has its maximum where warp_labels says."""
    size = (16, 16, 16)
    labels, flow = blobs(size, 9), smooth_flow(size, 3.0)
    votes = warp(functional.one_hot(labels, 9).movedim(-1, 1).float(), flow)
    warped = warp_labels(labels, flow)
    given_votes = votes.gather(1, warped.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(given_votes, votes.amax(dim=1), atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    size=st.tuples(*[st.integers(2, 6)] * 3),
    eighths=st.booleans(),
    classes=st.integers(2, 8),
)
def test_warp_labels_on_any_noise(seed: int, size: tuple[int, int, int], eighths: bool, classes: int) -> None:
    """Random labels under random flows, ties included (steps of one eighth are exact), match the slow version."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (1, *size), generator=generator)
    flow = torch.randn(1, 3, *size, generator=generator) * 2
    flow = (flow * 8).round() / 8 if eighths else flow
    votes = warped_one_hot(labels, flow, classes)
    smallest_leader = (votes == votes.amax(dim=1, keepdim=True)).int().argmax(dim=1)
    assert torch.equal(warp_labels(labels, flow), smallest_leader)


def test_warp_labels_ties_go_to_the_smaller_class() -> None:
    """Half way between two classes, the smaller index wins."""
    labels = torch.tensor([5, 2, 7, 3]).view(1, 4, 1, 1)
    flow = constant_flow((0.5, 0.0, 0.0), (4, 1, 1))
    assert warp_labels(labels, flow).flatten().tolist() == [2, 2, 3, 3]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_warp_labels_keeps_the_type(dtype: torch.dtype) -> None:
    """Labels come back in the type they had."""
    labels = blobs((8, 8, 8), 4).to(dtype)
    warped = warp_labels(labels, torch.zeros(1, 3, 8, 8, 8))
    assert warped.dtype == dtype and torch.equal(warped, labels)


def test_compose_of_constant_flows_adds_them() -> None:
    """Two shifts are one shift, at the border too."""
    size = (8, 8, 8)
    both = compose(constant_flow((1.5, 0, -2), size), constant_flow((0.5, 1, 3), size))
    torch.testing.assert_close(both, constant_flow((2, 1, 1), size), atol=1e-5, rtol=0)


def test_compose_equals_warping_twice() -> None:
    """Warping with the composed flow is warping with the outer, then with the inner (away from the border)."""
    size = (24, 24, 24)
    i, j, k = torch.meshgrid(*[torch.linspace(0, 3, side) for side in size], indexing="ij")
    volume = (torch.sin(i) + torch.cos(j) * torch.sin(k)).view(1, 1, *size)
    outer, inner = smooth_flow(size, 2.0), smooth_flow(size, 2.0, seed=1)
    inside = (..., slice(5, -5), slice(5, -5), slice(5, -5))
    once, twice = warp(volume, compose(outer, inner)), warp(warp(volume, outer), inner)
    torch.testing.assert_close(once[inside], twice[inside], atol=0.01, rtol=0)
    wrong_way = warp(volume, compose(inner, outer))
    assert (once - twice)[inside].abs().mean() < 0.3 * (wrong_way - twice)[inside].abs().mean()


def test_compose_with_zero_changes_nothing() -> None:
    """The zero flow is neutral on either side."""
    size = (12, 12, 12)
    flow, zero = smooth_flow(size, 2.0), torch.zeros(1, 3, 12, 12, 12)
    torch.testing.assert_close(compose(flow, zero), flow, atol=1e-5, rtol=0)
    torch.testing.assert_close(compose(zero, flow), flow, atol=1e-5, rtol=0)


def test_integrate_of_a_constant_velocity_is_that_flow() -> None:
    """A constant velocity for unit time is a shift by it; no steps are no change."""
    velocity = constant_flow((1.0, -2.0, 0.5), (8, 8, 8))
    torch.testing.assert_close(integrate(velocity, 6), velocity, atol=1e-4, rtol=0)
    assert torch.equal(integrate(velocity, 0), velocity)


def test_integrate_solves_the_differential_equation() -> None:
    """The flow of velocity a * x is x * (exp(a) - 1)."""
    rate = -0.5
    centred = torch.arange(17.0) - 8
    velocity = torch.stack(torch.meshgrid(centred, centred, centred, indexing="ij")).unsqueeze(0)
    flow = integrate(velocity * rate, 8)
    expected = velocity * (torch.tensor(rate).exp() - 1)
    torch.testing.assert_close(flow, expected, atol=0.02, rtol=0)


def test_integrate_of_the_negative_is_the_inverse() -> None:
    """Forth and back is no movement, away from the border."""
    velocity = smooth_flow((20, 20, 20), 1.5)
    there_and_back = compose(integrate(velocity, 6), integrate(-velocity, 6))
    assert there_and_back[..., 4:-4, 4:-4, 4:-4].abs().max() < 0.05


@pytest.mark.parametrize("size", [(31, 16, 9), (8, 24, 16)])
def test_resize_flow_keeps_a_linear_deformation(size: tuple[int, int, int]) -> None:
    """A flow that scales space about its first corner is the same scaling on any other grid."""
    rates = torch.tensor([0.1, -0.2, 0.3]).view(1, 3, 1, 1, 1)

    def scaling(sides: tuple[int, int, int]) -> Tensor:
        axes = torch.meshgrid(*[torch.arange(float(side)) for side in sides], indexing="ij")
        return torch.stack(axes).unsqueeze(0) * rates

    torch.testing.assert_close(resize_flow(scaling((16, 12, 17)), size), scaling(size), atol=1e-4, rtol=1e-4)


def test_resize_flow_moves_a_resized_volume_alike() -> None:
    """Warp then resize is resize then warp, for a smooth volume and with aligned corners."""
    small, large = (12, 12, 12), (23, 23, 23)
    coarse = functional.interpolate(random(1, 1, 4, 4, 4), size=small, mode="trilinear", align_corners=True)
    flow = smooth_flow(small, 1.0)
    fine = functional.interpolate(coarse, size=large, mode="trilinear", align_corners=True)
    warped = functional.interpolate(warp(coarse, flow), size=large, mode="trilinear", align_corners=True)
    inside = (..., slice(4, -4), slice(4, -4), slice(4, -4))
    torch.testing.assert_close(warp(fine, resize_flow(flow, large))[inside], warped[inside], atol=0.05, rtol=0)


def test_resize_flow_to_its_own_size_changes_nothing() -> None:
    """The same grid is the same flow."""
    flow = smooth_flow((9, 10, 11), 2.0)
    torch.testing.assert_close(resize_flow(flow, (9, 10, 11)), flow)
