"""Statistics: what a site's scans are aligned by before they are measured."""

import torch
from torch import Tensor

from configs.schema import Experiment
from sst_models.networks.build import first
from sst_models.propagation.align import Aligner, Alignment
from sst_models.training.device import place
from sst_models.volume.labels import AtlasLabels


def untrained_aligner(experiment: Experiment, atlas: Tensor, labels: AtlasLabels, device: torch.device) -> Aligner:
    """Give the alignment by networks with their first weights, which every site can make.

    Args:
        experiment: the preset.
        atlas: (1, D, H, W) in [0, 1].
        labels: the atlas's.
        device: to compute on.
    """
    nets = {part: place(first(part, experiment), device).eval() for part in ("E", "A", "F")}
    return Aligner(nets, atlas.to(device), labels.to(device), Alignment.of(experiment))
