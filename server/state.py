"""What the hub knows of a run, and how it is kept so that a stopped run goes on from its last finished round."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from configs.errors import RunError
from configs.phases import KEPT, Phase, learning, phase_of
from configs.schema import Experiment, from_json
from sst_models.networks.build import first
from sst_models.wire import payload, weights
from sst_models.wire.exchange import Arrays, Delta
from sst_models.wire.files import write_json

MOMENTS, STATISTICS = "moments", "statistics"

DELTA = "delta:"
"""Before the name of a part: its last coded difference, in the file of a round."""

LIBRARY = "library"
"""The folder of the library in the state's: a file each, named by its digest."""


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
        weights.save({name: torch.from_numpy(np.asarray(array, order="C")) for name, array in arrays.items()}, path)
    return Stored(path)


@dataclass(frozen=True)
class RunState:
    """Everything that a run goes on from after some number of finished rounds.

    `parts` maps "T", "F", ... to the shared arrays, and "A.SITE", "segmenter.SITE", "moments.SITE" and
    "statistics.SITE" to one site's.
    """

    done: int = 0  # rounds finished, over all phases
    parts: Mapping[str, Arrays] = field(default_factory=dict)
    deltas: Mapping[str, Delta] = field(default_factory=dict)  # by shared part, its last coded difference
    memory: Mapping[str, Arrays] = field(default_factory=dict)  # by site, what the hub's next round of training needs
    trained: Mapping[str, tuple[Arrays, ...]] = field(default_factory=dict)  # by site, its segmenter after each round
    moved: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # by part, its way in each round of this phase

    def with_parts(self, parts: Mapping[str, Arrays], coded: bool = False) -> "RunState":
        """Give the state after one more round that brought these parts.

        Args:
            parts: what it brought.
            coded: let shared parts become what their coded difference gives, so that a site that gets the difference
                and a site that gets all of the part hold the same bytes. A site's own came coded already.
        """
        known = [part for part in parts if coded and "." not in part and part in self.parts]
        changes = {part: payload.delta_between(self.parts[part], parts[part]) for part in known}
        results = {part: arrays for part, (_, arrays) in changes.items()}
        deltas = {part: delta for part, (delta, _) in changes.items()}
        trained = dict(self.trained)
        for part, arrays in parts.items():
            name, _, site = part.partition(".")
            if name == SEGMENTER and site:
                trained[site] = (*trained.get(site, ()), arrays)
        return replace(
            self,
            done=self.done + 1,
            parts={**self.parts, **parts, **results},
            deltas={**self.deltas, **deltas},
            trained=trained,
        )

    def of(self, part: str, site: str) -> Arrays | None:
        """Give a part as one site sees it: its own where it has one, the shared one otherwise."""
        return self.parts.get(f"{part}.{site}", self.parts.get(part))


SEGMENTER = "segmenter"

COMMON = "all sites"
"""Whose the common segmenter is, where sites have names; no site can be called that."""


def schedule(experiment: Experiment) -> list[tuple[Phase, int]]:
    """List all rounds of a run in order: (phase, number of the round from 1)."""
    return [(phase_of(name), number) for name, number in experiment.schedule]


def fresh_parts(phase: Phase, state: RunState, experiment: Experiment) -> dict[str, Arrays]:
    """Give first weights for the parts that a phase is the first to train; F starts as T (Sec. 3.3)."""
    parts: dict[str, Arrays] = {}
    for part in phase.learns:
        begins = next(each for each in learning() if part in each.learns and experiment.phases.rounds(each.name))
        if begins.name != phase.name or part in state.parts:
            continue
        own = state.parts.get("T") if part == "F" else None
        parts[part] = own if own is not None else weights.parameters(first(part, experiment))
    return parts


def _in_library(part: str) -> bool:
    """Say whether a part has a file of its own: what is one site's, and every segmenter, the common one, too."""
    name, _, site = part.partition(".")
    return name == SEGMENTER or (name in KEPT and bool(site))


