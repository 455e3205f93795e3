"""Align: F's flow from the atlas to a scan (paper, eq. 2 and 6), with all that the preset adds to it, without gradient.

Where the atlas's labels are at hand they help. A first flow carries them over, to tell how bright each tissue is in the
scan, and the atlas with those tissues is aligned anew (`appearance.tissue`). A first flow that stops short of large
ventricles makes its own mistake look right, so there is a rival (`registration.rival`): demons that see intensities
themselves beside what is left of them in windows. Of both, the one stays whose labels explain the scan better.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from configs.schema import Experiment
from sst_models.propagation.demons import approach, ascend, polish
from sst_models.propagation.em import evidence
from sst_models.propagation.tissue_matching import match_tissues
from sst_models.training.device import half
from sst_models.volume.intensity import match_quantiles
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.mirror import mirror_image

Nets = Mapping[str, nn.Module]
"""{"E", "A", "F"}."""

Way = Callable[[Nets, Tensor, Tensor, Experiment], tuple[Tensor, Tensor]]
"""A first alignment: from networks, atlas and target to the atlas as it was compared, and its flow."""


@torch.no_grad()
def align_atlas(
    nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment, labels: AtlasLabels | None = None
) -> Tensor:
    """Give F's finished flow from the atlas to a scan, (1, 3, D, H, W) in voxels, target -> atlas.

    Args:
        nets: `Nets`.
        atlas: (1, D, H, W) in [0, 1].
        target: (1, 1, D, H, W) in [0, 1].
        experiment: the preset: whether A restyles the atlas first, how the flow ends, and what labels are used for.
        labels: the atlas's, or None.
    """
    return _align(nets, atlas, target, experiment, labels, _ways(experiment, labels))[0]


@torch.no_grad()
def align_both(
    nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment, labels: AtlasLabels
) -> tuple[Tensor, Tensor | None]:
    """Give the flow of `align_atlas`, and one to the target's mirror image where `registration.mirror` is on.

    Which first alignment stays is told by the target, for both.
    """
    flow, way = _align(nets, atlas, target, experiment, labels, _ways(experiment, labels))
    if not experiment.registration.mirror:
        return flow, None
    return flow, _align(nets, atlas, mirror_image(target), experiment, labels, [way])[0]


@torch.no_grad()
def restyle_atlas(
    nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment, labels: AtlasLabels, flow: Tensor
) -> Tensor:
    """Give the atlas in a scan's style, (1, 1, D, H, W): by A, or by the scan's tissues where labels lie on it.

    Args: as of `align_atlas`, and the flow that it gave.
    """
    if _by_tissue(experiment):
        return match_tissues(atlas[None], labels.on_grid, target, labels.carry(flow), experiment.appearance.tissue)
    return by_appearance(nets, atlas, target, experiment)


def _ways(experiment: Experiment, labels: AtlasLabels | None) -> list[Way]:
    return [_by_network] if labels is None or not experiment.registration.rival else [_by_network, _by_brightness]


def _align(
    nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment, labels: AtlasLabels | None, ways: list[Way]
) -> tuple[Tensor, Way]:
    """Give the finished flow, and the way that began it: of several, the one whose labels explain the target best."""
    begun = [way(nets, atlas, target, experiment) for way in ways]
    best = 0
    if labels is not None and len(ways) > 1:
        spacing = experiment.grid.spacing
        told = [evidence(target, labels.carry(flow), spacing) for _, flow in begun]
        best = told.index(max(told))
    moving, flow = begun[best]
    if labels is not None and _by_tissue(experiment):
        moving = restyle_atlas(nets, atlas, target, experiment, labels, flow)
        flow = _look(nets, moving, target, experiment)
    return ascend(moving, target, flow, experiment.registration.ascent), ways[best]


def _by_network(nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment) -> tuple[Tensor, Tensor]:
    moving = by_appearance(nets, atlas, target, experiment)
    return moving, _look(nets, moving, target, experiment)


def _by_brightness(_: Nets, atlas: Tensor, target: Tensor, experiment: Experiment) -> tuple[Tensor, Tensor]:
    own = experiment.registration
    moving = match_quantiles(atlas[None], target)
    flow = approach(moving, target, own.pulls, own.rival)
    return moving, polish(moving, target, flow, own.polish, own.rival)


def _look(nets: Nets, moving: Tensor, target: Tensor, experiment: Experiment) -> Tensor:
    return polish(moving, target, nets["F"](moving, target), experiment.registration.polish)


def _by_tissue(experiment: Experiment) -> bool:
    return bool(experiment.appearance.weight and experiment.appearance.tissue)


def by_appearance(nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment) -> Tensor:
    """Give the atlas in the target's style by A, (1, 1, D, H, W), or as it is where the preset has no A."""
    if not experiment.appearance.weight:
        return atlas[None]
    with half(target.device, experiment.amx):
        styled: Tensor = nets["A"](atlas[None], nets["E"](target))
    return styled.float()
