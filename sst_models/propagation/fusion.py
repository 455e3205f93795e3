"""A segmenter and a registration together: two opinions on one scan, whose errors differ.

The U-Net has learnt from many scans what structures look like, and is wrong where a scan is unlike them; F carries one
atlas's labels onto this very scan, and is wrong where their anatomies differ. Their mean, corrected by the scan's own
intensities, was better than either on validation scans (benchmarks/LEARNING.md); the mean of two atlases' labels is
the oldest remedy of registration (Heckemann et al. 2006, NeuroImage 33). Where the two differ by more than their edges,
it is mostly a flow that did not get there, past large ventricles say, and F counts for less.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.schema import Experiment
from sst_models.phases.segment import own_chances, weighed
from sst_models.propagation.align import align_both
from sst_models.propagation.em import REACH, carried_chances
from sst_models.volume.groups import group_chances
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.separable import blur

PARTS = ("E", "A", "F")
"""What is needed beside the segmenter."""

TRUST = 0.5
"""What F counts for beside the segmenter where they agree."""

APART, ALIKE = 0.85, 0.95
"""Cosine between what the two say near a place: F counts for nothing below the first, for `TRUST` above the second."""


@torch.no_grad()
def chances_together(
    nets: Mapping[str, nn.Module], volume: Tensor, atlas: Tensor, labels: AtlasLabels, experiment: Experiment
) -> Tensor:
    """Give each voxel's chances of each class, (29, D, H, W), by a segmenter and by what F carries.

    Args:
        nets: "segmenter" and `PARTS`.
        volume: the scan, (1, D, H, W) in [0, 1].
        atlas: likewise.
        labels: the atlas's.
        experiment: the preset; `segmenter.likelihood` is the weight of the scan's intensities.
    """
    carried = carried_chances(labels, *align_both(nets, atlas, volume[None], experiment, labels))
    own = own_chances(nets["segmenter"], volume, experiment)
    both = torch.lerp(own, carried, trust(own, carried, volume > 0, experiment.grid.spacing))
    return weighed(both, volume, experiment)


@torch.no_grad()
def trust(own: Tensor, carried: Tensor, brain: Tensor, spacing: float) -> Tensor:
    """Give what F counts for near each place, (1, D, H, W) in [0, `TRUST`], by how far it agrees with the segmenter.

    Args:
        own: the segmenter's chances of each class, (29, D, H, W).
        carried: those that F's flow carries, likewise.
        brain: where the scan holds signal, (1, D, H, W); nothing else is compared.
        spacing: of the grid, mm.
    """
    ours, theirs = group_chances(own), group_chances(carried)
    products = torch.stack([(ours * theirs).sum(0), ours.square().sum(0), theirs.square().sum(0)])
    both, one, other = blur(products * brain, REACH / spacing)
    cosine = both / (one * other).sqrt().clamp(min=1e-6)
    share: Tensor = TRUST * (cosine - APART) / (ALIKE - APART)
    return share.clamp(0, TRUST)[None]
