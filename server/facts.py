"""What a live page shows of a run: how it stands, and what its hub wrote, read from the files of the hub's folder.

`sst hub status` and the page are views of the same: `server.status` says how the run stands, the figures beside it are
those of `server.metrics` and `server.board`. Nothing here writes, and nothing asks another process.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.phases import learning
from configs.schema import Experiment, from_json
from configs.shown import shown
from server import board
from server.drawn import Drawn, drawn
from server.events import finished
from server.metrics import sent
from server.status import SiteStatus, Status

MOST_REFUSALS = 50
"""Newest replies without effect that are shown."""

MOST_POINTS = 120
"""Points of one curve; of more, as many are shown, evenly spread, the last one always."""

TAIL = 300_000
"""Bytes at the end of the hub's log in which the seconds of replies are looked for."""


@dataclass(frozen=True)
class SiteFacts:
    """What is known of one site."""

    status: SiteStatus
    level: str  # of sharing, as it said when it joined; "" before
    answered: str  # phase and round of its last reply that counted, or ""
    seconds: float | None  # that its last round of training took, from the request to the reply
    down: int  # bytes of arrays to it, all rounds
    up: int  # and from it


@dataclass(frozen=True)
class PhaseFacts:
    """How far a phase is."""

    name: str
    planned: int  # rounds
    done: int


@dataclass(frozen=True)
class Refusal:
    """A reply that did not count, or a round without one."""

    time: float  # time.time()
    phase: str
    round: int  # 0 where it is not of one
    site: str
    why: str  # a code of docs/problems.md, or words of ours


@dataclass(frozen=True)
class Curve:
    """A site's loss over the steps of a phase."""

    site: str
    steps: tuple[int, ...]
    values: tuple[float, ...]  # all finite
    lowest: float


@dataclass(frozen=True)
class Loss:
    """One loss of one phase, of all sites."""

    phase: str
    name: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Tested:
    """What a model reaches at a site."""

    style: str  # whose model
    site: str  # whose scans
    scans: int
    dice: float | None  # mean over structure groups, percent
    why: str  # a code, where there is no figure


@dataclass(frozen=True)
class Facts:
    """All that a page shows of one hub's folder."""

    name: str  # of the federation
    run: str
    preset: str
    status: Status
    phases: tuple[PhaseFacts, ...]
    sites: tuple[SiteFacts, ...]
    refusals: tuple[Refusal, ...]  # newest first
    refused: int  # how many there were
    losses: tuple[Loss, ...]
    pictures: tuple[Drawn, ...]
    dice: tuple[Tested, ...]

    @property
    def done(self) -> int:
        """Rounds of training that are finished."""
        return sum(phase.done for phase in self.phases)

    @property
    def planned(self) -> int:
        """Rounds of training in all."""
        return sum(phase.planned for phase in self.phases)

    @property
    def of(self) -> int:
        """Rounds of the phase that the run is in; 0 where it learns nothing."""
        return next((phase.planned for phase in self.phases if phase.name == self.status.phase), 0)

    @property
    def down(self) -> int:
        """Bytes of arrays to all sites."""
        return sum(site.down for site in self.sites)

    @property
    def up(self) -> int:
        """Bytes of arrays from all sites."""
        return sum(site.up for site in self.sites)


def facts(folder: Path, found: Status, recorded: Sequence[Mapping[str, Any]], name: str) -> Facts:
    """Read what there is; what is not there yet is left empty.

    Args:
        folder: the hub's.
        found: how the run stands.
        recorded: the hub's events.
        name: of the federation.

    Raises:
        OSError, ValueError, LookupError, TypeError: a file is just being replaced, or is damaged.
    """
    experiment = _experiment(folder)
    rounds = finished(recorded)
    refusals = sorted(_refusals(recorded), key=lambda one: -one.time)
    return Facts(
        name=name,
        run=shown(_read(folder / "plan.json", {}).get("run", "")),
        preset=experiment.name if experiment else "",
        status=found,
        phases=tuple(_phases(rounds, experiment)) if experiment else (),
        sites=tuple(_sites(folder, found, recorded)),
        refusals=tuple(refusals[:MOST_REFUSALS]),
        refused=len(refusals),
        losses=tuple(_losses(rounds, experiment)) if experiment else (),
        pictures=tuple(drawn(folder)),
        dice=tuple(_tested(folder)),
    )


