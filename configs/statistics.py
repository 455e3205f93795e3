"""Which numbers a site's statistics are: names and sizes, known before anything is measured, so that a gate can check.

`sst_models.statistics` says what each number is and measures it; `client.gate.noise` makes of them what leaves.
"""

import math

from configs.structures import PAPER, LabelTable

CLIP = 7.0
"""Length that a person's numbers have at most, in standard units, with the paper's table: 17 numbers. People of two
public sites have 2 to 8."""

NEAR = 1.8
"""Length that they differ by from the mean of their site, likewise; people of two public sites have 1 to 2.5."""

FIRST = 0.25
"""Share of what noise may cost that goes to the rough mean."""

APART, TOGETHER = 1.5, 0.6
"""How sites' means lie around the atlas: standard deviation of each number, in standard units, and the correlation of
two: a scanner's contrast makes all that is grey lighter. Of two public sites."""


def count(table: LabelTable) -> int:
    """Give how many numbers a person has: how bright each group is, and the unlabelled inside of the brain.

    Each is beside the atlas's, in standard units (`sst_models.statistics.prior.UNIT`).
    """
    return len(table.groups) + 1


def lengths(numbers: int) -> tuple[float, float]:
    """Give `CLIP` and `NEAR` for so many numbers: lengths grow with the square root of their count."""
    grown = math.sqrt(numbers / count(PAPER))
    return CLIP * grown, NEAR * grown


def shapes(table: LabelTable) -> dict[str, tuple[int, ...]]:
    """Give the arrays of a site's statistics, float32, and their shapes.

    The mean over its people, the standard deviation of the noise on each number of it, and the noise multiplier by
    which it is counted.
    """
    return {"mean": (count(table),), "noise": (1,), "multiplier": (1,)}
