"""Align: F's flow from the atlas to a scan (paper, eq. 2 and 6), with all that the preset adds to it, without gradient.

Where the atlas's labels are at hand they help. A first flow carries them over, to tell how bright each tissue is in the
scan, and the atlas with those tissues is aligned anew (`appearance.tissue`). A first flow that stops short of large
ventricles makes its own mistake look right, so there is a rival (`registration.rival`): demons that see intensities
themselves beside what is left of them in windows. Of both, the one stays whose labels explain the scan better.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from configs.schema import Experiment
from sst_models.contrast import match_tissues
from sst_models.device import half
from sst_models.forces import approach, ascend, polish
from sst_models.intensity import match_quantiles
from sst_models.mirror import mirror_image
from sst_models.posterior import evidence
from sst_models.warp import warp_labels

Nets = Mapping[str, nn.Module]
"""{"E", "A", "F"}."""


@torch.no_grad()
def align_atlas(
    nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment, labels: Tensor | None = None
) -> Tensor:
    """Give F's finished flow from the atlas to a scan, (1, 3, D, H, W) in voxels, target -> atlas.

    Args:
        nets: `Nets`.
        atlas: (1, D, H, W) in [0, 1].
        target: (1, 1, D, H, W) in [0, 1].
        experiment: the preset: whether A restyles the atlas first, how the flow ends, and what labels are used for.
        labels: the atlas's class indices (D, H, W), or None.
    """
    return _align(nets, atlas, target, experiment, labels, None)[0]


@torch.no_grad()
def align_both(
    nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment, labels: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Give the flow of `align_atlas`, and one to the target's mirror image where `registration.mirror` is on.

    Which first alignment stays is told by the target, for both.
    """
    flow, rival = _align(nets, atlas, target, experiment, labels, None)
    if not experiment.registration.mirror:
        return flow, None
    return flow, _align(nets, atlas, mirror_image(target), experiment, labels, rival)[0]


@torch.no_grad()
def restyle_atlas(
    nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment, labels: Tensor, flow: Tensor
) -> Tensor:
    """Give the atlas in a scan's style, (1, 1, D, H, W): by A, or by the scan's tissues where labels lie on it.

    Args: as of `align_atlas`, and the flow that it gave.
    """
    if _by_tissue(experiment):
        carried = warp_labels(labels[None], flow)[0]
        return match_tissues(atlas[None], labels, target, carried, experiment.appearance.tissue)
    return _by_appearance(nets, atlas, target, experiment)


def _align(
    nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment, labels: Tensor | None, rival: bool | None
) -> tuple[Tensor, bool]:
    """Give the flow, and whether the rival began it; `rival` tells so, or None if that is open."""
    settings = experiment.registration
    if labels is None or not settings.rival:
        rival = False

    def look(moving: Tensor) -> Tensor:
        return polish(moving, target, nets["F"](moving, target), settings.polish)

    moving = atlas[None] if rival else _by_appearance(nets, atlas, target, experiment)
    flow = None if rival else look(moving)
    if rival is not False:
        other = _rival(atlas, target, experiment)
        if flow is not None:
            assert labels is not None
            ours, theirs = (
                evidence(target, warp_labels(labels[None], way)[0], experiment.grid.spacing) for way in (flow, other)
            )
            rival = theirs > ours
        flow = other if rival else flow
    assert flow is not None
    if labels is not None and _by_tissue(experiment):
        moving = restyle_atlas(nets, atlas, target, experiment, labels, flow)
        flow = look(moving)
    return ascend(moving, target, flow, settings.ascent), bool(rival)


def _rival(atlas: Tensor, target: Tensor, experiment: Experiment) -> Tensor:
    settings = experiment.registration
    moving = match_quantiles(atlas[None], target)
    flow = approach(moving, target, settings.pulls, settings.rival)
    return polish(moving, target, flow, settings.polish, settings.rival)


def _by_tissue(experiment: Experiment) -> bool:
    return bool(experiment.appearance.weight and experiment.appearance.tissue)


def _by_appearance(nets: Nets, atlas: Tensor, target: Tensor, experiment: Experiment) -> Tensor:
    """Give the atlas in the target's style by A, (1, 1, D, H, W), or as it is where the preset has no A."""
    if not experiment.appearance.weight:
        return atlas[None]
    with half(target.device, experiment.amx):
        styled: Tensor = nets["A"](atlas[None], nets["E"](target))
    return styled.float()
