"""Registration: phase 1 trains T; the joint phase uses the same losses for F (paper, Sec. 3.3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.schema import Experiment, Learning, Registration
from sst_models.losses.flow import gradient_l1
from sst_models.losses.image import ssim_l1
from sst_models.losses.structural import lncc
from sst_models.phases.material import Material
from sst_models.training.learner import Losses, Scans, adam
from sst_models.training.seeds import below, chance
from sst_models.volume.warp import warp


@dataclass(frozen=True)
class Registered:
    """A moving volume brought onto a fixed one, and what that cost."""

    flow: Tensor  # (N, 3, D, H, W) voxels, fixed -> moving
    warped: Tensor  # (N, 1, D, H, W)
    reconstruction: Tensor  # eq. 8, with 1 - LNCC where the preset weighs it
    smoothness: Tensor  # eq. 9

    def total(self, settings: Registration) -> Tensor:
        """Give L_flow: reconstruction + lambda_reg * smoothness."""
        return self.reconstruction + settings.smoothness * self.smoothness


def register(net: nn.Module, moving: Tensor, fixed: Tensor, settings: Registration) -> Registered:
    """Register `moving` to `fixed`, both (N, 1, D, H, W), and measure eq. 8 and 9."""
    flow = net(moving, fixed)
    warped = warp(moving, flow)
    reconstruction = ssim_l1(fixed, warped)
    if settings.lncc_weight:
        reconstruction = reconstruction + settings.lncc_weight * (1 - lncc(fixed, warped, LNCC_WINDOW))
    return Registered(flow, warped, reconstruction, gradient_l1(flow))


LNCC_WINDOW = 7
"""Voxels of the window of LNCC in the loss; VoxelMorph's is 9, at 1 mm."""

ATLAS_PROBABILITY = 0.5
"""Chance that the moving volume of a step is the atlas."""


class RegisterLearner:
    """Train T on pairs of a site's own scans and the atlas.

    Args:
        nets: {"T": the network}.
        settings: of the loss.
        phase: batch and rate.
        scans: the site's training scans.
        atlas: the atlas's volume, (1, D, H, W); the moving volume of half of the pairs.
    """

    def __init__(
        self, nets: dict[str, nn.Module], settings: Registration, phase: Learning, scans: Scans, atlas: Tensor
    ) -> None:
        self.nets = nets
        self.settings, self.phase = settings, phase
        self.scans, self.atlas = scans, atlas
        self.optimisers: dict[str, torch.optim.Optimizer] = {"T": adam(nets["T"], self.phase.rate)}
        self.own: dict[str, Tensor] = {}

    def step(self, draws: torch.Generator) -> Losses:
        """Register one batch of pairs."""
        pairs = [self._pair(draws) for _ in range(self.phase.batch)]
        moving, fixed = (torch.stack(volumes) for volumes in zip(*pairs, strict=True))
        done = register(self.nets["T"], moving, fixed, self.settings)
        total = done.total(self.settings)
        self.optimisers["T"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["T"].step()
        return {"total": total, "reconstruction": done.reconstruction, "smoothness": done.smoothness}

    def terms(self, index: int, draws: torch.Generator) -> dict[str, Tensor]:
        """Give T's loss on one scan, with the atlas as moving volume: a pair of scans would tie two people."""
        fixed = self.scans.image(index)[None].to(self.atlas)
        return {"T": register(self.nets["T"], self.atlas[None], fixed, self.settings).total(self.settings)}

    def _pair(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        fixed = self.scans.image(below(len(self.scans), draws))
        if chance(ATLAS_PROBABILITY, draws):
            return self.atlas, fixed.to(self.atlas)
        return self.scans.image(below(len(self.scans), draws)).to(self.atlas), fixed.to(self.atlas)


def make(nets: dict[str, nn.Module], experiment: Experiment, material: Material) -> RegisterLearner:
    """Make the learner of a preset."""
    phase = experiment.phases.register
    return RegisterLearner(nets, experiment.registration, phase, material.scans, material.atlas)
