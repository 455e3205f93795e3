"""Labelled pairs that nobody was scanned for, drawn from sites' statistics: eq. 12 of the paper without networks.

The atlas takes on a drawn intensity code structure by structure and is deformed by the flow of a drawn shape code, and
its labels with it. What codes leave out is drawn beside them: a velocity as strong as a site's residual, a smooth
shading as strong as a site's, and noise.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from sst_models.statistics.intensity import LEAST, Look, Restyling, shading
from sst_models.statistics.moments import Moments
from sst_models.statistics.shape import ShapeBasis
from sst_models.volume.separable import blur
from sst_models.volume.warp import warp

WIDER = 1.2
"""By how much intensity codes vary more than at a site: a dozen scans do not show all that will come."""

NOISE = 0.02
"""Most of the standard deviation of the noise of a pair."""

SMOOTH = 4.8
"""Millimetres, sigma of the Gaussian by which the residual velocity is smooth."""


@dataclass(frozen=True, eq=False)
class Source:
    """What pairs are drawn from: style and shapes may be of different sites, or of several."""

    intensity: Moments
    shape: Moments
    residual: float  # mm


@dataclass(frozen=True, eq=False)
class DrawnPairs:
    """Give labelled pairs, one a call, as `sst_models.phases.segment.Pairs`."""

    restyling: Restyling
    basis: ShapeBasis
    source: Source

    @torch.no_grad()
    def __call__(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one pair: image (1, D, H, W) in [0, 1], background 0; labels (D, H, W) int64."""
        flow = self.basis.flow(self.source.shape.draw(draws), self._residual(draws))
        look = Look.of(self.source.intensity.draw(draws, WIDER))
        image = warp(self.restyling.restyled(look), flow)[0]
        inside = image > LEAST / 2
        image = image + shading(tuple(image.shape[1:]), self.basis.spacing, look.shading, draws).to(image)
        strength = NOISE * float(torch.rand(1, generator=draws))
        image = image + strength * torch.randn(image.shape, generator=draws).to(image)
        return image.clamp(LEAST, 1) * inside, self.basis.labels.propagate(flow)

    def _residual(self, draws: torch.Generator) -> Tensor:
        step = self.basis.reduction * self.basis.spacing
        noise = blur(torch.randn(3, *self.basis.sides, generator=draws), SMOOTH / step)
        return (self.source.residual / step * noise / noise.std()).to(self.restyling.atlas)
