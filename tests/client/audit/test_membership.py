"""How an attack is measured: closed forms of AUC and of rates, ties, intervals, and LiRA's ratio."""

import numpy as np
import pytest

from client.audit.membership import DRAWS, LEAST, Shadows, measure


def measured(members: list[float], others: list[float]) -> tuple[float, float, float]:
    """AUC and the rates at 1 % and 5 % of scores, each of a person of her own."""
    scores = np.array([*members, *others])
    found = measure(scores, np.arange(len(scores)) < len(members), np.arange(len(scores)))
    return found.auc.value, found.tpr_1.value, found.tpr_5.value


def test_figures_of_an_attack_are_those_that_one_counts_by_hand() -> None:
    """Of all pairs of a member and another, how many are in order; of members, how many are above all others."""
    assert measured([3, 1], [2, 0]) == (0.75, 0.5, 0.5)
    assert measured([2, 3], [0, 1]) == (1.0, 1.0, 1.0)
    assert measured([0, 1], [2, 3]) == (0.0, 0.0, 0.0)
    others = [float(number) for number in range(100)]
    assert measured([97.5, 98.5, 94.5, 10.0], others) == pytest.approx(((98 + 99 + 95 + 10.5) / 400, 0.25, 0.75))


def test_decisions_of_one_score_are_taken_together() -> None:
    """A tie counts half in the area, and no threshold lies within it."""
    assert measured([1, 1, 1], [1, 1, 1]) == (0.5, 0.0, 0.0)
    assert measured([1, 1], [1, 0]) == (0.75, 0.0, 0.0)


def test_figures_do_not_depend_on_the_scale_of_scores_nor_on_names() -> None:
    """A monotone change of all scores changes nothing, not even the interval, nor does the order of decisions."""
    draws = np.random.default_rng(0)
    member, person = np.tile([True, False], 100), np.repeat(np.arange(20), 10)
    scores = draws.normal(0, 1, 200) + member
    found = measure(scores, member, person)
    assert measure(np.exp(scores), member, person) == found
    order = draws.permutation(200)
    assert measure(scores[order], member[order], person[order]).auc == found.auc


def test_an_interval_is_about_people_and_holds_the_truth_as_often_as_it_says() -> None:
    """Decisions about the same person are drawn together: ten of each make it no narrower. Nine in ten hold 0.5."""
    draws, held = np.random.default_rng(1), 0
    for _ in range(40):
        scores = draws.normal(0, 1, 60)
        found = measure(scores, np.arange(60) < 30, np.arange(60))
        held += found.auc.low <= 0.5 <= found.auc.high
    assert held >= 34 and DRAWS == 1000
    again = measure(np.tile(scores, 10), np.tile(np.arange(60) < 30, 10), np.tile(np.arange(60), 10))
    assert (again.auc, again.people) == (found.auc, 60)
    assert again.conclusive and not found.conclusive and LEAST == 500


def test_an_attack_without_members_or_with_a_score_that_is_no_number_is_refused() -> None:
    """Nothing can be said of it."""
    for scores, member in (([1.0, 2.0], [True, True]), ([1.0, 2.0], [False, False]), ([1.0, np.nan], [True, False])):
        with pytest.raises(ValueError, match="finite scores of members and of others"):
            measure(np.array(scores), np.array(member), np.arange(2))


def test_the_ratio_of_lira_is_that_of_two_gaussians() -> None:
    """Scores at three shadow sites in, three out: means 2 and 0, variances 1 and 4."""
    member = np.array([True] * 3 + [False] * 3)[:, None]
    fitted = Shadows.of(np.array([1.0, 2, 3, -2, 0, 2])[:, None], member)
    expected = -((1.0 - 2) ** 2) / 2 + 1.0**2 / 8 + np.log(2)
    assert fitted.ratio(np.array([[1.0]]))[0, 0] == pytest.approx(expected)
    with pytest.raises(ValueError, match="two shadow sites"):
        Shadows.of(np.zeros((3, 1)), np.array([[True], [True], [False]]))
