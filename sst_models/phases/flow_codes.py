"""Flow codes: phase 4 trains the adversarial autoencoder on flows of the atlas (paper, Sec. 3.3 and 3.4)."""

import torch
from torch import Tensor, nn

from configs.schema import Experiment, Learning
from sst_models.losses.adversarial import critic_loss, encoder_loss
from sst_models.losses.image import ssim_l1
from sst_models.phases.material import Material
from sst_models.phases.style import critic_step
from sst_models.propagation.align import Aligner, Alignment
from sst_models.training.learner import Losses, Scans, adam, freeze
from sst_models.training.seeds import below
from sst_models.volume.warp import warp

PRIOR_WEIGHT, IMAGE_WEIGHT = 0.1, 1.0
"""Weights of the critic's term and of the image term beside the L1 of the flow; the first is lambda_3."""


class FlowCodesLearner:
    """Train the flow autoencoder by L1 of the flow, an image term, and a critic that holds codes to N(0, I).

    Args:
        nets: {"encoder", "decoder", "D_flow"}.
        aligner: finds the flow from the atlas to a scan.
        phase: batch and rate.
        critic_rate: of D_flow.
        scans: the site's training scans.
    """

    def __init__(
        self, nets: dict[str, nn.Module], aligner: Aligner, phase: Learning, critic_rate: float, scans: Scans
    ) -> None:
        freeze(aligner.nets.values())
        self.nets = {part: nets[part] for part in ("encoder", "decoder", "D_flow")}
        self.aligner, self.atlas, self.phase, self.scans = aligner, aligner.atlas, phase, scans
        self.flows: dict[int, Tensor] = {}  # F is fixed in this phase, so a scan's flow is computed once
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "encoder": adam(nets["encoder"], self.phase.rate),
            "decoder": adam(nets["decoder"], self.phase.rate),
            "D_flow": adam(nets["D_flow"], critic_rate, first_beta=0.5),
        }
        self.own: dict[str, Tensor] = {}

    def step(self, draws: torch.Generator) -> Losses:
        """Code and decode one batch of flows, then teach the critic."""
        flow = torch.cat([self._flow(below(len(self.scans), draws)) for _ in range(self.phase.batch)])
        code, losses = self._code(flow)
        for part in ("encoder", "decoder"):
            self.optimisers[part].zero_grad()
        losses["total"].backward()  # type: ignore[no-untyped-call]
        for part in ("encoder", "decoder"):
            self.optimisers[part].step()
        drawn = _prior(code, draws)
        critic = critic_step(self.nets["D_flow"], self.optimisers["D_flow"], code, drawn)
        return {**losses, "critic": critic}

    def terms(self, index: int, draws: torch.Generator) -> dict[str, Tensor]:
        """Give what autoencoder and critic are to lower by the flow to one scan."""
        code, losses = self._code(self._flow(index))
        drawn = _prior(code, draws)
        critic = critic_loss(self.nets["D_flow"](drawn), self.nets["D_flow"](code.detach()))
        return {"encoder": losses["total"], "decoder": losses["total"], "D_flow": critic}

    def _code(self, flow: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Code and decode flows (N, 3, D, H, W): the codes, and what that cost."""
        code = self.nets["encoder"](flow)
        decoded = self.nets["decoder"](code)
        distance = (flow - decoded).abs().mean()
        image = self._image_term(flow, decoded)
        adversarial = encoder_loss(self.nets["D_flow"](code))
        total = distance + IMAGE_WEIGHT * image + PRIOR_WEIGHT * adversarial
        return code, {"total": total, "flow": distance, "image": image, "adversarial": adversarial}

    def _flow(self, index: int) -> Tensor:
        if index not in self.flows:
            target = self.scans.image(index)[None].to(self.atlas)
            self.flows[index] = self.aligner.flow(target)
        return self.flows[index]

    def _image_term(self, flow: Tensor, decoded: Tensor) -> Tensor:
        atlas = self.atlas[None].expand(len(flow), -1, -1, -1, -1)
        return ssim_l1(warp(atlas, flow), warp(atlas, decoded))


def _prior(code: Tensor, draws: torch.Generator) -> Tensor:
    """Draw as many flow codes from N(0, I)."""
    return torch.randn(code.shape, generator=draws).to(code)


def make(nets: dict[str, nn.Module], experiment: Experiment, material: Material) -> FlowCodesLearner:
    """Make the learner of a preset."""
    used = {part: nets[part] for part in ("E", "A", "F")}
    aligner = Aligner(used, material.atlas, None, Alignment.of(experiment))
    phases = experiment.phases
    return FlowCodesLearner(nets, aligner, phases.flow_codes, phases.critic_rate, material.scans)
