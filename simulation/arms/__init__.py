"""The arms that a simulation compares, in the order of every table: one value each, one file a family."""

from simulation.arms import (
    baselines,
    bayesian,
    dataaug,
    ltnet,
    registration,
    segmenters,
    styleseg,
    syn,
    voxelmorph,
)
from simulation.arms.arm import Arm

FAMILIES = (registration, syn, voxelmorph, ltnet, bayesian, dataaug, styleseg, segmenters, baselines)

ARMS: dict[str, Arm] = {arm.name: arm for family in FAMILIES for arm in family.ARMS}
"""All arms by name."""

__all__ = ["ARMS", "FAMILIES", "Arm"]