def files_of(kept: Mapping[str, Any]) -> list[str]:
    """List the files that a state.json names, below its folder."""
    library = kept["library"]
    own = {*library["parts"].values(), *library["memory"].values(), *chain(*library["trained"].values())}
    return [f"round-{kept['done']}.safetensors", *(f"{LIBRARY}/{name}.safetensors" for name in sorted(own))]


class Store:
    """The run's state in the hub's folder: a JSON file, a safetensors file of shared parts, and a library.

    The library has a file for each set of arrays that is one site's. The JSON file is replaced last and in one piece,
    so that it always names a whole state.
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder, self.experiment = folder, experiment

    @property
    def library(self) -> Path:
        """The folder of what is one site's."""
        return self.folder / LIBRARY

    def save(self, state: RunState) -> None:
        """Keep a state; the one before it is removed after."""
        tensors = {}
        kept = {part: arrays for part, arrays in state.parts.items() if _in_library(part)}
        for part, arrays in state.parts.items():
            for name, array in arrays.items() if part not in kept else ():
                tensors[f"{part}/{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        for part, delta in state.deltas.items():
            for name, array in delta.arrays.items():
                tensors[f"{DELTA}{part}/{name}"] = torch.from_numpy(np.ascontiguousarray(array))
        weights.save(tensors, self._weights(state.done))
        parts = {part: self._name(arrays) for part, arrays in kept.items()}
        memory = {site: self._name(arrays) for site, arrays in state.memory.items()}
        trained = {site: [self._name(arrays) for arrays in each] for site, each in state.trained.items()}
        named = {"parts": parts, "memory": memory, "trained": trained}
        deltas = {part: [delta.base, delta.digest] for part, delta in state.deltas.items()}
        content = {"done": state.done, "experiment": self.experiment.to_json(), "library": named, "deltas": deltas}
        content["moved"] = {part: list(ways) for part, ways in state.moved.items()}
        write_json(content, self.folder / "state.json")
        names = {*parts.values(), *memory.values(), *chain(*trained.values())}
        wanted = {self._weights(state.done), *map(self._file, names)}
        for old in (*self.folder.glob("round-*.safetensors"), *self.library.glob("*.safetensors")):
            if old not in wanted:
                old.unlink()

    def resume(self) -> RunState | None:
        """Give the last saved state, or None where there is none.

        Raises:
            RunError: the folder holds the state of another experiment, or of a version before 0.2.
        """
        if not (self.folder / "state.json").exists():
            return None
        kept = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        if "library" not in kept:
            raise RunError(f"{self.folder} holds a run of a version before 0.2; start it again in another folder")
        if from_json(kept["experiment"]) != self.experiment:  # not as text: a later version has more keys
            raise RunError(f"{self.folder} holds a run with other settings; choose another folder or the same preset")
        parts: dict[str, dict[str, np.ndarray]] = {}
        for key, tensor in weights.load(self._weights(kept["done"])).items():
            part, name = key.split("/", 1)
            parts.setdefault(part, {})[name] = tensor.numpy()
        deltas = {part: Delta(base, to, parts.pop(DELTA + part)) for part, (base, to) in sorted(kept["deltas"].items())}
        own, memory = (
            {key: Stored(self._file(name)) for key, name in kept["library"][kind].items()}
            for kind in ("parts", "memory")
        )
        trained = {
            site: tuple(Stored(self._file(n)) for n in names) for site, names in kept["library"]["trained"].items()
        }
        moved = {part: tuple(ways) for part, ways in kept.get("moved", {}).items()}  # none before version 0.3
        return RunState(kept["done"], {**parts, **own}, deltas, memory, trained, moved)

    def _name(self, arrays: Arrays) -> str:
        if isinstance(arrays, Stored) and arrays.path.parent == self.library:
            return arrays.path.stem
        return store(arrays, self.library).path.stem

    def _file(self, name: str) -> Path:
        return self.library / f"{name}.safetensors"

    def _weights(self, done: int) -> Path:
        return self.folder / f"round-{done}.safetensors"
