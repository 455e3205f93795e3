"""MS-SSIM against pytorch-msssim, local correlation against convolutions, and both against what they promise."""

import math

import pytest
import pytorch_msssim
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from benchmarks import straightforward
from sst_models.losses.structural import lncc, most_levels, ms_ssim
from sst_models.volume.separable import apply, bands, box, gaussian, halving


def pair(*size: int, seed: int = 0, batch: int = 1, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    """Two alike volumes in [0, 1], float64."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(batch, 1, *size, generator=generator, dtype=torch.float64)
    v = u + noise * torch.randn(u.shape, generator=generator, dtype=torch.float64)
    return u, v.clamp(0, 1)


def value_and_gradient(similarity, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value and its gradients for both volumes."""
    u, v = u.clone().requires_grad_(), v.clone().requires_grad_()
    value = similarity(u, v)
    return value.detach(), *torch.autograd.grad(value, (u, v))


def assert_alike(ours, theirs, u: Tensor, v: Tensor, tolerance: float) -> None:
    """Value and gradients agree; gradients relative to the largest entry."""
    (value, *gradients), (expected, *wanted) = value_and_gradient(ours, u, v), value_and_gradient(theirs, u, v)
    torch.testing.assert_close(value, expected, atol=tolerance, rtol=0)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, atol=tolerance * float(want.abs().max()), rtol=0)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("measure", [lambda u, v: ms_ssim(u, v, 2), lncc])
def test_a_gradient_for_one_volume_is_that_for_both(measure, first: bool) -> None:
    """Training asks for one of them; without a gradient the value is the same."""
    u, v = pair(13, 14, 15, batch=2)
    value, *both = value_and_gradient(measure, u, v)
    one = (u if first else v).clone().requires_grad_()
    (found,) = torch.autograd.grad(3 * measure(*((one, v) if first else (u, one))), one)
    torch.testing.assert_close(found, 3 * both[0 if first else 1])
    torch.testing.assert_close(measure(u, v), value)


def slow_lncc(u: Tensor, v: Tensor, window: int) -> Tensor:
    """VoxelMorph's formula, with sums by convolution."""
    ones = torch.ones(1, 1, window, window, window, dtype=u.dtype)

    def total(volume: Tensor) -> Tensor:
        return functional.conv3d(volume, ones, padding=window // 2)

    count = window**3
    u_sum, v_sum = total(u), total(v)
    cross = total(u * v) - u_sum * v_sum / count
    u_var = total(u * u) - u_sum**2 / count
    v_var = total(v * v) - v_sum**2 / count
    return (cross**2 / (u_var * v_var + 1e-5)).mean()


def test_ms_ssim_with_all_scales_is_pytorch_msssim() -> None:
    """Five scales, even and odd sides: value and both gradients are the published package's."""
    u, v = pair(49, 50, 52)

    def theirs(u: Tensor, v: Tensor) -> Tensor:
        return pytorch_msssim.ms_ssim(u, v, data_range=1.0, win_size=3)

    # Its taps are rounded to float32, ours are not: that is what the tolerance is for.
    assert_alike(lambda u, v: ms_ssim(u, v, 5, 3), theirs, u, v, 1e-4)
    assert_alike(lambda u, v: ms_ssim(u, v, window=3), theirs, u, v, 1e-4)


@pytest.mark.parametrize(
    ("size", "levels", "window"),
    [((7, 8, 9), 1, 7), ((16, 16, 16), 2, 7), ((13, 14, 15), 2, 7), ((25, 28, 32), 3, 7), ((21, 20, 22), 3, 5)],
)
def test_ms_ssim_with_fewer_scales(size: tuple[int, int, int], levels: int, window: int) -> None:
    """The first weights, renormalised, on pytorch-msssim's own scales: value and both gradients, in a batch."""
    u, v = pair(*size, batch=2, seed=levels)
    assert_alike(
        lambda u, v: ms_ssim(u, v, levels, window),
        lambda u, v: straightforward.ms_ssim(u, v, window, levels),
        u,
        v,
        1e-4,
    )


def test_ms_ssim_in_float32_is_near_float64() -> None:
    """Single precision loses little, in value and gradient, although variances cancel."""
    u, v = pair(25, 26, 27)
    value, gradient, _ = value_and_gradient(ms_ssim, u, v)
    single, single_gradient, _ = value_and_gradient(ms_ssim, u.float(), v.float())
    assert float(single) == pytest.approx(float(value), abs=1e-6)
    assert float((single_gradient - gradient).abs().max() / gradient.abs().max()) < 1e-4


def test_ms_ssim_gradient_is_right_by_finite_differences() -> None:
    """The gradient written by hand is that of the value, through two scales."""
    u, v = pair(5, 6, 7)
    inputs = (u.requires_grad_(), v.requires_grad_())
    assert torch.autograd.gradcheck(lambda u, v: ms_ssim(u, v, 2, 3), inputs, fast_mode=True)


def test_ms_ssim_range_scales_the_constants() -> None:
    """Intensities in [0, 255] with that range give what [0, 1] gives."""
    u, v = pair(13, 13, 13)
    torch.testing.assert_close(ms_ssim(u * 255, v * 255, range_=255.0), ms_ssim(u, v))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0, 2), size=st.tuples(*[st.integers(7, 16)] * 3))
