"""The weighted mean: closed forms and invariances."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import FederationError
from server.aggregate import RunningMean


def mean_of(replies: list[tuple[list[float], float]]) -> np.ndarray:
    """Fold replies (values, weight)."""
    mean = RunningMean()
    for values, weight in replies:
        mean.add({"w": np.array(values, np.float32)}, weight)
    return mean.arrays()["w"]


def test_the_mean_is_weighted_by_scans() -> None:
    """The mean of [0, 2] and [4, 6] with 1 and 3 scans is [3, 5]."""
    assert mean_of([([0, 2], 1), ([4, 6], 3)]).tolist() == [3, 5]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8), st.integers(1, 1000))
def test_one_reply_alone_comes_back_bit_for_bit(values: list[float], weight: int) -> None:
    """A federation of one site loses nothing in the mean."""
    assert mean_of([(values, weight)]).tobytes() == np.array(values, np.float32).tobytes()


@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(1, 50)), min_size=2, max_size=6), st.randoms())
def test_the_order_of_replies_does_not_matter(replies: list[tuple[float, int]], order: object) -> None:
    """Sites can answer in any order."""
    shuffled = list(replies)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    one = mean_of([([v], w) for v, w in replies])
    other = mean_of([([v], w) for v, w in shuffled])
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_replies_that_differ_in_names_or_shapes_are_refused() -> None:
    """A site with another version is named by what differs, not averaged in."""
    mean = RunningMean()
    mean.add({"w": np.zeros(2, np.float32)}, 1)
    with pytest.raises(FederationError, match="'v'"):
        mean.add({"w": np.zeros(2, np.float32), "v": np.zeros(1, np.float32)}, 1)
    with pytest.raises(FederationError, match="shape"):
        mean.add({"w": np.zeros(3, np.float32)}, 1)
    with pytest.raises(FederationError, match="weight"):
        mean.add({"w": np.zeros(2, np.float32)}, 0)
