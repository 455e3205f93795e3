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
