"""Small volumes with anatomy for tests of learning, and the one place where tests make presets, networks, learners."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.phases import phase_of
from configs.schema import Experiment, load
from sst_models.networks.build import build
from sst_models.phases.material import Material, make_learner
from sst_models.phases.moments import StyleMoments
from sst_models.training.learner import Learner, Scans
from sst_models.volume.labels import AtlasLabels

SIDES = (32, 48, 32)

SETTINGS = {
    "tau": "style.temperature",
    "lambda_1": "appearance.weight",
    "lambda_2": "phases.joint.flow_weight",
    "lambda_reg": "registration.smoothness",
    "lncc_weight": "registration.lncc_weight",
    "quantile_loss": "appearance.quantile_loss",
    "foreign_negatives": "federation.foreign_negatives",
    "atlas_probability": "phases.joint.atlas_probability",
    "register_batch": "phases.register.batch",
    "style_batch": "phases.style.batch",
    "joint_batch": "phases.joint.batch",
    "flow_codes_batch": "phases.flow_codes.batch",
    "style_rate": "phases.style.rate",
    "rate": "phases.joint.rate",
    "appearance_rate": "phases.joint.appearance_rate",
    "critic_rate": "phases.critic_rate",
    "real_probability": "phases.adapt.real_probability",
    "flow_mixing": "phases.adapt.flow_mixing",
    "detach_style": "phases.joint.detach_style",
    "em_weight": "propagation.em_weight",
    "mirror": "propagation.mirror",
    "test_time_augmentation": "segmenter.test_time_augmentation",
}
"""What tests change of a preset, and its name there: a setting that is renamed is renamed in one line here."""


def setting(experiment: Experiment, name: str) -> object:
    """What a preset says of one of `SETTINGS`."""
    return reduce(getattr, SETTINGS[name].split("."), experiment)


LAMBDA_3, MOMENTUM = 0.1, 0.99
"""The paper's weight of eq. 10 in eq. 11, also that of the flow critic, and its momentum of the key encoder."""

CONTRASTIVE = "contrastive"
"""Name of the contrastive loss among a step's losses."""


def preset(**changes: object) -> Experiment:
    """The tiny preset with some settings changed, by their names in `SETTINGS`."""
    return load("tiny", [f"{SETTINGS[name]}={json.dumps(value)}" for name, value in changes.items()])


def nets_for(phase: str, experiment: Experiment) -> dict[str, nn.Module]:
    """The networks of a phase, each weight moved at random: first weights hold zeros and identities, that hide much."""
    nets = {part: build(part, experiment) for part in phase_of(phase).learns + phase_of(phase).uses}
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in (weight for net in nets.values() for weight in net.parameters()):
            weight.add_(0.05 * torch.randn(weight.shape, generator=draws))
    return nets


def learner(
    phase: str,
    nets: dict[str, nn.Module],
    experiment: Experiment,
    scans: Scans,
    atlas: Tensor,
    foreign: tuple[StyleMoments, ...] = (),
    labels: AtlasLabels | None = None,
) -> Learner:
    """The learner of a phase."""
    return make_learner(phase, nets, experiment, Material(scans, atlas, foreign, labels))


def blob(seed: int) -> Tensor:
    """Draw one volume (1, D, H, W) in [0, 1] with background around it."""
    noise = torch.rand(1, 1, 8, 12, 8, generator=torch.Generator().manual_seed(seed))
    x = F.interpolate(noise, size=SIDES, mode="trilinear", align_corners=True)[0]
    x[:, :4] = x[:, -4:] = 0
    return x


WHITE, CORTEX, VENTRICLE = 1, 2, 3
"""Class indices of `brain`."""


def brain(sides: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """A ball of cortex around white matter around a ventricle: labels (D, H, W), and an image of them with noise."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in sides], indexing="ij")
    radius = torch.stack(axes).square().sum(0).sqrt()
    labels = (radius < 0.9) * CORTEX
    labels[radius < 0.7] = WHITE
    labels[radius < 0.3] = VENTRICLE
    level = torch.tensor([0.0, 0.8, 0.5, 0.2])[labels]
    noise = 0.03 * torch.randn(level.shape, generator=torch.Generator().manual_seed(1))
    return labels, ((level + noise) * (labels > 0)).clamp(0, 1)


@dataclass(frozen=True)
class Blobs:
    """Scans that need no disk."""

    count: int = 4
    first: int = 1

    def __len__(self) -> int:
        return self.count

    def image(self, index: int) -> Tensor:
        """Give one volume, (1, D, H, W)."""
        return blob(self.first + index)


@dataclass
class Dealt:
    """Scans that come one after the other, whichever is asked for; so a test knows what a step was given."""

    volumes: Iterable[Tensor]
    _left: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self._left = list(self.volumes)

    def __len__(self) -> int:
        return 4

    def image(self, _: int) -> Tensor:
        """Give the next volume, (1, D, H, W)."""
        return self._left.pop(0)
