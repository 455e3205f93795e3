"""The table at the end of a run, for a terminal: arms by directions, with the paper's numbers at the side."""

import math
from io import StringIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from simulation.gains import WITH, gains
from simulation.measured import Results, arms_in_order
from simulation.overview import brief, is_long
from simulation.panels import direction_name
from simulation.reference import paper_rows

WIDTH = 100
_PER_TABLE = 4  # directions that fit beside the longest arm and the paper's column


def print_table(results: Results, console: Console) -> None:
    """Print mean Dice +- std of every arm in every direction, then what adaptation gained; fits 100 columns."""
    whole, results = results, brief(results)
    directions = results.directions
    for start in range(0, len(directions), _PER_TABLE):
        console.print(_table(results, directions[start : start + _PER_TABLE]))
    if any(paper_rows(score.arm) for score in results.scores):
        console.print(
            Text("paper: other data, for reference; OASIS → CANDI / CANDI → OASIS, or within CANDI / OASIS", "dim")
        )
    for gain in gains(results):
        where = direction_name(gain.source, gain.target)
        what = "pairs of sites" if is_long(whole) else "scans"
        change = f"{gain.points:+.1f} Dice points, better on {gain.better} of {gain.scans} {what}"
        if gain.significance:
            change += f" (Wilcoxon {gain.significance})"
        console.print(Text(f"style adaptation, {where}: {change}", "green" if gain.points > 0 else "yellow"))


def table_text(results: Results) -> str:
    """The same as plain text, for a file."""
    file = StringIO()
    print_table(results, Console(file=file, width=WIDTH, color_system=None, legacy_windows=False))
    return file.getvalue()


def _table(results: Results, directions: tuple[tuple[str, str], ...]) -> Table:
    table = Table(
        title="Mean Dice % over scans",
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("")
    for source, target in directions:
        table.add_column(_heading(source, target), justify="right", overflow="fold")
    table.add_column("paper", justify="right", style="dim")
    for arm in arms_in_order(s.arm for s in results.scores if (s.source, s.target) in directions):
        cells = [_cell(results, arm, direction) for direction in directions]
        table.add_row(Text(arm, "bold" if arm == WITH else ""), *cells, _paper(arm))
    return table


def _heading(source: str, target: str) -> Text:
    # Text, not str: rich would read a site called [red] as a colour.
    return Text(f"within\n{source}" if source == target else f"{source} →\n{target}")


def _cell(results: Results, arm: str, direction: tuple[str, str]) -> str:
    score = results.score(arm, *direction)
    if score is None:
        return ""
    return "–" if math.isnan(score.mean) else f"{score.mean:.1f} ± {score.std:.1f}"


def _paper(arm: str) -> str:
    return " / ".join(f"{row.mean:.1f}" for row in paper_rows(arm))
