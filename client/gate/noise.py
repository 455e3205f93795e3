"""Means of people's numbers with noise: the Gaussian mechanism, on whole numbers.

Each person is a row of numbers. A row that is longer than `CLIP` is shortened to it, rows are summed, noise is added
and the sum is divided by the number of people, which is public. Who sees the mean can hardly tell whether a person's
row was in it or a row of zeros (zero-out neighbours: Kairouz et al. 2021, ICML, "Practical and private (deep) learning
without sampling or shuffling"); `client.gate.budget` says how hardly.

Rows are rounded to whole steps towards zero before they are summed, so that no rounding makes a row longer than it may
be, and noise is a discrete Gaussian (Canonne, Kamath and Steinke 2020, NeurIPS) by OpenDP, from the operating system's
randomness: digits of a Gaussian in floating point give away what it was added to (Mironov 2012, CCS).
"""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from configs.errors import ReleaseError
from configs.statistics import CLIP, NUMBERS
from sst_models.wire.exchange import Arrays, SiteReply

STEP = 2.0**-20
"""What a whole number stands for, in units of the rows: far below any noise."""

MOST = 2**20
"""Most rows: their sum stays far below what 64 bits hold."""

Draw = Callable[[int, float], NDArray[np.int64]]
"""Draws so many whole numbers of noise with a standard deviation."""


def protect(reply: SiteReply, multiplier: float, draw: Draw) -> SiteReply:
    """Give a reply with the noisy mean of the people's numbers that the app put into it, and nothing else of them.

    Args:
        reply: of the app; its part "statistics" is {"people": (people, NUMBERS)}.
        multiplier: as for `noisy_mean`.
        draw: where the noise is from.

    Raises:
        ReleaseError: the app's answer holds no such numbers.
    """
    people = reply.arrays.get("statistics", {}).get("people", np.zeros(0))
    if people.ndim != 2 or people.shape[1] != NUMBERS or people.dtype.kind != "f":
        raise ReleaseError(f"the app's statistics are no rows of {NUMBERS} numbers; gate and app need the same version")
    try:
        mean, deviation = noisy_mean(people, multiplier, draw)
    except ValueError as error:
        raise ReleaseError(f"the app's statistics cannot be used: {error}") from error
    found = {"mean": mean, "noise": np.array([deviation], np.float32)}
    return replace(reply, count=len(people), arrays={**reply.arrays, "statistics": found})


def multiplier_in(statistics: Arrays, people: int) -> float:
    """Read the noise multiplier off statistics that were released, to three digits."""
    return round(float(statistics["noise"][0]) * people / CLIP, 3)


def noisy_mean(rows: np.ndarray, multiplier: float, draw: Draw) -> tuple[np.ndarray, float]:
    """Give the mean of rows with noise.

    Args:
        rows: (people, numbers), finite.
        multiplier: standard deviation of the noise on the sum of the rows, in `CLIP`; 0 adds none.
        draw: where the noise is from.

    Returns:
        The mean (numbers,), float32, and the standard deviation of the noise on each of its numbers.

    Raises:
        ValueError: there is no row, there are too many, or one is not finite.
    """
    if rows.ndim != 2 or not 1 <= len(rows) <= MOST or not np.isfinite(rows).all():
        raise ValueError(f"rows are finite and (people, numbers), with 1 to {MOST} people, not {rows.shape}")
    people, numbers = rows.shape
    total = whole(rows).sum(0)
    if multiplier:
        total = total + draw(numbers, multiplier * CLIP / STEP)
    return (total * (STEP / people)).astype(np.float32), multiplier * CLIP / people


def whole(rows: np.ndarray) -> NDArray[np.int64]:
    """Give rows (people, numbers) as whole numbers of `STEP`, each row no longer than `CLIP`."""
    given = np.clip(np.asarray(rows, np.float64), -1e100, 1e100)  # what is squared stays within a float
    length = np.linalg.norm(given, axis=1, keepdims=True)
    short = given * (CLIP * (1 - 1e-12) / np.maximum(length, CLIP))
    steps: NDArray[np.int64] = np.trunc(short / STEP).astype(np.int64)
    return steps


def from_system(numbers: int, deviation: float) -> NDArray[np.int64]:
    """Draw a discrete Gaussian from the operating system's randomness."""
    from opendp import prelude as dp  # 40 MB, and most requests need none of it

    dp.enable_features("contrib")
    space = dp.vector_domain(dp.atom_domain(T="i64"), size=numbers), dp.l2_distance(T=float)
    drawn: list[int] = dp.m.make_gaussian(*space, scale=deviation)([0] * numbers)
    return np.array(drawn, np.int64)


def repeatable(words: str) -> Draw:
    """Give the noise that belongs to some words, for simulated sites alone: who knows the words can take it out."""
    numbers = np.random.default_rng(list(sha256(words.encode()).digest()))

    def draw(count: int, deviation: float) -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = np.rint(numbers.normal(0.0, deviation, count)).astype(np.int64)
        return drawn

    return draw
