"""Phase 5 at the hub: what makes labelled pairs in a site's style, of statistics or of networks (eq. 12)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from configs.schema import Experiment
from server import bounds
from server.atlas import Atlas
from server.segmenters import network_of
from server.state import MOMENTS, STATISTICS, RunState
from sst_models.phases.generate import Generator, PairGenerator, PriorStyles, Recipe, of_atlases
from sst_models.phases.moments import StyleMoments
from sst_models.phases.segment import Pairs
from sst_models.phases.statistics_generator import StatisticsGenerator
from sst_models.statistics.intensity import Rendering
from sst_models.statistics.measure import looks_of
from sst_models.statistics.moments import Moments
from sst_models.training.seeds import below
from sst_models.wire.exchange import Arrays


@dataclass(frozen=True)
class StyleSource:
    """Whose style generated pairs have."""

    name: str  # of the site, for the recipes
    appearance: Arrays | None  # A's weights; None keeps the atlas's own style
    moments: Arrays | None = None  # of the site's style codes, where its policy lets them out


def make_generator(
    experiment: Experiment, atlas: Atlas, source: StyleSource, decoder: Arrays, device: torch.device
) -> PairGenerator:
    """Make the generator of eq. 12 for one source.

    Style codes come from the site's moments when the preset asks for them and the site released them, and from the
    prior otherwise.
    """
    nets: dict[str, nn.Module | None] = {"A": None, "decoder": network_of("decoder", decoder, experiment, device)}
    if source.appearance is not None:
        nets["A"] = network_of("A", source.appearance, experiment, device)
    styles: PriorStyles | StyleMoments = PriorStyles(experiment.style.code)
    if experiment.generation.styles == "moments" and source.moments is not None:
        mean, std = (torch.from_numpy(np.array(source.moments[name])) for name in ("mean", "std"))
        styles = StyleMoments(mean, std)
    cached = experiment.generation.cached_styles
    return of_atlases(
        [
            Generator(image.to(device), labels.to(device), nets, experiment.latent, styles, cached)
            for image, labels in atlas.each
        ]
    )


def make_statistics_generator(
    experiment: Experiment,
    atlas: Atlas,
    statistics: Mapping[str, Arrays],
    site: str,
    weigh: Mapping[str, int],
    device: torch.device,
) -> PairGenerator:
    """Make the generator of a site from sites' statistics: with its look; shapes are drawn from what is public.

    Args:
        experiment: the preset.
        atlas: the hub's; sites measured how they differ from the first of several.
        statistics: by site, of those that released them; where none did, looks are random.
        site: whose style pairs have; that of all sites where it released none.
        weigh: how much each site counts.
        device: to compute on.
    """
    each = [(image.to(device), labels.to(device)) for image, labels in atlas.each]
    spacing = experiment.grid.spacing
    rendering = Rendering(*each[0], spacing)
    found = {name: (looks_of(arrays, rendering), weigh[name]) for name, arrays in sorted(statistics.items())}
    own = [found[site]] if site in found else list(found.values()) or [(looks_of({}, rendering), 1)]
    looks = Moments.pooled(own)
    return of_atlases([StatisticsGenerator(image, labels, spacing, looks) for image, labels in each])


def generated(generator: PairGenerator, experiment: Experiment, source: str) -> Pairs:
    """Give pairs made as they are needed: each draw picks one of `generation.pairs` recipes. Nothing goes to disk.

    Args:
        generator: of networks or of statistics.
        experiment: the preset.
        source: whose style, for the recipes.
    """

    def pairs(draws: torch.Generator) -> tuple[Tensor, Tensor]:
        number = below(experiment.generation.pairs, draws)
        style = number % (experiment.generation.cached_styles or experiment.generation.pairs)
        made = generator.pair(Recipe(experiment.seed, style, number, source))
        return made.image, made.labels

    return pairs


def generator_of(
    experiment: Experiment, atlas: Atlas, state: RunState, site: str, counts: Mapping[str, int], device: torch.device
) -> PairGenerator:
    """Give what makes a site's pairs: the sites' statistics where they released some, else networks that they trained.

    Where they did neither, pairs are the atlas with looks and shapes at random.
    """
    found = measured(state)
    if found is not None:
        known = {name: counts.get(name, 1) for name in {*counts, *found}}
        weigh = bounds.weights_of(known, found)
        return make_statistics_generator(experiment, atlas, found, site, weigh, device)
    source = style_source(experiment, state, site)
    return make_generator(experiment, atlas, source, state.parts["decoder"], device)


def style_source(experiment: Experiment, state: RunState, site: str) -> StyleSource:
    """Give the style of a site's scanner, as far as the run learnt it; a site may keep its A to itself."""
    whose = f"A.{site}" if experiment.federation.style == "weights" else "A"
    appearance = state.parts.get(whose) if experiment.appearance.weight else None
    return StyleSource(site, appearance, state.parts.get(f"{MOMENTS}.{site}"))


def measured(state: RunState) -> dict[str, Arrays] | None:
    """Give the statistics by site, of those that released some; None where pairs are made by networks instead."""
    start = f"{STATISTICS}."
    found = {part.removeprefix(start): arrays for part, arrays in state.parts.items() if part.startswith(start)}
    return found if found or "decoder" not in state.parts else None
