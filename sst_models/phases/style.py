"""Style: phase 2 trains E alone by volumetric contrast; the joint phase goes on with the same pieces (Sec. 3.1)."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.schema import Experiment
from sst_models.losses.adversarial import critic_loss, encoder_loss
from sst_models.losses.contrastive import info_nce
from sst_models.training.learner import Losses, Scans, adam, freeze
from sst_models.training.seeds import below
from sst_models.volume.warp import warp


@dataclass(frozen=True)
class StyleMoments:
    """Mean and spread of a site's style codes: what "statistics" shares of a site's style."""

    mean: Tensor  # (code,)
    std: Tensor  # (code,)

    @staticmethod
    def of(codes: Tensor) -> "StyleMoments":
        """Measure codes (N, code), N >= 2."""
        return StyleMoments(codes.mean(dim=0), codes.std(dim=0))

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw unit codes (count, code) from the normal distribution with these moments."""
        noise = torch.randn(count, len(self.mean), generator=draws).to(self.mean)
        return F.normalize(self.mean + self.std * noise, dim=1)


def prior(count: int, code: int, draws: torch.Generator) -> Tensor:
    """Draw style codes from their prior: standard normal vectors, scaled to length 1 (METHOD: the released choice)."""
    return F.normalize(torch.randn(count, code, generator=draws), dim=1)


TOGETHER = 4
"""Volumes that T warps at once on a GPU, which waits for launches otherwise; a CPU takes them one by one."""


class Contrast:
    """The key encoder and its queue: what eq. 1 needs beside E. It stays at the site.

    Args:
        encoder: E; the key encoder starts as its copy.
        experiment: the preset.
        foreign: moments of other sites' style codes; draws from them are further negatives.
    """

    def __init__(self, encoder: nn.Module, experiment: Experiment, foreign: tuple[StyleMoments, ...] = ()) -> None:
        self.settings = experiment.style
        self.foreign, self.foreign_count = foreign, experiment.federation.foreign_negatives
        self.keys = copy.deepcopy(encoder)
        freeze([self.keys])
        seed = torch.Generator().manual_seed(0)  # until real keys fill it, the queue holds draws of the prior
        device = next(encoder.parameters()).device
        self.queue = prior(self.settings.queue, self.settings.code, seed).to(device)

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
                ours.lerp_(theirs, 1 - self.settings.momentum)

    def _foreign(self, draws: torch.Generator) -> list[Tensor]:
        if not self.foreign_count:
            return []
        return [moments.draw(self.foreign_count, draws).to(self.queue) for moments in self.foreign]


def positive(registration: nn.Module, volume: Tensor, other: Tensor) -> Tensor:
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
        experiment: the preset.
        scans: the site's training scans.
        foreign: moments of the other sites' style codes.
    """

    def __init__(
        self, nets: dict[str, nn.Module], experiment: Experiment, scans: Scans, foreign: tuple[StyleMoments, ...] = ()
    ) -> None:
        self.registration = nets["T"]
        freeze([self.registration])
        self.nets = {part: nets[part] for part in ("E", "D_style")}
        self.settings, self.phase, self.scans = experiment.style, experiment.phases.style, scans
        self.contrast = Contrast(nets["E"], experiment, foreign)
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "E": adam(nets["E"], self.phase.rate),
            "D_style": adam(nets["D_style"], self.phase.critic_rate, first_beta=0.5),
        }
        self.own = self.contrast.own

    def step(self, draws: torch.Generator) -> Losses:
        """Contrast one batch of queries, then teach the critic."""
        query_volume, other = self._batch(draws), self._batch(draws)
        lot = 1 if query_volume.device.type == "cpu" else TOGETHER
        pairs = zip(torch.split(query_volume, lot), torch.split(other, lot), strict=True)
        key_volume = torch.cat([positive(self.registration, *pair) for pair in pairs])
        code = self.nets["E"](query_volume)
        contrast = self.contrast.loss(code, key_volume, draws)
        adversarial = encoder_loss(self.nets["D_style"](code))
        total = contrast + self.settings.prior * adversarial
        self.optimisers["E"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["E"].step()
        self.contrast.follow(self.nets["E"])
        drawn = prior(len(code), self.settings.code, draws).to(code)
        critic = critic_step(self.nets["D_style"], self.optimisers["D_style"], code, drawn)
        return {"total": total, "contrast": contrast, "adversarial": adversarial, "critic": critic}

    def _batch(self, draws: torch.Generator) -> Tensor:
        picks = [self.scans.image(below(len(self.scans), draws)) for _ in range(self.phase.batch)]
        return torch.stack(picks).to(self.contrast.queue.device)


def encode_all(encoder: nn.Module, scans: Scans, device: torch.device) -> Tensor:
    """Give the style codes of all scans, (N, code); they stay at the site."""
    with torch.no_grad():
        return torch.cat([encoder(scans.image(i)[None].to(device)) for i in range(len(scans))])
