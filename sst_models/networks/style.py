"""Style encoder E and its critic (paper, Sec. 3.1 and 3.4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sst_models.networks.blocks import activate, conv


class StyleEncoder(nn.Module):
    """Read a volume's style, independent of its anatomy, as one unit vector.

    No normalisation layer stands in the way: intensity statistics are what a style is. Every level is pooled over
    space, since contrast and noise are seen in fine levels and bias fields in coarse ones.

    Args:
        widths: channels of each level; each level halves the sides.
        code: numbers in a style code.
        quantiles: how many quantiles of the brain's intensities to read beside the pooled features; they tell
            scanners apart from the first step on. 0 is the paper's encoder.
    """

    def __init__(self, widths: tuple[int, ...], code: int, quantiles: int = 0) -> None:
        super().__init__()
        self.quantiles = quantiles
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip((1, *widths), widths, strict=False))
        pooled = sum(widths) + quantiles
        self.hidden = nn.Linear(pooled, pooled)
        self.code = nn.Linear(pooled, code)

    def forward(self, volume: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) in [0, 1] to style codes (N, code) of length 1."""
        x, pooled = volume, []
        for down in self.down:
            x = activate(down(x))
            pooled.append(x.mean(dim=(2, 3, 4)))
        if self.quantiles:
            pooled.append(quantile_curve(volume, self.quantiles))
        return F.normalize(self.code(activate(self.hidden(torch.cat(pooled, dim=1)))), dim=1)


def quantile_curve(volume: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
    """Read how intensities are spread over the brain, free of where they are.

    Args:
        volume: (N, 1, D, H, W) in [0, 1], background 0.
        count: number of quantiles, evenly spaced.
        mask: (N, 1, D, H, W) bool, the voxels to read; those above 0 where it is not given.

    Returns:
        (N, count): each quantile less its value for evenly spread intensities, times 5 to about unit spread.
        Differentiable: each quantile is one voxel's intensity.
    """
    at = (torch.arange(count, device=volume.device, dtype=torch.float32) + 0.5) / count
    curves = []
    for one, seen in zip(volume.float(), volume > 0 if mask is None else mask, strict=True):
        ordered = one[seen].sort().values
        if not len(ordered):
            ordered = one.new_zeros(1)
        curves.append(ordered[(at * len(ordered)).long()])
    return 5 * (torch.stack(curves) - at)


class StyleCritic(nn.Module):
    """Tell style codes from draws of their prior (D_style, eq. 10): (N, code) -> (N, 1)."""

    def __init__(self, code: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(code, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
        )

    def forward(self, code: Tensor) -> Tensor:
        """Score codes: near 1 for the prior, near 0 for the encoder's, once trained."""
        return self.layers(code)  # type: ignore[no-any-return]
