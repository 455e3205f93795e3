"""Which networks each phase trains and which it only uses: the one table that hub and site share."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from configs.errors import DataError
from configs.schema import Experiment, Phase
from sst_models.phases.adapt import AdaptLearner
from sst_models.phases.flow_codes import FlowCodesLearner
from sst_models.phases.joint import JointLearner
from sst_models.phases.register import RegisterLearner
from sst_models.phases.style import StyleLearner, StyleMoments
from sst_models.training.learner import Learner, Scans
from sst_models.volume.labels import AtlasLabels


@dataclass(frozen=True)
class Material:
    """What a site's learner works with."""

    scans: Scans
    atlas: Tensor  # (1, D, H, W)
    foreign: tuple[StyleMoments, ...] = ()  # of the other sites' style codes
    labels: AtlasLabels | None = None  # the atlas's, where the phase needs them


Make = Callable[[dict[str, nn.Module], Experiment, Material], Learner]


@dataclass(frozen=True)
class SitePhase:
    """One phase that sites train in."""

    name: str
    learns: tuple[str, ...]  # parts that the hub sends, the site trains, and the reply holds
    uses: tuple[str, ...]  # parts that the hub sends and the site leaves as they are
    moments: bool  # whether the reply may hold moments of the site's style codes
    make: Make

    def settings(self, experiment: Experiment) -> Phase:
        """Give this phase's table of the preset."""
        settings: Phase = getattr(experiment.phases, self.name)
        return settings


def _make_register(nets: dict[str, nn.Module], experiment: Experiment, own: Material) -> Learner:
    return RegisterLearner(nets, experiment, own.scans, own.atlas)


def _make_style(nets: dict[str, nn.Module], experiment: Experiment, own: Material) -> Learner:
    return StyleLearner(nets, experiment, own.scans, own.foreign)


def _make_joint(nets: dict[str, nn.Module], experiment: Experiment, own: Material) -> Learner:
    return JointLearner(nets, experiment, own.scans, own.atlas, own.foreign)


def _make_flow_codes(nets: dict[str, nn.Module], experiment: Experiment, own: Material) -> Learner:
    return FlowCodesLearner(nets, experiment, own.scans, own.atlas)


def _make_adapt(nets: dict[str, nn.Module], experiment: Experiment, own: Material) -> Learner:
    if own.labels is None:
        raise DataError("the request holds no labels of the atlas; hub and site need the same version")
    return AdaptLearner(nets, experiment, own.scans, own.atlas, own.labels)


SITE_PHASES: tuple[SitePhase, ...] = (
    SitePhase("register", ("T",), (), False, _make_register),
    SitePhase("style", ("E", "D_style"), ("T",), True, _make_style),
    SitePhase("joint", ("E", "D_style", "A", "F"), ("T",), True, _make_joint),
    SitePhase("flow_codes", ("encoder", "decoder", "D_flow"), ("E", "A", "F"), True, _make_flow_codes),
)
"""The phases that sites train in, in their order (DESIGN, phases 1 to 4)."""

ADAPT = SitePhase("adapt", ("segmenter",), ("E", "A", "F"), False, _make_adapt)
"""The phase in which a site goes on with the segmenter that the hub made for it; nothing of it is averaged."""

BY_NAME: dict[str, SitePhase] = {phase.name: phase for phase in (*SITE_PHASES, ADAPT)}
