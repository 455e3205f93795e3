"""Which numbers a site's statistics are: names and sizes, known before anything is measured, so that a gate can check.

`sst_models.statistics` says what each number is and measures it; `client.gate.noise` makes of them what leaves.
"""

from configs.structures import GROUPS

NUMBERS = len(GROUPS) + 1
"""Numbers of a person: how bright each of the 16 groups is, and the unlabelled inside of the brain, beside the atlas;
in standard units (`sst_models.statistics.prior.UNIT`)."""

CLIP = 7.0
"""Length that a person's numbers have at most, in standard units. People of two public sites have 2 to 8."""

NEAR = 1.8
"""Length that they differ by from the mean of their site, likewise; people of two public sites have 1 to 2.5."""

FIRST = 0.25
"""Share of what noise may cost that goes to the rough mean."""

APART, TOGETHER = 1.5, 0.6
"""How sites' means lie around the atlas: standard deviation of each number, in standard units, and the correlation of
two: a scanner's contrast makes all that is grey lighter. Of two public sites."""

SHAPES: dict[str, tuple[int, ...]] = {"mean": (NUMBERS,), "noise": (1,), "multiplier": (1,)}
"""The arrays of a site's statistics, float32: the mean over its people, the standard deviation of the noise on each
number of it, and the noise multiplier by which it is counted."""
