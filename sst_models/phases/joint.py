"""The joint phase: E, A and F together by eq. 11 (paper, Sec. 3.5)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.schema import Experiment
from sst_models.losses.adversarial import encoder_loss
from sst_models.losses.image import ssim_l1
from sst_models.networks.style import quantile_curve
from sst_models.phases.register import Registered, register
from sst_models.phases.style import Contrast, StyleMoments, critic_step, positive, prior
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


def restyle(net: nn.Module, source: Tensor, own: Tensor, wanted: Tensor, amx: bool = False) -> Restyled:
    """Give the source the wanted style, and measure eq. 3 and 5; `own` and `wanted` are style codes (N, code)."""
    with half(source.device, amx):
        styled, same = net(torch.cat([source, source]), torch.cat([wanted, own])).float().chunk(2)
        back = net(styled, own).float()
    return Restyled(styled, ssim_l1(source, back), ssim_l1(source, same))


QUANTILES = 64
"""Quantiles that `spread` compares; each is one voxel of a brain's hundred thousands, so the gradient is sparse."""


def spread(styled: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Compare the intensities of a restyled source with the target's, wherever in the brain they are.

    Eq. 8 tells A what style to give only as far as the flow already fits, and eq. 3 and 5 are content with an A that
    changes nothing. This distance needs no alignment. It is not in the paper; a weight of 0 leaves it out.
    """
    wanted = quantile_curve(target, QUANTILES)
    return (quantile_curve(styled, QUANTILES, source > 0) - wanted).abs().mean()


class JointLearner:
    """Train E, A and F by L_total, and the style critic beside them.

    Args:
        nets: {"E", "D_style", "A", "F"} to train and {"T"} to use.
        experiment: the preset; with `appearance.weight` 0, A takes no part (Table 2, "w/o L_app").
        scans: the site's training scans.
        atlas: the atlas's volume, (1, D, H, W).
        foreign: moments of the other sites' style codes.
    """

    def __init__(
        self,
        nets: dict[str, nn.Module],
        experiment: Experiment,
        scans: Scans,
        atlas: Tensor,
        foreign: tuple[StyleMoments, ...] = (),
    ) -> None:
        self.registration = nets["T"]
        freeze([self.registration])
        self.nets = {part: nets[part] for part in ("E", "D_style", "A", "F")}
        self.experiment, self.phase = experiment, experiment.phases.joint
        self.scans, self.atlas = scans, atlas
        self.contrast = Contrast(nets["E"], experiment, foreign)
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            part: adam(net, self.phase.rate) for part, net in self.nets.items() if part in ("E", "F")
        }
        self.optimisers["A"] = adam(nets["A"], self.phase.appearance_rate)
        self.optimisers["D_style"] = adam(nets["D_style"], self.phase.critic_rate, first_beta=0.5)
        self.own = self.contrast.own

    def step(self, draws: torch.Generator) -> Losses:
        """Do one step of eq. 11 on a batch, then teach the critic."""
        batch = self._batch(draws)
        codes = self.nets["E"](torch.cat([batch.target, batch.source]))
        wanted, own = codes.chunk(2)
        styles = (own, wanted) if self.phase.through else (own.detach(), wanted.detach())
        key = positive(self.registration, batch.target, batch.other)
        parts: dict[str, Tensor] = {
            "contrast": self.contrast.loss(wanted, key, draws),
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
        drawn = prior(len(codes), codes.shape[1], draws).to(codes)
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
        settings = self.experiment.appearance
        if settings.weight:
            restyled = restyle(self.nets["A"], batch.source, own, wanted, self.experiment.amx)
            parts = {**parts, "cycle": restyled.cycle, "identity": restyled.identity}
            moving = restyled.styled
            if settings.spread:
                parts["spread"] = spread(moving, batch.source, batch.target)
        return register(self.nets["F"], moving, batch.target, self.experiment.registration), parts

    def _total(self, parts: dict[str, Tensor], flowed: Registered) -> Tensor:
        e = self.experiment
        total = parts["contrast"] + e.style.prior * parts["adversarial"]
        total = total + self.phase.flow * flowed.total(e.registration)
        if e.appearance.weight:
            total = total + e.appearance.weight * (parts["cycle"] + parts["identity"])
        if "spread" in parts:
            total = total + e.appearance.spread * parts["spread"]
        return total

    def _batch(self, draws: torch.Generator) -> Batch:
        rows = [self._row(draws) for _ in range(self.phase.batch)]
        source, target, other = (torch.stack(volumes).to(self.atlas) for volumes in zip(*rows, strict=True))
        return Batch(source, target, other)

    def _row(self, draws: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        picks = [self.scans.image(below(len(self.scans), draws)).to(self.atlas) for _ in range(3)]
        source = self.atlas if chance(self.phase.atlas, draws) else picks[0]
        return source, picks[1], picks[2]
