"""Small line charts for a page that lives: where lines and numbers lie, for a template to draw as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from server.facts import Curve, Loss

WIDTH, HEIGHT = 320, 190
"""Of a chart, in units of its own."""

LEFT, RIGHT, TOP, BOTTOM = 52, 22, 14, 38
"""Margins, for numbers and names of the axes."""

COLOURS = 6
"""Lines that have a look of their own; with more sites all have one."""


@dataclass(frozen=True)
class Tick:
    """One number of an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One site's curve."""

    site: str
    look: int  # of the site, from 0; -1 where there are too many to tell
    points: str  # of a polyline
    end: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """One loss."""

    name: str
    label: str  # what it shows, for those who hear the page read to them
    lines: tuple[Line, ...]
    across: tuple[Tick, ...]  # steps
    up: tuple[Tick, ...]  # values


@dataclass(frozen=True)
class PhaseCharts:
    """All losses of one phase."""

    phase: str
    looks: tuple[tuple[str, int], ...]  # sites and their looks; none where there are too many
    charts: tuple[Chart, ...]
    losses: tuple[Loss, ...]


def phase_charts(losses: Sequence[Loss]) -> list[PhaseCharts]:
    """Lay out the charts of all phases, the newest phase first."""
    phases = list(dict.fromkeys(loss.phase for loss in losses))
    sites = sorted({curve.site for loss in losses for curve in loss.curves})
    looks = {site: number if len(sites) <= COLOURS else -1 for number, site in enumerate(sites)}
    found = []
    for phase in reversed(phases):
        own = tuple(loss for loss in losses if loss.phase == phase and loss.curves)
        there = sorted({curve.site for loss in own for curve in loss.curves})
        named = tuple((site, looks[site]) for site in there if looks[site] >= 0)
        found.append(PhaseCharts(phase, named, tuple(_chart(loss, looks) for loss in own), own))
    return found


def _chart(loss: Loss, looks: dict[str, int]) -> Chart:
    steps = [step for curve in loss.curves for step in curve.steps]
    values = [value for curve in loss.curves for value in curve.values]
    low, high = min(values), max(values)
    up, across = ticks(low, high, 3), ticks(0.0, float(max(steps)), 4, whole=True)
    low, high, last = min(low, up[0]), max(high, up[-1]), max(across[-1], float(max(steps)))

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / last, 1)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    def line(curve: Curve) -> Line:
        places = [(x(step), y(value)) for step, value in zip(curve.steps, curve.values, strict=True)]
        return Line(curve.site, looks[curve.site], " ".join(f"{a},{b}" for a, b in places), places[-1])

    latest = ", ".join(f"{curve.site} {curve.values[-1]:.4g}" for curve in loss.curves[:COLOURS])
    return Chart(
        loss.name,
        f"Loss {loss.name} of the phase {loss.phase} over {max(steps)} steps; latest: {latest}",
        tuple(line(curve) for curve in loss.curves),
        tuple(Tick(x(value), f"{value:g}") for value in across),
        tuple(Tick(y(value), f"{value:.6g}") for value in up),
    )


def ticks(low: float, high: float, about: int, whole: bool = False) -> list[float]:
    """Give about so many round numbers that reach from `low` or below to `high` or above; two at least.

    Args:
        low: end of what is shown.
        high: the other.
        about: how many.
        whole: numbers without a fraction alone, as of steps.
    """
    if high <= low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    rough = max((high - low) / about, 1.0 if whole else 0.0)
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
