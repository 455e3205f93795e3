"""The mean of people's numbers with noise: the Gaussian mechanism, on whole numbers, in two steps.

Each person is a row of numbers. In the first step rows are shortened to a length that all people have, summed, and
noise is added: a rough mean. In the second the same is done with what each row differs from the rough mean by, which is
shorter, so that much less noise hides it; that is the mean. A quarter of what the noise may cost goes to the first
step. (Adaptive clipping around a private centre, as for mean estimation in Biswas et al. 2020, NeurIPS, "CoinPress".)

Who sees the mean can hardly tell whether a person was part of it: her row is hidden in each sum up to the length that a
row may have there, and the number of people is public (zero-out neighbours: Kairouz et al. 2021, ICML, "Practical and
private (deep) learning without sampling or shuffling"). `client.gate.budget` says how hardly.

Rows are rounded to whole steps towards zero before they are summed, so that no rounding makes a row longer than it may
be, and noise is a discrete Gaussian (Canonne, Kamath and Steinke 2020, NeurIPS) by OpenDP, from the operating system's
randomness: digits of a Gaussian in floating point give away what it was added to (Mironov 2012, CCS).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from configs.errors import ReleaseError
from configs.statistics import APART, FIRST, TOGETHER, lengths
from sst_models.wire.exchange import Arrays, SiteReply

STEP = 2.0**-20
"""What a whole number stands for, in units of the rows: far below any noise."""

MOST = 2**20
"""Most rows: their sum stays far below what 64 bits hold."""

Draw = Callable[[int, float], NDArray[np.int64]]
"""Draws so many whole numbers of noise with a standard deviation."""


def protect(reply: SiteReply, multiplier: float, draw: Draw, numbers: int) -> SiteReply:
    """Give a reply with the noisy mean of the people's numbers that the app put into it, and nothing else of them.

    Args:
        reply: of the app; its part "statistics" is {"people": (people, numbers)}.
        multiplier: as for `noisy_mean`.
        draw: where the noise is from.
        numbers: of a person, as the run has them (`configs.statistics.count`).

    Raises:
        ReleaseError: the app's answer holds no such numbers.
    """
    people = reply.arrays.get("statistics", {}).get("people", np.zeros(0))
    if people.ndim != 2 or people.shape[1] != numbers or people.dtype.kind != "f":
        raise ReleaseError(f"the app's statistics are no rows of {numbers} numbers; gate and app need the same version")
    try:
        found = noisy_mean(people, multiplier, draw)
    except ValueError as error:
        raise ReleaseError(f"the app's statistics cannot be used: {error}") from error
    arrays = {"mean": found.mean, "noise": [found.noise], "multiplier": [multiplier]}
    released = {name: np.array(values, np.float32) for name, values in arrays.items()}
    return replace(reply, count=len(people), arrays={**reply.arrays, "statistics": released})


def multiplier_in(statistics: Arrays) -> float:
    """Read the noise multiplier off statistics that were released, to three digits."""
    return round(float(statistics["multiplier"][0]), 3)


@dataclass(frozen=True)
class NoisyMean:
    """A mean with noise."""

    mean: np.ndarray  # (numbers,)
    noise: float  # standard deviation of the noise on each number


def noisy_mean(rows: np.ndarray, multiplier: float, draw: Draw) -> NoisyMean:
    """Give the mean of rows with noise.

    Args:
        rows: (people, numbers), finite.
        multiplier: of both steps together: as hidden as in one sum whose noise has a standard deviation of so many
            lengths of the longest row; 0 adds no noise.
        draw: where the noise is from.

    Raises:
        ValueError: there is no row, there are too many, or one is not finite.
    """
    if rows.ndim != 2 or not 1 <= len(rows) <= MOST or not np.isfinite(rows).all():
        raise ValueError(f"rows are finite and (people, numbers), with 1 to {MOST} people, not {rows.shape}")
    given = np.clip(np.asarray(rows, np.float64), -1e100, 1e100)  # what is squared stays within a float
    longest, usual = lengths(rows.shape[1])
    rough = _one_step(given, longest, multiplier / math.sqrt(FIRST), draw)
    centre, unsure = _likely(rough)
    near = min(longest, math.hypot(usual, unsure))
    rest = _one_step(given - centre, near, multiplier / math.sqrt(1 - FIRST), draw)
    return NoisyMean(centre + rest.mean, rest.noise)


def _one_step(rows: np.ndarray, length: float, multiplier: float, draw: Draw) -> NoisyMean:
    """Give the mean of rows that are shortened to a length, with noise of `multiplier` lengths on their sum."""
    people, numbers = rows.shape
    total = whole(rows, length).sum(0)
    if multiplier:
        total = total + draw(numbers, multiplier * length / STEP)
    return NoisyMean(total * (STEP / people), multiplier * length / people)


def _likely(rough: NoisyMean) -> tuple[np.ndarray, float]:
    """Give the mean that is likely by a rough one and by how sites differ, and how far off it may be.

    Of what is public alone (the posterior of a normal prior, `configs.statistics.APART`): where noise is all there is,
    it shrinks to nothing, and what all numbers have in common shrinks least.
    """
    numbers, noise = rough.mean.size, rough.noise**2 * np.eye(rough.mean.size)
    apart = APART**2 * np.where(np.eye(numbers, dtype=bool), 1.0, TOGETHER)
    gain = np.linalg.solve(apart + noise, apart)
    return gain @ rough.mean, math.sqrt(np.trace(gain @ noise))


def whole(rows: np.ndarray, length: float) -> NDArray[np.int64]:
    """Give rows (people, numbers) as whole numbers of `STEP`, each row no longer than `length`."""
    own = np.linalg.norm(rows, axis=1, keepdims=True)
    short = rows * (length * (1 - 1e-12) / np.maximum(own, length))
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
