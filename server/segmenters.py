"""Phase 5 at the hub: pairs in a site's style, and the U-Net that learns from them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from configs.schema import Experiment
from server.atlas import Atlas
from sst_models.networks.build import build
from sst_models.phases.generate import Generator, PairGenerator, PriorStyles, Recipe
from sst_models.phases.moments import StyleMoments
from sst_models.phases.segment import Pairs, SegmentLearner, SegmentSettings
from sst_models.phases.statistics_generator import StatisticsGenerator
from sst_models.statistics.intensity import Rendering
from sst_models.statistics.measure import Statistics
from sst_models.training.device import place
from sst_models.training.learner import Span, Watch, memory, recall, train
from sst_models.training.seeds import below
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays


@dataclass(frozen=True)
class StyleSource:
    """Whose style generated pairs have."""

    name: str  # of the site, for the recipes
    appearance: Arrays | None  # A's weights; None keeps the atlas's own style
    moments: Arrays | None = None  # of the site's style codes, where its policy lets them out


def make_generator(
    experiment: Experiment, atlas: Atlas, source: StyleSource, decoder: Arrays, device: torch.device
) -> Generator:
    """Make the generator of eq. 12 for one source.

    Style codes come from the site's moments when the preset asks for them and the site released them, and from the
    prior otherwise.
    """
    nets: dict[str, nn.Module | None] = {"A": None, "decoder": _load("decoder", decoder, experiment, device)}
    if source.appearance is not None:
        nets["A"] = _load("A", source.appearance, experiment, device)
    styles: PriorStyles | StyleMoments = PriorStyles(experiment.style.code)
    if experiment.generation.styles == "moments" and source.moments is not None:
        mean, std = (torch.from_numpy(np.array(source.moments[name])) for name in ("mean", "std"))
        styles = StyleMoments(mean, std)
    cached = experiment.generation.cached_styles
    return Generator(atlas.image.to(device), atlas.labels.to(device), nets, experiment.latent, styles, cached)


def make_statistics_generator(
    experiment: Experiment,
    atlas: Atlas,
    statistics: Mapping[str, Arrays],
    site: str,
    weigh: Mapping[str, int],
    device: torch.device,
) -> StatisticsGenerator:
    """Make the generator of a site from sites' statistics: with the intensities of one site, and the shapes of all.

    Args:
        experiment: the preset.
        atlas: the hub's.
        statistics: by site, of those that released them; where none did, looks and shapes are random.
        site: whose style pairs have; that of all sites where it released none.
        weigh: how much each site counts.
        device: to compute on.
    """
    image, labels, spacing = atlas.image.to(device), atlas.labels.to(device), experiment.grid.spacing
    every = {name: (Statistics.of(arrays), weigh[name]) for name, arrays in sorted(statistics.items())}
    if not every:
        return StatisticsGenerator(image, labels, spacing, Statistics.prior(Rendering(image, labels, spacing)))
    looks = [every[site]] if site in every else list(every.values())
    return StatisticsGenerator(image, labels, spacing, Statistics.pooled(looks, list(every.values())))


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


@dataclass(frozen=True)
class Training:
    """Where a segmenter is trained, and who is told of each step."""

    device: torch.device
    watch: Watch | None = None  # called with the steps done in this round, and the loss


@dataclass(frozen=True)
class Trained:
    """What one round of training gave."""

    weights: Arrays  # the running mean, which is what is delivered
    memory: Arrays  # all that the next round needs
    series: dict[str, tuple[float, ...]]  # loss curves


def train_round(
    experiment: Experiment, pairs: Pairs, name: str, number: int, memory_before: Arrays | None, how: Training
) -> Trained:
    """Train a segmenter for one round of `phases.segment`.

    Args:
        experiment: the preset.
        pairs: where labelled pairs come from.
        name: seeds the steps.
        number: of the round, from 1.
        memory_before: `Trained.memory` of the round before; None in the first.
        how: where to, and who looks on.
    """
    phase = experiment.phases.segment
    net = place(build("segmenter", experiment), how.device)
    learner = SegmentLearner({"segmenter": net}, pairs, SegmentSettings.of(experiment, phase))
    if memory_before is None:
        learner.start(experiment.seed)
    else:
        recall(learner, {key: torch.from_numpy(np.array(value)) for key, value in memory_before.items()})
    span = Span(experiment.seed, (name, "segment"), (number - 1) * phase.steps, phase.steps)
    history = train(learner, span, how.watch)
    kept = {key: value.detach().cpu().numpy() for key, value in memory(learner).items()}
    return Trained(weights.parameters(learner.mean), kept, history.series)


def segmenter_of(arrays: Arrays, experiment: Experiment, device: torch.device) -> nn.Module:
    """Give the network of a segmenter's weights, ready to segment."""
    return _load("segmenter", arrays, experiment, device).eval()


def _load(part: str, arrays: Mapping[str, np.ndarray], experiment: Experiment, device: torch.device) -> nn.Module:
    net = build(part, experiment)
    weights.load_parameters(net, arrays, part)
    return place(net, device)
