"""Instance normalisation, fixed or adaptive, and leaky ReLU in one, for features that lie channels last."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class NormActivate(nn.Module):
    """What `nn.InstanceNorm3d(affine=True)` followed by `nn.LeakyReLU` gives, without leaving channels last.

    PyTorch normalises instances through batch normalisation of (1, N * C, ...), which copies the features to channels
    first and back; these copies were a fifth of a segmenter's step (benchmarks/LEARNING.md).

    Args:
        norm: whose weight, bias and eps are taken over, under the same names.
        slope: of the leaky ReLU.
    """

    def __init__(self, norm: nn.InstanceNorm3d, slope: float) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.slope = norm.eps, slope

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, D, H, W)."""
        return normalise_activate(x, self.weight.view(1, -1), self.bias.view(1, -1), None, self.slope, self.eps)


def normalise_activate(
    x: Tensor, std: Tensor, mean: Tensor, mask: Tensor | None, slope: float, eps: float = 1e-5
) -> Tensor:
    """Give every channel of every instance the wanted spread and mean, then a leaky ReLU; in `x`'s precision.

    What is kept for the gradient is `x` and the result, which the next convolution keeps anyway: a third of what the
    same mathematics in PyTorch's own functions keeps.

    Args:
        x: features (N, C, D, H, W).
        std: wanted, (N, C) or (1, C).
        mean: wanted, likewise.
        mask: (N, 1, D, H, W), 1 where voxels count for the statistics and 0 elsewhere, or None for all of them.
        slope: of the leaky ReLU; 1 leaves it out.
        eps: added to the variance, which guards a constant channel.
    """
    wanted = (one.float().expand(len(x), -1).unsqueeze(1) for one in (std, mean))
    out: Tensor = _NormActivate.apply(x, *wanted, mask, eps, slope)  # type: ignore[no-untyped-call]
    return out


def merge_norms(net: nn.Module) -> None:
    """Put `NormActivate` in place of each instance norm of a network of MONAI's DynUNet blocks.

    Such a block applies the same activation, its `lrelu`, after each of its norms. Names of parameters stay.
    """
    for module in list(net.modules()):
        norms = [name for name, part in module.named_children() if isinstance(part, nn.InstanceNorm3d)]
        if not norms:
            continue
        activation = module.lrelu
        assert isinstance(activation, nn.LeakyReLU)
        for name in norms:
            setattr(module, name, NormActivate(getattr(module, name), activation.negative_slope))
        module.lrelu = nn.Identity()


class _NormActivate(torch.autograd.Function):
    """Statistics are float32; the features stay in the precision that they come in."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor | None, eps: float, slope: float
    ) -> Tensor:
        rows = _rows(x)
        if mask is None:
            inside, count = None, rows.new_tensor(rows.shape[1], dtype=torch.float32)
            mean = rows.sum(1, keepdim=True, dtype=torch.float32) / count
            # `var_mean` walks along the rows, and takes ten times as long.
            variance = (rows - mean).square_().sum(1, keepdim=True) / count
        else:
            inside = _rows(mask).to(x.dtype)  # 0 and 1 are exact in any
            count = inside.sum(1, keepdim=True, dtype=torch.float32).clamp(min=1)
            mean = (rows * inside).sum(1, keepdim=True, dtype=torch.float32) / count
            variance = (rows - mean).square_().mul_(inside).sum(1, keepdim=True) / count
        sharpness = (variance + eps).rsqrt()
        gain = sharpness * weight
        out = torch.addcmul((bias - mean * gain).to(x.dtype), rows, gain.to(x.dtype))
        F.leaky_relu_(out, slope)
        ctx.save_for_backward(rows, out, mean, sharpness, gain, inside, count)
        ctx.slope, ctx.sides = slope, x.shape[2:]
        return _volumes(out, x.shape[2:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        rows, out, mean, sharpness, gain, inside, count = ctx.saved_tensors
        slope = torch.ops.aten.leaky_relu_backward(_rows(outer), out, ctx.slope, True)
        by_bias = slope.sum(1, keepdim=True, dtype=torch.float32)
        by_weight = sharpness * ((slope * rows).sum(1, keepdim=True, dtype=torch.float32) - mean * by_bias)
        # What a voxel adds to the statistics of its channel: by way of the variance, and of the mean.
        tilt = -gain * sharpness * by_weight / count
        shift = -gain * by_bias / count - tilt * mean
        by_x = torch.addcmul(shift.to(rows.dtype), rows, tilt.to(rows.dtype))
        if inside is not None:
            by_x.mul_(inside)
        by_x.addcmul_(slope, gain.to(rows.dtype))
        return _volumes(by_x, ctx.sides), by_weight, by_bias, None, None, None


def _rows(x: Tensor) -> Tensor:
    """(N, C, D, H, W) as (N, D * H * W, C): a view of what lies channels last."""
    return x.movedim(1, -1).reshape(len(x), -1, x.shape[1])


def _volumes(rows: Tensor, sides: torch.Size) -> Tensor:
    """Undo `_rows`."""
    return rows.view(len(rows), *sides, rows.shape[2]).movedim(-1, 1)
