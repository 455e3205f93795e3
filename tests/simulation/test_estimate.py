"""The time left, on clocks that are simulated: steady, slower for a while, stopped for a while, and any other."""

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulation.estimate import MOST, WARM, Estimate

Speed = Callable[[float], float]  # clock -> units a second


def looks(speed: Speed, units: float, every: float = 1.0, pause: tuple[float, float] = (0.0, 0.0)) -> Iterator[tuple]:
    """Run one stage; give the clock, the time left that is shown and the units left, at each look.

    Args:
        speed: units a second at a time of the clock.
        units: work of the stage.
        every: seconds between two looks.
        pause: the clock at which everything stops, and seconds for which it does.
    """
    estimate, now, done = Estimate(), 0.0, 0.0
    estimate.plan({"a": units})
    estimate.begin("a", units, now)
    while done < units:
        stopped = pause[1] if now < pause[0] <= now + every else 0.0
        done = min(units, done + every * speed(now))
        now += every + stopped
        estimate.advance(done, now)
        yield now, estimate.left, units - done


def jumps(shown: list[tuple]) -> list[float]:
    """Give by which factor the time left changed from each look to the next, beside what the work done explains."""
    said = [(left, rest) for _, left, rest in shown if left]
    return [b / a / (rest_b / rest_a) for (a, rest_a), (b, rest_b) in zip(said, said[1:], strict=False)]


def test_it_covers_the_stages_that_are_planned() -> None:
    """At 1 unit a second, half of the first of two stages leaves the other half and the second stage."""
    estimate = Estimate()
    estimate.plan({"a": 40.0, "b": 80.0})
    estimate.begin("a", 40.0, now=0.0)
    assert estimate.left is None
    estimate.advance(20.0, now=20.0)
    assert estimate.left == pytest.approx(20.0 + 80.0)
    assert estimate.share == pytest.approx(20 / 120)
    estimate.begin("b", 80.0, now=40.0)
    assert estimate.left == pytest.approx(80.0)


def test_nothing_is_said_before_there_is_a_plan_and_some_work() -> None:
    """Work before the plan has units of another scale; then the first seconds tell too little."""
    estimate = Estimate()
    estimate.begin("make the sites", 20.0, now=0.0)
    estimate.advance(15.0, now=15.0)
    assert estimate.left is None
    estimate.plan({"a": 1000.0})
    estimate.begin("a", 1000.0, now=20.0)
    estimate.advance(1.0, now=20.0 + WARM / 2)
    assert estimate.left is None
    estimate.advance(100.0, now=20.0 + WARM)
    assert estimate.left == pytest.approx(900.0 / 10.0, rel=0.05)


def test_work_of_an_earlier_run_is_not_counted_as_speed() -> None:
    """A stage that is found half done when it begins is estimated from the other half."""
    estimate = Estimate()
    estimate.plan({"a": 10.0})
    estimate.begin("a", 10.0, now=0.0)
    estimate.advance(5.0, now=0.1)
    assert estimate.left is None
    estimate.advance(6.0, now=20.1)
    assert estimate.left == pytest.approx(4.0 * 20.0)


def test_done_never_goes_back() -> None:
    """A late report of less work leaves the share where it was."""
    estimate = Estimate()
    estimate.begin("a", 10.0, now=0.0)
    estimate.advance(8.0, now=5.0)
    estimate.advance(3.0, now=6.0)
    assert estimate.share == pytest.approx(0.8)


def test_a_stage_is_estimated_from_its_own_pace() -> None:
    """Units of the second stage take three times as long: after five minutes it is right within a quarter."""
    estimate = Estimate()
    estimate.plan({"a": 600.0, "b": 600.0})
    estimate.begin("a", 600.0, now=0.0)
    for second in range(1, 601):
        estimate.advance(second, now=second)
    estimate.begin("b", 600.0, now=600.0)
    for second in range(1, 301):
        estimate.advance(second / 3, now=600.0 + second)
    assert estimate.left == pytest.approx(1500.0, rel=0.25)


def test_one_stage_does_not_spoil_the_estimate_of_the_others() -> None:
    """An hour at one unit a second, then five minutes at a third of it: what is still to come hardly changes."""
    estimate = Estimate()
    estimate.plan({"a": 3600.0, "b": 100.0, "c": 3600.0})
    estimate.begin("a", 3600.0, now=0.0)
    for second in range(1, 3601):
        estimate.advance(second, now=second)
    estimate.begin("b", 100.0, now=3600.0)
    for second in range(1, 301):
        estimate.advance(second / 3, now=3600.0 + second)
    assert estimate.left == pytest.approx(3600.0, rel=0.15)


def test_sites_that_report_together_count_as_two() -> None:
    """Two sites work at the same time, and each reports a unit every minute, the second just after the first."""
    estimate = Estimate()
    estimate.plan({"a": 100.0})
    estimate.begin("a", 100.0, now=0.0)
    for minute in range(1, 31):
        estimate.advance(2 * minute - 1, now=60.0 * minute)
        estimate.advance(2 * minute, now=60.0 * minute + 0.1)
    assert estimate.left == pytest.approx(40 * 30.0, rel=0.05)


