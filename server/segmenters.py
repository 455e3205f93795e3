"""Phase 5 at the hub: pairs in a site's style, and the U-Net that learns from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from configs.schema import Experiment
from server.atlas import Atlas
from sst_models.networks.build import build
from sst_models.phases.generate import Generator, PriorStyles, Recipe
from sst_models.phases.segment import Pairs, SegmentLearner
from sst_models.phases.style import StyleMoments
from sst_models.training.device import place
from sst_models.training.learner import Span, Watch, memory, recall, train
from sst_models.training.seeds import below
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays


@dataclass(frozen=True)
class Look:
    """Whose style generated pairs have."""

    name: str  # of the site, for the recipes
    appearance: Arrays | None  # A's weights; None keeps the atlas's own style
    moments: Arrays | None = None  # of the site's style codes, where its policy lets them out


def make_generator(
    experiment: Experiment, atlas: Atlas, look: Look, decoder: Arrays, device: torch.device
) -> Generator:
    """Make the generator of eq. 12 for one look.

    Style codes come from the site's moments when the preset asks for them and the site released them, and from the
    prior otherwise.
    """
    nets: dict[str, nn.Module | None] = {"A": None, "decoder": _load("decoder", decoder, experiment, device)}
    if look.appearance is not None:
        nets["A"] = _load("A", look.appearance, experiment, device)
    styles: PriorStyles | StyleMoments = PriorStyles(experiment.style.code)
    if experiment.generation.styles == "moments" and look.moments is not None:
        mean, std = (torch.from_numpy(np.array(look.moments[name])) for name in ("mean", "std"))
        styles = StyleMoments(mean, std)
    palette = experiment.generation.palette
    return Generator(atlas.image.to(device), atlas.labels.to(device), nets, experiment.latent, styles, palette)


def generated(generator: Generator, experiment: Experiment, look: Look) -> Pairs:
    """Give pairs made as they are needed: each draw picks one of `generation.pairs` recipes. Nothing goes to disk."""

    def pairs(draws: torch.Generator) -> tuple[Tensor, Tensor]:
        number = below(experiment.generation.pairs, draws)
        style = number % (experiment.generation.palette or experiment.generation.pairs)
        made = generator.pair(Recipe(experiment.seed, style, number, look.name))
        return made.image, made.labels

    return pairs


def train_segmenter(
    experiment: Experiment, pairs: Pairs, name: str, folder: Path, device: torch.device, watch: Watch | None = None
) -> list[dict[str, tuple[float, ...]]]:
    """Train a segmenter to the end, or go on from the last round in `folder`.

    After each round `folder` holds "round-N.safetensors" (the running mean of the weights, which is what is
    delivered) and "memory.safetensors" (all that the next round needs).

    Args:
        experiment: the preset.
        pairs: where labelled pairs come from.
        name: seeds the steps.
        folder: of this segmenter.
        device: to train on.
        watch: called with the steps done over all rounds, and the loss.

    Returns:
        The loss curves of the rounds done in this call.
    """
    phase = experiment.phases.segment
    learner = SegmentLearner({"segmenter": place(build("segmenter", experiment), device)}, experiment, pairs, phase)
    learner.start(experiment.seed)
    first = len(rounds(folder))
    if first:
        recall(learner, weights.load(folder / f"memory-{first}.safetensors"))
    curves = []
    for number in range(first, phase.rounds):
        done = number * phase.steps
        span = Span(experiment.seed, (name, "segment"), done, phase.steps)
        history = train(learner, span, _after(done, watch))
        weights.save(memory(learner), folder / f"memory-{number + 1}.safetensors")
        weights.save(dict(learner.mean.named_parameters()), folder / f"round-{number + 1}.safetensors")
        (folder / f"memory-{number}.safetensors").unlink(missing_ok=True)
        curves.append(history.series)
    return curves


def _after(done: int, watch: Watch | None) -> Watch | None:
    """Count steps from the first round on."""
    if watch is None:
        return None
    return lambda step, loss: watch(done + step, loss)


def rounds(folder: Path) -> list[Path]:
    """List the saved rounds of a segmenter, first to last."""
    return _numbered(folder, "round")


def last(folder: Path) -> Path:
    """Give the file of a segmenter as it is delivered: adapted at its site, or as the hub's last round left it."""
    return (adapted(folder) or rounds(folder))[-1]


def adapted(folder: Path) -> list[Path]:
    """List a segmenter's rounds at its site, first to last."""
    return _numbered(folder, "adapted")


def _numbered(folder: Path, word: str) -> list[Path]:
    return sorted(folder.glob(f"{word}-*.safetensors"), key=lambda path: int(path.stem.split("-")[1]))


def load_segmenter(path: Path, experiment: Experiment, device: torch.device) -> nn.Module:
    """Give the network of a saved round."""
    arrays = {name: tensor.numpy() for name, tensor in weights.load(path).items()}
    return _load("segmenter", arrays, experiment, device).eval()


def _load(part: str, arrays: Mapping[str, np.ndarray], experiment: Experiment, device: torch.device) -> nn.Module:
    net = build(part, experiment)
    weights.load_parameters(net, arrays, part)
    return place(net, device)
