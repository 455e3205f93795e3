"""From a preset to networks: the one place that knows both."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from configs.schema import FLOW_REDUCTION, Experiment
from sst_models.networks.appearance import AppearanceModel
from sst_models.networks.flow_codes import FlowCritic, FlowDecoder, FlowEncoder
from sst_models.networks.registration import RegistrationPyramid, RegistrationUNet
from sst_models.networks.segmenter import COARSE, Segmenter
from sst_models.networks.style import StyleCritic, StyleEncoder
from sst_models.training.seeds import generator


def _registration(experiment: Experiment) -> nn.Module:
    own, factor = experiment.registration, experiment.space_to_depth
    if own.kind == "unet":
        return RegistrationUNet(own.widths, factor)
    return RegistrationPyramid(own.widths, factor, experiment.propagation.demons_iterations_per_level)


def _flow_codes(kind: type[FlowEncoder] | type[FlowDecoder], experiment: Experiment) -> nn.Module:
    own = experiment.flow_codes
    return kind(own.widths, own.latent, FLOW_REDUCTION, own.scale / experiment.grid.spacing)


def _segmenter(experiment: Experiment) -> nn.Module:
    own = experiment.segmenter
    sides = tuple(side // COARSE for side in experiment.grid.shape) if own.location_prior else None
    return Segmenter(own.widths, experiment.table.classes, experiment.space_to_depth, sides)


_BUILDERS: dict[str, Callable[[Experiment], nn.Module]] = {
    "T": _registration,
    "F": _registration,
    "E": lambda e: StyleEncoder(e.style.widths, e.style.code, e.style.quantiles),
    "D_style": lambda e: StyleCritic(e.style.code),
    "A": lambda e: AppearanceModel(e.appearance.width, e.style.code, e.space_to_depth),
    "encoder": lambda e: _flow_codes(FlowEncoder, e),
    "decoder": lambda e: _flow_codes(FlowDecoder, e),
    "D_flow": lambda e: FlowCritic(e.flow_codes.latent),
    "segmenter": _segmenter,
}

PARTS = tuple(_BUILDERS)
"""Names of all networks, as messages and files use them."""


def build(part: str, experiment: Experiment) -> nn.Module:
    """Make one network with its first weights, which depend on the preset's seed and the part's name alone."""
    return seeded(lambda: _BUILDERS[part](experiment), experiment.seed, part)


Net = TypeVar("Net", bound=nn.Module)


def seeded(make: Callable[[], Net], seed: int, *names: str) -> Net:
    """Make a network whose first weights depend on a seed and names alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights", *names).initial_seed())
        return make()


def first(part: str, experiment: Experiment) -> nn.Module:
    """Make one network as a run begins with it: F starts with the weights of T (Sec. 3.3)."""
    return build("T" if part == "F" else part, experiment)
