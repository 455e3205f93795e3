"""What the hub knows of a run, and how it is kept so that a stopped run goes on from its last finished round."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from configs.errors import RunError
from configs.schema import Experiment
from sst_models import weights
from sst_models.build import build
from sst_models.exchange import Arrays
from sst_models.files import write_json
from sst_models.phases import SITE_PHASES, SitePhase

MOMENTS = "moments"
OWN = "A"
"""The part that a site keeps as its own, in the hub's library under the site's name (DESIGN, phase 3)."""


@dataclass(frozen=True)
class RunState:
    """All weights and statistics after some number of finished rounds.

    `parts` maps "T", "F", ... to the shared arrays, and "A.SITE" and "moments.SITE" to what is a site's own.
    """

    done: int = 0  # rounds finished, over all phases
    parts: Mapping[str, Arrays] = field(default_factory=dict)

    def with_parts(self, parts: Mapping[str, Arrays]) -> "RunState":
        """Give the state after one more round that brought these parts."""
        return replace(self, done=self.done + 1, parts={**self.parts, **parts})

    def of(self, part: str, site: str) -> Arrays | None:
        """Give a part as one site sees it: its own where it has one, the shared one otherwise."""
        return self.parts.get(f"{part}.{site}", self.parts.get(part))


def schedule(experiment: Experiment) -> list[tuple[SitePhase, int]]:
    """List all rounds of a run in order: (phase, number of the round from 1)."""
    return [(phase, number + 1) for phase in SITE_PHASES for number in range(phase.settings(experiment).rounds)]


def fresh_parts(phase: SitePhase, state: RunState, experiment: Experiment) -> dict[str, Arrays]:
    """Give first weights for the parts that a phase is the first to train; F may start as T (`joint.start`)."""
    parts: dict[str, Arrays] = {}
    for part in phase.learns:
        if part in state.parts:
            continue
        if part == "F" and experiment.phases.joint.start == "register":
            parts[part] = state.parts["T"]
        else:
            parts[part] = weights.parameters(build(part, experiment))
    return parts


class Store:
    """The run's state in the hub's folder: one safetensors file a round, named by a small JSON file.

    The JSON file is replaced last and in one piece, so that it always names a whole state.
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder, self.experiment = folder, experiment

    def save(self, state: RunState) -> None:
        """Keep a state; the one before it is removed after."""
        tensors = {
            f"{part}/{name}": torch.from_numpy(np.ascontiguousarray(array))
            for part, arrays in state.parts.items()
            for name, array in arrays.items()
        }
        weights.save(tensors, self._weights(state.done))
        write_json({"done": state.done, "experiment": self.experiment.to_json()}, self.folder / "state.json")
        for old in self.folder.glob("round-*.safetensors"):
            if old != self._weights(state.done):
                old.unlink()

    def resume(self) -> RunState | None:
        """Give the last saved state, or None where there is none.

        Raises:
            RunError: the folder holds the state of another experiment.
        """
        if not (self.folder / "state.json").exists():
            return None
        kept = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        if kept["experiment"] != self.experiment.to_json():
            raise RunError(f"{self.folder} holds a run with other settings; choose another folder or the same preset")
        parts: dict[str, dict[str, np.ndarray]] = {}
        for key, tensor in weights.load(self._weights(kept["done"])).items():
            part, name = key.split("/", 1)
            parts.setdefault(part, {})[name] = tensor.numpy()
        return RunState(kept["done"], parts)

    def _weights(self, done: int) -> Path:
        return self.folder / f"round-{done}.safetensors"
