"""What each setting of a preset buys: one at a time turned off, on a finished run.

    python benchmarks/ablation.py --run RUNS/seed1 --out ABLATIONS [--rows "no rival" "no mirror image" ...]

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
from typing import Literal

from rich.console import Console
from rich.table import Table

from configs.errors import RunError
from configs.schema import Experiment, load
from server.state import Store
from simulation.results import read
from sst_models.wire.files import write_json

CARRIED = ("F refined",)
TOLD = ("U-Net w/ adaptation refined", "U-Net in-site refined")
BOTH = ("U-Net w/ adaptation and F", "U-Net in-site and F")
LEARNT = ("U-Net w/o adaptation", "U-Net w/ adaptation", "U-Net w/o adaptation refined", "U-Net in-site", *TOLD, *BOTH)

Anew = Literal["test", "adapt", "segment", "all"]
"""From where on a row is done again; "all": from the prepared scans on."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    changes: tuple[str, ...]  # as `sst simulate --set` takes them
    arms: tuple[str, ...]
    anew: Anew = "test"


ROWS = (
    Row("all of it", (), (*CARRIED, *LEARNT)),
    Row("labels on the grid", ("grid.finer=1",), CARRIED),
    Row("no rival", ("registration.rival=0",), CARRIED),
    Row("no mirror image", ("registration.mirror=false",), CARRIED),
    Row("no likelihood", ("registration.likelihood=0",), CARRIED),
    Row("no tissues", ("appearance.tissue=0",), CARRIED),
    Row("no ascent", ("registration.ascent=0",), CARRIED),
    Row("no polish, no ascent", ("registration.polish=0", "registration.ascent=0"), CARRIED),
    Row("no shifts", ("segmenter.shifts=false",), TOLD),
    Row("restyled pairs alone", ("phases.adapt.real=0",), LEARNT, anew="adapt"),
    Row("real scans alone", ("phases.adapt.real=1",), LEARNT, anew="adapt"),
    Row("Adam", ("phases.adapt.optimiser=adam",), LEARNT, anew="adapt"),
    Row("no affine on top", ("segmenter.augment=none",), LEARNT, anew="adapt"),
    Row("all pairs moved", ("segmenter.moved=1",), LEARNT, anew="adapt"),
    Row("all steps at the hub", ("phases.segment.steps=150", "phases.adapt.rounds=0"), LEARNT, anew="segment"),
    Row("no LNCC", ("registration.lncc=0",), CARRIED, anew="all"),
    Row("a U-Net for T and F", ("registration.kind=unet",), CARRIED, anew="all"),
)


def branch(run: Path, folder: Path, row: Row) -> list[str]:
    """Make a row's folder of a run, and give the command line that goes on with it.

    Raises:
        RunError: the run is not one of a plain preset.
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
    words += [word for site, data in kept["sites"].items() for word in ("--site", f"{site}={data}")]
    return words + (["--splits", kept["splits"]] if kept["splits"] else [])


def _copy(run: Path, folder: Path, before: Experiment, after: Experiment, anew: Anew) -> None:
    """Copy the prepared scans of a run, and of its federation what was there before that which is done again."""
    learnt = ("*-federated", "replies") if anew == "all" else ()
    shutil.copytree(run / "sites", folder / "sites", ignore=shutil.ignore_patterns(*learnt))
    if anew == "all":
        return
    tested = ("finished.json", "cross-site.json")
    later = {"test": (), "adapt": ("adapted-*", *tested), "segment": ("segmenters", *tested)}[anew]
    for hub in run.glob("federations/*/federated"):
        ours = folder / hub.relative_to(run)
        shutil.copytree(hub, ours, ignore=shutil.ignore_patterns("state", *later))
        state = Store(hub / "state", before).resume()
        assert state is not None
        (ours / "experiment.json").write_text(after.to_json(), encoding="utf-8")
        Store(ours / "state", after).save(state)


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
