"""Appearance model A: another style, the same anatomy (paper, Sec. 3.2)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sst_models.networks.blocks import SLOPE, activate, check_sides, conv, double, fold, resize
from sst_models.networks.norm import normalise_activate
from sst_models.volume.intensity import brain_mask

LARGE = 2**20
"""Voxels of a batch from which on a CPU works A's last layers out volume by volume, and anew for the gradient instead
of keeping what they gave: they were a third of a joint step's memory at full resolution."""


class AdaIN(nn.Module):
    """Adaptive instance normalisation: give features the mean and spread that a style code asks for, then activate."""

    def __init__(self, channels: int, code: int) -> None:
        super().__init__()
        self.affine = nn.Linear(code, 2 * channels)

    def forward(self, x: Tensor, code: Tensor, mask: Tensor) -> Tensor:
        """Normalise (N, C, D, H, W) per channel and instance over `mask`, scale and shift by the code (N, code).

        Statistics are the brain's: six of seven voxels are background, and would leave the brain no contrast.
        """
        gain, shift = self.affine(code).chunk(2, dim=1)
        return normalise_activate(x, 1 + gain, shift, mask, SLOPE)


class AppearanceModel(nn.Module):
    """Restyle a volume by a style code, through three AdaIN layers, keeping each voxel where it is.

    Two AdaIN layers work at a coarse level, where bias fields and tissue contrast are seen with their neighbourhood;
    the third works voxel by voxel at full resolution, so that no edge can move. The output is the input plus a
    change. The change does not start at zero: there the L1 of eq. 3 and 5, whose slope does not fade, outweighs
    what little the code can do, and A stays the identity under every code (measured, benchmarks/LEARNING.md).

    Args:
        width: channels at the finest level.
        code: numbers in a style code.
        space_to_depth: 1 reads the volume at full resolution, 2 at half, with all voxels folded into channels.
    """

    def __init__(self, width: int, code: int, space_to_depth: int = 1) -> None:
        super().__init__()
        self.space_to_depth = space_to_depth
        self.enter = conv(space_to_depth**3, width)
        self.down = conv(width, 2 * width, stride=2)
        self.middle = conv(2 * width, 2 * width)
        self.style_middle = AdaIN(2 * width, code)
        self.up = conv(3 * width, width)
        self.style_up = AdaIN(width, code)
        local = max(4, width // 2)
        self.context = conv(width, local // 2, kernel=1)
        # At first the change depends on a voxel's own intensity alone: with the context open from the start, A takes
        # the short cut of shading the brain's rim to match a darker style.
        nn.init.zeros_(self.context.weight)
        nn.init.zeros_(self.context.bias)  # type: ignore[arg-type]
        self.local = conv(local // 2 + 1, local, kernel=1)
        self.style_local = AdaIN(local, code)
        self.mix = conv(local, local, kernel=1)
        self.leave = conv(local, 1, kernel=1)

    def forward(self, volume: Tensor, code: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) in [0, 1] and codes (N, code) to restyled volumes of the same shape.

        Background, zero in a skull-stripped scan, stays zero. Values may leave [0, 1] a little while training.
        """
        check_sides(volume)
        mask = brain_mask(volume)
        at_fine, at_coarse = _halved(mask, self.space_to_depth), _halved(mask, 2 * self.space_to_depth)
        fine = activate(self.enter(fold(volume, self.space_to_depth)))
        coarse = activate(self.down(fine))
        coarse = self.style_middle(self.middle(coarse), code, at_coarse)
        x = self.style_up(self.up(torch.cat([double(coarse), fine], dim=1)), code, at_fine)
        context = self.context(x)
        if volume.device.type == "cpu" and volume.numel() > LARGE and torch.is_grad_enabled():
            each = zip(*(given.split(1) for given in (context, volume, code, mask)), strict=True)
            change = torch.cat([_again(self._change, *one) for one in each])
        else:
            change = self._change(context, volume, code, mask)
        restyled: Tensor = (volume + change) * (volume > 0)  # the rim of the closed mask stays background
        return restyled

    def _change(self, context: Tensor, volume: Tensor, code: Tensor, mask: Tensor) -> Tensor:
        """Give what is added to a volume, voxel by voxel."""
        x = torch.cat([resize(context, volume.shape[2:]), volume], dim=1)
        x = self.style_local(self.local(x), code, mask)
        change: Tensor = self.leave(activate(self.mix(x)))
        return change


def _again(layers: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """Keep what is given to the layers alone, and work out the rest anew when its gradient is asked for."""
    found: Tensor = checkpoint(layers, *given, use_reentrant=False, preserve_rng_state=False)
    return found


def _halved(mask: Tensor, factor: int) -> Tensor:
    return mask if factor == 1 else (F.avg_pool3d(mask, factor) > 0.5).to(mask.dtype)
