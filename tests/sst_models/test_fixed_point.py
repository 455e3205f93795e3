"""Numbers in the ring: what a secure sum carries, how exactly, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from configs.errors import FederationError
from sst_models.secure_sum.fixed_point import decode, encode, pack, reduced, unpack, weights

RING = arrays(np.uint64, st.integers(0, 20), elements=st.integers(0, 2**40 - 1))
SMALL = st.floats(-4, 4, width=32)


@given(RING)
def test_values_travel_in_five_bytes_each(values: np.ndarray) -> None:
    """What is unpacked is what was packed, lowest byte first."""
    packed = pack(values)
    assert packed.dtype == np.uint8 and packed.shape == (5 * values.size,)
    assert packed.tobytes() == b"".join(int(value).to_bytes(5, "little") for value in values)
    np.testing.assert_array_equal(unpack(packed), values)


@given(RING, st.integers(0, 2**64 - 1))
def test_the_ring_forgets_what_is_added_and_taken_off(values: np.ndarray, mask: int) -> None:
    """Also where uint64 itself wraps on the way."""
    hidden = reduced(values + np.uint64(mask))
    assert (hidden < 2**40).all()
    np.testing.assert_array_equal(hidden, (values.astype(object) + mask) % 2**40)
    np.testing.assert_array_equal(reduced(hidden - np.uint64(mask)), values)


@given(st.lists(st.tuples(st.integers(1, 1000), SMALL), min_size=1, max_size=40), st.integers(1, 40))
def test_the_mean_is_off_by_its_rounding_alone(sites: list[tuple[int, float]], here: int) -> None:
    """Half a step for each site over the weight of those that are there, and half a bit of float32."""
    share = weights({str(number): count for number, (count, _) in enumerate(sites)})
    there = list(enumerate(sites))[:here]
    total = reduced(sum(encode({"x": np.array([x], np.float32)}, share[str(n)]) for n, (_, x) in there))
    weight = sum(share[str(number)] for number, _ in there)
    wanted = sum(count * x for _, (count, x) in there) / sum(count for _, (count, _) in there)
    bound = len(there) * 2.0**-27 / weight + 2.0**-23
    assert abs(float(decode(total, {"x": (1,)}, weight)["x"][0]) - wanted) <= bound * (1 + 1e-6)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_thousand_sites_at_the_limit_do_not_wrap(sign: int) -> None:
    """The largest numbers that are let through, all of one sign."""
    most = np.nextafter(np.float32(2**12), np.float32(0)) * np.ones(3, np.float32) * sign
    total = reduced(np.sum([encode({"x": most}, 1 / 1000)] * 1000, axis=0, dtype=np.uint64))
    np.testing.assert_allclose(decode(total, {"x": (3,)}, 1.0)["x"], most, rtol=2.0**-23)


def test_below_the_limit_a_number_is_exact_to_the_step() -> None:
    """2^-26, of either sign; in float32 a number of 12 bits before the point has 12 after it."""
    exact = np.array([2**-26, -(2**-26), 0, 4095 + 2**-12, -4095 - 2**-12, 1 + 2**-23], np.float32)
    np.testing.assert_array_equal(decode(encode({"x": exact}, 1.0), {"x": (6,)}, 1.0)["x"], exact)


def test_arrays_follow_each_other_in_the_order_of_their_names() -> None:
    """Whatever order they come in, and with their shapes: also one of none and an empty one."""
    part = {"b": np.float32([[1, 2], [3, 4]]), "a": np.array(0.5, np.float32), "c": np.zeros((0, 3), np.float32)}
    values = encode(part, 0.5)
    np.testing.assert_array_equal(values, np.uint64([2**24, 2**25, 2**26, 3 * 2**25, 2**27]))
    back = decode(values, {name: array.shape for name, array in part.items()}, 0.5)
    assert list(back) == ["a", "b", "c"]
    assert all(back[name].dtype == np.float32 and np.array_equal(back[name], part[name]) for name in part)


@pytest.mark.parametrize("bad", [2.0**12, -(2.0**12), 1e30, np.inf, -np.inf, np.nan])
def test_a_number_that_the_ring_cannot_carry_is_refused(bad: float) -> None:
    """None is clipped; the message names the array."""
    with pytest.raises(FederationError, match="array 'w' has a number that is not finite or not below 4096"):
        encode({"v": np.zeros(3, np.float32), "w": np.array([0, bad], np.float32)}, 0.01)


def test_what_is_not_of_the_ring_is_refused() -> None:
    """Types, shapes and weights, from a peer or from our own code."""
    with pytest.raises(ValueError, match="not float32"):
        encode({"w": np.zeros(3)}, 0.5)
    for weight in (0.0, -0.5, 1.5, float("nan")):
        with pytest.raises(ValueError, match="weight"):
            encode({}, weight)
    for packed in (np.zeros(6, np.uint8), np.zeros(5, np.int8), np.zeros((1, 5), np.uint8)):
        with pytest.raises(ValueError, match="packed values are bytes"):
            unpack(packed)
    for values in (np.array([2**40], np.uint64), np.zeros(1, np.int64), np.zeros((1, 1), np.uint64)):
        with pytest.raises(ValueError):
            pack(values)
    with pytest.raises(ValueError):
        decode(np.zeros(3, np.uint64), {"x": (4,)}, 1.0)
    for counts in ({}, {"alba": 0, "bern": 3}):
        with pytest.raises(ValueError, match="count"):
            weights(counts)
