"""Whether a segmentation can be used: what is measured of it without any truth, and what that says of its Dice.

Two ways to the same labels that agree are a good sign (as in Valindria et al. 2017, IEEE TMI 36, where a second
segmentation predicts the accuracy of the first); so are usual sizes, and tissues in their order. How sure the labels
are adds nothing to that (benchmarks/RESULTS.md): a network is as sure of a scan that it has never seen the like of.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from client.expected import Expected
from client.quality import DISTANCE, Light, Quality
from configs.contrast import T1, weighted
from configs.structures import TISSUES, LabelTable
from sst_models.volume.metrics import mean_dice

if TYPE_CHECKING:
    from client.segmented import Structure

LEVELS = 256
"""Levels of brightness that are told apart."""

INTERCEPT, AGREEMENT, SIZES = 0.38, 0.54, -0.18
"""Of the predicted Dice: least squares on validation scans of three public sites, as they are and spoilt in seven ways,
labelled with the 28 structures (benchmarks/judged.py)."""

DOUBTFUL, BAD = 0.77, 0.6
"""Predicted Dice below which a result is to be looked at, and not to be used."""

ORDER = 0.6
"""Least probability that a voxel of the brighter tissue is brighter; by chance it is 0.5."""

SHOWN = 4
"""How many structures of unusual size are named."""

FARTHEST = 3.0
"""Half ranges beyond which a structure counts as no farther: one that is missing is infinitely small."""


@dataclass(frozen=True)
class Evidence:
    """What is measured of a segmentation on the grid of its model."""

    agreement: float  # mean Dice of the U-Net's labels with those that F propagates, 0 to 1; nan without a registration
    confidence: float  # mean probability of what is labelled, over the groups, 0 to 1
    grey_white: float  # probability that a voxel of white matter is brighter than one of cortex; nan if not known
    fluid_grey: float  # probability that a voxel of cortex is brighter than one of fluid, likewise


def agreement(predicted: Tensor, propagated: Tensor, table: LabelTable) -> float:
    """Give the mean Dice over groups of two sets of probabilities, (classes, D, H, W), as their labels have it."""
    return mean_dice(predicted.argmax(dim=0), propagated.argmax(dim=0), table)


def evidence(image: Tensor, probabilities: Tensor, agreed: float, table: LabelTable, contrast: str = T1) -> Evidence:
    """Measure a segmentation.

    Args:
        image: the prepared scan, (D, H, W) in [0, 1].
        probabilities: of each class, (classes, D, H, W).
        agreed: `agreement`, or nan.
        table: of labels.
        contrast: that the scan should have.
    """
    most, labels = probabilities.max(dim=0)
    sure = [
        float(most[held].mean()) for members in table.members.values() if bool((held := _of(labels, members)).any())
    ]
    fluid, grey, white = (image[_of(labels, table.tissues[tissue])] for tissue in TISSUES)
    known = contrast == T1
    return Evidence(
        agreed,
        sum(sure) / len(sure) if sure else 0.0,
        brighter(white, grey) if known else math.nan,
        brighter(grey, fluid) if known else math.nan,
    )


def brighter(one: Tensor, other: Tensor) -> float:
    """Give the probability that a voxel of one set is brighter than one of another: area under the ROC curve.

    Args:
        one: any intensities in [0, 1].
        other: likewise.

    Returns:
        0 to 1, equals counting half; nan where one of them is empty.
    """
    ours, theirs = (torch.histc(values, LEVELS, 0.0, 1.0) for values in (one, other))
    if not (len(one) and len(other)):
        return math.nan
    below = theirs.cumsum(0) - theirs / 2
    return float((ours * below).sum() / (ours.sum() * theirs.sum()))


def _of(labels: Tensor, members: Sequence[int]) -> Tensor:
    return torch.isin(labels, torch.tensor(list(members), device=labels.device))


@dataclass(frozen=True)
class Judgement:
    """What is to be said of a result."""

    dice: float  # that is predicted, 0 to 1; nan where the model has no registration to agree with
    light: Light  # green: nothing speaks against it; yellow: to be looked at; red: not to be used
    concerns: tuple[str, ...]  # in words; empty where it is green


def judge(seen: Evidence, quality: Quality, expected: Expected, structures: "Sequence[Structure]") -> Judgement:
    """Judge a result.

    Args:
        seen: what was measured of it.
        quality: of its prepared scan.
        expected: sizes that are usual.
        structures: sizes that were found.
    """
    dice = predicted_dice(seen, expected, structures)
    concerns = [*_of_dice(dice), *_of_sizes(expected, structures), *_of_order(seen, quality.contrast)]
    concerns += quality.of_place
    if not dice >= DOUBTFUL or quality.distance > DISTANCE[1]:  # a scanner's look alone says less
        concerns += quality.of_style
    if dice < BAD or quality.light == "red":
        return Judgement(dice, "red", tuple(concerns))
    return Judgement(dice, "yellow" if concerns else "green", tuple(concerns))


def predicted_dice(seen: Evidence, expected: Expected, structures: "Sequence[Structure]") -> float:
    """Predict the mean Dice of a result over the groups, 0 to 1; nan where the model has no registration."""
    unlike = unlikeness(expected, [(s.name, s.fraction) for s in structures])
    return min(max(INTERCEPT + AGREEMENT * seen.agreement + SIZES * unlike, 0.0), 1.0)


def unlikeness(expected: Expected, fractions: "Sequence[tuple[str, float]]") -> float:
    """Give the mean distance of structures' sizes from the middles of their ranges, in half ranges."""
    return sum(min(expected.apart(name, share), FARTHEST) for name, share in fractions) / len(fractions)


def _of_dice(dice: float) -> list[str]:
    if dice < BAD:
        return [f"its labels are likely wrong: their Dice is predicted to be {dice:.2f}"]
    return [f"its Dice is predicted to be {dice:.2f} only"] if dice < DOUBTFUL else []


def _of_sizes(expected: Expected, structures: "Sequence[Structure]") -> list[str]:
    far = sorted(((expected.apart(s.name, s.fraction), s) for s in structures), key=lambda pair: -pair[0])
    unusual = [s for away, s in far if away > 1]
    if not unusual:
        uneven = [s for s in structures if expected.lopsided(s.name, s.asymmetry) > 1]
        names = ", ".join(s.name for s in uneven[:SHOWN])
        return [f"its sides differ by more than is usual: {names}"] if uneven else []
    told = [f"{s.name} {s.ml:.2g} ml ({s.usual_ml[0]:.2g} to {s.usual_ml[1]:.2g})" for s in unusual[:SHOWN]]
    more = f", and {len(unusual) - SHOWN} more" if len(unusual) > SHOWN else ""
    return [f"unusual sizes, with what is usual: {'; '.join(told)}{more}"]


def _of_order(seen: Evidence, contrast: str) -> list[str]:
    found = []
    for brighter_one, darker_one, order in (
        ("white matter", "cortex", seen.grey_white),
        ("cortex", "fluid", seen.fluid_grey),
    ):
        if order < ORDER:
            what = f"{brighter_one} is hardly brighter than {darker_one} ({order:.2f}; by chance 0.5)"
            found.append(f"{what}: not {weighted(contrast)}, or blurred, or labels that are wrong")
    return found