def test_ms_ssim_is_a_symmetric_similarity(seed: int, noise: float, size: tuple[int, int, int]) -> None:
    """It is 1 for equal volumes, in [0, 1] else, and does not depend on the order."""
    u, v = pair(*size, seed=seed, noise=noise)
    similarity = ms_ssim(u, v)
    assert 0 <= similarity <= 1 + 1e-9
    torch.testing.assert_close(ms_ssim(v, u), similarity)
    torch.testing.assert_close(ms_ssim(u, u), torch.ones((), dtype=torch.float64))


def test_ms_ssim_of_opposite_volumes_has_a_finite_gradient() -> None:
    """A negative structure term gives value 0 and gradient 0, never nan."""
    u, _ = pair(16, 16, 16)
    value, gradient, _ = value_and_gradient(ms_ssim, u, 1 - u)
    assert value == 0 and torch.equal(gradient, torch.zeros_like(gradient))


def test_ms_ssim_is_the_mean_over_the_batch() -> None:
    """A batch gives the mean of what its volumes give alone."""
    u, v = pair(16, 14, 15, batch=3)
    alone = [ms_ssim(u[n : n + 1], v[n : n + 1]) for n in range(3)]
    torch.testing.assert_close(ms_ssim(u, v), torch.stack(alone).mean())


