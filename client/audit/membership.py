"""How well an attack tells members from others: ROC AUC and the true positive rate at low false positive rates.

A score is of one decision: was this person in what was released? Averages hide the few who are found with certainty,
so that the rate at 1 % and 5 % false positives is given beside the area (Carlini et al. 2022, IEEE S&P, "Membership
inference attacks from first principles", Sec. III-A).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEAST = 500
"""Decisions below which nothing is concluded: at 1 % false positives there would be less than a handful."""

DRAWS, INSIDE = 1000, 0.95
"""Of the bootstrap, and the share of draws within an interval (percentiles; Efron and Tibshirani 1993, ch. 13)."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Membership:
    """What an attack reached over all decisions. 0.5, 0.01 and 0.05 are chance."""

    auc: Estimate  # area under the ROC curve: a member's score is above another's, ties count half
    tpr_1: Estimate  # share of members found while at most 1 % of others are taken for members
    tpr_5: Estimate  # likewise, 5 %
    members: int  # decisions about a member
    others: int  # decisions about somebody who was not in
    people: int  # whom the decisions are about

    @property
    def conclusive(self) -> bool:
        """Whether there are decisions enough to conclude from."""
        return self.members + self.others >= LEAST


def measure(scores: Floats, member: Flags, person: NDArray[np.int64], seed: int = 0) -> Membership:
    """Measure an attack.

    The bootstrap draws people, with all decisions about each: those that were always in, never in, and at times in,
    each kind for itself (stratified), so that no draw lacks members or others.

    Args:
        scores: (N,) finite, one a decision; the higher, the more like a member.
        member: (N,) the truth.
        person: (N,) whom each decision is about, numbered from 0.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no member, or nobody else, or a score is not finite.
    """
    if not (member.any() and not member.all() and np.isfinite(scores).all()):
        raise ValueError("an attack is measured on finite scores of members and of others")
    _, rank = np.unique(scores, return_inverse=True)
    found = np.array([_rates(rank, member, weight[person]) for weight in _weights(member, person, seed)])
    low, high = np.quantile(found[1:], [(1 - INSIDE) / 2, (1 + INSIDE) / 2], axis=0)
    auc, tpr_1, tpr_5 = (Estimate(*map(float, three)) for three in zip(found[0], low, high, strict=True))
    count = int(member.sum())
    return Membership(auc, tpr_1, tpr_5, count, len(member) - count, len(np.unique(person)))


def _weights(member: Flags, person: NDArray[np.int64], seed: int) -> Floats:
    """Give how often each person counts, (1 + DRAWS, people): once in the first row, then as the bootstrap draws."""
    people = int(person.max()) + 1
    share = np.bincount(person, member, people) / np.maximum(np.bincount(person, minlength=people), 1)
    draws, weights = np.random.default_rng(seed), np.ones((1 + DRAWS, people))
    for kind in (share == 0, share == 1, (share > 0) & (share < 1)):
        if count := int(kind.sum()):
            weights[1:, kind] = draws.multinomial(count, np.full(count, 1 / count), DRAWS)
    return weights


def _rates(rank: NDArray[np.int64], member: Flags, weight: Floats) -> tuple[float, float, float]:
    """Give AUC and the true positive rates at 1 % and 5 %; decisions of one score are taken together."""
    places = int(rank.max()) + 1
    inside, outside = (np.bincount(rank, weight * kind, places) for kind in (member, ~member))
    inside, outside = inside / inside.sum(), outside / outside.sum()
    auc = float((inside * (np.cumsum(outside) - outside / 2)).sum())
    found, wrong = (np.append(0.0, np.cumsum(share[::-1])) for share in (inside, outside))
    # The highest rate of any threshold: a whole tie is above it or below.
    one, five = (float(found[wrong <= rate + 1e-9].max()) for rate in (0.01, 0.05))
    return auc, one, five


@dataclass(frozen=True)
class Shadows:
    """What shadow sites say of each person's score with the person in and out: LiRA's Gaussians, (people,) each.

    The attack is Carlini et al. 2022, Sec. IV, Algorithm 1, with shadow sites in place of shadow models.
    """

    mean_in: Floats
    mean_out: Floats
    spread_in: Floats  # standard deviations
    spread_out: Floats

    @staticmethod
    def of(scores: Floats, member: Flags) -> "Shadows":
        """Fit the Gaussians.

        Args:
            scores: (sites, people), of each person at each shadow site.
            member: (sites, people), who was in where.

        Raises:
            ValueError: somebody was in, or out, at fewer than two shadow sites.
        """
        if min(member.sum(0).min(), (~member).sum(0).min()) < 2:
            raise ValueError("each person has to be in, and out, at two shadow sites or more")
        fits = []
        for kind in (member, ~member):
            mean = (scores * kind).sum(0) / kind.sum(0)
            fits.append((mean, np.sqrt((np.square(scores - mean) * kind).sum(0) / (kind.sum(0) - 1))))
        (mean_in, spread_in), (mean_out, spread_out) = fits
        least = 1e-6 * np.abs(mean_in - mean_out) + 1e-12  # scores without noise do not vary
        return Shadows(mean_in, mean_out, np.maximum(spread_in, least), np.maximum(spread_out, least))

    def ratio(self, scores: Floats) -> Floats:
        """Give the log likelihood ratio, in against out, of scores (sites, people)."""
        inside, outside = (scores - self.mean_in) / self.spread_in, (scores - self.mean_out) / self.spread_out
        found: Floats = (np.square(outside) - np.square(inside)) / 2 + np.log(self.spread_out / self.spread_in)
        return found
