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
    u, v = _as_maps(u), _as_maps(v)
    product = u.new_ones(())
    for weight in weights[:-1]:
        product = product * _power(_structure(u, v, blur, (_K2 * range_) ** 2), weight)
        half = bands(u, halving)
        u, v = apply(half, u), apply(half, v)
    return (product * _power(_ssim(u, v, blur, range_), weights[-1])).mean()


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


def _ssim(u: Tensor, v: Tensor, blur: Filter, range_: float) -> Tensor:
    """Mean SSIM of each volume, (N,), from maps (N, D, H, W)."""
    low, high = (_K1 * range_) ** 2, (_K2 * range_) ** 2
    mean_u, mean_v, squares, product = _moments(u, v, bands(u, blur), high)
    powers, cross = mean_u.square() + mean_v.square(), 2 * mean_u * mean_v
    ssim: Tensor = (product - cross) / (squares - powers) * (cross + low) / (powers + low)
    return ssim.flatten(1).mean(1)


def _structure(u: Tensor, v: Tensor, blur: Filter, constant: float) -> Tensor:
    """Mean structure term of SSIM of each volume, (N,), from maps (N, D, H, W)."""
    structure: Tensor = _Structure.apply(u, v, bands(u, blur), constant)  # type: ignore[no-untyped-call]
    return structure


def _moments(u: Tensor, v: Tensor, along: Bands, constant: float) -> tuple[Tensor, ...]:
    """Local means of u, v, uu + vv + c and 2 uv + c: four filtered maps are all that SSIM needs, not five."""
    start = u.new_tensor(constant)  # a mean keeps it, and here it costs no pass of its own
    squares, product = torch.addcmul(start, u, u).addcmul(v, v), torch.addcmul(start, u, v, value=2)
    return apply(along, torch.cat([u, v, squares, product])).chunk(4)


class _Structure(torch.autograd.Function):
    """`(2 cov(u, v) + c) / (var(u) + var(v) + c)` with its gradient written out.

    Half the passes over memory of autograd's, and where only one volume wants a gradient, three filtered maps for it.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, along: Bands, constant: float) -> Tensor:
        mean_u, mean_v, squares, product = _moments(u, v, along, constant)
        total = squares.addcmul_(mean_u, mean_u, value=-1).addcmul_(mean_v, mean_v, value=-1)
        structure = product.addcmul_(mean_u, mean_v, value=-2).div_(total)
        ctx.save_for_backward(u, v, mean_u, mean_v, total, structure)
        ctx.along = along
        return structure.flatten(1).mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        u, v, mean_u, mean_v, total, structure = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        maps = total.new_empty((2 + sum(wanted)) * len(u), *total.shape[1:])
        cross, own, *through = maps.chunk(2 + sum(wanted))  # what comes by -2 uv, by uu + vv, and by the means
        torch.div((-2 * gradient / total[0].numel()).view(-1, 1, 1, 1), total, out=cross)
        torch.mul(cross, structure, out=own)
        sides = [one for one, asked in zip(((mean_u, mean_v), (mean_v, mean_u)), wanted, strict=True) if asked]
        for by_mean, (ours, theirs) in zip(through, sides, strict=True):
            torch.mul(cross, theirs, out=by_mean).addcmul_(own, ours, value=-1)
        cross, own, *through = apply(ctx.along.adjoint, maps).chunk(2 + sum(wanted))
        found = iter(through)
        by_u = next(found).addcmul_(cross, v, value=-1).addcmul_(own, u) if wanted[0] else None
        by_v = next(found).addcmul_(cross, u, value=-1).addcmul_(own, v) if wanted[1] else None
        return by_u, by_v, None, None


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
