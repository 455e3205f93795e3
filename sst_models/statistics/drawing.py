"""From a look and a flow to a labelled pair: the atlas is rendered, and what codes leave out is drawn beside them.

That is a displacement of the cortex finer than what is measured, a smooth shading as strong as a site's, and noise.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sst_models.statistics.intensity import LEAST, Look, Rendering, shading
from sst_models.volume.separable import blur
from sst_models.volume.warp import compose, warp

NOISE = 0.02
"""Most of the standard deviation of the noise of a pair."""

FINE, FINE_SMOOTH = 1.2, 3.6
"""Millimetres along each axis, and sigma of the Gaussian by which it is smooth, of a displacement in the cortex that is
finer than what is measured: no registration follows its folds. Chosen on validation scans (LEARNING.md)."""

NEAR_CORTEX = 2.4
"""Millimetres, sigma of the Gaussian by which it fades around structures that a label table says are folded."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """An atlas of which pairs are drawn."""

    rendering: Rendering

    @torch.no_grad()
    def finer(self, flow: Tensor, draws: torch.Generator) -> Tensor:
        """Give a flow (1, 3, D, H, W) in voxels with a finer displacement in the cortex."""
        spacing = self.rendering.spacing
        fine = FINE / spacing * smooth(tuple(flow.shape[2:]), FINE_SMOOTH / spacing, draws)[None].to(flow)
        return compose(flow, fine * warp(self._cortex, flow))

    @torch.no_grad()
    def pair(self, look: Look, flow: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Give the atlas with a look, deformed by a flow (1, 3, D, H, W) in voxels.

        Returns:
            Image (1, D, H, W) in [0, 1], exactly 0 outside of the brain, and labels (D, H, W) int64.
        """
        image, labels = self.rendering.pair(look, flow)
        inside = image > 0
        image = image + shading(tuple(image.shape[1:]), self.rendering.spacing, look.shading, draws).to(image)
        strength = NOISE * float(torch.rand(1, generator=draws))
        image = image + strength * torch.randn(image.shape, generator=draws).to(image)
        return image.clamp(LEAST, 1) * inside, labels

    @cached_property
    def _cortex(self) -> Tensor:
        """(1, 1, D, H, W): 1 in the atlas's cortex, falling to 0 around it."""
        atlas, labels = self.rendering.atlas, self.rendering.labels
        folded = [structure.index for structure in labels.table.structures if structure.folded]
        inside = torch.isin(labels.on_grid, torch.tensor(folded).to(labels.on_grid)).to(atlas)[None]
        return (2 * blur(inside, NEAR_CORTEX / self.rendering.spacing)).clamp(max=1)[None]


def smooth(sides: tuple[int, ...], sigma: float, draws: torch.Generator) -> Tensor:
    """Draw a smooth field (3, *sides) of standard deviation 1; sigma in its own points."""
    noise = blur(torch.randn(3, *sides, generator=draws), sigma)
    return noise / noise.std()