def _experiment(folder: Path) -> Experiment | None:
    path = folder / "experiment.json"
    try:
        return from_json(path.read_text(encoding="utf-8")) if path.exists() else None
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _read(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def _phases(rounds: Sequence[Mapping[str, Any]], experiment: Experiment) -> Iterator[PhaseFacts]:
    for phase in learning():
        if planned := experiment.phases.rounds(phase.name):
            yield PhaseFacts(phase.name, planned, sum(one["phase"] == phase.name for one in rounds))


def _sites(folder: Path, found: Status, recorded: Sequence[Mapping[str, Any]]) -> Iterator[SiteFacts]:
    level: dict[str, str] = {}
    answered: dict[str, str] = {}
    for event in recorded:
        if event["event"] != "round.finished" or event.get("phase") == "segment":  # the hub's own
            continue
        for site, about in event.get("sites", {}).items():
            level[site] = shown(about.get("level", ""))
        for site in (*event.get("series", {}), *event.get("sites", {})):
            answered[site] = f"{event['phase']} {event['round']}"
    seconds, traffic = _seconds(folder), sent(recorded)
    for site in found.sites:
        own, down, up = site.name, traffic["down"][site.name], traffic["up"][site.name]
        yield SiteFacts(site, level.get(own, ""), answered.get(own, ""), seconds.get(own), down, up)


def _seconds(folder: Path) -> dict[str, float]:
    """Give how long the last reply of each site took, by the end of the hub's log."""
    try:
        with (folder / "logs" / "hub.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().splitlines()
    except OSError:
        return {}
    found: dict[str, float] = {}
    learnt = {phase.name for phase in learning()}
    for line in lines:
        try:
            said = json.loads(line)
            if said["event"] == "reply" and not said["code"] and said["phase"] in learnt:
                found[str(said["site"])] = float(said["seconds"])
        except (ValueError, LookupError, TypeError):  # cut off, or of another kind
            continue
    return found


def _refusals(recorded: Sequence[Mapping[str, Any]]) -> Iterator[Refusal]:
    for event in recorded:
        time, phase, number = float(event["time"]), shown(event.get("phase", "")), int(event.get("round", 0))
        site = shown(event.get("site", ""))
        match event["event"]:
            case "round.finished":
                for one, code in event.get("failed", {}).items():
                    yield Refusal(time, phase, number, shown(one), shown(code))
            case "site.quarantined":
                yield Refusal(time, phase, 0, site, f"in quarantine, the hub asks it no more: {shown(event['why'])}")
            case "site.late":
                yield Refusal(time, "join", 0, site, "came too late for a model")
            case "reply.late":
                yield Refusal(time, phase, number, site, "came after its deadline, and does not count")
            case "round.skipped":
                yield Refusal(time, phase, number, "all sites", "no site's level of sharing has the phase")


def _losses(rounds: Sequence[Mapping[str, Any]], experiment: Experiment) -> Iterator[Loss]:
    kept: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for event in rounds:
        for site, name, steps, values in board.losses(event, experiment):
            points = kept.setdefault((str(event["phase"]), shown(name)), {}).setdefault(shown(site), {})
            points.update((step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value))
    for (phase, name), sites in kept.items():
        yield Loss(phase, name, tuple(_curve(site, points) for site, points in sorted(sites.items()) if points))


def _curve(site: str, points: Mapping[int, float]) -> Curve:
    steps = sorted(points)
    every = math.ceil(len(steps) / MOST_POINTS)
    few = steps[::-1][::every][::-1]
    return Curve(site, tuple(few), tuple(points[step] for step in few), min(points.values()))


def _tested(folder: Path) -> Iterator[Tested]:
    for row in _read(folder / "cross-site.json", []):
        dice = 100 * board.mean_of_groups(row) if row["dice"] else None
        yield Tested(shown(row["style"]), shown(row["site"]), int(row["scans"]), dice, shown(row["error"]))
