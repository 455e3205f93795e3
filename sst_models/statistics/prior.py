"""What is known before a site says anything: how sites differ from an atlas, and how people differ at a site.

A site's mean comes with noise, or does not come. What looks are drawn from is then the normal distribution of a
person's code given what came: the less is known of a site, the nearer to the atlas, and the wider. Shapes are always
drawn from what is known here. The figures are those of two public sites (OASIS-1 and IXI, training scans, aligned to an
atlas of each), two digits of each at most.

Numbers of a person are differences of mean intensities from the atlas's own, in `UNIT`.
"""

from functools import cache

import torch
from torch import Tensor

from configs.statistics import APART, TOGETHER
from configs.structures import GROUPS, STRUCTURES
from sst_models.statistics.intensity import Rendering
from sst_models.statistics.moments import Moments
from sst_models.statistics.shape import INFLATIONS, SHAPE

SHADING = 0.02
"""Usual standard deviation of a scan's shading."""

RESIDUAL = 1.4
"""Millimetres, RMS: what shape codes leave out of a scan's velocity."""

FAR = 4.0
"""Units; a number of a person that is further from the atlas's is brought to this: small structures vary wildly."""

UNIT = 0.1
"""Of mean intensities, which are from 0 to 1."""

APART_SPREAD, APART_SHADING = 0.35, 0.5
"""Standard deviations of a site's mean code around the atlas's, besides `configs.statistics.APART`: of logarithms of
standard deviations, and of that of the shading."""

TOWARDS = 0.5
"""Share of the way from the atlas's look to a site's mean look around which looks are drawn: those between teach more.
Chosen among 1, 0.85, 0.7 and this on validation scans of both directions (LEARNING.md, "Privacy")."""

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


def centre(rendering: Rendering) -> Tensor:
    """Give the atlas's own intensity code, (35,)."""
    own = rendering.own
    return torch.cat([own.mean, own.spread.log(), own.mean.new_tensor([SHADING]).log()])


@cache
def people() -> Tensor:
    """Give the covariance of people's intensity codes at a site, (35, 35)."""
    mean = torch.tensor([PEOPLE_MEAN[name] for name in ("inside", *GROUPS)])
    return _looks(mean, PEOPLE_SPREAD, PEOPLE_SHADING).square().diag()


@cache
def sites() -> Tensor:
    """Give the covariance of a site's mean intensity code around the atlas's, (35, 35)."""
    groups = len(GROUPS) + 1
    deviation = _looks(torch.full((groups,), UNIT * APART), APART_SPREAD, APART_SHADING)
    alike = torch.eye(len(deviation))
    alike[:groups, :groups] += TOGETHER * (1 - torch.eye(groups))
    return deviation[:, None] * alike * deviation


@cache
def shapes() -> Moments:
    """Give what shape codes are drawn from: people around a site's mean shape, and that around the atlas's."""
    inflations = [PEOPLE_INFLATION.get(structure.group, OTHERS) for structure in STRUCTURES]
    moves, waves = [PEOPLE_MOVE] * (3 * INFLATIONS), [PEOPLE_WAVE] * (SHAPE - 4 * INFLATIONS)
    deviation = torch.tensor([*inflations, *moves, *waves])
    alike = torch.eye(SHAPE)
    for one, left in enumerate(STRUCTURES):
        for other, right in enumerate(STRUCTURES):
            if one != other and left.group == right.group and not left.group.startswith("Cerebellum"):
                alike[one, other] = SIDES
    return Moments(torch.zeros(SHAPE), (1 + APART_SHAPE**2) * deviation[:, None] * alike * deviation)


def _looks(mean: Tensor, spread: float, shading: float) -> Tensor:
    return torch.cat([mean, torch.full_like(mean, spread), torch.tensor([shading])])
