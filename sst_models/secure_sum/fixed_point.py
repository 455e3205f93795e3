"""Arrays as whole numbers modulo 2^40, in which masks cancel to the last bit; floats would leave their rounding.

A number x of a site of weight w is sent as round(w * x * 2^26), so that the sum over sites is the weighted mean. The
ring holds it: for |x| < 2^12 and weights of sum 1 a sum stays below 2^38 and the rounding, half a step per site, while
the ring ends at 2^39 on either side.

Rounding moves the mean of n sites by less than n * 2^-27 / W, where W is the sum of their weights: 5e-8 for 7 of 7
sites. The mean is then rounded to float32.
"""

import math
from collections.abc import Mapping

import numpy as np

from configs.errors import FederationError
from sst_models.wire.exchange import Arrays

RING_BITS = 40
"""Values are whole numbers in [0, 2^40): the smallest ring of whole bytes that holds `LIMIT` and `STEP_BITS`."""

STEP_BITS = 26
"""Binary logarithm of the steps in 1."""

LIMIT = 2.0**12
"""No number may be as large; weights of trained networks are below 10."""

VALUE_BYTES = RING_BITS // 8
"""Bytes of one value, packed."""

_LAST = np.uint64(2**RING_BITS - 1)

Shapes = Mapping[str, tuple[int, ...]]
"""Name -> shape of each array of a part; public."""


def weights(counts: Mapping[str, int]) -> dict[str, float]:
    """Give each site's weight in the mean, its count beside that of all; they sum to 1.

    Raises:
        ValueError: a count is below 1, or there is none.
    """
    if not counts or min(counts.values()) < 1:
        raise ValueError("each site of a weighted mean has a count of 1 at least")
    whole = sum(counts.values())
    return {site: count / whole for site, count in sorted(counts.items())}


def encode(arrays: Arrays, weight: float) -> np.ndarray:
    """Give a part as a site adds it to the sum: arrays one after the other, in the order of their names.

    Args:
        arrays: float32, of any shapes.
        weight: of the site, in (0, 1].

    Returns:
        (N,) uint64 below 2^40.

    Raises:
        FederationError: a number is not finite, or not below 2^12; none is ever clipped.
        ValueError: an array is not float32, or the weight is none.
    """
    if not 0 < weight <= 1:
        raise ValueError(f"a weight is above 0 and not above 1, which {weight} is not")
    pieces = [np.empty(0, np.uint64)]
    for name, array in sorted(arrays.items()):
        if array.dtype != np.float32:
            raise ValueError(f"array '{name}' is {array.dtype}, not float32")
        if not (np.abs(array) < LIMIT).all():  # a NaN is not below anything
            raise FederationError(
                f"array '{name}' has a number that is not finite or not below {LIMIT:.0f}, which a secure sum cannot "
                "carry: the training diverged; lower its rate"
            )
        steps = np.rint(array.ravel().astype(np.float64) * (weight * 2.0**STEP_BITS))
        pieces.append(reduced(steps.astype(np.int64).view(np.uint64)))
    return np.concatenate(pieces)


def decode(total: np.ndarray, shapes: Shapes, weight: float) -> dict[str, np.ndarray]:
    """Give the weighted mean from the sum of what `encode` gave.

    Args:
        total: (N,) uint64 below 2^40.
        shapes: of the arrays.
        weight: the sum of the weights of the sites in the sum.

    Returns:
        float32 arrays, sorted by name.

    Raises:
        ValueError: the sum is not of these shapes, or not in the ring.
    """
    names = sorted(shapes)
    sizes = [math.prod(shapes[name]) for name in names]
    check(total, sum(sizes))
    signed = total.astype(np.int64)
    signed[signed >= 2 ** (RING_BITS - 1)] -= 2**RING_BITS
    means = (signed / (weight * 2.0**STEP_BITS)).astype(np.float32)
    pieces = np.split(means, np.cumsum(sizes))
    return {name: piece.reshape(shapes[name]) for name, piece in zip(names, pieces, strict=False)}  # the last is empty


def reduced(values: np.ndarray) -> np.ndarray:
    """Bring whole numbers into the ring, in place: uint64 modulo 2^40; uint64 itself wraps at a multiple of it."""
    values &= _LAST
    return values


def pack(values: np.ndarray) -> np.ndarray:
    """Give values as they travel: (N,) uint64 below 2^40 -> (5 N,) uint8, the lowest byte of each first.

    Raises:
        ValueError: they are not in the ring.
    """
    check(values, values.size)
    return values.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)[:, :VALUE_BYTES].ravel()


def unpack(packed: np.ndarray) -> np.ndarray:
    """Read what `pack` gave: (5 N,) uint8 -> (N,) uint64 below 2^40.

    Raises:
        ValueError: it was not made by `pack`.
    """
    if packed.dtype != np.uint8 or packed.ndim != 1 or packed.size % VALUE_BYTES:
        raise ValueError(f"packed values are bytes, {VALUE_BYTES} each, not {packed.dtype} {packed.shape}")
    whole = np.zeros((packed.size // VALUE_BYTES, 8), np.uint8)
    whole[:, :VALUE_BYTES] = packed.reshape(-1, VALUE_BYTES)
    return whole.view("<u8").ravel().astype(np.uint64, copy=False)


def check(values: np.ndarray, size: int) -> None:
    """See that an array is one of so many values.

    Raises:
        ValueError: it has another type or shape, or a value that is not in the ring.
    """
    if values.dtype != np.uint64 or values.shape != (size,):
        raise ValueError(f"values are uint64 ({size},), not {values.dtype} {values.shape}")
    if (values > _LAST).any():
        raise ValueError(f"a value is not below 2^{RING_BITS}")
