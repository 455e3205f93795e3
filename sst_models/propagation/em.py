"""EM refinement: what a scan's own intensities say of the labels that were propagated onto it.

A registration is wrong by a voxel here and there, and a scan shows where: a voxel beside the third ventricle that is as
dark as the ventricle belongs to it. Propagated labels, softened at their edges, are the prior; near each place the
intensities of a structure are a Gaussian, estimated from the voxels that most likely belong to it; Bayes' rule gives
each voxel its label, and the Gaussians are estimated anew. Structures near a place share one width: with widths of
their own, the wider of two neighbours takes the voxels that hold both, and pallidum and amygdala grow into white
matter. It is the expectation maximisation of atlas-based segmentation (Ashburner & Friston 2005, NeuroImage 26; Puonti
et al. 2016, NeuroImage 143), on flows that stay as they are. The constants were chosen on validation scans
(benchmarks/LEARNING.md).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.structures import PAPER, LabelTable
from sst_models.volume.groups import count, group_probabilities, groups, one_hot
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.mirror import mean_with_mirror, mirror_probabilities
from sst_models.volume.separable import blur

EDGE = 1.4
"""Millimetres, sigma of the Gaussian by which propagated labels are softened: how far off a flow may be."""

LEARNT_EDGE = 1.0
"""Likewise of a segmenter's probabilities, alone or fused: it has seen where this scan's edges are."""

NEAR = 4.8
"""Millimetres, sigma of the Gaussian of what is near a place, for a structure's intensities."""

REACH = 7.2
"""Likewise for how well labels explain a scan (`mean_log_likelihood`) and how far two sources of labels agree
(`fusion.registration_weight`)."""

PASSES = 2
"""Iterations of estimating intensities and giving labels; more of them leave the prior behind."""

SPREAD = 0.03
"""Least standard deviation of a structure's intensities, as there is always noise."""

ANCHOR = 20.0
"""Voxels that a structure's intensities in the whole brain count for beside those near a place."""

FEW = 0.5
"""Where structures cover a smaller share of what is in a scan, background is its tissue alone, without air: of air and
tissue together the Gaussian fits neither. With hippocampus and amygdala alone that gives 1.0 and 3.4 points of Dice
(oasis, ixi), with all 28 structures, which cover more, it would give 0.0 and -0.15 (benchmarks/LEARNING.md)."""

FLOOR, REACHED = 1e-4, 1e-3
"""What is added to a class's prior where it is more than `REACHED`, so that flat tails do not count for much."""


def propagate_labels(
    scan: Tensor, labels: AtlasLabels, flow: Tensor, weight: float, spacing: float, mirrored: Tensor | None = None
) -> Tensor:
    """Give a scan the atlas's labels by flows alone, or refined by EM where its weight is not 0.

    Args and what is returned: as of `refine_labels`; without a weight and a second flow no edge is softened.
    """
    if weight or mirrored is not None:
        return refine_labels(scan, labels, flow, weight, spacing, mirrored)
    return labels.propagate(flow)


@torch.no_grad()
def refine_labels(
    scan: Tensor, labels: AtlasLabels, flow: Tensor, weight: float, spacing: float, mirrored: Tensor | None = None
) -> Tensor:
    """Give a scan the atlas's labels by a flow and by the scan's intensities.

    Args:
        scan: (1, 1, D, H, W) in [0, 1], background 0.
        labels: the atlas's.
        flow: (1, 3, D, H, W) in voxels, scan -> atlas.
        weight: of the intensities' log-likelihood, as neighbours are not independent; 0 leaves the labels as
            propagated, but for their softened edges.
        spacing: of the grid, mm.
        mirrored: another flow, from the scan's mirror image to the atlas, whose labels count as much.

    Returns:
        Class indices (D, H, W) int64. A structure that the flow puts nowhere stays nowhere.
    """
    prior = propagated_probabilities(labels, flow, mirrored)
    return expectation_maximisation(scan, prior, weight, spacing, table=labels.table).argmax(0)


