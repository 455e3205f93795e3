"""The tables of the report as plain text cells, ready for the template."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from configs.shown import size_text
from simulation.arms.arm import ALL
from simulation.measured import ArmScore, Crossing, Results, Traffic, arms_in_order
from simulation.reference import PaperRow, rows_for


@dataclass(frozen=True)
class Cell:
    """One Dice value: its text, how dark its ground is (0 to 1), and whether it is the best of its part."""

    text: str
    shade: float = 0.0
    best: bool = False


@dataclass(frozen=True)
class ScoreRow:
    """One arm, or one row of the paper."""

    name: str
    cells: tuple[Cell, ...]  # one per group
    mean: Cell  # mean +- std


@dataclass(frozen=True)
class ScorePart:
    """Rows under one heading; `paper` if they are not ours."""

    heading: str
    rows: tuple[ScoreRow, ...]
    paper: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """All that was tested at one site."""

    target: str
    scans: int
    parts: tuple[ScorePart, ...]


@dataclass(frozen=True)
class CrossingTable:
    """Each site's U-Net at each site, with one atlas; of many sites, at its own."""

    source: str  # the site of the atlas
    corner: str  # what a row is named by
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]  # whose U-Net, and a cell for each tested site; or the other way


@dataclass(frozen=True)
class AgreementTable:
    """Arms at a site whose scans have no labels, held against another arm."""

    target: str
    against: str
    rows: tuple[tuple[str, str, Cell], ...]  # arm, site of the atlas, mean +- std


@dataclass(frozen=True)
class TrafficTable:
    """Bytes between the hub and each site; a row is (phase, rounds, sizes): down and up for each site in turn."""

    scheme: str
    sites: tuple[str, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]
    totals: tuple[str, ...]
    total: int  # bytes, both ways, all sites


def score_tables(results: Results) -> tuple[ScoreTable, ...]:
    """One table for each tested site: atlases from other sites first, then its own, then the paper's rows."""
    targets = sorted({target for _, target in results.directions})
    return tuple(_score_table(results, target) for target in targets)


def crossing_tables(crossings: Sequence[Crossing]) -> tuple[CrossingTable, ...]:
    """One table for each atlas; none where a single site was tested."""
    found = []
    for source in dict.fromkeys(item.source for item in crossings):
        means = {(item.style, item.target): item.mean for item in crossings if item.source == source}
        styles, targets = (sorted({pair[part] for pair in means}) for part in (0, 1))
        if len(targets) > 1:
            apart = any(style not in (target, ALL) for style, target in means)
            make = _all_models if apart else _own_models
            found.append(make(source, styles, targets, means))
    return tuple(found)


def _all_models(
    source: str, styles: Sequence[str], targets: Sequence[str], means: Mapping[tuple[str, str], float]
) -> CrossingTable:
    """A row a style, a column a site."""
    best = {target: _best(means.get((style, target), math.nan) for style in styles) for target in targets}
    rows = [
        (style, tuple(_cell(means.get((style, target), math.nan), best[target]) for target in targets))
        for style in styles
    ]
    return CrossingTable(source, "Style of", tuple(targets), tuple(rows))


def _own_models(
    source: str, styles: Sequence[str], targets: Sequence[str], means: Mapping[tuple[str, str], float]
) -> CrossingTable:
    """A row a site: what its own model reaches there, and the common one where there is one; no other was tested."""
    common = ALL in styles
    rows = []
    for target in targets:
        cells = [means.get((style, target), math.nan) for style in ((target, ALL) if common else (target,))]
        rows.append((target, tuple(_cell(value, _best(cells)) for value in cells)))
    return CrossingTable(source, "Site", ("its own", ALL) if common else ("its own",), tuple(rows))


def agreement_tables(scores: Sequence[ArmScore]) -> tuple[AgreementTable, ...]:
    """One table for each site without labels."""
    found = []
    for target in sorted({score.target for score in scores}):
        own = [score for score in scores if score.target == target]
        arms = arms_in_order(score.arm for score in own)
        own.sort(key=lambda score: (arms.index(score.arm), score.source))
        rows = tuple((score.arm, score.source, _cell(score.mean, std=score.std)) for score in own)
        found.append(AgreementTable(target, own[0].against, rows))
    return tuple(found)


