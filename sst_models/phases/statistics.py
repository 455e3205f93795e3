"""Statistics: what a site's scans are aligned by before they are measured."""

from collections.abc import Sequence

import torch

from configs.schema import Experiment
from sst_models.networks.build import first
from sst_models.propagation.align import Aligner, Alignment
from sst_models.training.device import place
from sst_models.volume.labels import LabelledVolume


def untrained_aligner(experiment: Experiment, atlases: Sequence[LabelledVolume], device: torch.device) -> Aligner:
    """Give the alignment by networks with their first weights, which every site can make.

    Args:
        experiment: the preset.
        atlases: one or more.
        device: to compute on.
    """
    nets = {part: place(first(part, experiment), device).eval() for part in ("E", "A", "F")}
    (atlas, labels), *further = ((image.to(device), labels.to(device)) for image, labels in atlases)
    return Aligner(nets, atlas, labels, Alignment.of(experiment), further)
