"""Attacks on the noisy mean of people's numbers, which is all that leaves a site at the level "statistics".

All work on rows (people, NUMBERS) and release them by the site's own mechanism (`client.gate.noise`), with noise of
their own each time. The attacker is stronger than a hub: every row is at hand, and only who was in is not known.
"""

import math
from dataclasses import dataclass

import numpy as np

from client.audit.membership import Flags, Floats, Membership, Shadows, measure
from client.gate.budget import multiplier_of
from client.gate.noise import noisy_mean, repeatable
from configs.statistics import FIRST, lengths

SHADOWS, TRIALS = 400, 400
"""Shadow sites from which the attacker learns, and releases that are attacked, if there are not too many people."""

DECISIONS = 40_000
"""Most decisions, but for one release: more tell nothing more, and take longer than a site can wait."""

PAIRS = 100
"""Pairs of releases for each person, with her and without, in differencing."""

EPSILONS = (math.inf, 8.0, 4.0, 2.0, 1.0)
"""At which attacks are measured, beside the run's own; infinite is without noise."""


@dataclass(frozen=True)
class Attacked:
    """What attacks on a site's statistics reach at one epsilon."""

    epsilon: float  # of one release
    drawn: int  # people in a release
    membership: Membership  # from one release: who was in?
    differencing: Membership  # from two releases: is she in the second?
    bound_mean: float  # AUC of the best test there is, by somebody who knows all others who are in: mean over people
    bound_worst: float  # likewise, of the person who is found most easily


def attack(rows: np.ndarray, drawn: int, epsilon: float, delta: float, seed: int = 0) -> Attacked:
    """Attack a site's statistics in all ways.

    Args:
        rows: (people, NUMBERS) of all people of a site.
        drawn: how many of them are in a release.
        epsilon: of a release; infinite adds no noise.
        delta: with it.
        seed: of everything that is drawn.

    Raises:
        ValueError: nobody is in a release, or nobody is left out.
    """
    multiplier = multiplier_of(epsilon, delta)
    found = membership(rows, drawn, multiplier, seed), differencing(rows, multiplier, seed)
    aucs = bounds(rows, multiplier)
    return Attacked(epsilon, drawn, *found, float(aucs.mean()), float(aucs.max()))


def membership(rows: np.ndarray, drawn: int, multiplier: float, seed: int = 0) -> Membership:
    """Infer who was in a release: LiRA, with shadow sites of the same people drawn in the same way.

    A person's score is the best linear one: her row, by the inverse of how the means of shadow sites vary, times the
    released mean. Members and others are alike by construction: chance says who is in.

    Args:
        rows: (people, NUMBERS).
        drawn: how many of them are in a release.
        multiplier: of the noise; 0 adds none.
        seed: of who is drawn, and of the noise.

    Raises:
        ValueError: nobody is in a release, or nobody is left out.
    """
    if not 1 <= drawn < len(rows):
        raise ValueError(f"{drawn} of {len(rows)} people in a release: some have to be in, and some out")
    shadows = _releases(rows, drawn, multiplier, (SHADOWS, f"shadows {seed}"))
    count = min(TRIALS, max(1, DECISIONS // len(rows)))
    trials = _releases(rows, drawn, multiplier, (count, f"trials {seed}"))
    filters = _filters(rows, shadows[0])
    fitted = Shadows.of(shadows[0] @ filters, shadows[1])
    scores, person = fitted.ratio(trials[0] @ filters), np.tile(np.arange(len(rows)), count)
    return measure(scores.ravel(), trials[1].ravel(), person, seed)


def differencing(rows: np.ndarray, multiplier: float, seed: int = 0) -> Membership:
    """Compare two releases, of which the second has one person more than the first, as two runs would: is it her?

    The attacker has everybody's row and both numbers of people, which are public: where it is not her, it is another
    one who is like those who are in. The noise of the two is independent. The test is linear, along what she differs
    from the others by.

    Args:
        rows: (people, NUMBERS); each is the one who may join, and all others are in both.
        multiplier: of the noise; 0 adds none.
        seed: of the noise, and of who joins in her place.
    """
    noise, draws = repeatable(f"differencing {multiplier} {seed}"), np.random.default_rng(seed)
    scores = np.zeros((PAIRS, len(rows), 2))
    for person in range(len(rows)):
        others = np.delete(rows, person, axis=0)
        her = rows[person] - others.mean(0)
        for pair in range(PAIRS):
            another = others[draws.integers(len(others))]
            for joined, new in enumerate((another, rows[person])):
                before = noisy_mean(others, multiplier, noise).mean
                after = noisy_mean(np.vstack([others, new]), multiplier, noise).mean
                scores[pair, person, joined] = (after - before) @ her
    member = np.broadcast_to([False, True], scores.shape)
    people = np.broadcast_to(np.arange(len(rows))[:, None], scores.shape)
    return measure(scores.ravel(), member.ravel(), people.ravel(), seed)


def bounds(rows: np.ndarray, multiplier: float) -> Floats:
    """Give the AUC of the best test of each person, (people,), by somebody who knows everybody else's row and hers.

    Also the rough mean, which does not leave. Her row moves each of the two sums by its length there; two Gaussians
    that are d standard deviations apart have an area of Phi(d / sqrt 2) (Neyman and Pearson; Dong, Roth and Su 2022,
    JRSS B, Sec. 2.2), and those of two sums are as far apart as the root of the summed squares.
    """
    if not multiplier:
        return np.ones(len(rows))
    longest, usual = lengths(rows.shape[1])
    found = (np.linalg.norm(rows, axis=1) / longest, np.linalg.norm(rows - rows.mean(0), axis=1) / usual)
    rough, rest = (np.square(np.minimum(own, 1.0)) for own in found)
    apart = np.sqrt(FIRST * rough + (1 - FIRST) * rest) / multiplier
    return np.array([(1 + math.erf(one / 2)) / 2 for one in apart])


def _releases(rows: np.ndarray, drawn: int, multiplier: float, which: tuple[int, str]) -> tuple[Floats, Flags]:
    """Release the mean of people drawn at random, `which` says how often and under what name.

    Returns:
        The means (releases, NUMBERS), and who was in (releases, people).
    """
    count, words = which
    noise, draws = repeatable(f"{words} {multiplier} {drawn}"), np.random.default_rng(list(words.encode()))
    member = draws.permuted(np.tile(np.arange(len(rows)) < drawn, (count, 1)), axis=1)
    return np.stack([noisy_mean(rows[who], multiplier, noise).mean for who in member]), member


def _filters(rows: np.ndarray, released: Floats) -> Floats:
    """Give each person's linear score of a mean, (NUMBERS, people): Fisher's discriminant of in against out.

    How means vary from shadow site to shadow site, by who is in and by noise, is measured on them.
    """
    between = np.cov(released, rowvar=False)
    ridge = 1e-9 * np.trace(between) / len(between) + 1e-12
    return np.asarray(np.linalg.solve(between + ridge * np.eye(len(between)), (rows - rows.mean(0)).T), np.float64)
