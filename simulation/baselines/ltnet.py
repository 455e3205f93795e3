"""LT-Net: one network that finds the flow from the atlas to a scan and the flow back, each of which teaches the other.

Wang et al. 2020 ("LT-Net: label transfer by learning reversible voxel-wise correspondence for one-shot medical image
segmentation", CVPR, arXiv 2003.07072). The forward flow warps the atlas onto a scan. The backward flow brings not the
scan but the warped atlas back to the atlas, so that what should come out is known: the atlas, its labels, and a flow of
zeros. The labels of a scan are the atlas's by the forward flow.

What differs from the paper:

- Both flows are from one network of shared weights, VoxelMorph's over folded voxels, as steps are few.
- Labels go forth and back by the composed flow in one interpolation, at half the resolution, as flows have it. Two
  interpolations would blur thin structures, and charge flows for that.
- The critic sees volumes normalised in windows at half the resolution: otherwise it would tell the atlas from a scan of
  another site by their scanners, of which a flow can change nothing.
- Adam at 1e-3, falling to 0 over the second half, and a batch of one scan: the time allows hundreds of steps.
- The text of the paper beyond its introduction was not at hand: weights are our own (`WEIGHTS`), and so is the scale of
  each term.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simulation.arms.arm import Bench, Lesson
from simulation.training import fit
from sst_models.losses.adversarial import encoder_loss
from sst_models.losses.flow import gradient_l2
from sst_models.losses.overlap import SMOOTH, soft_dice
from sst_models.losses.structural import lncc
from sst_models.networks.blocks import SLOPE, conv
from sst_models.networks.build import seeded
from sst_models.networks.registration import RegistrationUNet
from sst_models.phases.register import LNCC_WINDOW
from sst_models.phases.style import critic_step
from sst_models.propagation.demons import local_normalise
from sst_models.training.device import place
from sst_models.training.learner import Losses, Scans, adam
from sst_models.training.seeds import below
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.warp import compose, warp
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays

STEP_COST = 0.39
"""Steps of a U-Net that one step here takes: 1.6 s to its 4.1 s with a batch of two, medians of four each, interleaved
in one process on one thread of a CPU without AMX, of the processor's time; preset `real-cpu-statistics`."""

WIDTHS, FOLD = (24, 32, 32, 32), 2
"""Channels of the network, and voxels of a side that it folds into channels: its flows have half the resolution.
VoxelMorph's encoder (Balakrishnan et al. 2019, Fig. 2) begins with 16; a step takes as long then (`blocks.Conv`)."""

CRITIC_WIDTHS = (16, 32)
"""Channels of the critic: each level halves the sides, so that it judges patches of 72 mm."""

RATE, CRITIC_RATE = 1e-3, 5e-4
"""Of Adam: those of T and of the critics in the presets for a CPU."""

WEIGHTS = {
    "similarity": 1.0,
    "smoothness": 1.0,
    "image": 0.3,
    "flow": 0.02,
    "anatomy": 0.1,
    "difference": 0.02,
    "adversarial": 0.01,
}
"""Of each term. Similarity and smoothness are VoxelMorph's for cross-correlation (Balakrishnan et al. 2019: lambda 1).
The others were tried on two made-up brains: after 140 steps Dice was 1 and 3 points better than without them. With
three to five times as much labels had hardly moved after 60 steps: a flow of zeros is consistent, too."""

EXPONENT, EPSILON = 0.45, 1e-3
"""Of the generalised Charbonnier penalty, (x^2 + epsilon^2)^exponent (Sun et al. 2010, Sec. 4)."""


def build(part: str, seed: int) -> nn.Module:
    """Make the "correspondence" network or the "critic" with first weights that depend on the seed and its name."""
    make = _critic if part == "critic" else lambda: RegistrationUNet(WIDTHS, FOLD)
    return seeded(make, seed, "ltnet", part)


def _critic() -> nn.Module:
    """Make the discriminator: scores (N, 1, d, h, w) near 1 for views of scans, near 0 for warped atlases."""
    fine, coarse = CRITIC_WIDTHS
    layers = (conv(1, fine, stride=2), nn.LeakyReLU(SLOPE), conv(fine, coarse, stride=2), nn.LeakyReLU(SLOPE))
    return nn.Sequential(*layers, conv(coarse, 1))


def critic_view(volume: Tensor) -> Tensor:
    """Give what the critic sees of (N, 1, D, H, W): (N, 1, D / 2, H / 2, W / 2) without brightness and contrast."""
    return local_normalise(F.avg_pool3d(volume, FOLD))


@dataclass(frozen=True)
class Cycle:
    """The atlas on its way to a scan and back."""

    forward: Tensor  # (N, 3, D, H, W) voxels, scan -> atlas
    backward: Tensor  # (N, 3, D, H, W) voxels, atlas -> warped atlas
    warped: Tensor  # (N, 1, D, H, W), the atlas by the forward flow
    restored: Tensor  # (N, 1, D, H, W), the warped atlas by the backward flow


