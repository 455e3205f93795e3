"""Run several seeds of a simulation, or go on with them, and hold their means against what the project wants to reach.

    python benchmarks/accuracy.py --site oasis=DIR --site ixi=DIR --splits FILE --out RUNS [--seeds 1 2 3] [--arms ARMS]

Each seed is `sst simulate --preset real-cpu --seed N --out RUNS/seedN`, one after the other; a run that is finished
is only read. Name the sites in the order of the goals, OASIS first. Means and standard deviations are over seeds of the
mean over test scans; the paired test is Wilcoxon's on each test scan's mean over the seeds. Test scans are looked at
here and nowhere else: no setting may be chosen by what this prints.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from rich.console import Console
from rich.table import Table

from simulation.gains import WITH, WITHOUT, paired
from simulation.measured import ArmScore, Results
from simulation.results import read

ARMS = "core,U-Net in-site,U-Net in-site refined,U-Net in-site and F"

IN_SITE, CONTROL, FULL = "U-Net in-site", "control refined", "supervised refined"

Means = dict[tuple[str, str, str], list[float]]
"""(arm, source, target) -> the mean Dice of each seed that tested it."""


@dataclass(frozen=True)
class Goal:
    """One row of what is wanted, in percent of Dice."""

    what: str
    where: str
    wanted: float
    got: list[float]  # by seed
    p: float | None = None


def means(runs: Iterable[Results]) -> Means:
    """Gather the scores of all runs."""
    found: Means = {}
    for run in runs:
        for score in run.scores:
            found.setdefault((score.arm, score.source, score.target), []).append(score.mean)
    return found


def goals(runs: list[Results], a: str, b: str) -> list[Goal]:
    """List the goals of learning on the two public sites (issue 3), with what the runs reached."""
    found = means(runs)

    def get(arm: str, source: str, target: str) -> list[float]:
        return found.get((arm, source, target), [])

    rows = []
    for source, target, flow, net in ((a, a, 79, 82), (b, b, 82, 85), (a, b, 78, 80), (b, a, 78, 80)):
        where = source if source == target else f"{source} -> {target}"
        of = IN_SITE if source == target else WITH
        rows.append(Goal("F refined", where, flow, get("F refined", source, target)))
        rows += [Goal(of + end, where, net, get(of + end, source, target)) for end in ("", " refined", " and F")]
        best = get(f"{of} and F", source, target)
        over = _minus(best, get(CONTROL, source, target))
        rows.append(Goal(f"{of} and F, over the control refined", where, 3, over))
        low, high = get("affine", source, target), found.get((FULL, _other(target, a, b), target), [])
        shares = [100 * (x - y) / (z - y) for x, y, z in zip(best, low, high, strict=False)]
        rows.append(Goal("... share of the gap affine -> supervised refined", where, 80, shares))
        if source != target:
            gain = _minus(get(WITH, source, target), get(WITHOUT, source, target))
            rows.append(Goal("style adaptation over none", where, 5, gain, _paired(runs, source, target)))
            pooled = _minus(get(WITH, source, target), get("U-Net pooled", source, target))
            rows.append(Goal("federated over pooled", where, -0.5, pooled))
            alone = _minus(get(WITH, source, target), get("U-Net alone", source, target))
            rows.append(Goal("federated over alone", where, 0, alone))
    return rows


def _other(site: str, a: str, b: str) -> str:
    return b if site == a else a


def _minus(ours: list[float], theirs: list[float]) -> list[float]:
    return [x - y for x, y in zip(ours, theirs, strict=False)]


def _paired(runs: list[Results], source: str, target: str) -> float | None:
    """Test adapted against not adapted on each scan's mean over the seeds."""
    both = [(run.score(WITH, source, target), run.score(WITHOUT, source, target)) for run in runs]
    rows = [_by_scan(one, other) for one, other in both if one is not None and other is not None]
    if not rows:
        return None
    differences = [fmean(row[case] for row in rows) for case in rows[0]]
    return paired(differences)


def _by_scan(one: ArmScore, other: ArmScore) -> dict[str, float]:
    before = {scan.case: scan.mean for scan in other.scans}
    return {scan.case: scan.mean - before[scan.case] for scan in one.scans}


def show(runs: list[Results], a: str, b: str) -> None:
    """Print all arms, then the goals."""
    every = Table("arm", "direction", "by seed", "mean ± std over seeds", title="Mean Dice %")
    for (arm, source, target), values in means(runs).items():
        where = source if source == target else f"{source} -> {target}"
        every.add_row(arm, where, *_figures(values))
    table = Table("what", "where", "wanted", "by seed", "mean ± std over seeds", "reached", "p")
    for goal in goals(runs, a, b):
        reached = "" if not goal.got else ("yes" if fmean(goal.got) >= goal.wanted else "no")
        p = "" if goal.p is None else f"{goal.p:.3f}"
        table.add_row(goal.what, goal.where, f"{goal.wanted:g}", *_figures(goal.got), reached, p)
    console = Console(width=150)
    console.print(every)
    console.print(table)


def _figures(values: list[float]) -> tuple[str, str]:
    if not values:
        return "", "not measured"
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return " ".join(f"{value:.1f}" for value in values), f"{fmean(values):.1f}{spread}"


def main() -> None:
    """Parse the command line, run what is not finished, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--splits", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", default=ARMS)
    parser.add_argument("--preset", default="real-cpu", help="another one, for a quick trial")
    parser.add_argument("--read", action="store_true", help="run nothing, read what is finished")
    asked = parser.parse_args()
    first, second = (word.partition("=")[0] for word in asked.site)
    for seed in [] if asked.read else asked.seeds:
        words = ["simulate", "--preset", asked.preset, "--seed", str(seed), "--out", str(asked.out / f"seed{seed}")]
        words += ["--splits", str(asked.splits), "--arms", asked.arms]
        words += [word for site in asked.site for word in ("--site", site)]
        subprocess.run([sys.executable, "-m", "sst", *words], check=True)
    runs = [read(asked.out / f"seed{seed}") for seed in asked.seeds]
    show(runs, first, second)


if __name__ == "__main__":
    main()