@torch.no_grad()
def propagated_probabilities(labels: AtlasLabels, flow: Tensor, mirrored: Tensor | None = None) -> Tensor:
    """Give each voxel's probability of each class, (classes, D, H, W), by the labels that one flow propagates, or two.

    Args: as of `refine_labels`.
    """
    propagated = labels.probabilities(flow)
    if mirrored is None:
        return propagated
    theirs = mirror_probabilities(labels.probabilities(mirrored), labels.table)
    return mean_with_mirror(propagated, theirs, labels.table)


@torch.no_grad()
def expectation_maximisation(
    scan: Tensor, probabilities: Tensor, weight: float, spacing: float, edge: float = EDGE, table: LabelTable = PAPER
) -> Tensor:
    """Give each voxel's posterior probability of each class by its prior and the scan's own intensities.

    Args:
        scan: (1, 1, D, H, W) in [0, 1], background 0.
        probabilities: the prior of each voxel, (classes, D, H, W), summing to 1 over classes.
        weight: as of `refine_labels`.
        spacing: of the grid, mm.
        edge: sigma of the Gaussian by which the prior is softened, mm.
        table: of labels.

    Returns:
        Probabilities of the same shape.
    """
    prior = blur(probabilities, edge / spacing)
    prior = prior / prior.sum(0, keepdim=True).clamp(min=1e-6)
    prior = (prior + FLOOR * (prior > REACHED)).clamp(min=1e-9).log()
    group = groups(scan.device, table)  # left and right share their intensities
    posterior = probabilities
    for _ in range(PASSES):
        likelihood = _likelihood(group_probabilities(posterior, table), scan[0, 0], NEAR / spacing, one_width=True)
        posterior = torch.softmax(prior + weight * likelihood[group], dim=0)
    return posterior


@torch.no_grad()
def mean_log_likelihood(scan: Tensor, labels: Tensor, spacing: float, table: LabelTable = PAPER) -> float:
    """Measure how well labels explain a scan: the mean log-density of the brain's intensities in their structures.

    Args:
        scan: (1, 1, D, H, W) in [0, 1], background 0.
        labels: class indices, (D, H, W).
        spacing: of the grid, mm.
        table: of labels.
    """
    group = groups(scan.device, table)[labels.long()]
    density = _likelihood(one_hot(group, count(table), scan.dtype), scan[0, 0], REACH / spacing)
    return float(density.gather(0, group[None])[0][scan[0, 0] > 0].mean())


def _likelihood(share: Tensor, scan: Tensor, reach: float, one_width: bool = False) -> Tensor:
    """Give the log-density of each voxel's intensity in each group, (groups, D, H, W), by the Gaussian near it.

    `one_width` gives structures the width of all of them near the place, as linear discriminants have; background,
    which is air and tissue without a name, keeps its own. Where that is most of the scan (`FEW`), air is left out: its
    intensities count in no Gaussian, and every group's density is 1 there.
    """
    tissue = scan > 0
    if few := bool((share[1:].sum(0) * tissue).sum() < FEW * tissue.sum()):
        share = share * tissue
    sums = torch.stack([share, share * scan, share * scan.square()])  # count, sum and sum of squares
    whole = sums.sum((2, 3, 4), keepdim=True)
    overall = whole / whole[:1].clamp(min=1.0)
    pooled = F.avg_pool3d(sums.flatten(0, 1), 2, ceil_mode=True, count_include_pad=False)
    voxels = (math.sqrt(2 * math.pi) * reach) ** 3  # in a Gaussian of this sigma
    near = voxels * blur(pooled, reach / 2).view(3, -1, *pooled.shape[1:]) + ANCHOR * overall
    mean = near[1] / near[0].clamp(min=1e-6)
    variance = (near[2] / near[0].clamp(min=1e-6) - mean.square()).clamp(min=0)
    if one_width:
        variance[1:] = (near[0, 1:] * variance[1:]).sum(0) / near[0, 1:].sum(0).clamp(min=1e-6)
    variance += SPREAD**2
    mean, variance = F.interpolate(torch.stack([mean, variance]), scan.shape, mode="trilinear")
    density: Tensor = -0.5 * ((scan - mean).square() / variance + variance.log())
    return density * tissue if few else density
