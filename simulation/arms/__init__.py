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

BASELINES = (syn, voxelmorph, ltnet, bayesian, dataaug, styleseg, baselines)
"""Families of methods that the paper's is compared with, and of control and upper bounds."""

ARMS: dict[str, Arm] = {arm.name: arm for family in FAMILIES for arm in family.ARMS}
"""All arms by name."""

__all__ = ["ARMS", "BASELINES", "FAMILIES", "Arm"]
