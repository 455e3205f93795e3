"""What a small site gets at each level of sharing: a site with 2, 5 or 12 scans beside one that has all of its scans.

    python benchmarks/levels.py --site oasis=DIR --site ixi=DIR --splits FILE --out RUNS --small ixi [--sizes 2 5 12]

The atlas is from the other site, which shares everything. Of the training scans of the small site some are drawn, and
the rest are marked as unused. Rows: "nobody" (the other site shares nothing either, so the atlas is all there is),
each level of sharing of the small site, and all scans of both sites in one place ("pooled"). Each cell is `sst
simulate --atlas` of its own; one that is finished is only read. Test scans are looked at here: no setting may be
chosen by what this prints.
"""

import argparse
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from client.split import read_table
from configs.levels import LEVELS, MODELS, NETWORKS, NOTHING
from configs.phases import training
from configs.schema import load
from simulation.arms.arm import POOLED
from simulation.atlases import write_splits
from simulation.gains import WITH
from simulation.results import read

NOBODY = "nobody"

ROWS = (NOBODY, *LEVELS, POOLED)

TRAINED = (NETWORKS, MODELS, POOLED)
"""Rows in which sites train the paper's networks together, too; nobody would use them in the others."""


def drawn(splits: Mapping[str, str], count: int, seed: int) -> dict[str, str]:
    """Leave `count` of the training scans of a split, case -> split, and mark the others as unused."""
    train = sorted(case for case, split in splits.items() if split == "train")
    kept = set(random.Random(seed).sample(train, min(count, len(train))))
    return {case: "unused" if case in train and case not in kept else split for case, split in splits.items()}


def words(row: str, large: str, small: str) -> list[str]:
    """Give the options of `sst simulate` that make a row."""
    arm = "U-Net pooled" if row == POOLED else WITH
    level = {NOBODY: NOTHING, POOLED: ""}.get(row, f"{small}={row}")
    given = ["--atlas", large, "--arms", arm, *(["--level", level] if level else [])]
    phases = load("real-cpu-networks").phases
    together = [phase.name for phase in training() if phase.level == NETWORKS] if row in TRAINED else []
    return given + [word for name in together for word in ("--set", f"phases.{name}.rounds={phases.rounds(name)}")]


def main() -> None:
    """Parse the command line, run what is not finished, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", required=True, metavar="SITE")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2, 5, 12])
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--preset", default="real-cpu", help="another one, for a quick trial")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    names = [word.partition("=")[0] for word in asked.site]
    large = next(name for name in names if name != asked.small)
    table = Table("level", *(f"{size} scans" for size in asked.sizes), title=f"{large} -> {asked.small}, mean Dice %")
    found: dict[str, list[str]] = {row: [] for row in asked.rows}
    first: Path | None = None
    for size in asked.sizes:
        splits: dict[str, Mapping[str, str]] = {name: read_table(asked.splits, name) for name in names}
        splits[asked.small] = drawn(splits[asked.small], size, asked.seed)
        file = asked.out / f"{asked.small}-{size}.tsv"
        write_splits(splits, file)
        for row in asked.rows:
            out = asked.out / f"{asked.small}-{size}-{row}"
            if first is not None and not out.exists():
                shutil.copytree(first / "sites", out / "sites", ignore=shutil.ignore_patterns("runs"))
            command = ["simulate", "--preset", asked.preset, "--seed", str(asked.seed), "--splits", str(file)]
            command += [word for site in asked.site for word in ("--site", site)]
            subprocess.run(
                [sys.executable, "-m", "sst", *command, "--out", str(out), *words(row, large, asked.small)], check=True
            )
            first = first or out
            found[row].append(f"{read(out).scores[0].mean:.1f}")
    for row, figures in found.items():
        table.add_row(row, *figures)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
