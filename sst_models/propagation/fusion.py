"""Label fusion: a segmenter and a registration on one scan, whose errors differ.

The U-Net has learnt from many scans what structures look like, and is wrong where a scan is unlike them; F propagates
one atlas's labels onto this very scan, and is wrong where their anatomies differ. Their weighted mean, refined by the
scan's own intensities, was better than either on validation scans (benchmarks/LEARNING.md); averaging propagated labels
is the oldest remedy of registration errors (Heckemann et al. 2006, NeuroImage 33). Where the two differ by more than
their edges, it is mostly a flow that stopped short, of large ventricles for example, and F counts for less.
"""

import torch
from torch import Tensor, nn

from configs.structures import PAPER, LabelTable
from sst_models.propagation.align import Aligner
from sst_models.propagation.em import REACH
from sst_models.propagation.predict import Prediction, network_probabilities, refined
from sst_models.volume.groups import group_probabilities
from sst_models.volume.separable import blur

PARTS = ("E", "A", "F")
"""What is needed beside the segmenter."""

REGISTRATION_WEIGHT = 0.5
"""Weight of F beside the segmenter where they agree."""

APART, ALIKE = 0.85, 0.95
"""Cosine between the two near a place: F has no weight below the first, `REGISTRATION_WEIGHT` above the second."""


@torch.no_grad()
def fused_probabilities(segmenter: nn.Module, volume: Tensor, aligner: Aligner, how: Prediction) -> Tensor:
    """Give each voxel's probability of each class, (classes, D, H, W), by a segmenter and by what F propagates.

    Args:
        segmenter: the U-Net.
        volume: the scan, (1, D, H, W) in [0, 1].
        aligner: of the atlas or atlases, with their labels.
        how: the preset's part for prediction.
    """
    return fused(*both(segmenter, volume, aligner, how), volume, how)


@torch.no_grad()
def both(segmenter: nn.Module, volume: Tensor, aligner: Aligner, how: Prediction) -> tuple[Tensor, Tensor]:
    """Give the probabilities by the segmenter alone, and those that F propagates, (classes, D, H, W) each."""
    return network_probabilities(segmenter, volume, how), aligner.probabilities(*aligner.flows(volume[None]))


@torch.no_grad()
def fused(predicted: Tensor, propagated: Tensor, volume: Tensor, how: Prediction) -> Tensor:
    """Fuse what `both` gives."""
    weight = registration_weight(predicted, propagated, volume > 0, how.spacing, how.table)
    return refined(torch.lerp(predicted, propagated, weight), volume, how)


@torch.no_grad()
def registration_weight(
    predicted: Tensor, propagated: Tensor, brain: Tensor, spacing: float, table: LabelTable = PAPER
) -> Tensor:
    """Give F's weight near each place, (1, D, H, W) in [0, `REGISTRATION_WEIGHT`], by how far the two agree there.

    Args:
        predicted: the segmenter's probabilities of each class, (classes, D, H, W).
        propagated: those that F's flow propagates, likewise.
        brain: where the scan holds signal, (1, D, H, W); nothing else is compared.
        spacing: of the grid, mm.
        table: of labels.
    """
    ours, theirs = group_probabilities(predicted, table), group_probabilities(propagated, table)
    products = torch.stack([(ours * theirs).sum(0), ours.square().sum(0), theirs.square().sum(0)])
    both, one, other = blur(products * brain, REACH / spacing)
    cosine = both / (one * other).sqrt().clamp(min=1e-6)
    share: Tensor = REGISTRATION_WEIGHT * (cosine - APART) / (ALIKE - APART)
    return share.clamp(0, REGISTRATION_WEIGHT)[None]
