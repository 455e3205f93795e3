"""Flow codes: phase 4 trains the adversarial autoencoder on flows of the atlas (paper, Sec. 3.3 and 3.4)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from configs.schema import Experiment
from sst_models.contrast import match_tissues
from sst_models.device import half
from sst_models.forces import finish
from sst_models.learner import Losses, Scans, adam, freeze
from sst_models.losses.adversarial import encoder_loss
from sst_models.losses.image import ssim_l1
from sst_models.mirror import mirror_image
from sst_models.seeds import below
from sst_models.steps.style import critic_step
from sst_models.warp import warp, warp_labels


def align_atlas(
    nets: dict[str, nn.Module], atlas: Tensor, target: Tensor, experiment: Experiment, labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Give the atlas in the target's style, and F's flow from it to the target: eq. 2 and 6, without gradient.

    Where the atlas's labels are at hand and `appearance.tissue` is on, this first flow only carries them over, to tell
    how bright each tissue is in the target; the atlas with those tissues is then aligned anew.

    Args:
        nets: {"E", "A", "F"}.
        atlas: (1, D, H, W).
        target: (1, 1, D, H, W).
        experiment: the preset: whether A restyles the atlas first, and how long the flow is polished.
        labels: the atlas's class indices (D, H, W), or None.

    Returns:
        The restyled atlas (1, 1, D, H, W), and the finished flow (1, 3, D, H, W) in voxels, target -> atlas.
    """
    registration, tissue = experiment.registration, experiment.appearance.tissue
    with torch.no_grad():
        moving = atlas[None]
        if experiment.appearance.weight:
            with half(target.device, experiment.amx):
                moving = nets["A"](moving, nets["E"](target)).float()
        again = labels is not None and bool(experiment.appearance.weight and tissue)
        first = replace(registration, ascent=0) if again else registration
        flow = finish(moving, target, nets["F"](moving, target), first)
        if labels is not None and again:
            moving = match_tissues(atlas[None], labels, target, warp_labels(labels[None], flow)[0], tissue)
            flow = finish(moving, target, nets["F"](moving, target), registration)
            moving = match_tissues(atlas[None], labels, target, warp_labels(labels[None], flow)[0], tissue)
        return moving, flow


def align_mirror(
    nets: dict[str, nn.Module], atlas: Tensor, target: Tensor, experiment: Experiment, labels: Tensor
) -> Tensor | None:
    """Give F's flow from the atlas to the target's mirror image, (1, 3, D, H, W), where `registration.mirror` is on.

    Args: as of `align_atlas`.
    """
    if not experiment.registration.mirror:
        return None
    return align_atlas(nets, atlas, mirror_image(target), experiment, labels)[1]


class FlowCodesLearner:
    """Train the flow autoencoder by L1 of the flow, an image term, and a critic that holds codes to N(0, I).

    Args:
        nets: {"encoder", "decoder", "D_flow"} to train and {"E", "A", "F"} to use.
        experiment: the preset.
        scans: the site's training scans.
        atlas: the atlas's volume, (1, D, H, W).
    """

    def __init__(self, nets: dict[str, nn.Module], experiment: Experiment, scans: Scans, atlas: Tensor) -> None:
        self.used = {part: nets[part] for part in ("E", "A", "F")}
        freeze(self.used.values())
        self.nets = {part: nets[part] for part in ("encoder", "decoder", "D_flow")}
        self.settings, self.phase = experiment.flow_codes, experiment.phases.flow_codes
        self.experiment = experiment
        self.scans, self.atlas = scans, atlas
        self.flows: dict[int, Tensor] = {}  # F is fixed in this phase, so a scan's flow is computed once
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "encoder": adam(nets["encoder"], self.phase.rate),
            "decoder": adam(nets["decoder"], self.phase.rate),
            "D_flow": adam(nets["D_flow"], self.phase.critic_rate, first_beta=0.5),
        }
        self.own: dict[str, Tensor] = {}

    def step(self, draws: torch.Generator) -> Losses:
        """Code and decode one batch of flows, then teach the critic."""
        flow = torch.cat([self._flow(below(len(self.scans), draws)) for _ in range(self.phase.batch)])
        code = self.nets["encoder"](flow)
        decoded = self.nets["decoder"](code)
        distance = (flow - decoded).abs().mean()
        image = self._image_term(flow, decoded)
        adversarial = encoder_loss(self.nets["D_flow"](code))
        total = distance + self.settings.image * image + self.settings.prior * adversarial
        for part in ("encoder", "decoder"):
            self.optimisers[part].zero_grad()
        total.backward()
        for part in ("encoder", "decoder"):
            self.optimisers[part].step()
        drawn = torch.randn(code.shape, generator=draws).to(code)
        critic = critic_step(self.nets["D_flow"], self.optimisers["D_flow"], code, drawn)
        return {"total": total, "flow": distance, "image": image, "adversarial": adversarial, "critic": critic}

    def _flow(self, index: int) -> Tensor:
        if index not in self.flows:
            target = self.scans.image(index)[None].to(self.atlas)
            _, self.flows[index] = align_atlas(self.used, self.atlas, target, self.experiment)
        return self.flows[index]

    def _image_term(self, flow: Tensor, decoded: Tensor) -> Tensor:
        atlas = self.atlas[None].expand(len(flow), -1, -1, -1, -1)
        return ssim_l1(warp(atlas, flow), warp(atlas, decoded))
