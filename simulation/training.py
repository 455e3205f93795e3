"""Training of a segmenter that no federation makes, in a folder, so that a run that was stopped goes on."""

from pathlib import Path

import torch

from configs.schema import Experiment
from server.segmenters import Training, train_round
from sst_models.phases.segment import Pairs
from sst_models.training.learner import Watch
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


def _arrays(path: Path) -> Arrays:
    return {name: tensor.numpy() for name, tensor in weights.load(path).items()}


def _after(done: int, watch: Watch | None) -> Watch | None:
    """Count steps from the first round on."""
    if watch is None:
        return None
    return lambda step, loss: watch(done + step, loss)
