"""Which numbers a site's statistics are: names and sizes, known before anything is measured, so that a gate can check.

`sst_models.statistics` says what each number is and measures it.
"""

from math import prod

from configs.structures import CLASSES, GROUPS

WAVES = (3, 4, 4)
"""Cosine waves along each axis, the constant among them, of the velocities that deform a whole brain."""

INTENSITY = 2 * (len(GROUPS) + 1) + 1
"""Numbers of an intensity code: a mean and the log of a standard deviation for each of the 16 groups and for the
unlabelled inside of the brain, and the log of the shading."""

INFLATIONS = CLASSES - 1
"""Coefficients of a shape code that inflate a structure: its first ones."""

SHAPE = 4 * INFLATIONS + 3 * prod(WAVES)
"""Coefficients of a shape code: an inflation and three moves of each of the 28 structures, and the waves."""

NUMBERS = INTENSITY + SHAPE
"""Numbers of a person, in standard units (`sst_models.statistics.prior`)."""

CLIP = 8.0
"""Length that a person's numbers have at most, in standard units. People of two public sites have 6 to 9."""

SHAPES: dict[str, tuple[int, ...]] = {"mean": (NUMBERS,), "noise": (1,)}
"""The arrays of a site's statistics, float32: the mean over its people, and the standard deviation of the noise on each
number of it."""
