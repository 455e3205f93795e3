"""Phase 5 at the hub: the U-Net that learns from generated pairs."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from configs.schema import Experiment
from sst_models.networks.build import build
from sst_models.phases.segment import Pairs, SegmentLearner, SegmentSettings
from sst_models.training.device import place
from sst_models.training.learner import Span, Watch, memory, recall, train
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays


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
    return network_of("segmenter", arrays, experiment, device).eval()


def network_of(part: str, arrays: Arrays, experiment: Experiment, device: torch.device) -> nn.Module:
    """Build the network of a part with these weights."""
    net = build(part, experiment)
    weights.load_parameters(net, arrays, part)
    return place(net, device)
