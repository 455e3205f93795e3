"""Style: phase 2 trains E alone by volumetric contrast; the joint phase goes on with the same pieces (Sec. 3.1)."""

import copy

import torch
from torch import Tensor, nn

from configs.schema import Experiment, Learning, Style
from sst_models.losses.adversarial import critic_loss, encoder_loss
from sst_models.losses.contrastive import info_nce
from sst_models.phases.material import Material
from sst_models.phases.moments import StyleMoments, draw_prior_codes
from sst_models.training.learner import Losses, Scans, adam, freeze
from sst_models.training.seeds import below
from sst_models.volume.warp import warp

MOMENTUM = 0.99
"""m of the key encoder, the paper's (Sec. 4)."""

PRIOR_WEIGHT = 0.1
"""lambda_3 of eq. 11, the paper's (Sec. 4)."""

GPU_BATCH = 4
"""Volumes that T warps at once on a GPU, which waits for launches otherwise; a CPU takes them one by one."""


class MomentumContrast:
    """The key encoder and its queue: what eq. 1 needs beside E. It stays at the site.

    Args:
        encoder: E; the key encoder starts as its copy.
        settings: length of codes and queue, temperature.
        foreign: moments of other sites' style codes; draws from them are further negatives.
        foreign_count: how many draws from each of them, a step.
    """

    def __init__(
        self, encoder: nn.Module, settings: Style, foreign: tuple[StyleMoments, ...] = (), foreign_count: int = 0
    ) -> None:
        self.settings, self.foreign, self.foreign_count = settings, foreign, foreign_count
        self.keys = copy.deepcopy(encoder)
        freeze([self.keys])
        seed = torch.Generator().manual_seed(0)  # until real keys fill it, the queue holds draws of the prior
        device = next(encoder.parameters()).device
        self.queue = draw_prior_codes(self.settings.queue, self.settings.code, seed).to(device)

    @property
    def own(self) -> dict[str, Tensor]:
        """Give what persists between rounds, by name."""
        return {"queue": self.queue, **{f"keys/{name}": p for name, p in self.keys.named_parameters()}}

    def loss(self, query: Tensor, key_volume: Tensor, draws: torch.Generator) -> Tensor:
        """Give eq. 1 for queries (N, code) and their positive keys' volumes; the keys enter the queue."""
        with torch.no_grad():
            key = self.keys(key_volume)
        negatives = torch.cat([self.queue, *self._foreign(draws)])
        loss = info_nce(query, key, negatives, self.settings.temperature)
        self.queue.copy_(torch.cat([key, self.queue])[: len(self.queue)])
        return loss

    def follow(self, encoder: nn.Module) -> None:
        """Move the key encoder towards E by its momentum."""
        with torch.no_grad():
            for ours, theirs in zip(self.keys.parameters(), encoder.parameters(), strict=True):
                ours.lerp_(theirs, 1 - MOMENTUM)

    def _foreign(self, draws: torch.Generator) -> list[Tensor]:
        if not self.foreign_count:
            return []
        return [moments.draw(self.foreign_count, draws).to(self.queue) for moments in self.foreign]


def positive_key(registration: nn.Module, volume: Tensor, other: Tensor) -> Tensor:
    """Warp `volume` to the anatomy of `other` by T: the same style, another anatomy (Sec. 3.1)."""
    with torch.no_grad():
        return warp(volume, registration(volume, other))


def critic_step(critic: nn.Module, optimiser: torch.optim.Optimizer, code: Tensor, drawn: Tensor) -> Tensor:
    """Teach a latent critic to tell `code` from `drawn`, draws of the prior (eq. 10); both without gradient."""
    loss = critic_loss(critic(drawn), critic(code.detach()))
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return loss


class StyleLearner:
    """Train E by L_vol.cl + lambda_3 * L_adv (Sec. 3.5, pre-training).

    Args:
        nets: {"E", "D_style"} to train and {"T"} to use.
        contrast: key encoder and queue beside E.
        phase: batch and rate.
        critic_rate: of D_style.
        scans: the site's training scans.
    """

    def __init__(
        self,
        nets: dict[str, nn.Module],
        contrast: MomentumContrast,
        phase: Learning,
        critic_rate: float,
        scans: Scans,
    ) -> None:
        self.registration = nets["T"]
        freeze([self.registration])
        self.nets = {part: nets[part] for part in ("E", "D_style")}
        self.contrast, self.phase, self.scans = contrast, phase, scans
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "E": adam(nets["E"], self.phase.rate),
            "D_style": adam(nets["D_style"], critic_rate, first_beta=0.5),
        }
        self.own = self.contrast.own

    def step(self, draws: torch.Generator) -> Losses:
        """Contrast one batch of queries, then teach the critic."""
        query_volume, other = self._batch(draws), self._batch(draws)
        lot = 1 if query_volume.device.type == "cpu" else GPU_BATCH
        pairs = zip(torch.split(query_volume, lot), torch.split(other, lot), strict=True)
        key_volume = torch.cat([positive_key(self.registration, *pair) for pair in pairs])
        code = self.nets["E"](query_volume)
        contrastive = self.contrast.loss(code, key_volume, draws)
        adversarial = encoder_loss(self.nets["D_style"](code))
        total = contrastive + PRIOR_WEIGHT * adversarial
        self.optimisers["E"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["E"].step()
        self.contrast.follow(self.nets["E"])
        drawn = draw_prior_codes(len(code), code.shape[1], draws).to(code)
        critic = critic_step(self.nets["D_style"], self.optimisers["D_style"], code, drawn)
        return {"total": total, "contrastive": contrastive, "adversarial": adversarial, "critic": critic}

    def _batch(self, draws: torch.Generator) -> Tensor:
        picks = [self.scans.image(below(len(self.scans), draws)) for _ in range(self.phase.batch)]
        return torch.stack(picks).to(self.contrast.queue.device)


def encode_all(encoder: nn.Module, scans: Scans, device: torch.device) -> Tensor:
    """Give the style codes of all scans, (N, code); they stay at the site."""
    with torch.no_grad():
        return torch.cat([encoder(scans.image(i)[None].to(device)) for i in range(len(scans))])


def momentum_contrast(encoder: nn.Module, experiment: Experiment, material: Material) -> MomentumContrast:
    """Make the key encoder and queue of a preset."""
    count = experiment.federation.foreign_negatives
    return MomentumContrast(encoder, experiment.style, material.foreign, count)


def make(nets: dict[str, nn.Module], experiment: Experiment, material: Material) -> StyleLearner:
    """Make the learner of a preset."""
    contrast, phases = momentum_contrast(nets["E"], experiment, material), experiment.phases
    return StyleLearner(nets, contrast, phases.style, phases.critic_rate, material.scans)
