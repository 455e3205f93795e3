"""How much of a mean one site can be: its weight, and how far its reply may move the weights that all share.

A site that tells the truth meets none of these bounds, and its reply counts bit for bit as it came. They do not find a
lie that is of a plausible size: with two sites nobody can say which of them lies.
"""

import math
from collections.abc import Collection, Mapping
from statistics import median, median_low

from configs.errors import FederationError
from configs.schema import Experiment
from sst_models.secure_sum.terms import FEWEST
from sst_models.wire.exchange import Arrays

CAP = 5
"""How many times the scans of the middle site (the lower of two) a site weighs in a mean at most.

Sites of a federation differ by less: the paper's two have 414 and 103 scans. Of three sites, one that lies has 5/7."""

CLIP = 4.0
"""How many times as far as the round's median a reply may move a part before what it brings is shortened to that.

Each site does as many steps of Adam, whose length hardly depends on its scans: in runs of 16 rounds of two sites the
further of them moved a part at most 1.8 times as far as the other."""

ROOM = 10.0
"""Likewise, where there are no others to compare with: times as far as earlier rounds, or as the learning rate says.

In the same runs a round went up to 2.6 times as far as those before it, and 1.8 rates a step; no gradients take Adam
(0.9, 0.999) further than 7.3 rates a step."""

COMPARED = 3
"""Replies from which on the usual distance is the median of the round; two cannot outvote one another."""

LEAST = 5
"""Sites that a trimmed mean needs: it leaves out a fifth at either end."""


def weights_of(counts: Mapping[str, int], replied: Collection[str]) -> dict[str, int]:
    """Give the weight of each site that replied: its number of scans, as far as `CAP` lets it count.

    Example:
        >>> weights_of({"a": 20, "b": 30, "c": 1_000_000}, ("a", "c"))
        {'a': 20, 'c': 150}
    """
    most = CAP * median_low(counts.values()) if counts else 0
    return {site: min(counts[site], most) for site in sorted(replied)}


def limit(distances: Collection[float], before: Collection[float], most: float) -> float:
    """Give how far one reply may move one part.

    Args:
        distances: how far each reply of the round moved it, Euclidean.
        before: how far each earlier round of the phase moved the shared part.
        most: the limit where nothing is known.
    """
    if len(distances) >= COMPARED and (usual := median(distances)):
        return min(most, CLIP * usual)
    return min(most, ROOM * (median(before) if before else 0.0) or most)


def reach(experiment: Experiment, phase: str, arrays: Arrays) -> float:
    """Give the distance that a part can be moved in a round, with room to spare.

    A step of Adam moves a weight by about the learning rate, whatever its gradient (Kingma and Ba 2015, Sec. 2.1); here
    all weights go one way in all steps, and `ROOM` times as far.
    """
    phases = experiment.phases
    own = phases.of(phase)
    rate = max(own.rate, phases.critic_rate, getattr(own, "appearance_rate", 0.0))
    return ROOM * own.steps * rate * math.sqrt(sum(array.size for array in arrays.values()))


def least(experiment: Experiment, sites: int) -> int:
    """Give how many replies the preset's kind of mean needs.

    Args:
        experiment: the preset.
        sites: how many there are.

    Raises:
        FederationError: fewer than it needs: a trimmed mean of so few would leave out none, and be a mean.
    """
    if experiment.federation.aggregation == "secure":
        if sites < FEWEST:
            raise FederationError(f"a secure sum needs {FEWEST} sites that train networks, here are {sites}")
        return FEWEST - 1
    if experiment.federation.aggregation != "trimmed":
        return 1
    if sites < LEAST:
        raise FederationError(
            f'federation.aggregation = "trimmed" needs {LEAST} sites that answer, but there are {sites}: '
            'invite more, or set it to "auto", "mean" or "median"'
        )
    return LEAST


def average(experiment: Experiment, replies: int) -> str:
    """Give how so many replies are averaged: "mean", "trimmed" or "median".

    Raises:
        FederationError: as `least`.
    """
    least(experiment, replies)
    how = experiment.federation.aggregation
    if how == "secure":
        return "mean"
    return how if how != "auto" else "trimmed" if replies >= LEAST else "mean"
