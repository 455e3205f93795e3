"""The joint phase: E, A and F together by eq. 11 (paper, Sec. 3.5)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.schema import Appearance, Experiment, Joint, Registration
from sst_models.losses.adversarial import encoder_loss
from sst_models.losses.image import ssim_l1
from sst_models.networks.style import quantile_curve
from sst_models.phases.material import Material
from sst_models.phases.moments import draw_prior_codes
from sst_models.phases.register import Registered, register
from sst_models.phases.style import PRIOR_WEIGHT, MomentumContrast, critic_step, momentum_contrast, positive_key
from sst_models.training.device import half
from sst_models.training.learner import Losses, Scans, adam, freeze
from sst_models.training.seeds import below, chance


@dataclass(frozen=True)
class Batch:
    """Volumes of one joint step, each (N, 1, D, H, W)."""

    source: Tensor  # s: the atlas or a scan
    target: Tensor  # t: a scan of the site
    other: Tensor  # whose anatomy the positive key of t takes


@dataclass(frozen=True)
class Restyled:
    """What the appearance model made of a source, and what that cost."""

    styled: Tensor  # s in the style of t, eq. 2
    cycle: Tensor  # eq. 3
    identity: Tensor  # eq. 5


def restyle(net: nn.Module, source: Tensor, own: Tensor, wanted: Tensor, bf16_cpu: bool = False) -> Restyled:
    """Give the source the wanted style, and measure eq. 3 and 5; `own` and `wanted` are style codes (N, code)."""
    with half(source.device, bf16_cpu):
        styled, same = net(torch.cat([source, source]), torch.cat([wanted, own])).float().chunk(2)
        back = net(styled, own).float()
    return Restyled(styled, ssim_l1(source, back), ssim_l1(source, same))


QUANTILES = 64
"""Quantiles that `quantile_distance` compares; each is one of a hundred thousand voxels: the gradient is sparse."""


def quantile_distance(styled: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Compare the intensities of a restyled source with the target's, wherever in the brain they are.

    Eq. 8 tells A what style to give only as far as the flow already fits, and eq. 3 and 5 are content with an A that
    changes nothing. This distance needs no alignment. It is not in the paper; a weight of 0 leaves it out.
    """
    wanted = quantile_curve(target, QUANTILES)
    return (quantile_curve(styled, QUANTILES, source > 0) - wanted).abs().mean()


@dataclass(frozen=True)
class JointSettings:
    """The parts of a preset that eq. 11 is made of."""

    phase: Joint  # steps, rates, lambda_2
    registration: Registration  # lambda_reg
    appearance: Appearance  # lambda_1
    critic_rate: float
    bf16_cpu: bool


class JointLearner:
    """Train E, A and F by L_total, and the style critic beside them.

    Args:
        nets: {"E", "D_style", "A", "F"} to train and {"T"} to use.
        contrast: key encoder and queue beside E.
        settings: weights and rates; with `appearance.weight` 0, A takes no part (Table 2, "w/o L_app").
        scans: the site's training scans.
        atlas: the atlas's volume, (1, D, H, W).
    """

    def __init__(
        self,
        nets: dict[str, nn.Module],
        contrast: MomentumContrast,
        settings: JointSettings,
        scans: Scans,
        atlas: Tensor,
    ) -> None:
        self.registration = nets["T"]
        freeze([self.registration])
        self.nets = {part: nets[part] for part in ("E", "D_style", "A", "F")}
        self.settings, self.phase = settings, settings.phase
        self.scans, self.atlas = scans, atlas
        self.contrast = contrast
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            part: adam(net, self.phase.rate) for part, net in self.nets.items() if part in ("E", "F")
        }
        self.optimisers["A"] = adam(nets["A"], self.phase.appearance_rate)
        self.optimisers["D_style"] = adam(nets["D_style"], settings.critic_rate, first_beta=0.5)
        self.own = self.contrast.own

    def step(self, draws: torch.Generator) -> Losses:
        """Do one step of eq. 11 on a batch, then teach the critic."""
        batch = self._batch(draws)
        codes = self.nets["E"](torch.cat([batch.target, batch.source]))
        wanted, own = codes.chunk(2)
        styles = (own.detach(), wanted.detach()) if self.phase.detach_style else (own, wanted)
        key = positive_key(self.registration, batch.target, batch.other)
        parts: dict[str, Tensor] = {
            "contrastive": self.contrast.loss(wanted, key, draws),
            "adversarial": encoder_loss(self.nets["D_style"](codes)),
        }
        flowed, parts = self._restyle_and_register(batch, *styles, parts)
        total = self._total(parts, flowed)
        for part in ("E", "A", "F"):
            self.optimisers[part].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        for part in ("E", "A", "F"):
            self.optimisers[part].step()
        self.contrast.follow(self.nets["E"])
        drawn = draw_prior_codes(len(codes), codes.shape[1], draws).to(codes)
        critic = critic_step(self.nets["D_style"], self.optimisers["D_style"], codes, drawn)
        return {
            "total": total,
            **parts,
            "reconstruction": flowed.reconstruction,
            "smoothness": flowed.smoothness,
            "critic": critic,
        }

    def _restyle_and_register(
        self, batch: Batch, own: Tensor, wanted: Tensor, parts: dict[str, Tensor]
    ) -> tuple[Registered, dict[str, Tensor]]:
        moving = batch.source
        appearance = self.settings.appearance
        if appearance.weight:
            restyled = restyle(self.nets["A"], batch.source, own, wanted, self.settings.bf16_cpu)
            parts = {**parts, "cycle": restyled.cycle, "identity": restyled.identity}
            moving = restyled.styled
            if appearance.quantile_loss:
                parts["quantiles"] = quantile_distance(moving, batch.source, batch.target)
        return register(self.nets["F"], moving, batch.target, self.settings.registration), parts

    def _total(self, parts: dict[str, Tensor], flowed: Registered) -> Tensor:
        appearance = self.settings.appearance
        total = parts["contrastive"] + PRIOR_WEIGHT * parts["adversarial"]
        total = total + self.phase.flow_weight * flowed.total(self.settings.registration)
        if appearance.weight:
            total = total + appearance.weight * (parts["cycle"] + parts["identity"])
        if "quantiles" in parts:
            total = total + appearance.quantile_loss * parts["quantiles"]
        return total

    def _batch(self, draws: torch.Generator) -> Batch:
        rows = [self._row(draws) for _ in range(self.phase.batch)]
        source, target, other = (torch.stack(volumes).to(self.atlas) for volumes in zip(*rows, strict=True))
        return Batch(source, target, other)

    def _row(self, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        picks = [self.scans.image(below(len(self.scans), draws)).to(self.atlas) for _ in range(3)]
        source = self.atlas if chance(self.phase.atlas_probability, draws) else picks[0]
        return source, picks[1], picks[2]


def make(nets: dict[str, nn.Module], experiment: Experiment, material: Material) -> JointLearner:
    """Make the learner of a preset."""
    phases = experiment.phases
    settings = JointSettings(
        phases.joint, experiment.registration, experiment.appearance, phases.critic_rate, experiment.bf16_cpu
    )
    contrast = momentum_contrast(nets["E"], experiment, material)
    return JointLearner(nets, contrast, settings, material.scans, material.atlas)
