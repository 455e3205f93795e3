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

SHAPES: dict[str, tuple[int, ...]] = {
    "intensity.mean": (INTENSITY,),
    "intensity.covariance": (INTENSITY, INTENSITY),
    "shape.mean": (SHAPE,),
    "shape.covariance": (SHAPE, SHAPE),
    "shape.residual": (1,),
}
"""The arrays of a site's statistics, all float32; they depend on no scan, atlas or preset."""