@pytest.mark.parametrize("similarity", [ms_ssim, lncc])
def test_similarity_under_autocast_and_in_half_precision(similarity) -> None:
    """Autocast changes nothing, forward or backward, and half precision inputs are computed in float32."""
    u, v = (volume.float() for volume in pair(16, 16, 16))
    plain = value_and_gradient(similarity, u, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = value_and_gradient(similarity, u, v)
    for one, other in zip(plain, cast, strict=True):
        assert torch.equal(one, other)
    assert similarity(u.bfloat16(), v.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(
    ("side", "levels"), [(6, 0), (7, 1), (12, 1), (13, 2), (25, 3), (48, 3), (49, 4), (96, 4), (97, 5), (500, 5)]
)
def test_most_levels(side: int, levels: int) -> None:
    """A side of (window - 1) * 2 ** (levels - 1) + 1 is the smallest for that many scales, and 5 are the most."""
    assert most_levels((500, side, 500)) == levels


def test_ms_ssim_refuses_what_does_not_fit() -> None:
    """Too many scales, too small a volume, an even window and unequal shapes each say so."""
    u, v = pair(12, 12, 12)
    for arguments in ((u, v, 2), (u, v, 0), (u[..., :6], v[..., :6]), (u, v, 1, 4), (u, v[:, :, :-1])):
        with pytest.raises(ValueError, match=r"scales of window|window must be odd|one shape"):
            ms_ssim(*arguments)


@pytest.mark.parametrize(("size", "window"), [((9, 12, 15), 7), ((8, 8, 8), 3), ((5, 16, 6), 9)])
def test_lncc_is_voxelmorphs(size: tuple[int, int, int], window: int) -> None:
    """Value and both gradients are those of the formula with convolutions."""
    u, v = pair(*size, batch=2)
    assert_alike(lambda u, v: lncc(u, v, window), lambda u, v: slow_lncc(u, v, window), u, v, 1e-9)


def test_lncc_does_not_see_contrast() -> None:
    """Inside the volume, a change of brightness and contrast, even inverted, leaves the correlation 1."""
    u, _ = pair(16, 16, 16)
    u = functional.pad(u[..., 4:12, 4:12, 4:12] - 0.5, (4,) * 6)
    torch.testing.assert_close(lncc(u, -3 * u, eps=1e-12), lncc(u, u, eps=1e-12))
    textured = pair(16, 16, 16)[0]
    assert lncc(textured, textured) > 0.999


def test_lncc_of_flat_volumes_is_zero_with_a_finite_gradient() -> None:
    """Background, which is most of a brain volume, counts nothing and gives no nan."""
    flat = torch.zeros(1, 1, 10, 10, 10)
    value, gradient, _ = value_and_gradient(lncc, flat, flat)
    assert value == 0 and torch.equal(gradient, torch.zeros_like(gradient))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), noise=st.floats(0, 2), offset=st.floats(-10, 10))
def test_lncc_stays_in_its_range(seed: int, noise: float, offset: float) -> None:
    """A squared correlation is in [0, 1], in single precision and away from zero mean too."""
    u, v = pair(9, 10, 8, seed=seed, noise=noise)
    assert 0 <= lncc((u + offset).float(), v.float()) <= 1


@pytest.mark.parametrize("size", [(10, 11, 12), (7, 9, 8), (41, 5, 85)])
def test_filters_are_convolution_and_pooling(size: tuple[int, int, int]) -> None:
    """The banded products are conv3d with the outer product of the taps, and avg_pool3d."""
    volume = pair(*size)[0]
    taps = torch.tensor([math.exp(-(x**2) / 4.5) for x in range(-2, 3)], dtype=torch.float64)
    kernel = torch.einsum("i,j,k->ijk", *[taps / taps.sum()] * 3).view(1, 1, 5, 5, 5)
    maps = volume[0]
    torch.testing.assert_close(apply(bands(maps, gaussian(5, 1.5)), maps), functional.conv3d(volume, kernel)[0])
    mean = functional.conv3d(volume, torch.full((1, 1, 5, 5, 5), 1 / 125, dtype=torch.float64), padding=2)
    torch.testing.assert_close(apply(bands(maps, box(5)), maps), mean[0])
    pooled = functional.avg_pool3d(volume, 2, padding=[side % 2 for side in size])
    torch.testing.assert_close(apply(bands(maps, halving), maps), pooled[0])


def test_adjoint_of_a_filter() -> None:
    """<filter(x), y> is <x, adjoint y>."""
    maps, _ = pair(9, 8, 7)
    along = bands(maps, gaussian(3, 1.5))
    filtered = apply(along, maps[0])
    other = torch.rand(filtered.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close((filtered * other).sum(), (maps[0] * apply(along.adjoint, other)).sum())


def test_similarity_after_inference_mode_still_trains() -> None:
    """Matrices cached in inference mode serve a gradient afterwards."""
    u, v = (volume.float() for volume in pair(14, 17, 19))
    with torch.inference_mode():
        ms_ssim(u, v)
        lncc(u, v)
    for similarity in (ms_ssim, lncc):
        assert value_and_gradient(similarity, u, v)[1].isfinite().all()
