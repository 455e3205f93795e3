"""What is known before a site says anything: how sites differ from an atlas, and how people differ at a site.

A site's means come with noise, or do not come. What is drawn from is then the normal distribution of a person's codes
given what came: the less is known of a site, the nearer to the atlas, and the wider. The figures are those of two
public sites (OASIS-1 and IXI, training scans, aligned to an atlas of each), two digits of each at most.

Numbers of a person are in standard units: her code's difference from the atlas's own, in `SCALE`. Units are chosen so
that intensities, which matter most, are measured most finely within the length that a person's numbers may have.
"""

from functools import cache

import torch
from torch import Tensor

from configs.statistics import INFLATIONS, INTENSITY, NUMBERS, SHAPE
from configs.structures import GROUPS, STRUCTURES
from sst_models.statistics.intensity import Rendering

SHADING = 0.02
"""Usual standard deviation of a scan's shading."""

RESIDUAL = 1.4
"""Millimetres, RMS: what shape codes leave out of a scan's velocity."""

FAR = 3.0
"""Units; a number of a person that is further from the atlas's is brought to this: small structures vary wildly."""

UNIT_MEAN, UNIT_SPREAD, UNIT_SHADING, UNIT_INFLATION, UNIT_REST = 0.1, 0.6, 1.0, 1.4, 4.0
"""Units of intensities (0 to 1), of logarithms of standard deviations, of that of the shading, of inflations and of all
other coefficients of a shape (mm): these are many, and only many scans tell them from noise."""

APART_MEAN, APART_SPREAD, APART_SHADING = 0.15, 0.35, 0.5
"""Standard deviations of a site's means around the atlas, in the numbers' own measures."""

TOGETHER = 0.6
"""Correlation of structures' mean intensities over sites: a scanner's contrast makes all that is grey lighter."""

PEOPLE_MEAN = {
    **dict.fromkeys(("Cerebral-WM",), 0.006),
    **dict.fromkeys(("inside", "Cerebellum-WM", "Thalamus-Proper", "Putamen", "Brain-Stem", "VentralDC"), 0.016),
    **dict.fromkeys(("Cerebral-CX", "Cerebellum-CX", "Pallidum", "Hippocampus", "Amygdala", "4th-Vent"), 0.024),
    **dict.fromkeys(("Lateral-Vent", "Caudate", "3rd-Vent", "CSF"), 0.06),
}
"""Standard deviations over the people of a site: of mean intensities, by group ("inside": the unlabelled brain)."""

PEOPLE_SPREAD, PEOPLE_SHADING = 0.15, 0.2
"""Likewise, of logarithms of standard deviations."""

PEOPLE_INFLATION = {
    **dict.fromkeys(("3rd-Vent", "Cerebellum-CX", "Caudate"), 1.1),
    **dict.fromkeys(("CSF", "4th-Vent"), 0.9),
    "Lateral-Vent": 1.9,
}
"""Likewise, of inflations in mm: ventricles and what lies about them vary most; the others by `OTHERS`."""

OTHERS, PEOPLE_MOVE, PEOPLE_WAVE = 0.45, 0.62, 0.48
"""Millimetres, of the other inflations, of moves of structures, and of waves."""

SIDES = 0.8
"""Correlation of an inflation with that of the other side, but in the cerebellum."""

APART_SHAPE = 0.7
"""A site's mean shape around the atlas's, beside people around their mean: the atlas is one person."""


@cache
def scale() -> Tensor:
    """Give the unit of each number, (NUMBERS,)."""
    groups = len(GROUPS) + 1
    looks = [(groups, UNIT_MEAN), (groups, UNIT_SPREAD), (1, UNIT_SHADING)]
    parts = [*looks, (INFLATIONS, UNIT_INFLATION), (SHAPE - INFLATIONS, UNIT_REST)]
    return torch.cat([torch.full((count,), unit) for count, unit in parts])


def centre(rendering: Rendering) -> Tensor:
    """Give the atlas's own numbers, in their own measures, (NUMBERS,)."""
    own = rendering.own
    shading = own.mean.new_tensor([SHADING]).log()
    return torch.cat([own.mean, own.spread.log(), shading, own.mean.new_zeros(SHAPE)])


@cache
def people() -> Tensor:
    """Give the covariance of people's codes at a site, (NUMBERS, NUMBERS), in their own measures."""
    mean = torch.tensor([PEOPLE_MEAN[name] for name in ("inside", *GROUPS)])
    spread = torch.full_like(mean, PEOPLE_SPREAD)
    deviation = torch.cat([mean, spread, torch.tensor([PEOPLE_SHADING]), _shape_deviation()])
    return deviation[:, None] * _alike() * deviation


@cache
def sites() -> Tensor:
    """Give the covariance of a site's mean codes around the atlas's, of the same size."""
    groups = len(GROUPS) + 1
    looks = torch.cat(
        [torch.full((groups,), APART_MEAN), torch.full((groups,), APART_SPREAD), torch.tensor([APART_SHADING])]
    )
    deviation = torch.cat([looks, APART_SHAPE * _shape_deviation()])
    alike = _alike()
    alike[:groups, :groups] += TOGETHER * (1 - torch.eye(groups))
    return deviation[:, None] * alike * deviation


def _shape_deviation() -> Tensor:
    names = [structure.group for structure in STRUCTURES]
    inflations = torch.tensor([PEOPLE_INFLATION.get(name, OTHERS) for name in names])
    moves, waves = 3 * INFLATIONS, SHAPE - 4 * INFLATIONS
    return torch.cat([inflations, torch.full((moves,), PEOPLE_MOVE), torch.full((waves,), PEOPLE_WAVE)])


def _alike() -> Tensor:
    """Give the correlations of codes: of the two sides of a structure."""
    found = torch.eye(NUMBERS)
    for one in range(INFLATIONS):
        for other in range(INFLATIONS):
            group = STRUCTURES[one].group
            if one != other and STRUCTURES[other].group == group and not group.startswith("Cerebellum"):
                found[INTENSITY + one, INTENSITY + other] = SIDES
    return found
