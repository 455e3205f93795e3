"""What hubs and sites wrote down while they ran, as the report's values: loss curves, bytes, scans set aside."""

import json
from collections.abc import Iterator, Sequence

from server import board
from server.events import finished, read
from simulation.arms import ARMS
from simulation.arms.arm import FEDERATED
from simulation.measured import Crossing, Curve, SetAside, Traffic, mean_of
from simulation.schemes import schemes_for
from simulation.stage import Stage


def curves(stage: Stage, chosen: Sequence[str]) -> Iterator[Curve]:
    """Give the loss curves of an atlas's federations: one a phase and site, over all rounds."""
    for scheme in schemes_for(map(ARMS.__getitem__, chosen), stage.roles, stage.experiment):
        rows: dict[tuple[str, str], list[tuple[int, dict[str, list[float]]]]] = {}
        for event in finished(read(scheme.hub(stage.folder, stage.roles))):
            for site, series in event.get("series", {}).items():
                rows.setdefault((event["phase"], site), []).append((int(event["round"]), series))
        for (phase, site), rounds in rows.items():
            settings = scheme.experiment.phases.of(phase)
            steps, losses = _join(rounds, settings.steps)
            yield Curve(phase, site, f"{stage.where}, {scheme.name}", steps, losses)


def _join(
    rounds: list[tuple[int, dict[str, list[float]]]], steps: int
) -> tuple[tuple[int, ...], dict[str, tuple[float, ...]]]:
    """Put the rounds of one phase and site one after the other."""
    at: list[int] = []
    losses: dict[str, list[float]] = {}
    for number, series in sorted(rounds, key=lambda item: item[0]):
        points = len(next(iter(series.values()), []))
        at += board.steps(number, steps, points)
        for name, values in series.items():
            losses.setdefault(name, []).extend(values)
    return tuple(at), {name: tuple(values) for name, values in losses.items() if len(values) == len(at)}


def traffic(stage: Stage, chosen: Sequence[str]) -> Iterator[Traffic]:
    """Give the bytes each way of every round of an atlas's federations."""
    for scheme in schemes_for(map(ARMS.__getitem__, chosen), stage.roles, stage.experiment):
        for event in finished(read(scheme.hub(stage.folder, stage.roles))):
            for row in event.get("traffic", []):
                name = f"{stage.where}, {scheme.name}"
                yield Traffic(name, event["phase"], event["round"], row["site"], row["down"], row["up"])


def crossings(stage: Stage, chosen: Sequence[str]) -> Iterator[Crossing]:
    """Give the cross-site table of the federation proper: each segmenter of its hub, tested by each site itself."""
    for scheme in schemes_for(map(ARMS.__getitem__, chosen), stage.roles, stage.experiment):
        path = scheme.hub(stage.folder, stage.roles) / "cross-site.json"
        if scheme.name != FEDERATED or not path.exists():
            continue
        for row in json.loads(path.read_text(encoding="utf-8")):
            if row["dice"]:
                mean = 100 * mean_of(row["dice"].values())
                yield Crossing(stage.roles.source, row["style"], row["site"], mean, row["scans"])


def set_aside(stages: Sequence[Stage]) -> tuple[SetAside, ...]:
    """Give the scans that a site could not use, each once."""
    rows = {(site, file): reason for stage in stages for site in stage.data for file, reason in stage.set_aside(site)}
    return tuple(SetAside(site, file, reason) for (site, file), reason in sorted(rows.items()))
