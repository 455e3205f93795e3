"""Training of what no federation makes, in a folder, so that a run that was stopped goes on."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from configs.schema import Experiment
from server.segmenters import Training, train_round
from sst_models.phases.segment import Pairs
from sst_models.training.learner import Learner, Span, Watch, memory, recall, train
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays


def train_alone(
    experiment: Experiment, pairs: Pairs, name: str, folder: Path, device: torch.device, watch: Watch | None = None
) -> Arrays:
    """Train a segmenter to its end, or go on from the last round in `folder`; give its weights.

    Args:
        experiment: the preset.
        pairs: where labelled pairs come from.
        name: seeds the steps.
        folder: of this segmenter: the weights of its last round, and what the next one needs.
        device: to train on.
        watch: called with the steps done over all rounds, and the loss.
    """
    phase = experiment.phases.segment
    first = max((int(path.stem.split("-")[1]) for path in folder.glob("round-*.safetensors")), default=0)
    for number in range(first + 1, phase.rounds + 1):
        before = _arrays(folder / f"memory-{number - 1}.safetensors") if number > 1 else None
        how = Training(device, _after((number - 1) * phase.steps, watch))
        trained = train_round(experiment, pairs, name, number, before, how)
        for kind, arrays in (
            ("memory", trained.memory),
            ("round", trained.weights),
        ):  # the round last
            tensors = {key: torch.from_numpy(value) for key, value in arrays.items()}
            weights.save(tensors, folder / f"{kind}-{number}.safetensors")
        for kind in ("memory", "round"):
            (folder / f"{kind}-{number - 1}.safetensors").unlink(missing_ok=True)
    return _arrays(folder / f"round-{phase.rounds}.safetensors")


QUARTERS = 4
"""Parts of a training after each of which it is kept."""


def fit(learner: Learner, name: str, seed: int, steps: int, folder: Path, watch: Watch | None = None) -> None:
    """Do the steps of a learner, whose networks then are as it trained them, or find them done in `folder`.

    Args:
        learner: with its networks as they begin.
        name: seeds the steps, together with `seed`.
        seed: of the run.
        steps: how many, 1 or more.
        folder: of this training: what the last quarter gave, with which a stopped run goes on.
        watch: called with the steps done, and the loss.
    """
    ends = [steps * number // QUARTERS for number in range(QUARTERS + 1)]
    done = max((int(path.stem.split("-")[1]) for path in folder.glob("quarter-*.safetensors")), default=0)
    if done:
        kept = weights.load(folder / f"quarter-{done}.safetensors")
        recall(learner, _below(kept, "memory/"))
        for part, net in learner.nets.items():
            own = {name: value.numpy() for name, value in _below(kept, f"net/{part}/").items()}
            weights.load_parameters(net, own, part)
    for number in range(done + 1, QUARTERS + 1):
        first = ends[number - 1]
        train(learner, Span(seed, (name,), first, ends[number] - first), _after(first, watch))
        tensors = {f"memory/{key}": value for key, value in memory(learner).items()}
        for part, net in learner.nets.items():
            tensors |= {f"net/{part}/{key}": value for key, value in net.named_parameters()}
        weights.save(tensors, folder / f"quarter-{number}.safetensors")
        (folder / f"quarter-{number - 1}.safetensors").unlink(missing_ok=True)


def _below(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def _arrays(path: Path) -> Arrays:
    return {name: tensor.numpy() for name, tensor in weights.load(path).items()}


def _after(done: int, watch: Watch | None) -> Watch | None:
    """Count steps from the first round on."""
    if watch is None:
        return None
    return lambda step, loss: watch(done + step, loss)
