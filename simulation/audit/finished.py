"""A finished run of `sst simulate`, opened for the audit: its federations, and who was in them for what."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from client.cases import Cases
from configs.errors import RunError
from configs.schema import Experiment, from_dict
from configs.statistics import shapes
from server.atlas import read_atlas
from server.state import STATISTICS, RunState, Store
from simulation.arms.arm import FEDERATED
from simulation.schemes import Roles, Scheme
from simulation.stage import Stage

SPLITS = ("train", "val", "test")
"""Of these the first are members, the others are not."""


@dataclass(frozen=True)
class Federation:
    """What a run has with one atlas, and what its hub came to hold."""

    stage: Stage
    scheme: Scheme
    state: RunState

    @property
    def name(self) -> str:
        """The name under which sites keep their state."""
        return self.scheme.run(self.stage.roles)

    def ledger(self, site: str) -> Path:
        """Give the ledger of a site."""
        return self.gate(site) / "ledger.jsonl"

    def gate(self, site: str) -> Path:
        """Give the gate's folder of a site."""
        return self.stage.site(site).state / "gate"


@dataclass(frozen=True)
class Everybody:
    """All scans of a site, also those that never trained."""

    cases: Cases
    member: NDArray[np.bool_]  # (scans,) whether it trained
    person: NDArray[np.int64]  # (scans,) whose it is, numbered from 0
    names: tuple[str, ...] = ()  # of the people, by their number

    @staticmethod
    def of(stage: Stage, site: str) -> "Everybody":
        """Gather the scans of a site.

        Raises:
            DataError: the site has no prepared scans.
        """
        paths: list[Path] = []
        member: list[bool] = []
        names: list[str] = []
        for split in SPLITS:
            own = stage.cases(site, split)
            paths += own.paths
            member += [split == SPLITS[0]] * len(own)
            names += stage.people(site, split)
        people, person = np.unique(names, return_inverse=True)
        return Everybody(Cases.of(paths), np.array(member, bool), person.astype(np.int64), tuple(map(str, people)))

    @property
    def trained(self) -> int:
        """How many people trained."""
        return len(np.unique(self.person[self.member]))


def federations(run: Path, device: torch.device, atlas: str = "") -> list[Federation]:
    """Open the finished federations of a run.

    Args:
        run: folder of a simulation.
        device: to compute on.
        atlas: only what has the atlas of this site; "": all.

    Raises:
        RunError: there is none, or it is of a version that is read no more.
        ConfigError: the run's settings are of another version.
    """
    found = list(_opened(run, _asked(run), device))
    kept = [each for each in found if atlas in ("", each.stage.roles.source)]
    if not found:
        raise RunError(f"{run} holds no finished federation, so nothing left a site; give sst simulate again first")
    if not kept:
        names = ", ".join(each.stage.roles.source for each in found)
        raise RunError(f"--atlas: no finished federation has its atlas from '{atlas}'; one of: {names}")
    return kept


def _asked(run: Path) -> dict[str, Any]:
    try:
        asked: dict[str, Any] = json.loads((run / "run.json").read_text(encoding="utf-8"))
        if "unseen" not in asked:
            raise RunError(f"{run} holds a run of an older version; give sst simulate again, elsewhere")
        return asked
    except (OSError, ValueError) as error:
        raise RunError(f"no readable run.json in {run}: give the folder of a run, sst simulate --out RUN") from error


def _opened(run: Path, asked: dict[str, Any], device: torch.device) -> Iterator[Federation]:
    experiment = from_dict(asked["experiment"], str(run / "run.json"))
    data = {name: Path(folder) for name, folder in asked["sites"].items()}
    unseen = tuple(asked["unseen"])
    members = [name for name in data if name not in unseen]
    how = ("inprocess", device, asked["bias"], asked["levels"], float(asked["epsilon"] or math.inf))
    for source in members:
        roles = Roles(source, tuple(name for name in members if name != source), unseen)
        scheme = Scheme(FEDERATED, experiment, roles.members, roles.targets)
        hub = scheme.hub(run, roles)
        if (hub / "finished.json").exists():
            state = Store(hub / "state", experiment).resume()
            assert state is not None, hub
            _check(state, run, experiment)
            yield Federation(Stage(run, roles, experiment, read_atlas(hub), data, *how), scheme, state)


def _check(state: RunState, run: Path, experiment: Experiment) -> None:
    """See that statistics have the form that attacks and generation read."""
    start = f"{STATISTICS}."
    asked = set(shapes(experiment.table))
    if any(set(arrays) != asked for part, arrays in state.parts.items() if part.startswith(start)):
        raise RunError(f"{run} holds statistics of an older version, without noise; give sst simulate again, elsewhere")
