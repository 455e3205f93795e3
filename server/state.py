"""What the hub knows of a run, and how it is kept so that a stopped run goes on from its last finished round."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from configs.errors import RunError
from configs.schema import Experiment
from sst_models.networks.build import build
from sst_models.phases.table import SITE_PHASES, SitePhase
from sst_models.wire import payload, weights
from sst_models.wire.exchange import Arrays, Step
from sst_models.wire.files import write_json

MOMENTS = "moments"
OWN = "A"
"""The part that a site keeps as its own, in the hub's library under the site's name (DESIGN, phase 3)."""

STEP = "step:"
"""Before the name of a part: its last step, in the file of a round."""

LIBRARY = "own"
"""The folder of that library in the state's."""


class Stored(Mapping[str, np.ndarray]):
    """Arrays that stay in a safetensors file; each is read when it is asked for.

    A hub has one A for each site: in memory, they would grow with the number of sites.
    """

    def __init__(self, path: Path) -> None:
        """Look up what a file has.

        Raises:
            OSError: it cannot be read.
        """
        self.path = path
        with safe_open(path, framework="np") as file:
            self._names = tuple(sorted(file.keys()))

    def __getitem__(self, name: str) -> np.ndarray:
        """Read one array."""
        if name not in self._names:
            raise KeyError(name)
        with safe_open(self.path, framework="np") as file:
            array: np.ndarray = file.get_tensor(name)
        return array

    def __iter__(self) -> Iterator[str]:
        """Give the names, sorted."""
        return iter(self._names)

    def __len__(self) -> int:
        """Give the number of arrays."""
        return len(self._names)


def store(arrays: Arrays, folder: Path) -> Stored:
    """Put arrays into a file that is named by their digest, in one piece; the same arrays are there once."""
    path = folder / f"{payload.digest(arrays)}.safetensors"
    if not path.exists():
        weights.save({name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}, path)
    return Stored(path)


@dataclass(frozen=True)
class RunState:
    """All weights and statistics after some number of finished rounds.

    `parts` maps "T", "F", ... to the shared arrays, and "A.SITE" and "moments.SITE" to what is a site's own.
    """

    done: int = 0  # rounds finished, over all phases
    parts: Mapping[str, Arrays] = field(default_factory=dict)
    steps: Mapping[str, Step] = field(default_factory=dict)  # by shared part, its last

    def with_parts(self, parts: Mapping[str, Arrays], coded: bool = False) -> "RunState":
        """Give the state after one more round that brought these parts.

        Args:
            parts: what it brought.
            coded: let shared parts go where their coded step leads, so that a site that gets the step and a site that
                gets all of the part hold the same bytes. A site's own came coded already.
        """
        known = [part for part in parts if coded and "." not in part and part in self.parts]
        coded_ = {part: payload.step_between(self.parts[part], parts[part]) for part in known}
        led = {part: arrays for part, (_, arrays) in coded_.items()}
        steps = {part: step for part, (step, _) in coded_.items()}
        return RunState(self.done + 1, {**self.parts, **parts, **led}, {**self.steps, **steps})

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
    """The run's state in the hub's folder: one safetensors file a round, one for each site's A, named by a JSON file.

    The JSON file is replaced last and in one piece, so that it always names a whole state.
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder, self.experiment = folder, experiment

    def save(self, state: RunState) -> None:
        """Keep a state; the one before it is removed after."""
        tensors, own = {}, {}
        for part, arrays in state.parts.items():
            if part.startswith(f"{OWN}."):
                own[part] = self._stored(arrays).path.stem
                continue
            for name, array in arrays.items():
                tensors[f"{part}/{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        for part, step in state.steps.items():
            for name, array in step.arrays.items():
                tensors[f"{STEP}{part}/{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        weights.save(tensors, self._weights(state.done))
        steps = {part: [step.base, step.digest] for part, step in state.steps.items()}
        told = {"done": state.done, "experiment": self.experiment.to_json(), "own": own, "steps": steps}
        write_json(told, self.folder / "state.json")
        wanted = {self._weights(state.done), *map(self._own, own.values())}
        for old in (*self.folder.glob("round-*.safetensors"), *self.folder.glob(f"{LIBRARY}/*.safetensors")):
            if old not in wanted:
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
        own = {part: Stored(self._own(name)) for part, name in kept.get("own", {}).items()}
        ends = dict(kept.get("steps", {}))
        steps = {part: Step(base, to, parts.pop(STEP + part)) for part, (base, to) in sorted(ends.items())}
        return RunState(kept["done"], {**parts, **own}, steps)

    def _stored(self, arrays: Arrays) -> Stored:
        if isinstance(arrays, Stored) and arrays.path.parent == self.folder / LIBRARY:
            return arrays
        return store(arrays, self.folder / LIBRARY)

    def _own(self, name: str) -> Path:
        return self.folder / LIBRARY / f"{name}.safetensors"

    def _weights(self, done: int) -> Path:
        return self.folder / f"round-{done}.safetensors"
