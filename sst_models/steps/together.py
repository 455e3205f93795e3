"""A segmenter and a registration together: two opinions on one scan, whose errors differ.

The U-Net has learnt from many scans what structures look like, and is wrong where a scan is unlike them; F carries one
atlas's labels onto this very scan, and is wrong where their anatomies differ. Their mean, corrected by the scan's own
intensities, was better than either on validation scans (benchmarks/LEARNING.md); the mean of two atlases' labels is
the oldest remedy of registration (Heckemann et al. 2006, NeuroImage 33).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.schema import Experiment
from sst_models.posterior import carried_chances
from sst_models.steps.flow_codes import align_atlas, align_mirror
from sst_models.steps.segment import own_chances, weighed

PARTS = ("E", "A", "F")
"""What is needed beside the segmenter."""


@torch.no_grad()
def chances_together(
    nets: Mapping[str, nn.Module], volume: Tensor, atlas: Tensor, labels: Tensor, experiment: Experiment
) -> Tensor:
    """Give each voxel's chances of each class, (29, D, H, W), by a segmenter and by what F carries, half each.

    Args:
        nets: "segmenter" and `PARTS`.
        volume: the scan, (1, D, H, W) in [0, 1].
        atlas: likewise.
        labels: the atlas's class indices, (D, H, W).
        experiment: the preset; `segmenter.likelihood` is the weight of the scan's intensities.
    """
    parts = dict(nets)
    _, flow = align_atlas(parts, atlas, volume[None], experiment, labels)
    mirrored = align_mirror(parts, atlas, volume[None], experiment, labels)
    carried = carried_chances(labels, flow, mirrored)
    both = (carried + own_chances(parts["segmenter"], volume, experiment)) / 2
    return weighed(both, volume, experiment)
