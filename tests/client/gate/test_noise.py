"""Noise on what people are measured by, and the budget of it: what a site promises in numbers."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.gate import budget, gate, ledger
from client.gate.noise import (
    STEP,
    _likely,
    _one_step,
    from_system,
    multiplier_in,
    noisy_mean,
    protect,
    repeatable,
    whole,
)
from client.gate.policy import Policy
from client.gate.receipts import NAME
from client.site import Site
from configs.errors import RefusalError, ReleaseError, RunError
from configs.statistics import CLIP, FIRST, NEAR, shapes
from configs.statistics import count as numbers_of
from configs.structures import PAPER
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel

NUMBERS = numbers_of(PAPER)
SHAPES = shapes(PAPER)

DELTA = 1e-5
USUAL = Policy()
ROWS = arrays(
    np.float64, st.tuples(st.integers(1, 6), st.just(5)), elements=st.floats(allow_nan=False, allow_infinity=False)
)


def none(numbers: int, _: float) -> np.ndarray:
    """No noise."""
    return np.zeros(numbers, np.int64)


@given(ROWS)
def test_no_row_is_longer_than_it_may_be(rows: np.ndarray) -> None:
    """Whatever an app measured: in whole numbers, where no rounding can add to it; a short one stays as it is."""
    found = whole(np.clip(rows, -1e100, 1e100), CLIP)
    for row, given_row in zip(found, rows, strict=True):
        assert sum(int(value) ** 2 for value in row) <= int(CLIP / STEP) ** 2
        if np.abs(given_row).max() < 1:
            np.testing.assert_allclose(row * STEP, given_row, atol=STEP, rtol=0)


class Drawn:
    """Noise that is drawn once and then comes again, and what it was asked for."""

    def __init__(self) -> None:
        """Keep what is asked for."""
        self.asked: list[float] = []

    def __call__(self, numbers: int, deviation: float) -> np.ndarray:
        """Draw."""
        self.asked.append(deviation)
        return repeatable(str(len(self.asked)))(numbers, deviation)


def test_noise_hides_a_person_in_both_steps_as_much_as_is_promised() -> None:
    """What she can move each sum by, over its noise: squared and added, as much as one sum with the multiplier has."""
    people = np.random.default_rng(1).normal(0.5, 0.3, (25, NUMBERS))
    for multiplier in (1.158, 4.0):
        draw = Drawn()
        noisy_mean(people, multiplier, draw)
        lengths = [CLIP, min(CLIP, math.hypot(NEAR, _unsure(people, multiplier)))]
        costs = [(length / (deviation * STEP)) ** 2 for length, deviation in zip(lengths, draw.asked, strict=True)]
        assert sum(costs) == pytest.approx(1 / multiplier**2, rel=1e-9)


def _unsure(people: np.ndarray, multiplier: float) -> float:
    """How far off the rough mean may be, from what the first step gave."""
    return _likely(_one_step(people, CLIP, multiplier / math.sqrt(FIRST), Drawn()))[1]


def test_a_person_moves_each_sum_by_no_more_than_her_row() -> None:
    """With and without her, be she as far out as a float goes."""
    people = np.random.default_rng(1).normal(0, 0.3, (25, NUMBERS))
    for length in (CLIP, NEAR):
        without, odd = people.copy(), people.copy()
        without[7], odd[7] = 0.0, 1e90
        apart = _one_step(odd, length, 0.0, none).mean - _one_step(without, length, 0.0, none).mean
        assert np.linalg.norm(apart) * 25 == pytest.approx(length, rel=1e-4)


def test_the_second_step_takes_most_of_the_noise_away() -> None:
    """A site far from the atlas whose people are alike: two thirds of the noise of one step; the mean is found."""
    people = 1.1 + np.random.default_rng(4).normal(0, 0.25, (25, NUMBERS))
    found = noisy_mean(people, 1.158, repeatable("two steps"))
    assert found.noise < 0.7 * 1.158 * CLIP / 25
    assert np.sqrt(np.mean((found.mean - people.mean(0)) ** 2)) < 1.4 * found.noise
    exact = noisy_mean(people, 0.0, none)
    np.testing.assert_allclose(exact.mean, people.mean(0), atol=0.03)
    assert exact.noise == 0


def test_what_all_numbers_have_in_common_outlasts_the_noise_of_the_first_step() -> None:
    """A dozen people at epsilon 2 are too few for each number, not for what they have in common."""
    people = 1.2 + np.random.default_rng(6).normal(0, 0.25, (12, NUMBERS))
    multiplier = budget.multiplier_of(2.0, DELTA)
    found = [noisy_mean(people, multiplier, repeatable(f"dozen {draw}")) for draw in range(20)]
    assert found[0].noise < 0.8 * multiplier * CLIP / 12
    off = np.square([one.mean - people.mean(0) for one in found]).mean()
    assert math.sqrt(off) < 1.1 * found[0].noise


def test_a_mean_of_noise_alone_shrinks_to_nothing() -> None:
    """At a site of few people like the atlas's, the rough mean says nothing, and is not taken for the centre."""
    few = np.random.default_rng(5).normal(0, 0.2, (5, NUMBERS))
    assert noisy_mean(few, 1.158, repeatable("few")).noise <= 1.158 / math.sqrt(1 - FIRST) * CLIP / 5


