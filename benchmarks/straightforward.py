"""The same mathematics as `sst_models`, written the obvious way: what the benchmarks compare with.

The networks have the sizes that worked for the paper (docs/decisions.md, "Network sizes"): full resolution, kernels
of 5 and 7 voxels, 16 channels. Nothing here is used by the product.
"""

import pytorch_msssim
import torch
from pytorch_msssim.ssim import _fspecial_gauss_1d, _ssim
from torch import Tensor, nn
from torch.nn import functional as F

from sst_models.losses.contrastive import info_nce
from sst_models.losses.flow import gradient_l1
from sst_models.losses.structural import most_levels
from sst_models.networks.registration import RegistrationUNet
from sst_models.networks.style import StyleEncoder
from sst_models.training.learner import adam


def ms_ssim(u: Tensor, v: Tensor, window: int = 7, levels: int | None = None) -> Tensor:
    """Give MS-SSIM of (N, 1, D, H, W) in [0, 1] by pytorch-msssim.

    With fewer than its five scales, as many as fit where `levels` does not say, its own SSIM and poolings put together
    as its public function, which allows five only, does.
    """
    levels = levels or most_levels(u.shape[2:], window)
    if levels == 5:
        return pytorch_msssim.ms_ssim(u, v, data_range=1.0, win_size=window)  # type: ignore[no-any-return]
    kernel = _fspecial_gauss_1d(window, 1.5).view(1, 1, 1, 1, -1)
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:levels]
    product = u.new_ones(())
    for level, weight in enumerate(weights):
        if level:
            padding = [side % 2 for side in u.shape[2:]]
            u, v = (F.avg_pool3d(volume, 2, padding=padding) for volume in (u, v))
        ssim, structure = _ssim(u, v, data_range=1.0, win=kernel, size_average=False)
        product = product * torch.relu(ssim if level == levels - 1 else structure) ** (weight / sum(weights))
    return product.mean()


def lncc(u: Tensor, v: Tensor, window: int = 7) -> Tensor:
    """Give the squared local correlation of VoxelMorph by `avg_pool3d`."""

    def mean(volume: Tensor) -> Tensor:
        return F.avg_pool3d(volume, window, stride=1, padding=window // 2)

    mean_u, mean_v = mean(u), mean(v)
    cross = mean(u * v) - mean_u * mean_v
    spread = (mean(u * u) - mean_u**2).clamp_min(0) * (mean(v * v) - mean_v**2).clamp_min(0)
    return (cross * cross / (spread + 1e-5 / window**6)).mean()


def warp(volume: Tensor, flow: Tensor) -> Tensor:
    """Sample `volume` at x + flow(x) by one call of `grid_sample`."""
    sides = volume.shape[2:]
    axes = torch.meshgrid(*[torch.arange(float(side)) for side in sides], indexing="ij")
    place = torch.stack(axes).to(flow) + flow
    scaled = torch.stack([2 * place[:, a] / (sides[a] - 1) - 1 for a in (2, 1, 0)], dim=-1)
    return F.grid_sample(volume, scaled, align_corners=True)


class AdaIN(nn.Module):
    """Instance norm whose scale and shift come from a style code."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.affine = nn.Linear(code, 2 * channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Map (N, C, D, H, W) and (N, code)."""
        scale, shift = self.affine(code)[..., None, None, None].chunk(2, dim=1)
        styled: Tensor = F.instance_norm(x) * (1 + scale) + shift
        return styled


class Appearance(nn.Module):
    """A at full resolution: 7-wide convolutions at both ends, three 5-wide ones with AdaIN between."""

    def __init__(self, width: int = 16, code: int = 128) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv3d(1, width, 7, padding=3), nn.Conv3d(width, 1, 7, padding=3)
        self.middle = nn.ModuleList(nn.Conv3d(width, width, 5, padding=2) for _ in range(3))
        self.style = nn.ModuleList(AdaIN(width, code) for _ in range(3))

    def forward(self, volume: Tensor, code: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) and (N, code) to the restyled volume."""
        x = F.leaky_relu(self.enter(volume), 0.2)
        for conv, style in zip(self.middle, self.style, strict=True):
            x = F.leaky_relu(style(conv(x), code), 0.2)
        return volume + self.leave(x)  # type: ignore[no-any-return]


class JointStep:
    """One step of eq. 11 on E, A and F: contrast, cycle, identity, reconstruction, smoothness."""

    def __init__(self) -> None:
        widths = (16, 32, 64, 64, 64)
        self.encoder, self.keys = (StyleEncoder((16, 32, 64, 128, 256), 128) for _ in range(2))
        self.registration, self.flow = RegistrationUNet(widths), RegistrationUNet(widths)
        self.appearance = Appearance()
        self.optimisers = [adam(net, 2e-4) for net in (self.encoder, self.appearance, self.flow)]
        self.queue = F.normalize(torch.randn(256, 128), dim=1)

    def __call__(self, source: Tensor, target: Tensor, other: Tensor) -> None:
        """Learn from three volumes (N, 1, D, H, W)."""
        wanted, own = self.encoder(target), self.encoder(source)
        with torch.no_grad():
            key = self.keys(warp(target, self.registration(target, other)))
        styled, same = self.appearance(source, wanted), self.appearance(source, own)
        back = self.appearance(styled, own)
        flow = self.flow(styled, target)
        images = _ssim_l1(source, back) + _ssim_l1(source, same) + _ssim_l1(target, warp(styled, flow))
        total = info_nce(wanted, key, self.queue, 0.7) + 5 * images + 0.1 * gradient_l1(flow)
        for optimiser in self.optimisers:
            optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        for optimiser in self.optimisers:
            optimiser.step()


def _ssim_l1(u: Tensor, v: Tensor) -> Tensor:
    return 0.5 * (u - v).abs().mean() + 0.5 * (1 - ms_ssim(u, v))
