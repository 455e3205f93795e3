"""Attacks on statistics: they find a planted leak, meet closed forms, and find nothing where nothing is."""

import math

import numpy as np
import pytest

from client.audit.statistics import attack, bounds, differencing, membership
from client.gate.budget import multiplier_of
from configs.statistics import CLIP
from configs.statistics import count as numbers_of
from configs.structures import PAPER

NUMBERS = numbers_of(PAPER)

DELTA = 1e-5


def people(count: int, common: float = 5.0, seed: int = 0) -> np.ndarray:
    """Rows like those of a site: what all have in common, and a third as much of each person's own."""
    draws = np.random.default_rng(seed)
    rows = draws.normal(0, 1, (count, NUMBERS)) * 1.6 / math.sqrt(NUMBERS)
    rows[:, 0] += common
    return rows


@pytest.mark.parametrize("drawn", [1, 3])
def test_rows_that_leave_without_noise_are_found(drawn: int) -> None:
    """The planted leak: a mean of one person or of few, as it is. The audit that passes other releases finds it."""
    found = membership(people(12), drawn, multiplier=0.0)
    assert found.auc.value >= 0.9 and found.auc.low >= 0.9 and found.tpr_1.value >= 0.9
    assert found.conclusive and found.people == 12
    assert differencing(people(12), 0.0).auc.low >= 0.9


def test_the_noise_of_a_usual_policy_leaves_an_attack_little() -> None:
    """At epsilon 4 and less a member is found seldom, the less the smaller epsilon is, and never better than bounds."""
    rows = people(20)
    found = [attack(rows, 12, epsilon, DELTA) for epsilon in (8.0, 4.0, 1.0)]
    areas = [one.membership.auc.value for one in found]
    assert areas == sorted(areas, reverse=True) and areas[1] < 0.68 and areas[2] < 0.58
    assert all(one.membership.auc.low < one.bound_mean for one in found)
    assert found[2].membership.tpr_5.value < 0.1


def test_noise_without_end_leaves_an_attack_nothing() -> None:
    """With no information at all the audit finds none: chance lies within every interval."""
    found = membership(people(20), 12, multiplier=1000.0)
    assert found.auc.low < 0.5 < found.auc.high and found.tpr_5.low < 0.05 < found.tpr_5.high


def test_two_releases_are_compared_no_better_than_is_promised() -> None:
    """One who is unlike all others is found more easily by comparing two releases, within the bound for both."""
    rows = people(10)
    rows[3] = 0
    multiplier = multiplier_of(4.0, DELTA)
    found = differencing(rows, multiplier)
    assert 0.5 < found.auc.value < bounds(rows, multiplier).max()
    assert differencing(rows, 50.0).auc.low < 0.5


def test_bounds_go_by_the_length_of_a_row() -> None:
    """As long as may be in both sums: the figures of the page on privacy, 0.73 at epsilon 4. Zeros are never found."""
    longest = np.concatenate([np.eye(1, NUMBERS), -np.eye(1, NUMBERS)]) * 3 * CLIP
    said = {4.0: 0.73, 2.0: 0.63, 1.0: 0.57}
    found = {one: round(float(bounds(longest, multiplier_of(one, DELTA))[0]), 2) for one in said}
    assert found == said
    assert bounds(np.zeros((1, NUMBERS)), 1.0)[0] == 0.5 and bounds(longest, 0.0)[0] == 1.0


def test_the_same_rows_give_the_same_figures() -> None:
    """An audit can be repeated: noise and draws depend on the seed alone."""
    rows = people(8)
    assert attack(rows, 4, 4.0, DELTA) == attack(rows, 4, 4.0, DELTA)
    assert attack(rows, 4, 4.0, DELTA, seed=1) != attack(rows, 4, 4.0, DELTA)


def test_a_release_of_all_or_of_nobody_has_no_membership() -> None:
    """There is nobody to tell members from."""
    for drawn in (0, 8):
        with pytest.raises(ValueError, match="some have to be in, and some out"):
            membership(people(8), drawn, 1.0)
