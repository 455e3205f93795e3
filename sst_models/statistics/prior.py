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

from configs.statistics import APART, TOGETHER, count
from configs.structures import LabelTable
from sst_models.statistics.intensity import Rendering
from sst_models.statistics.moments import Moments
from sst_models.statistics.shape import length

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

INSIDE = 0.016
"""Standard deviation over the people of a site of the mean intensity of the unlabelled brain; a structure's is of the
label table (`Row.brightness`)."""

PEOPLE_SPREAD, PEOPLE_SHADING = 0.15, 0.2
"""Likewise, of logarithms of standard deviations."""

PEOPLE_MOVE, PEOPLE_WAVE = 0.62, 0.48
"""Millimetres, of moves of structures, and of waves; of inflations the label table says it (`Row.inflation`)."""

APART_SHAPE = 0.7
"""A site's mean shape around the atlas's, beside people around their mean: the atlas is one person."""


def centre(rendering: Rendering) -> Tensor:
    """Give the atlas's own intensity code, (2 N + 1,) with N = `configs.statistics.count`."""
    own = rendering.own
    return torch.cat([own.mean, own.spread.log(), own.mean.new_tensor([SHADING]).log()])


@cache
def people(table: LabelTable) -> Tensor:
    """Give the covariance of people's intensity codes at a site, (2 N + 1, 2 N + 1).

    A group varies as the first of its structures.
    """
    first = [table.structures[members[0] - 1].brightness for members in table.members.values()]
    return _looks(torch.tensor([INSIDE, *first]), PEOPLE_SPREAD, PEOPLE_SHADING).square().diag()


@cache
def sites(table: LabelTable) -> Tensor:
    """Give the covariance of a site's mean intensity code around the atlas's, (2 N + 1, 2 N + 1)."""
    groups = count(table)
    deviation = _looks(torch.full((groups,), UNIT * APART), APART_SPREAD, APART_SHADING)
    alike = torch.eye(len(deviation))
    alike[:groups, :groups] += TOGETHER * (1 - torch.eye(groups))
    return deviation[:, None] * alike * deviation


@cache
def shapes(table: LabelTable) -> Moments:
    """Give what shape codes are drawn from: people around a site's mean shape, and that around the atlas's."""
    inflations, size = [structure.inflation for structure in table.structures], length(table)
    moves, waves = [PEOPLE_MOVE] * (3 * len(inflations)), [PEOPLE_WAVE] * (size - 4 * len(inflations))
    deviation = torch.tensor([*inflations, *moves, *waves])
    alike = torch.eye(size)
    for structure in table.structures:
        other = table.mirrored[structure.index]
        if other != structure.index:
            alike[structure.index - 1, other - 1] = structure.symmetry
    return Moments(torch.zeros(size), (1 + APART_SHAPE**2) * deviation[:, None] * alike * deviation)


def _looks(mean: Tensor, spread: float, shading: float) -> Tensor:
    return torch.cat([mean, torch.full_like(mean, spread), torch.tensor([shading])])
