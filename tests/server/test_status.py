"""What `sst hub status` says of the time left."""

import pytest

from server.status import time_left


def test_nothing_is_said_before_a_round_is_finished() -> None:
    """Without a round there is no speed; when all are done, no time is left."""
    assert time_left({"register": 2}, {}) is None
    assert time_left({"register": 2}, {"join": [1.0]}) is None
    assert time_left({"register": 2}, {"register": [10.0, 10.0]}) == 0.0


def test_rounds_to_come_take_as_long_as_those_of_their_phase_did() -> None:
    """Two rounds of 10 s and three of 60 s; a phase that has not begun takes the mean of both."""
    took = {"register": [10.0, 10.0], "style": [60.0]}
    assert time_left({"register": 4, "style": 4, "joint": 2}, took) == pytest.approx(2 * 10.0 + 3 * 60.0 + 2 * 35.0)


def test_a_night_of_waiting_does_not_count() -> None:
    """One round that took eight hours changes nothing, wherever it comes after the first."""
    for rounds in ([60.0, 28800.0], [60.0, 60.0, 28800.0], [60.0, 28800.0, 60.0, 60.0, 60.0, 60.0]):
        assert time_left({"register": 10}, {"register": rounds}) == pytest.approx((10 - len(rounds)) * 60.0)


def test_rounds_of_long_ago_do_not_count() -> None:
    """A machine that has become three times slower is believed after three rounds."""
    assert time_left({"register": 20}, {"register": [20.0] * 9 + [60.0] * 3}) == pytest.approx(8 * 60.0)