def cycle(net: nn.Module, atlas: Tensor, scan: Tensor) -> Cycle:
    """Send the atlas to a scan and back, both (N, 1, D, H, W) in [0, 1]."""
    forward = net(atlas, scan)
    warped = warp(atlas, forward)
    backward = net(warped, atlas)
    return Cycle(forward, backward, warped, warp(warped, backward))


def consistency(done: Cycle, atlas: Tensor, shares: Tensor) -> dict[str, Tensor]:
    """Measure how far from the identity it is to go forth and back, in the paper's three spaces.

    The difference of anatomies is that between warped labels and the atlas's: what the forward flow makes of it, the
    backward flow has to undo, and their sum is the difference between restored labels and the atlas's. Soft Dice counts
    structures alike, the difference voxels.

    Args:
        done: what a network made.
        atlas: (N, 1, D, H, W).
        shares: of each structure in each voxel of the atlas, (1, C, D / 2, H / 2, W / 2).

    Returns:
        Scalars, all 0 at a flow of zeros, but for "flow", which is then a thousandth or two. "image": mean absolute
        difference of intensities. "flow": Charbonnier penalty of the composed flow, in voxels. "anatomy": 1 - mean soft
        Dice. "difference": the sum of differences over that of the atlas's shares, 0 to 2.
    """
    both = compose(at_half_resolution(done.forward), at_half_resolution(done.backward))
    restored = warp(shares, both)
    return {
        "image": (done.restored - atlas).abs().mean(),
        "flow": ((FOLD * both).square() + EPSILON**2).pow(EXPONENT).mean(),
        "anatomy": 1 - soft_dice(restored, shares),
        "difference": (restored - shares).abs().sum() / (len(restored) * shares.sum()).clamp(min=SMOOTH),
    }


def at_half_resolution(flow: Tensor) -> Tensor:
    """Give a flow (N, 3, D, H, W) for volumes whose voxels were pooled by two, in voxels of theirs."""
    return F.avg_pool3d(flow, FOLD) / FOLD


class LTNetLearner:
    """Train the correspondence network, and the critic beside it.

    Args:
        nets: {"correspondence", "critic"}.
        atlas: (1, D, H, W) in [0, 1].
        labels: the atlas's.
        scans: the site's training scans.
        steps: of the whole training, over which the rate falls.
    """

    def __init__(
        self, nets: dict[str, nn.Module], atlas: Tensor, labels: AtlasLabels, scans: Scans, steps: int
    ) -> None:
        self.nets, self.scans, self.total = nets, scans, steps
        self.atlas = atlas[None]
        found = labels.probabilities(torch.zeros(1, 3, *labels.shape, device=atlas.device))
        self.shares = F.avg_pool3d(found[None, 1:], FOLD)
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "correspondence": adam(nets["correspondence"], RATE),
            "critic": adam(nets["critic"], CRITIC_RATE, first_beta=0.5),
        }
        self.steps = torch.zeros((), dtype=torch.int64)
        self.own = {"steps": self.steps}

    def step(self, draws: torch.Generator) -> Losses:
        """Learn from one scan."""
        scan = self.scans.image(below(len(self.scans), draws))[None].to(self.atlas)
        done = cycle(self.nets["correspondence"], self.atlas, scan)
        view = critic_view(done.warped)
        parts = consistency(done, self.atlas, self.shares)
        parts["similarity"] = 1 - lncc(scan, done.warped, LNCC_WINDOW)
        parts["smoothness"] = (gradient_l2(done.forward) + gradient_l2(done.backward)) / 2
        parts["adversarial"] = encoder_loss(self.nets["critic"](view))
        total = torch.stack([WEIGHTS[name] * value for name, value in parts.items()]).sum()
        optimiser = self.optimisers["correspondence"]
        optimiser.param_groups[0]["lr"] = RATE * min(1.0, 2 * (1 - int(self.steps) / self.total))
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        critic = critic_step(self.nets["critic"], self.optimisers["critic"], view, critic_view(scan))
        self.steps += 1
        return {"total": total, **parts, "critic": critic}


def learn(bench: Bench, site: str, lesson: Lesson) -> Arrays:
    """Train the correspondence network on the scans of a site; give its weights."""
    seed = bench.experiment.seed
    nets = {part: place(build(part, seed), bench.device) for part in ("correspondence", "critic")}
    steps = lesson.steps_of(STEP_COST)
    learner = LTNetLearner(nets, *bench.atlas, bench.scans(site), steps)
    watch = lesson.counted(STEP_COST)
    fit(learner, f"ltnet/{site}", seed, steps, lesson.folder / "correspondence", watch)
    return weights.parameters(nets["correspondence"])


def network(bench: Bench, arrays: Arrays) -> nn.Module:
    """Give the correspondence network with these weights, ready to find flows."""
    net = build("correspondence", bench.experiment.seed)
    weights.load_parameters(net, arrays, "LT-Net")
    return place(net, bench.device).eval()
