"""Generation of labelled pairs from sites' statistics: eq. 12 of the paper with measured codes in place of learnt ones.

The atlas takes on a drawn intensity code structure by structure and is deformed by the flow of a drawn shape code, and
its labels with it. What codes leave out is drawn beside them: a velocity as strong as a site's residual, a finer
displacement of the cortex, a smooth shading as strong as a site's, and noise.
"""

from functools import cached_property

import torch
from torch import Tensor

from configs.structures import GROUPS
from sst_models.phases.generate import GeneratedPair, Recipe
from sst_models.statistics.intensity import LEAST, Look, Rendering, shading
from sst_models.statistics.measure import Statistics, basis_of
from sst_models.training.seeds import generator
from sst_models.volume.groups import groups
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.separable import blur
from sst_models.volume.warp import compose, warp

WIDER = 1.2
"""By how much codes vary more than at a site: a dozen scans do not show all that will come, and labels that were
propagated vary less than people do (lateral ventricles by a third less)."""

NOISE = 0.02
"""Most of the standard deviation of the noise of a pair."""

SMOOTH = 4.8
"""Millimetres, sigma of the Gaussian by which the residual velocity is smooth."""

FINE, FINE_SMOOTH = 1.2, 3.6
"""Millimetres along each axis, and sigma of the Gaussian by which it is smooth, of a displacement in the cortex that is
finer than what is measured: no registration follows its folds. Chosen on validation scans (LEARNING.md)."""

CORTEX, NEAR_CORTEX = ("Cerebral-CX", "Cerebellum-CX"), 2.4
"""Groups in which it is, and sigma in mm of the Gaussian by which it fades around them."""


class StatisticsGenerator:
    """Make labelled pairs: the atlas, restyled and deformed.

    Args:
        atlas: volume (1, D, H, W) in [0, 1], background 0.
        labels: the atlas's, on the same device.
        spacing: of the grid, mm.
        statistics: what codes are drawn from; looks may be of one site, and shapes of several.
    """

    def __init__(self, atlas: Tensor, labels: AtlasLabels, spacing: float, statistics: Statistics) -> None:
        self.rendering, self.basis = Rendering(atlas, labels, spacing), basis_of(atlas, labels, spacing)
        self.statistics = statistics.to(atlas.device)

    @torch.no_grad()
    def pair(self, recipe: Recipe) -> GeneratedPair:
        """Make the pair of a recipe; the same recipe gives the same pair."""
        flow, look = self.flow(recipe), self.look(recipe)
        draws = generator(recipe.seed, "noise", recipe.source, recipe.style, recipe.flow)
        image, labels = self.rendering.pair(look, flow)
        inside = image > 0
        image = image + shading(tuple(image.shape[1:]), self.basis.spacing, look.shading, draws).to(image)
        strength = NOISE * float(torch.rand(1, generator=draws))
        image = image + strength * torch.randn(image.shape, generator=draws).to(image)
        return GeneratedPair(image.clamp(LEAST, 1) * inside, labels, recipe)

    def look(self, recipe: Recipe) -> Look:
        """Draw an intensity code."""
        draws = generator(recipe.seed, "style", recipe.source, recipe.style)
        return Look.of(self.statistics.intensity.draw(draws, WIDER))

    @torch.no_grad()
    def flow(self, recipe: Recipe) -> Tensor:
        """Draw a shape code and the residual; give their flow, (1, 3, D, H, W) in voxels."""
        draws, spacing = generator(recipe.seed, "flow", recipe.flow), self.basis.spacing
        code, step = self.statistics.shape.draw(draws, WIDER), self.basis.reduction * spacing
        noise = _smooth(self.basis.sides, SMOOTH / step, draws).to(code)
        flow = self.basis.flow(code, self.statistics.residual / step * self.basis.beside(noise))
        fine = FINE / spacing * _smooth(tuple(flow.shape[2:]), FINE_SMOOTH / spacing, draws)[None].to(flow)
        return compose(flow, fine * warp(self._cortex, flow))

    @cached_property
    def _cortex(self) -> Tensor:
        """(1, 1, D, H, W): 1 in the atlas's cortex, falling to 0 around it."""
        group = groups(self.basis.inside.device)[self.basis.labels.on_grid]
        wanted = torch.tensor([1 + GROUPS.index(name) for name in CORTEX]).to(group)
        inside = torch.isin(group, wanted).to(self.basis.inside)[None]
        return (2 * blur(inside, NEAR_CORTEX / self.basis.spacing)).clamp(max=1)[None]


def _smooth(sides: tuple[int, ...], sigma: float, draws: torch.Generator) -> Tensor:
    """Draw a smooth field (3, *sides) of standard deviation 1; sigma in its own points."""
    noise = blur(torch.randn(3, *sides, generator=draws), sigma)
    return noise / noise.std()
