"""How alike two volumes are in structure: MS-SSIM (eq. 4) and local normalised cross-correlation."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sst_models.volume.separable import Bands, Filter, apply, bands, box, gaussian, halving

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
    # Means instead of sums keep the cancellation small; `eps` is divided by voxels squared to match.
    correlation: Tensor = _Correlation.apply(u, v, bands(u, box(window)), eps / window**6, _wanted(u, v))  # type: ignore[no-untyped-call]
    return correlation


def _ssim(u: Tensor, v: Tensor, blur: Filter, range_: float) -> Tensor:
    """Mean SSIM of each volume, (N,), from maps (N, D, H, W)."""
    low, high = (_K1 * range_) ** 2, (_K2 * range_) ** 2
    mean_u, mean_v, squares, product = _moments(u, v, bands(u, blur), high)
    powers, cross = mean_u.square() + mean_v.square(), 2 * mean_u * mean_v
    ssim: Tensor = (product - cross) / (squares - powers) * (cross + low) / (powers + low)
    return ssim.flatten(1).mean(1)


def _structure(u: Tensor, v: Tensor, blur: Filter, constant: float) -> Tensor:
    """Mean structure term of SSIM of each volume, (N,), from maps (N, D, H, W)."""
    structure: Tensor = _Structure.apply(u, v, bands(u, blur), constant, _wanted(u, v))  # type: ignore[no-untyped-call]
    return structure


def _moments(u: Tensor, v: Tensor, along: Bands, constant: float) -> tuple[Tensor, ...]:
    """Local means of u, v, uu + vv + c and 2 uv + c: four filtered maps are all that SSIM needs, not five."""
    start = u.new_tensor(constant)  # a mean keeps it, and here it costs no pass of its own
    squares, product = torch.addcmul(start, u, u).addcmul(v, v), torch.addcmul(start, u, v, value=2)
    return apply(along, torch.cat([u, v, squares, product])).chunk(4)


Wanted = tuple[bool, bool]
"""Which of two volumes want a gradient."""


def _wanted(u: Tensor, v: Tensor) -> Wanted:
    on = torch.is_grad_enabled()
    return on and u.requires_grad, on and v.requires_grad


class _Known(torch.autograd.Function):
    """A measure whose gradient is worked out with its value: what comes back to a number can only scale it.

    So one map stays for each volume that wants a gradient, where six to nine would wait for the backward pass.
    """

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        scale = gradient.view(-1, 1, 1, 1)
        by_u, by_v = (None if one is None else one * scale for one in ctx.saved_tensors)
        return by_u, by_v, None, None, None


class _Structure(_Known):
    """`(2 cov(u, v) + c) / (var(u) + var(v) + c)`, the mean of each volume, (N,)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, along: Bands, constant: float, wanted: Wanted) -> Tensor:
        mean_u, mean_v, squares, product = _moments(u, v, along, constant)
        total = squares.addcmul_(mean_u, mean_u, value=-1).addcmul_(mean_v, mean_v, value=-1)
        structure = product.addcmul_(mean_u, mean_v, value=-2).div_(total)
        if any(wanted):
            slopes = _Slopes(total, wanted, alike=True)
            torch.div(-2 / total[0].numel(), total, out=slopes.cross)
            torch.mul(slopes.cross, structure, out=slopes.own[0])
            ctx.save_for_backward(*slopes.back((u, v), (mean_u, mean_v), along))
        return structure.flatten(1).mean(1)


class _Correlation(_Known):
    """`cov(u, v)^2 / (var(u) var(v) + c)`, the mean over all."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, v: Tensor, along: Bands, constant: float, wanted: Wanted) -> Tensor:
        maps = apply(along, torch.cat((u, v, u * u, v * v, u * v)))
        mean_u, mean_v, spread_u, spread_v, covariance = maps.chunk(5)
        spread_u.addcmul_(mean_u, mean_u, value=-1).clamp_min_(0)
        spread_v.addcmul_(mean_v, mean_v, value=-1).clamp_min_(0)
        covariance.addcmul_(mean_u, mean_v, value=-1)
        share = covariance / torch.addcmul(u.new_tensor(constant), spread_u, spread_v)
        if any(wanted):
            slopes = _Slopes(share, wanted, alike=False)
            torch.mul(share, -2 / share.numel(), out=slopes.cross)
            for own, side in zip(slopes.own, slopes.sides, strict=True):
                ours, theirs = (spread_v, spread_u) if side else (spread_u, spread_v)
                torch.mul(slopes.cross, share, out=own).mul_(theirs).mul_(ours > 0)  # a clamped one has no slope
            ctx.save_for_backward(*slopes.back((u, v), (mean_u, mean_v), along))
        return (covariance * share).mean()


class _Slopes:
    """How a measure changes with its filtered maps, and so with u and v themselves.

    Args:
        like: (N, D, H, W), one such map.
        wanted: for which of u and v; one at least.
        alike: whether the measure sees uu + vv only.
    """

    def __init__(self, like: Tensor, wanted: Wanted, alike: bool) -> None:
        self.sides = [side for side in (0, 1) if wanted[side]]
        self._owns = 1 if alike else len(self.sides)
        self._maps = like.new_empty((1 + self._owns + len(self.sides)) * len(like), *like.shape[1:])
        self.cross, self.own, self._by_means = self._split(self._maps)
        """By -2 uv, and by the squares: to be filled."""

    def _split(self, maps: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        cross, *rest = maps.chunk(1 + self._owns + len(self.sides))
        return cross, rest[: self._owns], rest[self._owns :]

    def back(
        self, volumes: tuple[Tensor, Tensor], means: tuple[Tensor, Tensor], along: Bands
    ) -> tuple[Tensor | None, Tensor | None]:
        """Give the slope by u and by v, or None where it is not wanted."""
        for place, (side, by_mean) in enumerate(zip(self.sides, self._by_means, strict=True)):
            own = self.own[min(place, self._owns - 1)]
            torch.mul(self.cross, means[1 - side], out=by_mean).addcmul_(own, means[side], value=-1)
        cross, owns, by_means = self._split(apply(along.adjoint, self._maps))
        found: list[Tensor | None] = [None, None]
        for place, (side, by_mean) in enumerate(zip(self.sides, by_means, strict=True)):
            own = owns[min(place, self._owns - 1)]
            # A new one: what is kept would hold all maps, were it one of them.
            found[side] = torch.addcmul(by_mean, cross, volumes[1 - side], value=-1).addcmul_(own, volumes[side])
        return found[0], found[1]


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
