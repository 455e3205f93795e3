"""What travels of a part: the rounding of its differences, and that both sides end with the same bytes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from sst_models.wire.exchange import Arrays, Delta, PhaseRequest
from sst_models.wire.payload import (
    MissingBase,
    Parcel,
    WrongDigest,
    answer,
    apply_delta,
    delta_between,
    digest,
    unpack,
)

LARGEST = float(np.finfo(np.float32).max)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def versions(draw: Any) -> tuple[Arrays, Arrays]:
    """Two versions of a part, of any finite values: empty and 0-d tensors, zeros of both signs, tiny and huge ones."""
    base, new = {}, {}
    for name in draw(st.sets(st.sampled_from("abc"))):
        shape = draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        base[name], new[name] = (draw(arrays(np.float32, shape, elements=FLOATS)) for _ in range(2))
    return base, new


def same(one: Arrays, other: Arrays) -> bool:
    """Are two parts equal, bit for bit?"""
    return digest(one) == digest(other)


@settings(max_examples=150, deadline=None)
@given(versions())
def test_a_step_leads_to_within_its_rounding(both: tuple[Arrays, Arrays]) -> None:
    """11 bits of each difference, 39 bits below the largest of its tensor, and the last bit of the weight."""
    base, new = both
    step, led = delta_between(base, new)
    assert {name: (a.shape, a.dtype) for name, a in led.items()} == {n: (a.shape, a.dtype) for n, a in new.items()}
    for name, array in new.items():
        difference = np.abs(array.astype(np.float64) - base[name])
        bound = 2.0**-11 * difference + 2.0**-39 * difference.max(initial=0) + 2.0**-24 * np.abs(array) + 2.0**-149
        # Where the difference is rounded up, the sum's own rounding is that of a weight which is larger by as much.
        assert (np.abs(led[name].astype(np.float64) - array) <= bound * (1 + 2.0**-10)).all()
    assert np.isfinite(step.arrays["values"]).all()


@settings(max_examples=60, deadline=None)
@given(versions())
def test_whoever_follows_a_step_gets_the_same_bytes(both: tuple[Arrays, Arrays]) -> None:
    """Also from copies in another memory order, and a second time."""
    base, new = both
    step, led = delta_between(base, new)
    again, _ = delta_between(base, new)
    assert same(step.arrays, again.arrays)
    copies = {name: np.array(array, order="F") for name, array in reversed(base.items())}
    assert digest(apply_delta(copies, dict(step.arrays))) == digest(led) == step.digest


@settings(max_examples=40, deadline=None)
@given(versions())
def test_what_did_not_change_keeps_its_bytes(both: tuple[Arrays, Arrays]) -> None:
    """A zero step leads back to the start, with the sign of each zero."""
    base, _ = both
    step, led = delta_between(base, base)
    assert same(led, base)
    assert step.base == step.digest


@pytest.mark.parametrize("size", [1e-44, 1e-30, 1e-6, 1.0, 1e6, 1e30, 3e38])
def test_each_tensor_has_its_own_scale(size: float) -> None:
    """Next to a tensor of ordinary size, a tiny or a huge one keeps its 11 bits; half precision alone would not."""
    base = {"w": np.zeros(3, np.float32), "v": np.ones(2, np.float32)}
    new = {"w": np.array([size, -size / 3, 0], np.float32), "v": np.array([1.5, 2.0], np.float32)}
    _, led = delta_between(base, new)
    np.testing.assert_allclose(led["w"], new["w"], rtol=2.0**-11, atol=1e-45)
    assert led["v"].tolist() == [1.5, 2.0]


def test_digest_sees_names_types_shapes_and_bytes() -> None:
    """Any of them makes another part; the order of the names does not."""
    part = {"a": np.zeros(2, np.float32), "b": np.ones((), np.float32)}
    others: list[Arrays] = [
        {"a": part["a"], "c": part["b"]},
        {"a": part["a"].astype(np.int64), "b": part["b"]},
        {"a": part["a"].reshape(2, 1), "b": part["b"]},
        {"a": -part["a"], "b": part["b"]},
    ]
    assert len({digest(one) for one in [part, *others]}) == 5
    assert digest(dict(reversed(part.items()))) == digest(part)


BASE = {"a": np.zeros((2, 3), np.float32), "b": np.ones((), np.float32)}
NEW = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros((), np.float32)}
STEP, LED = delta_between(BASE, NEW)
VALUES, EXPONENTS = STEP.arrays["values"], STEP.arrays["exponents"]

HOSTILE: dict[str, Any] = {
    "another type of values": {"values": VALUES.astype(np.float32), "exponents": EXPONENTS},
    "another type of exponents": {"values": VALUES, "exponents": EXPONENTS.astype(np.int64)},
    "too few values": {"values": VALUES[:-1], "exponents": EXPONENTS},
    "another shape": {"values": VALUES[None], "exponents": EXPONENTS},
    "too many exponents": {"values": VALUES, "exponents": np.zeros(3, np.int16)},
    "infinite": {"values": np.full_like(VALUES, np.inf), "exponents": EXPONENTS},
    "not a number": {"values": np.full_like(VALUES, np.nan), "exponents": EXPONENTS},
    "exponents without end": {"values": VALUES, "exponents": np.full_like(EXPONENTS, -32768)},
    "a name too many": {**STEP.arrays, "more": VALUES},
    "a name too few": {"values": VALUES},
}


@pytest.mark.parametrize("arrays", HOSTILE.values(), ids=HOSTILE)
def test_a_step_that_is_none_is_refused(arrays: Arrays) -> None:
    """One kind of error, whatever a peer made up."""
    with pytest.raises(ValueError):
        apply_delta(BASE, arrays)


def test_a_largest_step_stays_finite() -> None:
    """The largest exponents and values that are let through end at the ends of float32."""
    arrays = {"values": np.full_like(VALUES, -65504), "exponents": np.full_like(EXPONENTS, 200)}
    assert all((array == -LARGEST).all() for array in apply_delta(BASE, arrays).values())


def test_a_parcel_is_unpacked_from_what_is_held() -> None:
    """Whole, as a difference, and by its digest alone: the same part."""
    held = {STEP.base: BASE, STEP.digest: LED}
    for parcel in (
        Parcel({"T": LED}, {}, {"T": STEP.digest}),
        Parcel({}, {"T": STEP}, {"T": STEP.digest}),
        Parcel({}, {}, {"T": STEP.digest}),
    ):
        assert same(unpack(parcel, lambda _, name: held.get(name))["T"], LED)


def test_a_parcel_that_cannot_be_unpacked_says_why() -> None:
    """What is not held, what is not what it says, and what comes twice."""
    with pytest.raises(MissingBase):
        unpack(Parcel({}, {"T": STEP}, {"T": STEP.digest}), lambda part, name: None)
    with pytest.raises(MissingBase):
        unpack(Parcel({}, {}, {"T": STEP.digest}), lambda part, name: None)
    with pytest.raises(WrongDigest):
        unpack(Parcel({"T": NEW}, {}, {"T": STEP.base}), lambda part, name: None)
    with pytest.raises(WrongDigest):
        unpack(Parcel({}, {"T": STEP}, {"T": STEP.digest}), lambda part, name: NEW)
    with pytest.raises(ValueError, match="two forms"):
        unpack(Parcel({"T": NEW}, {"T": STEP}, {"T": STEP.digest}), lambda part, name: BASE)


def test_a_reply_travels_as_differences_to_its_request() -> None:
    """Where the request sent the part; anything else goes whole, and so does all where the preset says so."""
    request = PhaseRequest("run", "style", 1, "one", "{}", {"E": BASE, "T": BASE}, payload="half")
    moments = {"mean": np.ones(3, np.float32)}
    parcel, led = answer({"E": NEW, "moments": moments}, request)
    assert set(parcel.deltas) == {"E"} and set(parcel.whole) == {"moments"}
    assert isinstance(parcel.deltas["E"], Delta) and list(led) == [parcel.digests["E"]]
    assert parcel.bytes == 7 * 2 + 2 * 2 + 3 * 4
    whole, none = answer({"E": NEW, "moments": moments}, replace(request, payload="full"))
    assert set(whole.whole) == {"E", "moments"} and not none
