"""A run of many sites in brief: one value for each pair of sites, in place of one for each scan."""

from collections.abc import Sequence
from dataclasses import replace

from simulation.measured import ArmScore, PairsPoint, Results, ScanScore, arms_in_order, mean_of, std_of
from simulation.panels import Panel, direction_name

MOST = 8
"""Pairs of sites that are shown one by one: those of three sites, and what is within two of them."""

OTHERS, EACH = "other sites", "each site"
"""What source and target are called in brief; within a site both are `EACH`."""


def is_long(results: Results) -> bool:
    """Say whether there are too many pairs of sites to be shown one by one."""
    return sum(source != target for source, target in results.directions) > MOST


def brief(results: Results) -> Results:
    """Give the same results with scores over pairs of sites, whose "scans" are these pairs; short ones as they are."""
    if not is_long(results):
        return results
    scores = []
    for source in (OTHERS, EACH):
        some = [score for score in results.scores if (score.source == score.target) == (source == EACH)]
        for arm in arms_in_order(score.arm for score in some):
            pairs = tuple(_pair(score) for score in some if score.arm == arm)
            scores.append(ArmScore(arm, source, EACH, pairs))
    return replace(results, scores=tuple(scores), pairs=_points(results.pairs))


def shown(results: Results, panels: Sequence[Panel]) -> list[Panel]:
    """Choose the pictures that are shown: all, or of each tested site those with the first of many atlases."""
    if not is_long(results):
        return list(panels)
    tested = {(score.source, score.target) for score in (*results.scores, *results.agreements)}
    first = {target: direction_name(source, target) for source, target in sorted(tested, reverse=True)}
    return [panel for panel in panels if panel.direction in first.values()]


def _pair(score: ArmScore) -> ScanScore:
    name = direction_name(score.source, score.target)
    return ScanScore(name, score.groups, score.mean, score.hd95, score.folded)


def _points(points: Sequence[PairsPoint]) -> tuple[PairsPoint, ...]:
    """Give one point for each arm and number of pairs that was tested between all sites."""
    found = []
    for arm, count in sorted({(point.arm, point.pairs) for point in points}):
        means = tuple(point.mean for point in points if (point.arm, point.pairs) == (arm, count))
        found.append(PairsPoint(arm, OTHERS, EACH, count, mean_of(means), std_of(means), means))
    return tuple(found)
