"""Small pieces that several networks are made of."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.2  # of every LeakyReLU, as in VoxelMorph


class Conv(nn.Conv3d):
    """A 3-D convolution that is fast on a CPU for a single small volume too.

    PyTorch leaves oneDNN for a slow fallback when a batch holds one volume with at most 20480 rows
    (channels x depth x height; `ConvParams::use_mkldnn`). Where no gradient is asked for, oneDNN is called by its name;
    its gradient would fall back again, so there twice the volume goes in, and the copy is dropped: 2 to 4 times faster
    than the fallback. The result is the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, D, H, W)."""
        if x.device.type != "cpu" or len(x) != 1 or x.shape[1:4].numel() > 20480:
            return super().forward(x)
        plain = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if torch.is_grad_enabled() or not plain or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return super().forward(x.expand(2, -1, -1, -1, -1).contiguous())[:1]
        assert not isinstance(self.padding, str)  # `conv` gives numbers
        return torch.mkldnn_convolution(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )


def conv(inside: int, outside: int, stride: int = 1, kernel: int = 3) -> nn.Conv3d:
    """Make a convolution that keeps the shape (stride 1) or halves it (stride 2)."""
    return Conv(inside, outside, kernel, stride=stride, padding=kernel // 2)


def unfold(x: Tensor, factor: int) -> Tensor:
    """Undo `fold`: (N, C * factor^3, D, H, W) -> (N, C, D * f, H * f, W * f)."""
    if factor == 1:
        return x
    f = factor
    n, c, d, h, w = x.shape
    cubes = x.reshape(n, c // f**3, f, f, f, d, h, w)
    return cubes.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, c // f**3, d * f, h * f, w * f)


def activate(x: Tensor) -> Tensor:
    """Apply the activation that every network here uses, to a layer's output and in its place."""
    return F.leaky_relu_(x, SLOPE)


def fold(x: Tensor, factor: int) -> Tensor:
    """Move each cube of `factor`^3 voxels into channels: (N, C, D, H, W) -> (N, C * factor^3, D/f, H/f, W/f).

    Nothing is lost, and the convolutions that follow cost an eighth at factor 2.
    """
    if factor == 1:
        return x
    n, c, d, h, w = x.shape
    f = factor
    cubes = x.reshape(n, c, d // f, f, h // f, f, w // f, f)
    return cubes.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(n, c * f**3, d // f, h // f, w // f)


def double(x: Tensor) -> Tensor:
    """Double every side by repeating voxels."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def resize(x: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    """Resample to `size` by linear interpolation."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="trilinear", align_corners=False)


def check_sides(x: Tensor, multiple: int = 16) -> None:
    """Refuse a volume that the strides of a network do not fit.

    Raises:
        ValueError: a side does not divide by `multiple`.
    """
    if any(side % multiple for side in x.shape[2:]):
        raise ValueError(f"sides {tuple(x.shape[2:])} must divide by {multiple}")