def test_noise_has_the_deviation_that_was_asked_for_and_is_new_each_time() -> None:
    """Of the operating system; a simulated site's can be drawn again by its words."""
    drawn = np.concatenate([from_system(NUMBERS, 1e6) for _ in range(200)])
    assert abs(drawn.std() / 1e6 - 1) < 0.05 and abs(drawn.mean()) < 1e5
    assert not np.array_equal(from_system(NUMBERS, 1e6), from_system(NUMBERS, 1e6))
    again = repeatable("a")(4000, 1e6)
    assert np.array_equal(again, repeatable("a")(4000, 1e6)) and abs(again.std() / 1e6 - 1) < 0.05
    assert not np.array_equal(again, repeatable("b")(4000, 1e6))


def test_one_who_joins_is_hardly_found_by_comparing_two_releases() -> None:
    """Differencing at epsilon 4, by the best test that there is: no more than is promised, not as without noise."""
    multiplier = budget.multiplier_of(4.0, DELTA)
    people = 0.8 + np.random.default_rng(2).normal(0, 0.25, (26, NUMBERS))
    her = people[25] - people[:25].mean(0)
    noise = repeatable("differencing")
    scores: dict[bool, list[float]] = {True: [], False: []}
    for joined in (True, False):
        for _ in range(300):
            before = noisy_mean(people[:25], multiplier, noise).mean
            after = noisy_mean(people if joined else np.vstack([people[:25], people[3:4]]), multiplier, noise).mean
            scores[joined].append(float((after - before) @ her))
    found = np.mean(np.array(scores[True]) > np.quantile(scores[False], 0.95))
    assert found < 0.15  # chance is 0.05; without noise she is always found


@pytest.mark.parametrize("epsilon", [1.0, 2.0, 4.0, 8.0])
def test_the_multiplier_is_that_of_the_accountant(epsilon: float) -> None:
    """dp-accounting's own figure of it is epsilon, not more, and not much less."""
    multiplier = budget.multiplier_of(epsilon, DELTA)
    accountant = rdp.RdpAccountant().compose(dp_accounting.GaussianDpEvent(multiplier))
    assert 0.99 * epsilon < accountant.get_epsilon(DELTA) <= epsilon
    assert budget.epsilon_of((multiplier,), DELTA) == accountant.get_epsilon(DELTA)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(0.3, 20), min_size=1, max_size=6))
def test_releases_together_cost_what_the_accountant_says(multipliers: list[float]) -> None:
    """However they are ordered, more than each of them alone, and less than the sum of them."""
    accountant = rdp.RdpAccountant()
    for multiplier in multipliers:
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
    found = budget.epsilon_of(tuple(multipliers), DELTA)
    assert found == accountant.get_epsilon(DELTA)
    assert found == pytest.approx(budget.epsilon_of(tuple(reversed(multipliers)), DELTA), rel=1e-9)
    single = [budget.epsilon_of((multiplier,), DELTA) for multiplier in multipliers]
    assert max(single) <= found * (1 + 1e-9) and found <= sum(single) * (1 + 1e-9)


def test_no_release_costs_nothing_and_one_without_noise_all() -> None:
    """Infinity, as no number is a promise then."""
    assert budget.epsilon_of((), DELTA) == 0 and math.isinf(budget.epsilon_of((1.0, 0.0), DELTA))
    assert budget.multiplier_of(math.inf, DELTA) == 0
    with pytest.raises(ValueError, match="positive"):
        budget.multiplier_of(0.0, DELTA)


def statistics(multiplier: float, people: int = 25) -> Arrays:
    """Statistics with noise of a multiplier."""
    numbers = {"mean": np.full(NUMBERS, multiplier), "noise": [multiplier * NEAR / people], "multiplier": [multiplier]}
    return {name: np.array(values, np.float32) for name, values in numbers.items()}


def release(gate: Path, run: str, multiplier: float = budget.multiplier_of(USUAL.epsilon, DELTA)) -> None:
    """Write into the ledger what the gate writes when statistics leave."""
    sent = {"statistics": statistics(multiplier)}
    reply = SiteReply("north", "statistics", 1, 25, arrays=sent)
    ledger.append(gate / ledger.NAME, PhaseRequest(run, "statistics", 1, "north", "{}"), reply, Parcel(sent))


