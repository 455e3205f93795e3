"""How much a site shares: four levels, each of which lets out what the one before it does, and more.

Plain data. `configs.phases` says of each phase from which level on a site answers it, and of each item from which level
on it leaves; a site's policy names its level (`client.gate.policy`).
"""

from collections.abc import Mapping
from types import MappingProxyType

NOTHING, STATISTICS, NETWORKS, MODELS = "nothing", "statistics", "networks", "models"

LEVELS: Mapping[str, str] = MappingProxyType(
    {
        NOTHING: "versions and counts of scans, when the site joins; it gets the atlas and trains by itself",
        STATISTICS: "also a mean of intensities by structure, with noise",
        NETWORKS: "also weights of the networks that are averaged, moments of style codes, and training curves",
        MODELS: "also weights of what is its own: its appearance model A and its segmenter",
    }
)
"""All levels, from the least to the most, and what leaves a site at each."""


def reaches(level: str, least: str) -> bool:
    """Say whether a level lets out what needs another one at least.

    Example:
        >>> reaches("networks", "statistics"), reaches("nothing", "statistics")
        (True, False)
    """
    order = tuple(LEVELS)
    return order.index(level) >= order.index(least)
