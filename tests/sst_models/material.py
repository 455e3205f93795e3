"""Small volumes with anatomy for tests of learning: blobs in a ball."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

SIDES = (32, 48, 32)


def blob(seed: int) -> Tensor:
    """Draw one volume (1, D, H, W) in [0, 1] with background around it."""
    noise = torch.rand(1, 1, 8, 12, 8, generator=torch.Generator().manual_seed(seed))
    x = F.interpolate(noise, size=SIDES, mode="trilinear", align_corners=True)[0]
    x[:, :4] = x[:, -4:] = 0
    return x


WHITE, CORTEX, VENTRICLE = 1, 2, 3
"""Class indices of `brain`."""


def brain(sides: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """A ball of cortex around white matter around a ventricle: labels (D, H, W), and an image of them with noise."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in sides], indexing="ij")
    radius = torch.stack(axes).square().sum(0).sqrt()
    labels = (radius < 0.9) * CORTEX
    labels[radius < 0.7] = WHITE
    labels[radius < 0.3] = VENTRICLE
    level = torch.tensor([0.0, 0.8, 0.5, 0.2])[labels]
    noise = 0.03 * torch.randn(level.shape, generator=torch.Generator().manual_seed(1))
    return labels, ((level + noise) * (labels > 0)).clamp(0, 1)


@dataclass(frozen=True)
class Blobs:
    """Scans that need no disk."""

    count: int = 4
    first: int = 1

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Tensor:
        """Give one volume, (1, D, H, W)."""
        return blob(self.first + index)
