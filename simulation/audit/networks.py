"""Attacks on released networks: a scan that trained one has, as a rule, a lower loss than one that did not.

Some scans are easier than others, whoever trained, so that the loss is held against that of the version before
("difficulty calibration": Watson et al. 2022, ICLR, "On the importance of difficulty calibration in membership
inference attacks"; a reference of the same purpose in Sablayrolles et al. 2019, ICML). That needs one scan and weights
that were released, no shadow networks: it is an attack that a hub can carry out, not the strongest there is. One that
needs these is in `simulation.audit.shadows`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from client.audit.membership import Floats, Membership, measure
from configs.schema import Experiment
from server.segmenters import network_of
from server.state import SEGMENTER, RunState
from simulation.audit.finished import Everybody
from simulation.stage import Stage
from sst_models.networks.build import first
from sst_models.networks.segmenter import Segmenter, labels_inside
from sst_models.phases.register import register
from sst_models.propagation.predict import normalise
from sst_models.training.device import place
from sst_models.wire.exchange import Arrays

T, CPU = "T", torch.device("cpu")

TESTED: Mapping[str, str] = MappingProxyType(
    {T: "registration loss of the atlas and a scan", SEGMENTER: "cross-entropy of the atlas's labels on a scan"}
)
"""Parts whose loss can be computed from a scan alone, and which loss it is."""

Loss = Callable[[nn.Module, int], Tensor]
"""From a network and the number of a scan to a scalar."""


def attack(
    part: str, stage: Stage, versions: tuple[nn.Module, nn.Module], everybody: Everybody, propagated: Tensor
) -> Membership:
    """Infer from a part's weights which scans trained it.

    Args:
        part: one of `TESTED`.
        stage: what there is with one atlas.
        versions: the network before it was trained on the site's scans, and as it was released.
        everybody: the site's scans.
        propagated: (scans, D, H, W), the atlas's labels on each, which is what a site trains a segmenter on.
    """
    nets = (place(versions[0], stage.device), place(versions[1], stage.device))
    return infer(loss_of(part, stage, everybody, propagated), nets, everybody)


def loss_of(part: str, stage: Stage, everybody: Everybody, propagated: Tensor) -> Loss:
    """Give the loss by which a part is attacked; the arguments are those of `attack`."""
    if part == T:
        return registration_loss(stage.experiment, stage.atlas.image.to(stage.device), everybody.cases.image)
    return segmentation_loss(stage.experiment, everybody.cases.image, propagated)


def infer(loss: Loss, versions: tuple[nn.Module, nn.Module], everybody: Everybody) -> Membership:
    """Score each scan by how much lower its loss became, and measure how well that tells who trained."""
    with torch.no_grad():
        before, after = (
            np.array([float(loss(net, index)) for index in range(len(everybody.member))]) for net in versions
        )
    scores: Floats = before - after
    return measure(scores, everybody.member, everybody.person)


def registration_loss(experiment: Experiment, atlas: Tensor, image: Callable[[int], Tensor]) -> Loss:
    """Give the loss of T (eq. 8 and 9) as a function of a scan, with the atlas (1, D, H, W) as the moving volume."""
    settings = experiment.registration

    def loss(net: nn.Module, index: int) -> Tensor:
        return register(net, atlas[None], image(index)[None].to(atlas), settings).total(settings)

    return loss


def segmentation_loss(experiment: Experiment, image: Callable[[int], Tensor], labels: Tensor) -> Loss:
    """Give the mean cross-entropy of a segmenter over the voxels in question, as a function of a scan.

    Args:
        experiment: the preset.
        image: gives a scan (1, D, H, W) in [0, 1].
        labels: (scans, D, H, W) class indices.
    """

    def loss(net: nn.Module, index: int) -> Tensor:
        assert isinstance(net, Segmenter)
        device = next(net.parameters()).device
        found = net.inside(normalise(image(index)[None].to(device), experiment.segmenter.normalise))
        truth = labels_inside(labels[index][None].long().to(device), found, net.factor).flatten()
        return F.cross_entropy(found.logits.float().flatten(0, 1), truth)

    return loss


def versions(part: str, experiment: Experiment, state: RunState, site: str, times: int) -> tuple[nn.Module, nn.Module]:
    """Give a part's network before it was trained on a site's scans, and as the hub has it at the end.

    Of a segmenter the version before is the hub's, of others the first weights, which everybody can make.

    Args:
        part: one of `TESTED`.
        experiment: the preset.
        state: the hub's last.
        site: whose.
        times: how often the site released it.
    """
    after = state.of(part, site)
    assert after is not None, part
    return begun(part, experiment, state, site, times), network(part, after, experiment, CPU)


def begun(part: str, experiment: Experiment, state: RunState, site: str, times: int) -> nn.Module:
    """Give a part's network before it was trained on a site's scans; the arguments are those of `versions`."""
    before: Arrays | None = None
    if part == SEGMENTER:
        history = state.trained.get(site, ())
        before = history[-times - 1] if len(history) > times else state.parts.get(SEGMENTER)
    return network(part, before, experiment, CPU)


def network(part: str, arrays: Arrays | None, experiment: Experiment, device: torch.device) -> nn.Module:
    """Give a part's network with some weights, or its first ones; not to be trained."""
    if arrays is None:
        return place(first(part, experiment), device).eval()
    return network_of(part, arrays, experiment, device).eval()
