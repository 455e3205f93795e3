"""What each setting of a preset buys: one at a time turned off, on a finished run.

    python benchmarks/ablation.py --run RUNS/seed1 --out ABLATIONS [--rows "no EM" "no mirror image" ...]

RUN is a folder of `sst simulate --preset real-cpu`. A row is a copy of it whose preset differs in one thing. What the
sites learnt up to the flow codes stays; a row that changes how a segmenter learns lets the sites adapt theirs anew
(20 minutes on 2 cores), any other only tests anew (2 to 5 minutes). A row that is finished is only read. Test scans
are looked at here: no setting may be chosen by what this prints.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from configs.errors import RunError
from configs.schema import Experiment, load
from server import events
from server.state import SEGMENTER, RunState, Store, schedule
from simulation.results import read
from sst_models.wire.files import replace_file, write_json

PROPAGATED = ("F refined",)
REFINED = ("U-Net w/ adaptation refined", "U-Net in-site refined")
FUSED = ("U-Net w/ adaptation and F", "U-Net in-site and F")
LEARNT = (
    *("U-Net w/o adaptation", "U-Net w/ adaptation", "U-Net w/o adaptation refined", "U-Net in-site"),
    *(*REFINED, *FUSED),
)

Anew = Literal["test", "adapt", "segment", "all"]
"""From where on a row is done again: the test, a phase, or, with "all", everything after the prepared scans."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    changes: tuple[str, ...]  # as `sst simulate --set` takes them
    arms: tuple[str, ...]
    anew: Anew = "test"


NO_ASCENT = "propagation.lncc_ascent_iterations=0"

ROWS = (
    Row("all of it", (), (*PROPAGATED, *LEARNT)),
    Row("labels on the grid", ("grid.label_oversampling=1",), PROPAGATED),
    Row("no second initialisation", ("propagation.second_initialisation=0",), PROPAGATED),
    Row("no mirror image", ("propagation.mirror=false",), PROPAGATED),
    Row("no EM", ("propagation.em_weight=0",), PROPAGATED),
    Row("no tissue matching", ("propagation.tissue_matching=0",), PROPAGATED),
    Row("no ascent", (NO_ASCENT,), PROPAGATED),
    Row(
        "no demons at full resolution, no ascent",
        ("propagation.demons_iterations_full_resolution=0", NO_ASCENT),
        PROPAGATED,
    ),
    Row("no shifts", ("segmenter.test_time_augmentation=mirror",), REFINED),
    Row("restyled pairs alone", ("phases.adapt.real_probability=0",), LEARNT, anew="adapt"),
    Row("real scans alone", ("phases.adapt.real_probability=1",), LEARNT, anew="adapt"),
    Row("Adam", ("phases.adapt.optimiser=adam",), LEARNT, anew="adapt"),
    Row("no affine", ("segmenter.affine_probability=0",), LEARNT, anew="adapt"),
    Row("an affine for all pairs", ("segmenter.affine_probability=1",), LEARNT, anew="adapt"),
    Row("all steps at the hub", ("phases.segment.steps=150", "phases.adapt.rounds=0"), LEARNT, anew="segment"),
    Row("no LNCC in the loss", ("registration.lncc_weight=0",), PROPAGATED, anew="all"),
    Row("a U-Net for T and F", ("registration.kind=unet",), PROPAGATED, anew="all"),
)


def branch(run: Path, folder: Path, row: Row) -> list[str]:
    """Make a row's folder of a run, and give the command line that goes on with it.

    Raises:
        RunError: the run is not one of a plain preset, or is not finished.
    """
    kept = json.loads((run / "run.json").read_text(encoding="utf-8"))
    name, seed = kept["experiment"]["name"], kept["experiment"]["seed"]
    before = replace(load(name), seed=seed)
    if json.loads(before.to_json()) != kept["experiment"]:
        raise RunError(f"{run} holds a run of another preset than today's '{name}'")
    if not folder.exists():
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        after = replace(load(name, row.changes), seed=seed)
        write_json({**kept, "experiment": json.loads(after.to_json())}, fresh / "run.json")
        _copy(run, fresh, before, after, row.anew)
        fresh.rename(folder)
    words = ["simulate", "--preset", name, "--seed", str(seed), "--out", str(folder), "--arms", ",".join(row.arms)]
    words += [word for change in row.changes for word in ("--set", change)]
    return words + _data(kept)


