"""Generation of labelled pairs from sites' statistics: eq. 12 of the paper with measured codes in place of learnt ones.

The atlas takes on a drawn intensity code structure by structure and is deformed by the flow of a drawn shape code, and
its labels with it. Beside the shape code a velocity is drawn that is as strong as what shape codes leave out; what else
codes leave out is in `sst_models.statistics.drawing`.
"""

import torch
from torch import Tensor

from sst_models.phases.generate import GeneratedPair, Recipe
from sst_models.statistics.drawing import Drawing, smooth
from sst_models.statistics.intensity import Look, Rendering
from sst_models.statistics.moments import Moments
from sst_models.statistics.prior import RESIDUAL, shapes
from sst_models.statistics.shape import ShapeBasis
from sst_models.training.seeds import generator
from sst_models.volume.labels import AtlasLabels

WIDER = 1.2
"""By how much codes vary more than at a site: a dozen scans do not show all that will come, and labels that were
propagated vary less than people do (lateral ventricles by a third less)."""

SMOOTH = 4.8
"""Millimetres, sigma of the Gaussian by which the residual velocity is smooth."""


class StatisticsGenerator:
    """Make labelled pairs: the atlas, restyled and deformed.

    Args:
        atlas: volume (1, D, H, W) in [0, 1], background 0.
        labels: the atlas's, on the same device.
        spacing: of the grid, mm.
        looks: what intensity codes are drawn from.
    """

    def __init__(self, atlas: Tensor, labels: AtlasLabels, spacing: float, looks: Moments) -> None:
        self.drawing = Drawing(Rendering(atlas, labels, spacing))
        self.basis = ShapeBasis(labels, (atlas > 0).to(atlas), spacing)
        self.looks, self.shapes = looks.to(atlas.device), shapes(labels.table).to(atlas.device)

    @torch.no_grad()
    def pair(self, recipe: Recipe) -> GeneratedPair:
        """Make the pair of a recipe; the same recipe gives the same pair."""
        draws = generator(recipe.seed, "noise", recipe.source, recipe.style, recipe.flow)
        image, labels = self.drawing.pair(self.look(recipe), self.flow(recipe), draws)
        return GeneratedPair(image, labels, recipe)

    def look(self, recipe: Recipe) -> Look:
        """Draw an intensity code."""
        draws = generator(recipe.seed, "style", recipe.source, recipe.style)
        return Look.of(self.looks.draw(draws, WIDER))

    @torch.no_grad()
    def flow(self, recipe: Recipe) -> Tensor:
        """Draw a shape code and the residual; give their flow, (1, 3, D, H, W) in voxels."""
        draws, step = generator(recipe.seed, "flow", recipe.flow), self.basis.reduction * self.basis.spacing
        code = self.shapes.draw(draws, WIDER)
        noise = smooth(self.basis.sides, SMOOTH / step, draws).to(code)
        flow = self.basis.flow(code, RESIDUAL / step * self.basis.beside(noise))
        return self.drawing.finer(flow, draws)
