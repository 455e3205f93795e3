"""How far generated pairs are from a site's scans: what varies, what gives them away, and whether one is a copy.

A generator that earns its place draws shapes and looks that vary as much as those of real people, is hard to tell from
scans, and copies none of them. Scans are at hand in a simulation, and at a site; a hub has none to compare with.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.structures import PAPER, LabelTable
from simulation.measured import Resemblance
from sst_models.losses.structural import ms_ssim
from sst_models.statistics.shape import volumes
from sst_models.volume.separable import blur

Volume = tuple[Tensor, Tensor]
"""An image (1, D, H, W) in [0, 1], background 0, and its labels (D, H, W)."""

FOLDS = 5
"""Of the cross-validation of the classifier."""

PENALTY = 1.0
"""On the squared weights of the classifier, beside the sum of its losses: there are about as many features as scans."""

DECILES = torch.linspace(0.1, 0.9, 9)

SCALES = (0.7, 1.5, 3.0)
"""Voxels, sigmas of the Gaussians between which the detail of an image is measured."""


def compare(
    draws: Sequence[Volume],
    scans: Sequence[Volume],
    source: str = "",
    target: str = "",
    table: LabelTable = PAPER,
) -> Resemblance:
    """Compare generated pairs with scans of the site whose style they have.

    Args:
        draws: ten or more.
        scans: five or more, with labels of whatever origin.
        source: the site of the atlas.
        target: the site whose style the pairs have.
        table: of labels.
    """
    groups = table.groups
    drawn, real = (torch.stack([_volumes(labels, table) for _, labels in items]) for items in (draws, scans))
    varied = (_variation(drawn) / _variation(real).clamp(min=1e-6)).tolist()
    sized = (drawn.mean(0) / real.mean(0).clamp(min=1e-6)).tolist()
    bright = [torch.stack([_brightness(*item, table) for item in items]).nanmean(0) for items in (draws, scans)]
    pairs = [(a, b) for a, b in combinations(range(len(groups)), 2) if all((m[a] - m[b]).isfinite() for m in bright)]
    same = [bool((bright[0][a] > bright[0][b]) == (bright[1][a] > bright[1][b])) for a, b in pairs]
    images, others = ([image for image, _ in items] for items in (draws, scans))
    return Resemblance(
        source,
        target,
        dict(zip(groups, varied, strict=True)),
        dict(zip(groups, sized, strict=True)),
        separability(images, others),
        max(alike(one, other) for one in images for other in others),
        max(alike(one, other) for one, other in combinations(others, 2)),
        sum(same) / max(1, len(same)),
    )


def separability(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Give the area under the ROC curve of a classifier of images (1, D, H, W) as of `one`, cross-validated.

    A logistic regression on quantiles of intensities and of their gradients, and on detail by scale: what blur, noise
    and contrast give away (classifier two-sample test: Lopez-Paz & Oquab 2017).
    """
    rows = torch.stack([_features(image) for image in (*one, *other)]).double()
    truth = torch.tensor([1.0] * len(one) + [0.0] * len(other), dtype=torch.float64)
    fold = torch.cat([torch.arange(len(items)) % FOLDS for items in (one, other)])
    scores = torch.zeros_like(truth)
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        mean, spread = rows[train].mean(0), rows[train].std(0).clamp(min=1e-9)
        weights = _regress((rows[train] - mean) / spread, truth[train])
        scores[test] = F.pad((rows[test] - mean) / spread, (0, 1), value=1.0) @ weights
    above = scores[truth == 1][:, None] - scores[truth == 0][None]
    return float(((above > 0).double() + 0.5 * (above == 0).double()).mean())


def _regress(rows: Tensor, truth: Tensor) -> Tensor:
    """Give the weights of a logistic regression, the last of them its constant, by Newton's steps."""
    rows = F.pad(rows, (0, 1), value=1.0)
    # Both classes count as much, however many draws there are.
    balance = torch.where(truth == 1, 0.5 / truth.mean(), 0.5 / (1 - truth.mean()))
    weights, penalty = rows.new_zeros(rows.shape[1]), PENALTY * torch.eye(rows.shape[1]).to(rows)
    for _ in range(30):
        chance = torch.sigmoid(rows @ weights)
        gradient = rows.T @ (balance * (chance - truth)) + penalty @ weights
        curvature = (rows.T * (balance * chance * (1 - chance))) @ rows + penalty
        weights = weights - torch.linalg.solve(curvature, gradient)
    return weights


def _features(image: Tensor) -> Tensor:
    inside = image[0] > 0
    slopes = torch.stack([F.pad(image[0].diff(dim=axis), [0, 0] * (2 - axis) + [0, 1]) for axis in range(3)])
    steep = slopes.square().sum(0).sqrt()
    maps = [image, *(blur(image, sigma) for sigma in SCALES)]
    bands = [(fine - coarse)[0][inside] for fine, coarse in pairwise(maps)]
    detail = [band.std().clamp(min=1e-6).log() for band in bands]
    quantiles = [torch.quantile(values[inside], DECILES.to(values)) for values in (image[0], steep)]
    return torch.cat([*quantiles, torch.stack(detail)])


def _volumes(labels: Tensor, table: LabelTable) -> Tensor:
    """Give the voxels of each group."""
    sizes = volumes(labels, table)
    return torch.stack([sizes[[index - 1 for index in members]].sum() for members in table.members.values()])


def _variation(volumes: Tensor) -> Tensor:
    return volumes.std(0) / volumes.mean(0).clamp(min=1e-6)


def _brightness(image: Tensor, labels: Tensor, table: LabelTable) -> Tensor:
    """Give the mean intensity of each group, nan where there is none."""
    each = table.members.values()
    means = [image[0][torch.isin(labels, torch.tensor(members).to(labels))].mean() for members in each]
    return torch.stack(means)


def alike(one: Tensor, other: Tensor) -> float:
    """Give the MS-SSIM of two images (1, D, H, W) in [0, 1]."""
    return float(ms_ssim(one[None], other[None]))
