"""What the phases that sites train in have in common: what a learner works with, and how it is found by its name."""

from dataclasses import dataclass
from importlib import import_module

from torch import Tensor, nn

from configs.schema import Experiment
from sst_models.phases.moments import StyleMoments
from sst_models.propagation.align import Alignments
from sst_models.training.learner import Learner, Scans
from sst_models.volume.labels import AtlasLabels, LabelledVolume


@dataclass(frozen=True)
class Material:
    """What a site's learner works with."""

    scans: Scans
    atlas: Tensor  # (1, D, H, W), the first
    foreign: tuple[StyleMoments, ...] = ()  # of the other sites' style codes
    labels: AtlasLabels | None = None  # the atlas's, where the phase needs them
    further: tuple[LabelledVolume, ...] = ()  # more atlases, likewise
    alignments: Alignments | None = None  # of the scans, where they are kept


def make_learner(phase: str, nets: dict[str, nn.Module], experiment: Experiment, material: Material) -> Learner:
    """Make the learner of a phase, by the function `make` of `sst_models/phases/PHASE.py`.

    Args:
        phase: its name, one that learns at sites (`configs.phases`).
        nets: its networks, those that it trains and those that it uses.
        experiment: the preset; `make` takes from it what its learner needs.
        material: scans and atlas.
    """
    learner: Learner = import_module(f"sst_models.phases.{phase}").make(nets, experiment, material)
    return learner