def test_the_budget_is_what_the_ledger_says(tmp_path: Path) -> None:
    """Three runs of epsilon 1 are within 2 and a fourth is not; one that was sent again is still one."""
    for number in range(3):
        budget.check(tmp_path, f"run{number}", USUAL)
        release(tmp_path, f"run{number}")
        release(tmp_path, f"run{number}")
    assert 1.5 < budget.spent(tmp_path / ledger.NAME, DELTA) <= 2
    with pytest.raises(RefusalError, match=r"bring the total from 1\.\d+ to 2\.\d+ .*allows 2 \(most_epsilon\)"):
        budget.check(tmp_path, "run3", USUAL)
    budget.check(tmp_path, "run2", USUAL)  # it gets again what it got
    with pytest.raises(RefusalError, match="left once"):
        budget.check_once(tmp_path, "run2")
    budget.check(tmp_path, "run3", Policy(most_epsilon=2.5))


def test_no_clock_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day, or a year, brings nothing back."""
    for number in range(3):
        release(tmp_path, f"run{number}")
    for moment in (0.0, 4e9):
        monkeypatch.setattr("time.time", lambda moment=moment: moment)
        with pytest.raises(RefusalError, match="most_epsilon"):
            budget.check(tmp_path, "run3", USUAL)


def test_an_old_copy_of_the_folder_cannot_spend_again(tmp_path: Path) -> None:
    """The hub's receipts name an entry that the copy does not have; a ledger that was cut or changed is none either."""
    gate, copy = tmp_path / "gate", tmp_path / "copy"
    release(gate, "run0")
    shutil.copytree(gate, copy)
    release(gate, "run1")
    last = json.loads((gate / ledger.NAME).read_text().splitlines()[-1])["hash"]
    (copy / NAME).write_text(json.dumps([[last, ""]]))
    with pytest.raises(RefusalError, match="lacks 1 entries that the hub has seen"):
        budget.check(copy, "run2", USUAL)
    text = (gate / ledger.NAME).read_text()
    assert '"noise":4.' in text
    (gate / ledger.NAME).write_text(text.replace('"noise":4.', '"noise":9.'))
    with pytest.raises(RunError, match="altered"):
        budget.check(gate, "run2", USUAL)


def test_statistics_that_left_without_noise_use_the_budget_up(tmp_path: Path) -> None:
    """Also those of versions that knew no noise; whoever wants none says so twice."""
    release(tmp_path, "old", 0.0)
    with pytest.raises(RefusalError, match="from inf to inf"):
        budget.check(tmp_path, "new", USUAL)
    budget.check(tmp_path, "new", Policy(epsilon=math.inf, most_epsilon=math.inf))


@pytest.mark.parametrize(
    "people",
    [
        np.zeros((5, NUMBERS + 1), np.float32),
        np.zeros(NUMBERS, np.float32),
        np.zeros((5, NUMBERS), np.int32),
        np.zeros((0, NUMBERS), np.float32),
        np.full((5, NUMBERS), np.nan, np.float32),
    ],
)
def test_an_app_that_measures_something_else_is_no_use(people: np.ndarray) -> None:
    """Nothing of it leaves, in any form."""
    reply = SiteReply("north", "statistics", 1, 5, arrays={"statistics": {"people": people}})
    with pytest.raises(ReleaseError, match="the app's statistics"):
        protect(reply, 1.0, none, NUMBERS)
    with pytest.raises(ReleaseError, match="the app's statistics"):
        protect(SiteReply("north", "statistics", 1, 5), 1.0, none, NUMBERS)


def test_what_leaves_is_a_mean_with_noise_and_how_much_of_it() -> None:
    """The people's numbers stay; the multiplier can be read off, for the ledger and for the check before release."""
    rows = np.random.default_rng(3).normal(0, 0.2, (9, NUMBERS)).astype(np.float32)
    reply = protect(SiteReply("n", "statistics", 1, 40, arrays={"statistics": {"people": rows}}), 1.158, none, NUMBERS)
    sent: Mapping[str, Any] = reply.arrays["statistics"]
    assert reply.count == 9 and {name: array.shape for name, array in sent.items()} == SHAPES
    np.testing.assert_allclose(sent["mean"], rows.mean(0), atol=1e-5)
    assert multiplier_in(sent) == 1.158


def test_a_hospitals_noise_is_the_operating_systems(tmp_path: Path) -> None:
    """Also where its salt was lost; a simulated site alone can draw the same again."""
    request = PhaseRequest("run", "statistics", 1, "north", "{}")
    simulated = Site("north", (tmp_path,), tmp_path, USUAL)
    for site in (replace(simulated, gate_folder=tmp_path / "gate"), replace(simulated, salt=b"secret")):
        assert gate._draw(request, site) is from_system
    first, again = (gate._draw(request, simulated)(9, 1e6) for _ in range(2))
    assert np.array_equal(first, again)
