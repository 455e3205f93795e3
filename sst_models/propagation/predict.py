"""Prediction: what a trained segmenter makes of a scan, with test-time augmentation and EM refinement.

The network's probabilities may be averaged over the scan, its mirror image and small shifts of both
(`segmenter.test_time_augmentation`), and refined by the scan's own intensities (`propagation.em_weight`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.schema import Experiment
from configs.structures import LabelTable
from sst_models.propagation.em import LEARNT_EDGE, expectation_maximisation
from sst_models.training.device import half
from sst_models.training.memory import SMALL
from sst_models.volume.intensity import brain_mask, brain_moments
from sst_models.volume.mirror import mean_with_mirror, mirror_image, mirror_probabilities

AXES = (-3, -2, -1)
SHIFTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
"""Voxels along `AXES` by which a scan is shifted: a network that folds voxels, or halves sides, sees other neighbours
together there, so that its errors differ. What leaves at a border comes in again: background."""


@dataclass(frozen=True)
class Prediction:
    """How a segmenter predicts: the part of a preset that says so."""

    normalise: str  # "minmax" or "zscore"
    test_time_augmentation: str  # "none", "mirror" or "mirror+shifts"
    em_weight: float  # 0: the network alone
    spacing: float  # of the grid, mm
    bf16_cpu: bool  # the network computes in bfloat16 on a CPU that is fast in it
    table: LabelTable  # what its classes are

    @classmethod
    def of(cls, experiment: Experiment) -> "Prediction":
        """Take it from a preset."""
        own = experiment.segmenter
        return cls(
            own.normalise,
            own.test_time_augmentation,
            experiment.propagation.em_weight,
            experiment.grid.spacing,
            experiment.bf16_cpu,
            experiment.table,
        )


def normalise(volume: Tensor, how: str) -> Tensor:
    """Bring (N, 1, D, H, W) to what the segmenter reads: "minmax" leaves [0, 1]; "zscore" centres the brain."""
    if how == "minmax":
        return volume
    mean, spread = brain_moments(volume)
    return (volume - mean) / spread * brain_mask(volume)


def segment(net: nn.Module, volume: Tensor, how: Prediction) -> Tensor:
    """Segment one volume (1, D, H, W) in [0, 1]: class indices (D, H, W)."""
    return probabilities(net, volume, how).argmax(dim=0)


@torch.no_grad()
def probabilities(net: nn.Module, volume: Tensor, how: Prediction) -> Tensor:
    """Give each voxel's probability of each class, (classes, D, H, W), of one volume (1, D, H, W) in [0, 1].

    They are the network's (`network_probabilities`), refined by the volume's own intensities (`refined`).
    """
    return refined(network_probabilities(net, volume, how), volume, how)


def refined(found: Tensor, volume: Tensor, how: Prediction) -> Tensor:
    """Refine probabilities (classes, D, H, W) by EM on the intensities of their volume, unless its weight is 0."""
    if not how.em_weight:
        return found
    return expectation_maximisation(volume[None], found, how.em_weight, how.spacing, LEARNT_EDGE, how.table)


@torch.no_grad()
def network_probabilities(net: nn.Module, volume: Tensor, how: Prediction) -> Tensor:
    """Give the network's probabilities, (classes, D, H, W), of a volume (1, D, H, W) in [0, 1], augmented at test."""
    seen = normalise(volume[None], how.normalise)
    mirror = how.test_time_augmentation != "none"
    shifts = [*SHIFTS] if how.test_time_augmentation == "mirror+shifts" else [(0, 0, 0)]
    found, mirrored = volume.new_zeros(2, how.table.classes, *volume.shape[1:])
    with half(volume.device, how.bf16_cpu):
        for shift in shifts:
            moved, back = seen.roll(shift, AXES), tuple(-voxels for voxels in shift)
            shown = [moved, mirror_image(moved)] if mirror else [moved]
            # Of one small volume torch leaves most convolutions to an algorithm that is slower on a CPU than oneDNN's.
            batches = [torch.cat(shown)] if volume.numel() <= SMALL else shown
            ours, *theirs = (one for batch in batches for one in F.softmax(net(batch).float(), dim=1))
            found += ours.roll(back, AXES)
            if mirror:
                mirrored += mirror_probabilities(theirs[0], how.table).roll(back, AXES)
    found /= len(shifts)
    return mean_with_mirror(found, mirrored.div_(len(shifts)), how.table) if mirror else found
