"""The panels of a run as cards of the report: pictures as PNG inside the page, each with its caption and alt text."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

import numpy as np

from client.pictures import Image, Labels, Pixels, gray, paint, png_uri
from configs.structures import LabelTable
from simulation.measured import Resemblance, Results, arms_in_order
from simulation.panels import GENERATED, REAL, SCAN, TRUTH, Panel, direction_name

_MARGIN = 3  # pixels kept around the head
_AIR = 0.1  # what is darker than this is not the head


@dataclass(frozen=True)
class Card:
    """One picture with its caption, and below it where it is wrong, if there is a truth to compare with."""

    title: str
    note: str
    alt: str
    picture: str  # data URI
    mistakes: str = ""  # data URI, or empty
    painted: bool = False  # drawn in label colours: must not be smoothed


@dataclass(frozen=True)
class Strip:
    """The cards of one scan: the scan itself, the reference, then one per arm."""

    direction: str
    row: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Grid:
    """Generated images of one direction: `rows` styles by `columns` flows, and real slices to compare with."""

    direction: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Card | None, ...]], ...]
    real: tuple[Card, ...]
    note: str = ""  # how far the generated pairs are from scans


def strips(results: Results, panels: Sequence[Panel], figure: str) -> tuple[Strip, ...]:
    """The strips of Fig. 5 or Fig. 6, in the order in which their scans first appear."""
    chosen = [panel for panel in panels if panel.figure == figure]
    keys = dict.fromkeys((panel.direction, panel.row) for panel in chosen)
    return tuple(_strip(results, [panel for panel in chosen if (panel.direction, panel.row) == key]) for key in keys)


def grids(results: Results, panels: Sequence[Panel]) -> tuple[Grid, ...]:
    """The style by flow grids of Fig. 8, one per direction, with what is known of their resemblance to scans."""
    notes = {direction_name(one.source, one.target): _resemblance(one) for one in results.resemblance}
    chosen = [panel for panel in panels if panel.figure == GENERATED]
    directions = dict.fromkeys(panel.direction for panel in chosen)
    return tuple(
        replace(_grid([panel for panel in chosen if panel.direction == name]), note=notes.get(name, ""))
        for name in directions
    )


def _resemblance(found: Resemblance) -> str:
    ratios = sorted(found.variation.values())
    return (
        f"Volumes of structures vary {ratios[0]:.1f} to {ratios[-1]:.1f} times as much as over scans (median "
        f"{median(ratios):.1f}). A classifier tells generated images from scans with an area under the curve of "
        f"{found.auc:.2f} (0.5: it cannot; 1: always). The generated image that is nearest to a scan has a structural "
        f"similarity of {found.nearest:.2f} to it, the two nearest scans {found.nearest_scans:.2f}: above that, it "
        "would look like a copy. Structures are ordered by brightness as they are in scans in "
        f"{100 * found.order:.0f} % of pairs."
    )


def structures_shown(panels: Sequence[Panel], table: LabelTable) -> tuple[tuple[str, str], ...]:
    """(group, CSS colour) of every structure group that appears in the labels of the panels."""
    present = set().union(*(np.unique(p.labels).tolist() for p in panels if p.labels is not None))
    groups = {s.group: f"rgb{s.color}" for s in reversed(table.structures) if s.index in present}
    return tuple(sorted(groups.items()))


def paint_mistakes(image: Image, labels: Labels, truth: Labels) -> Pixels:
    """The slice, dimmed, with every pixel in orange where the labels differ from the truth, as (H, W, 3)."""
    base = 0.6 * gray(image).astype(np.float32)
    orange = np.array((255, 140, 26), np.float32)
    return np.rint(np.where((labels != truth)[..., None], orange, base)).astype(np.uint8)


def _strip(results: Results, panels: Sequence[Panel]) -> Strip:
    first = panels[0]
    box = _head(panels)
    truth = next((p.labels for p in panels if p.column == TRUTH), None)
    order = [SCAN, TRUTH, *arms_in_order(p.column for p in panels if p.column not in (SCAN, TRUTH))]
    ordered = sorted(panels, key=lambda panel: order.index(panel.column))
    return Strip(first.direction, first.row, tuple(_card(results, panel, truth, box) for panel in ordered))


def _card(results: Results, panel: Panel, truth: Labels | None, box: tuple[slice, slice]) -> Card:
    image = panel.image[box]
    where = f"{panel.row}, {panel.direction}"
    if panel.labels is None or panel.column == SCAN:
        return Card("Scan", "", f"The scan {where}", png_uri(gray(image)))
    labels = panel.labels[box]
    picture = png_uri(paint(image, labels, table=results.table))
    if panel.column == TRUTH:
        return Card("Reference", "outlined beforehand", f"Reference segmentation of {where}", picture, painted=True)
    note = _note(results, panel)
    wrong = "" if truth is None else png_uri(paint_mistakes(image, labels, truth[box]))
    return Card(panel.column, note, f"Segmentation by {panel.column} of {where}", picture, wrong, painted=True)


def _note(results: Results, panel: Panel) -> str:
    """The Dice of the very scan that is shown; of the arm in this direction if the scan is not among its scores."""
    named = (s for s in results.scores if s.arm == panel.column)
    score = next((s for s in named if direction_name(s.source, s.target) == panel.direction), None)
    if score is None:
        return ""
    own = next((scan.mean for scan in score.scans if scan.case == panel.row), None)
    return f"mean Dice {score.mean:.1f}" if own is None else f"Dice {own:.1f} on this scan"


def _grid(panels: Sequence[Panel]) -> Grid:
    box = _head(panels)
    made = [p for p in panels if p.row != REAL]
    columns = tuple(dict.fromkeys(p.column for p in made))
    cards = {(p.row, p.column): _plain(p, f"Generated image, {p.row}, {p.column}", box) for p in made}
    rows = tuple((row, tuple(cards.get((row, c)) for c in columns)) for row in dict.fromkeys(p.row for p in made))
    real = tuple(_plain(p, f"Real image: {p.column}", box) for p in panels if p.row == REAL)
    return Grid(panels[0].direction, columns, rows, real)


def _plain(panel: Panel, alt: str, box: tuple[slice, slice]) -> Card:
    return Card(panel.column, "", f"{alt}, {panel.direction}", png_uri(gray(panel.image[box])))


def _head(panels: Sequence[Panel]) -> tuple[slice, slice]:
    """The part of the picture that holds the head in any of the panels; all of it where their sizes differ."""
    if len({panel.image.shape for panel in panels}) != 1:
        return slice(None), slice(None)
    bright = np.any([panel.image > _AIR for panel in panels], axis=0)
    if not bright.any():
        return slice(None), slice(None)
    spans = [np.flatnonzero(bright.any(axis=axis)) for axis in (1, 0)]
    low, high = ([int(span[end]) for span in spans] for end in (0, -1))
    rows, columns = (slice(max(0, a - _MARGIN), b + 1 + _MARGIN) for a, b in zip(low, high, strict=True))
    return rows, columns
