"""How alike two volumes are in structure: MS-SSIM (eq. 4) and local normalised cross-correlation."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sst_models.separable import Bands, Filter, apply, bands, box, gaussian, halving

# Wang, Simoncelli and Bovik 2003, Sec. 3.2: the weights of the scales, from the finest to the coarsest.
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Wang et al. 2004, Sec. III-B: the constants that keep SSIM's quotients stable, as shares of the intensity range.
_K1, _K2 = 0.01, 0.03


def ms_ssim(
    u: Tensor, v: Tensor, levels: int | None = None, window: int = 7, *, sigma: float = 1.5, range_: float = 1.0
) -> Tensor:
    """Compare two volumes at several scales at once: 1 for equal volumes, less for different ones (eq. 4's SSIM).

    Value and gradient are those of pytorch-msssim 1.0 with `win_size=window`, which wants every side longer than
    `(window - 1) * 16` because it always uses 5 scales. Here smaller volumes use fewer: the first `levels` of its
    weights, renormalised to sum 1. Where the structure term of a scale is negative the value is 0, as there,
    but its gradient is 0 where theirs is not a number.

    Args:
        u: (N, 1, D, H, W), intensities in [0, `range_`]. Computed in float32 at least, under autocast too.
        v: as `u`.
        levels: number of scales, 1 to 5; None for as many as every side allows (`most_levels`).
        window: side of the Gaussian window in voxels, odd.
        sigma: of the Gaussian, in voxels.
        range_: width of the range of intensities.

    Returns:
        A scalar, the mean over the batch.

    Raises:
        ValueError: shapes differ, the window is even, or a side is too small for `levels` scales.
    """
    _check_pair(u, v, window)
    most = most_levels(u.shape[2:], window)
    count = most if levels is None else levels
    if not 1 <= count <= most:
        raise ValueError(f"{count} scales of window {window} do not fit {tuple(u.shape[2:])}: it allows {most}")
    # All five, which sum to 1.0001, are used as published, as pytorch-msssim does.
    total = sum(_SCALE_WEIGHTS[:count]) if count < len(_SCALE_WEIGHTS) else 1.0
    weights = [weight / total for weight in _SCALE_WEIGHTS[:count]]
    blur = gaussian(window, sigma)
    pair = _sum_and_difference(u, v)
    product = pair.new_ones(())
    for weight in weights[:-1]:
        product = product * _power(_structure(pair, blur, (_K2 * range_) ** 2), weight)
        pair = apply(bands(pair, halving), pair)
    return (product * _power(_ssim(pair, blur, range_), weights[-1])).mean()


def most_levels(size: tuple[int, ...], window: int = 7) -> int:
    """Number of MS-SSIM scales, 0 to 5, at which `window` still fits every side of `size` (voxels)."""
    scales = range(1, len(_SCALE_WEIGHTS) + 1)
    return sum(min(size) >= (window - 1) * 2 ** (level - 1) + 1 for level in scales)


def lncc(u: Tensor, v: Tensor, window: int = 7, eps: float = 1e-5) -> Tensor:
    """Compare two volumes up to a local change of brightness and contrast: the similarity for unlike scanners.

    The squared local correlation of VoxelMorph (Balakrishnan et al. 2019, eq. 6): sums over a cube of `window`, zeros
    outside the volume. A loss is `1 - lncc(u, v)`.

    Args:
        u: (N, 1, D, H, W). Computed in float32 at least, under autocast too.
        v: as `u`.
        window: side of the cube in voxels, odd.
        eps: added to the product of the two sums of squares; VoxelMorph's. Flat places count as 0.

    Returns:
        A scalar in [0, 1], the mean over voxels and batch.

    Raises:
        ValueError: shapes differ or the window is even.
    """
    _check_pair(u, v, window)
    u, v = _as_maps(u), _as_maps(v)
    means = apply(bands(u, box(window)), torch.cat((u, v, u * u, v * v, u * v)))
    mean_u, mean_v, uu, vv, uv = means.chunk(5)
    # Means instead of sums keep the cancellation below small; `eps` is divided by voxels squared to match.
    variances = (uu - mean_u * mean_u).clamp_min(0) * (vv - mean_v * mean_v).clamp_min(0)
    covariance = uv - mean_u * mean_v
    correlation: Tensor = covariance * covariance / (variances + eps / window**6)
    return correlation.mean()


def _ssim(pair: Tensor, blur: Filter, range_: float) -> Tensor:
    """Mean SSIM of each volume, (N,), from a `_sum_and_difference` (2N, D, H, W)."""
    along = bands(pair, blur)
    powers = apply(along, pair).square()
    variances = apply(along, pair * pair) - powers
    ssim = _quotient(variances, (_K2 * range_) ** 2) * _quotient(powers, (_K1 * range_) ** 2)
    return ssim.flatten(1).mean(1)


def _quotient(halves: Tensor, constant: float) -> Tensor:
    """SSIM's `(2 xy + c) / (xx + yy + c)`, with `halves` holding the squares of x + y and, after it, of x - y."""
    plus, minus = halves.chunk(2)
    return 1 - 2 * minus / (plus + minus + 2 * constant)


def _structure(pair: Tensor, blur: Filter, constant: float) -> Tensor:
    """Mean structure term of SSIM of each volume, (N,), from a `_sum_and_difference` (2N, D, H, W)."""
    structure: Tensor = _Structure.apply(pair, bands(pair, blur), constant)  # type: ignore[no-untyped-call]
    return structure


class _Structure(torch.autograd.Function):
    """`_quotient` of the local variances, with its gradient written out: half the passes over memory of autograd's."""

    @staticmethod
    def forward(ctx: Any, pair: Tensor, along: Bands, constant: float) -> Tensor:
        means = apply(along, pair)
        plus, minus = apply(along, pair * pair).addcmul_(means, means, value=-1).chunk(2)
        total = (plus + minus).add_(2 * constant)
        share = minus / total
        ctx.save_for_backward(pair, means, total, share)
        ctx.along = along
        return 1 - 2 * share.flatten(1).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        pair, means, total, share = ctx.saved_tensors
        slope = (2 * gradient / share[0].numel()).view(-1, 1, 1, 1) / total
        variances = torch.empty_like(means)
        plus, minus = variances.chunk(2)
        torch.sub(torch.mul(share, slope, out=plus), slope, out=minus)
        back = ctx.along.adjoint
        through_means = apply(back, (means * variances).mul_(-2))
        return through_means.addcmul_(apply(back, variances), pair, value=2), None, None


def _sum_and_difference(u: Tensor, v: Tensor) -> Tensor:
    """(2N, D, H, W): all SSIM needs of u and v, in four filtered maps (these two and their squares) instead of five."""
    u, v = _as_maps(u), _as_maps(v)
    return torch.cat((u + v, u - v))


def _power(base: Tensor, exponent: float) -> Tensor:
    """`relu(base) ** exponent` with a zero instead of an infinite gradient where the base is not positive."""
    positive = base > 0
    return torch.where(positive, torch.where(positive, base, 1.0) ** exponent, 0.0)


def _as_maps(volume: Tensor) -> Tensor:
    """(N, C, D, H, W) -> (N * C, D, H, W) in float32 at least: variances cancel in anything shorter."""
    return volume.to(torch.promote_types(volume.dtype, torch.float32)).flatten(0, 1)


def _check_pair(u: Tensor, v: Tensor, window: int) -> None:
    if u.shape != v.shape or u.dim() != 5:
        raise ValueError(f"two volumes of one shape (N, 1, D, H, W) are needed, not {tuple(u.shape)}, {tuple(v.shape)}")
    if window % 2 == 0:
        raise ValueError(f"the window must be odd, not {window}")