def traffic_tables(traffic: Sequence[Traffic]) -> tuple[TrafficTable, ...]:
    """One table for each way of training, with phases in the order in which they ran."""
    schemes = dict.fromkeys(item.scheme for item in traffic)
    return tuple(_traffic_table(scheme, [t for t in traffic if t.scheme == scheme]) for scheme in schemes)


def duration_text(seconds: float) -> str:
    """Seconds for people: `1 h 12 min`, `4 min 30 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{seconds:.3g} s"


def _score_table(results: Results, target: str) -> ScoreTable:
    sources = [source for source, tested in results.directions if tested == target]
    parts = [_part(results, source, target) for source in sources]
    parts += [part for part in (_paper(source == target, source, target) for source in sources) if part.rows]
    scans = max(len(s.scans) for s in results.scores if s.target == target)
    return ScoreTable(target, scans, tuple(dict.fromkeys(parts)))


def _part(results: Results, source: str, target: str) -> ScorePart:
    scores = [s for s in results.scores if (s.source, s.target) == (source, target)]
    arms = arms_in_order(s.arm for s in scores)
    scores = sorted(scores, key=lambda s: arms.index(s.arm))
    best = {g: _best(s.groups.get(g, math.nan) for s in scores if s.arm != "supervised") for g in results.groups}
    best_mean = _best(s.mean for s in scores if s.arm != "supervised")
    heading = f"Within {target}" if source == target else f"Atlas from {source}"
    return ScorePart(heading, tuple(_row(s, results.groups, best, best_mean) for s in scores))


def _row(score: ArmScore, groups: Sequence[str], best: dict[str, float], best_mean: float) -> ScoreRow:
    own = score.groups
    # A bound is not a rival: the supervised row is never marked as the best.
    rival = score.arm != "supervised"
    cells = tuple(_cell(own.get(g, math.nan), best[g] if rival else math.nan) for g in groups)
    return ScoreRow(score.arm, cells, _cell(score.mean, best_mean if rival else math.nan, score.std))


def _paper(within: bool, source: str, target: str) -> ScorePart:
    kind = "within a site" if within else "between sites"
    rows = tuple(_paper_row(row) for row in rows_for(source, target))
    return ScorePart(f"For reference: the paper, {kind}, on other data", rows, paper=True)


def _paper_row(row: PaperRow) -> ScoreRow:
    where = row.source if row.source == row.target else f"{row.source} → {row.target}"
    cells = tuple(_cell(value) for value in row.groups.values())
    return ScoreRow(f"{where}: {row.method}", cells, _cell(row.mean, math.nan, row.std))


def _cell(value: float, best: float = math.nan, std: float | None = None) -> Cell:
    if math.isnan(value):
        return Cell("–")
    text = f"{value:.1f}" if std is None else f"{value:.1f} ± {std:.1f}"
    return Cell(text, round(max(0.0, min(1.0, value / 100)) ** 2, 2), value == best)


def _best(values: Iterable[float]) -> float:
    known = [v for v in values if not math.isnan(v)]
    return max(known) if len(known) > 1 else math.nan


def _traffic_table(scheme: str, items: Sequence[Traffic]) -> TrafficTable:
    sites = tuple(sorted({item.site for item in items}))
    rows = []
    for phase in dict.fromkeys(item.phase for item in items):
        part = [item for item in items if item.phase == phase]
        rows.append((phase, str(len({item.round for item in part})), tuple(map(size_text, _sums(part, sites)))))
    sums = _sums(items, sites)
    return TrafficTable(scheme, sites, tuple(rows), tuple(map(size_text, sums)), sum(sums))


def _sums(items: Sequence[Traffic], sites: Sequence[str]) -> list[int]:
    sums = []
    for site in sites:
        own = [item for item in items if item.site == site]
        sums += [sum(item.down for item in own), sum(item.up for item in own)]
    return sums