def _data(kept: dict[str, Any]) -> list[str]:
    """Give the part of a run's command line that says which scans it takes, and how."""
    words = [word for site, data in kept["sites"].items() for word in ("--site", f"{site}={data}")]
    words += [word for site, case in kept["atlas"].items() for word in ("--atlas", f"{site}={case}")]
    words += ["--splits", kept["splits"]] if kept["splits"] else []
    return words + ([] if kept.get("bias", True) else ["--no-bias"])


def _copy(run: Path, folder: Path, before: Experiment, after: Experiment, anew: Anew) -> None:
    """Copy the prepared scans of a run, and of its federation what was there before that which is done again."""
    learnt = ("replies", "*-federated") if anew == "all" else ("replies",)
    shutil.copytree(run / "sites", folder / "sites", ignore=shutil.ignore_patterns(*learnt))
    if anew == "all":
        return
    later = () if anew == "test" else ("finished.json", "cross-site.json", events.NAME)
    for hub in run.glob("federations/*/federated"):
        ours = folder / hub.relative_to(run)
        shutil.copytree(hub, ours, ignore=shutil.ignore_patterns("state", *later))
        (ours / "experiment.json").write_text(after.to_json(), encoding="utf-8")
        state = Store(hub / "state", before).resume()
        if state is None or state.done < len(schedule(before)):
            raise RunError(f"{run} holds a run that is not finished; give its command again first")
        if anew != "test":
            state = cut_back(state, before, anew)
            _keep_events(hub, ours, {phase.name for phase, _ in schedule(before)[: state.done]})
        Store(ours / "state", after).save(state)


def cut_back(state: RunState, experiment: Experiment, phase: str) -> RunState:
    """Give the state that a finished run had before it came to a phase that trains segmenters, "segment" or "adapt".

    What is shared has not changed since, and of segmenters the state has every round.
    """
    phases = [each for each, _ in schedule(experiment)]
    done = next((number for number, each in enumerate(phases) if each.name == phase), len(phases))
    rounds = sum(SEGMENTER in each.learns for each in phases[:done])
    trained = {site: each[:rounds] for site, each in state.trained.items() if rounds}
    parts = {part: arrays for part, arrays in state.parts.items() if part.partition(".")[0] != SEGMENTER}
    parts |= {f"{SEGMENTER}.{site}": each[-1] for site, each in trained.items()}
    return replace(state, done=done, parts=parts, trained=trained)


def _keep_events(hub: Path, ours: Path, phases: set[str]) -> None:
    """Copy what a hub noted of joining and of some phases, so that reports do not count the others twice."""
    kept = [event for event in events.read(hub) if event.get("phase") in {"join", *phases}]
    lines = "".join(f"{json.dumps(event)}\n" for event in kept)
    replace_file(ours / events.NAME, lines)


def show(out: Path, rows: list[Row]) -> None:
    """Print mean Dice % of each row's arms, direction by direction."""
    table = Table("row", "arm", title="Mean Dice %")
    found = {row.name: {(s.arm, s.source, s.target): s.mean for s in read(_folder(out, row)).scores} for row in rows}
    places = sorted({key[1:] for scores in found.values() for key in scores}, key=lambda p: (p[0] == p[1], p))
    for source, target in places:
        table.add_column(source if source == target else f"{source} -> {target}", justify="right")
    for row in rows:
        for arm in row.arms:
            values = [found[row.name].get((arm, *place)) for place in places]
            table.add_row(row.name, arm, *("" if value is None else f"{value:.1f}" for value in values))
    Console(width=150).print(table)


def _folder(out: Path, row: Row) -> Path:
    return out / row.name.replace(" ", "-").replace(",", "")


def main() -> None:
    """Parse the command line, run what is not finished, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=[row.name for row in ROWS], choices=[row.name for row in ROWS])
    asked = parser.parse_args()
    rows = [row for row in ROWS if row.name in asked.rows]
    for row in rows:
        words = branch(asked.run, _folder(asked.out, row), row)
        subprocess.run([sys.executable, "-m", "sst", *words], check=True)
    show(asked.out, rows)


if __name__ == "__main__":
    main()
