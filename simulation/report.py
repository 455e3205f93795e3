"""The report of a run: one HTML file that needs nothing else, to be read by someone who has never seen the code."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.pictures import CONVENTION
from configs.shown import size_text
from simulation.arms import ARMS
from simulation.figures import arms_chart, losses_chart, pairs_chart, plain_group, structures_chart
from simulation.gains import Gain, gains
from simulation.measured import Results, arms_in_order
from simulation.overview import brief, is_long, shown
from simulation.panels import REGISTRATION, SEGMENTATION, Panel, direction_name
from simulation.report_pictures import grids, strips, structures_shown
from simulation.report_tables import (
    agreement_tables,
    crossing_tables,
    duration_text,
    score_tables,
    traffic_tables,
)
from sst_models.wire.files import replace_file

if TYPE_CHECKING:
    import jinja2

_RUN_NAMES = {
    "preset": "Preset",
    "data": "Data",
    "seed": "Seed",
    "engine": "Engine",
    "device": "Device",
    "machine": "Machine",
    "started": "Started",
    "seconds": "Time taken",
    "peak_memory": "Peak memory",
    "version": "Version",
    "commit": "Commit",
}


def write_report(results: Results, panels: Sequence[Panel], folder: Path) -> Path:
    """Write `report.html` into `folder` and return its path. What the run has not measured is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
    replace_file(path, report_html(results, panels))
    return path


def report_html(results: Results, panels: Sequence[Panel]) -> str:
    """The report as text; the same results and panels give the same bytes."""
    environment = templates()
    environment.filters["group"] = plain_group
    environment.filters["direction"] = lambda pair: direction_name(*pair)
    return environment.get_template("report.html").render(
        convention=CONVENTION, **_scores(results), **_pictures(results, panels), **_run(results)
    )


def templates() -> "jinja2.Environment":
    """The templates of pages, with what all of them use."""
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["size"] = size_text
    return environment


SIGNIFICANT = 0.05
"""Largest p of the paired test that the headline takes for an effect; five scans cannot give less than 0.06."""


def headline(found: Sequence[Gain], results: Results) -> str:
    """One sentence on what the run showed: how adaptation changed the Dice score at each tested site."""
    if not found:
        arms = len({score.arm for score in results.scores})
        count = len(results.directions)
        return f"{arms} {_many('way', arms)} of segmenting tested in {count} {_many('direction', count)}."
    return f"Giving the training images the style of the tested site {_listed(_changes(found))}."


def _changes(found: Sequence[Gain]) -> list[str]:
    """What happened at each site; the verb is said once for as long as it stays the same."""
    parts, before = [], ""
    for gain in found:
        points = round(gain.points, 1)
        verb = "left" if points == 0 else "raised" if points > 0 else "lowered"
        amount = "unchanged" if points == 0 else f"by {abs(points):.1f} points"
        doubt = f" (p = {gain.p:.2f}, which may be chance)" if points and gain.p > SIGNIFICANT else ""
        parts.append(f"{amount if verb == before else f'{verb} the Dice score {amount}'} at {gain.target}{doubt}")
        before = verb
    return parts


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _many(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _scores(results: Results) -> dict[str, Any]:
    from markupsafe import Markup

    arms = arms_in_order(score.arm for score in (*results.scores, *results.agreements))
    short = brief(results)
    between = [d for d in short.directions if d[0] != d[1]] or list(short.directions)
    found = gains(short)
    return {
        "headline": headline(found, results),
        "gains": found,
        "arms": [(arm, ARMS[arm].meaning if arm in ARMS else "") for arm in arms],
        "arms_chart": Markup(arms_chart(short)) if short.scores else "",
        "one": "pair of sites" if is_long(results) else "test scan",
        "long": is_long(results),
        "tables": score_tables(results),
        "crossings": crossing_tables(results.crossings),
        "agreements": agreement_tables(results.agreements),
        "groups": results.groups,
        "structure_charts": [(d, Markup(structures_chart(short, d))) for d in between],
        "pairs_chart": Markup(pairs_chart(short.pairs)) if short.pairs else "",
    }


def _pictures(results: Results, panels: Sequence[Panel]) -> dict[str, Any]:
    panels = shown(results, panels)
    return {
        "segmentations": strips(results, panels, SEGMENTATION),
        "registrations": strips(results, panels, REGISTRATION),
        "legend": structures_shown([p for p in panels if p.figure in (SEGMENTATION, REGISTRATION)], results.table),
        "grids": grids(results, panels),
    }


def _run(results: Results) -> dict[str, Any]:
    from markupsafe import Markup

    curves = [c for c in results.curves if c.steps and c.losses]
    if is_long(results):  # those with one atlas are like those with another
        curves = [c for c in curves if c.scheme == curves[0].scheme]
    phases = dict.fromkeys(curve.phase for curve in curves)
    return {
        "loss_charts": [(p, Markup(losses_chart([c for c in curves if c.phase == p]))) for p in phases],
        "traffic": traffic_tables(results.traffic),
        "set_aside": results.set_aside,
        "data": results.run.get("data", ""),
        "command": results.run.get("command", ""),
        "facts": list(_facts(results)),
        "timings": [(name, duration_text(s)) for name, s in _timings(results) if not math.isnan(s)],
    }


def _timings(results: Results) -> Iterable[tuple[str, float]]:
    """Give the seconds of each part of a run, the whole last; of a long one the whole alone."""
    parts = [] if is_long(results) else [item for item in results.timings.items() if item[0] != "total"]
    return [*parts, *(item for item in results.timings.items() if item[0] == "total")]


def _facts(results: Results) -> Iterable[tuple[str, str]]:
    """What is known of the run, the known names first and in words."""
    rest = sorted(set(results.run) - set(_RUN_NAMES) - {"command"})
    for name in [*_RUN_NAMES, *rest]:
        value = results.run.get(name, "")
        if value:
            yield _RUN_NAMES.get(name, name.replace("_", " ").capitalize()), _fact(name, value)


def _fact(name: str, value: str) -> str:
    try:
        number = float(value)
    except ValueError:
        return value
    if name == "seconds":
        return duration_text(number)
    return size_text(number) if name == "peak_memory" else value
