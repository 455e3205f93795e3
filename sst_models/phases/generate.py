"""Generation of labelled pairs in a site's style from priors (paper, Sec. 3.6, eq. 12)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from sst_models.phases.moments import StyleMoments, draw_prior_codes
from sst_models.training.device import half
from sst_models.training.learner import freeze
from sst_models.training.seeds import below, generator
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.warp import warp


@dataclass(frozen=True)
class Recipe:
    """All that one generated pair depends on, beside the weights: with it the pair can be made again."""

    seed: int
    style: int  # number of the style draw
    flow: int  # number of the flow draw
    source: str  # whose style: a site's name


@dataclass(frozen=True)
class GeneratedPair:
    """One labelled volume that nobody was scanned for."""

    image: Tensor  # (1, D, H, W) float32 in [0, 1]
    labels: Tensor  # (D, H, W) int64 class indices
    recipe: Recipe


class PairGenerator(Protocol):
    """What makes labelled pairs: of networks (`Generator`), or of statistics (`statistics_generator`)."""

    def pair(self, recipe: Recipe) -> GeneratedPair:
        """Make the pair of a recipe; the same recipe gives the same pair."""
        ...


def of_atlases(generators: Sequence[PairGenerator]) -> PairGenerator:
    """Give one generator for those of several atlases, each drawn as often; the only one of one atlas as it is."""
    return generators[0] if len(generators) == 1 else _AnyAtlas(tuple(generators))


@dataclass(frozen=True)
class _AnyAtlas:
    """Pairs of several atlases."""

    generators: tuple[PairGenerator, ...]

    def pair(self, recipe: Recipe) -> GeneratedPair:
        """Make the pair of a recipe, of the atlas that it draws."""
        draws = generator(recipe.seed, "atlas", recipe.source, recipe.style, recipe.flow)
        return self.generators[below(len(self.generators), draws)].pair(recipe)


class Styles(Protocol):
    """Where style codes come from."""

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw unit codes, (count, code)."""
        ...


@dataclass(frozen=True)
class PriorStyles:
    """Style codes from their prior, as eq. 12 has it."""

    code: int

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw unit codes, (count, code)."""
        return draw_prior_codes(count, self.code, draws)


class Generator:
    """Make labelled pairs: the atlas, restyled and warped.

    Args:
        atlas: volume (1, D, H, W) on the device of the networks.
        labels: the atlas's.
        appearance: A, or None to keep the atlas's own style.
        decoder: G_flow.
        latent: shape of one flow code, (latent, d, h, w).
        styles: the source of style codes: `PriorStyles` or a site's `StyleMoments`.
        keep: restyled atlases to keep in memory, the last ones made: restyling is most of a pair's cost.
    """

    def __init__(
        self,
        atlas: Tensor,
        labels: AtlasLabels,
        nets: dict[str, nn.Module | None],
        latent: tuple[int, ...],
        styles: Styles | StyleMoments,
        keep: int = 0,
    ) -> None:
        self.atlas, self.labels, self.latent, self.styles = atlas, labels, latent, styles
        self.appearance, decoder = nets["A"], nets["decoder"]
        assert decoder is not None
        self.decoder = decoder
        freeze(net for net in nets.values() if net is not None)
        self._styled = lru_cache(maxsize=keep)(self._restyle)

    @torch.no_grad()
    def pair(self, recipe: Recipe) -> GeneratedPair:
        """Make the pair of a recipe; the same recipe gives the same pair."""
        flow = self.flow(recipe)
        styled = self.styled(recipe)
        image = warp(styled, flow)[0].clamp(0, 1)
        return GeneratedPair(image, self.labels.propagate(flow), recipe)

    @torch.no_grad()
    def flow(self, recipe: Recipe) -> Tensor:
        """Decode one draw of N(0, I) to a flow (1, 3, D, H, W)."""
        code = torch.randn(1, *self.latent, generator=generator(recipe.seed, "flow", recipe.flow))
        return self.decoder(code.to(self.atlas))  # type: ignore[no-any-return]

    @torch.no_grad()
    def styled(self, recipe: Recipe) -> Tensor:
        """Restyle the atlas by one drawn style code: (1, 1, D, H, W)."""
        if self.appearance is None:
            return self.atlas[None]
        return self._styled(recipe.seed, recipe.source, recipe.style)

    def _restyle(self, seed: int, source: str, style: int) -> Tensor:
        assert self.appearance is not None
        code = self.styles.draw(1, generator(seed, "style", source, style)).to(self.atlas)
        with half(self.atlas.device):
            return self.appearance(self.atlas[None], code).float()  # type: ignore[no-any-return]
