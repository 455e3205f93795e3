"""Posterior: what a scan's own intensities say of the labels that were carried onto it.

A registration is wrong by a voxel here and there, and a scan shows where: a voxel beside the third ventricle that is as
dark as the ventricle belongs to it. Carried labels, softened at their edges, are the prior; near each place the
intensities of a structure are a Gaussian, told by the voxels that are most likely its own; Bayes' rule gives each voxel
its label, and the Gaussians are told anew. Structures near a place share one width: with widths of their own, the
wider of two neighbours takes the voxels that hold both, and pallidum and amygdala grow into white matter. It is the
expectation maximisation of atlas-based segmentation (Ashburner & Friston 2005, NeuroImage 26; Puonti et al. 2016,
NeuroImage 143), on flows that stay as they are. The constants were chosen on validation scans (LEARNING.md).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.schema import Experiment
from sst_models.volume.groups import COUNT, group_chances, groups, shares
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.mirror import mean_of_both, mirror_chances
from sst_models.volume.separable import blur

EDGE = 1.4
"""Millimetres, sigma of the Gaussian by which carried labels are softened: how far off a flow may be."""

LEARNT_EDGE = 1.0
"""Likewise of what a segmenter says, alone or beside carried labels: it has seen where this scan's edges are."""

NEAR = 4.8
"""Millimetres, sigma of the Gaussian of what is near a place, for a structure's intensities."""

REACH = 7.2
"""Likewise for how well labels explain a scan (`evidence`) and how far two opinions agree (`together.trust`)."""

PASSES = 2
"""Times that intensities are told and labels given; more of them leave the prior behind."""

SPREAD = 0.03
"""Least standard deviation of a structure's intensities, as there is always noise."""

ANCHOR = 20.0
"""Voxels that a structure's intensities in the whole brain count for beside those near a place."""

FLOOR, REACHED = 1e-4, 1e-3
"""What is added to a class's prior where it is more than `REACHED`, so that flat tails do not count for much."""


def carry_labels(
    scan: Tensor, labels: AtlasLabels, flow: Tensor, experiment: Experiment, mirrored: Tensor | None = None
) -> Tensor:
    """Give a scan the atlas's labels as the preset says: by the flow alone, or refined by `registration.likelihood`.

    Args and what is returned: as of `refine`.
    """
    weight = experiment.registration.likelihood
    if weight or mirrored is not None:
        return refine(scan, labels, flow, weight, experiment.grid.spacing, mirrored)
    return labels.carry(flow)


@torch.no_grad()
def refine(
    scan: Tensor, labels: AtlasLabels, flow: Tensor, weight: float, spacing: float, mirrored: Tensor | None = None
) -> Tensor:
    """Give a scan the atlas's labels by a flow and by the scan's intensities.

    Args:
        scan: (1, 1, D, H, W) in [0, 1], background 0.
        labels: the atlas's.
        flow: (1, 3, D, H, W) in voxels, scan -> atlas.
        weight: of the intensities' log-likelihood, as neighbours are not independent; 0 leaves the labels as carried,
            but for their softened edges.
        spacing: of the grid, mm.
        mirrored: another flow, from the scan's mirror image to the atlas, whose labels count as much.

    Returns:
        Class indices (D, H, W) int64. A structure that the flow carries nowhere stays nowhere.
    """
    found: Tensor = settle(scan, carried_chances(labels, flow, mirrored), weight, spacing).argmax(0)
    return found


@torch.no_grad()
def carried_chances(labels: AtlasLabels, flow: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Give each voxel's chances of each class, (29, D, H, W), by the labels that one flow carries, or two.

    Args: as of `refine`.
    """
    carried = labels.shares(flow)
    if mirrored is None:
        return carried
    return mean_of_both(carried, mirror_chances(labels.shares(mirrored)))


@torch.no_grad()
def settle(scan: Tensor, chances: Tensor, weight: float, spacing: float, edge: float = EDGE) -> Tensor:
    """Give each voxel's chances of each class by what they were and by the scan's intensities.

    Args:
        scan: (1, 1, D, H, W) in [0, 1], background 0.
        chances: what is thought of each voxel, (29, D, H, W), summing to 1 over classes.
        weight: as of `refine`.
        spacing: of the grid, mm.
        edge: sigma of the Gaussian by which the chances are softened, mm.

    Returns:
        Chances of the same shape.
    """
    prior = blur(chances, edge / spacing)
    prior = prior / prior.sum(0, keepdim=True).clamp(min=1e-6)
    prior = (prior + FLOOR * (prior > REACHED)).clamp(min=1e-9).log()
    group = groups(scan.device)  # left and right share their intensities
    now = chances
    for _ in range(PASSES):
        like = _likelihood(group_chances(now), scan[0, 0], NEAR / spacing, one_width=True)
        now = torch.softmax(prior + weight * like[group], dim=0)
    return now


@torch.no_grad()
def evidence(scan: Tensor, labels: Tensor, spacing: float) -> float:
    """Tell how well labels explain a scan: the mean log-density of the brain's intensities in their own structures.

    Args:
        scan: (1, 1, D, H, W) in [0, 1], background 0.
        labels: class indices, (D, H, W).
        spacing: of the grid, mm.
    """
    group = groups(scan.device)[labels.long()]
    density = _likelihood(shares(group, COUNT, scan.dtype), scan[0, 0], REACH / spacing).gather(0, group[None])[0]
    return float(density[scan[0, 0] > 0].mean())


def _likelihood(share: Tensor, scan: Tensor, reach: float, one_width: bool = False) -> Tensor:
    """Give the log-density of each voxel's intensity in each group, (17, D, H, W), by the Gaussian near it.

    `one_width` gives structures the width of all of them near the place, as linear discriminants have; background,
    which is air and tissue without a name, keeps its own.
    """
    told = torch.stack([share, share * scan, share * scan.square()])  # count, sum and sum of squares
    whole = told.sum((2, 3, 4), keepdim=True)
    overall = whole / whole[:1].clamp(min=1.0)
    pooled = F.avg_pool3d(told.flatten(0, 1), 2, ceil_mode=True, count_include_pad=False)
    voxels = (math.sqrt(2 * math.pi) * reach) ** 3  # in a Gaussian of this sigma
    near = voxels * blur(pooled, reach / 2).view(3, -1, *pooled.shape[1:]) + ANCHOR * overall
    mean = near[1] / near[0].clamp(min=1e-6)
    variance = (near[2] / near[0].clamp(min=1e-6) - mean.square()).clamp(min=0)
    if one_width:
        variance[1:] = (near[0, 1:] * variance[1:]).sum(0) / near[0, 1:].sum(0).clamp(min=1e-6)
    variance += SPREAD**2
    mean, variance = F.interpolate(torch.stack([mean, variance]), scan.shape, mode="trilinear")
    density: Tensor = -0.5 * ((scan - mean).square() / variance + variance.log())
    return density