def test_work_that_is_found_done_on_the_way_is_not_counted_as_speed() -> None:
    """Scans of a minute each, then thirty that an earlier run had prepared: the others still take a minute each."""
    estimate, now = Estimate(), 0.0
    estimate.plan({"a": 100.0})
    estimate.begin("a", 100.0, now)
    for unit in range(1, 61):
        now += 0.5 if 20 <= unit < 50 else 60.0
        estimate.advance(unit, now)
    assert estimate.left == pytest.approx(40 * 60.0, rel=0.1)


@pytest.mark.parametrize("every", [0.5, 7.0, 60.0])
def test_at_constant_speed_it_is_right_from_the_first_look(every: float) -> None:
    """Whatever the time between looks; nothing jumps."""
    shown = list(looks(lambda now: 2.0, 7200.0, every))
    assert next(now for now, left, _ in shown if left) <= max(2 * WARM, every)
    assert all(left == pytest.approx(rest / 2.0) for _, left, rest in shown if left)
    assert jumps(shown) == pytest.approx([1.0] * len(jumps(shown)))


@pytest.mark.parametrize("every", [0.5, 7.0, 60.0])
def test_a_machine_that_is_slower_for_a_while_moves_it_slowly_there_and_back(every: float) -> None:
    """Three times slower for 20 minutes: it has followed by then, and half an hour later all is as before."""
    shown = list(looks(lambda now: 1.0 if 1800.0 <= now < 3000.0 else 3.0, 21600.0, every))
    assert max(jumps(shown)) <= MOST + 1e-9 and min(jumps(shown)) >= 1 / MOST - 1e-9
    pace = {now: left / rest for now, left, rest in shown if left}  # seconds a unit
    assert max(pace.values()) <= 1.0 + 1e-9
    assert all(value > 0.75 for now, value in pace.items() if 2880.0 < now <= 3000.0)
    assert all(value == pytest.approx(1 / 3, rel=0.15) for now, value in pace.items() if now < 1800.0 or now > 4800.0)


@pytest.mark.parametrize("every", [0.5, 7.0, 60.0])
def test_a_pause_hardly_moves_it(every: float) -> None:
    """After 20 minutes in which everything was stopped the time left is a fifth too long at most."""
    shown = list(looks(lambda now: 2.0, 14400.0, every, pause=(1800.0, 1200.0)))
    assert shown[-1][0] > 14400.0 / 2.0 + 1100.0  # the pause was there
    wrong = [left / (rest / 2.0) for _, left, rest in shown if left]
    assert max(wrong) <= 1.2 and min(wrong) >= 0.99


def test_on_a_busy_machine_it_stays_near_the_truth() -> None:
    """The speed changes between 1 and 5 units a second every two minutes: it is right within a factor of 1.6."""
    rng = random.Random(1)
    speeds = [rng.uniform(1.0, 5.0) for _ in range(200)]
    shown = list(looks(lambda now: speeds[int(now / 120.0)], 21600.0, 3.0))
    end = shown[-1][0]
    wrong = [left / (end - now) for now, left, _ in shown if left and 600.0 < now < end - 600.0]
    assert min(wrong) > 1 / 1.6 and max(wrong) < 1.6
    assert max(jumps(shown)) <= 1.1


reports = st.tuples(
    st.floats(0.01, 5000.0), st.just(0.0) | st.floats(0.01, 200.0)
)  # seconds since the last one, and units


@given(st.lists(reports, max_size=40))
def test_no_report_makes_it_jump(given: list[tuple[float, float]]) -> None:
    """Whatever is reported and whenever, in any stage: it grows by `MOST` at most, and falls for what is done."""
    estimate, now, stages = Estimate(), 0.0, iter("abcdefgh")
    estimate.plan(dict.fromkeys("abcdefgh", 300.0))
    estimate.begin(next(stages), 300.0, now)
    done, before = 0.0, None
    for seconds, units in given:
        now, done = now + seconds, done + units
        if done > 300.0:
            done, name = 0.0, next(stages, None)
            if name is None:
                break
            estimate.begin(name, 300.0, now)
        else:
            estimate.advance(done, now)
        if before is not None:
            assert estimate.left is not None and estimate.left <= MOST * before * (1 + 1e-9)
        before = estimate.left


@given(st.lists(reports, min_size=3, max_size=40))
def test_no_report_makes_it_fall_without_work(given: list[tuple[float, float]]) -> None:
    """Within a stage it falls by the share of the rest that was done, and by `MOST` at most beside that."""
    estimate, now, done, shown = Estimate(), 0.0, 0.0, []
    estimate.plan({"a": 8000.0})
    estimate.begin("a", 8000.0, now)
    for seconds, units in given:
        now, done = now + seconds, min(7999.0, done + units)
        estimate.advance(done, now)
        shown.append((now, estimate.left, 8000.0 - done))
    assert all(1 / MOST * (1 - 1e-9) <= jump <= MOST * (1 + 1e-9) for jump in jumps(shown))
