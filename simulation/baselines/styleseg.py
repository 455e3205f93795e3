"""StyleSeg: a registration network and a segmenter that teach each other, on the atlas in the style of each scan.

The method of Lv et al. (AAAI 2023, "Robust One-Shot Segmentation of Brain Tissues via Image-Aligned Style
Transformation") with the registration errors of StyleSeg V2 (Wang et al. 2024, arXiv 2405.03197):

1. A network registers the atlas to scans, unsupervised.
2. The segmenter learns from the atlas bent onto a scan, whose labels are exact, in that scan's style: its low Fourier
   amplitudes (image-aligned style transformation, IST). V2 adds the scans, with the labels that were propagated onto
   them, as far as the registration there is consistent with that of the mirror image.
3. The registration goes on, weakly supervised by the segmenter's labels of the scans; then the segmenter does, with the
   pairs that the better registration makes: the second iteration, and the last.

Written from the papers' abstracts and the authors' instructions for use, not from their code: where a constant says
that it is ours, the papers' own was not at hand. Where the method is known to differ:

- V2 weights the loss at a scan's voxels by its error map. Here voxels of the scan are pasted into the styled atlas,
  with the weight as probability (`paste`): labels are the same, and the product's segmenter has no weights in its loss.
- V2 also weakens IST where the error is large. Here it is as strong everywhere: at another site the atlas's own style
  is what a segmenter must not learn.
- The registration's feature-aware content consistency is left out, as it needs one more trained network.
- The registration network is the project's, at half resolution. Half of its steps see mirror images, so that these are
  not strange to it. Both networks go on from where the first iteration left them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.schema import Experiment
from configs.structures import PAPER, LabelTable
from server.segmenters import segmenter_of
from simulation.training import fit, train_alone
from sst_models.losses.flow import gradient_l1
from sst_models.losses.overlap import soft_dice
from sst_models.losses.structural import lncc
from sst_models.networks.blocks import fold
from sst_models.networks.build import seeded
from sst_models.networks.registration import RegistrationUNet
from sst_models.phases.register import LNCC_WINDOW
from sst_models.phases.segment import Pairs
from sst_models.propagation.predict import Prediction, segment
from sst_models.training.device import place
from sst_models.training.learner import Losses, Scans, Watch, adam
from sst_models.training.seeds import below, chance
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.mirror import SIDE, mirror_image
from sst_models.volume.warp import warp
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays

if TYPE_CHECKING:
    from simulation.arms.arm import Bench, Lesson

Atlas = tuple[Tensor, AtlasLabels]
"""An atlas's volume (1, D, H, W) in [0, 1], and its labels."""

WIDTHS = (16, 32, 32, 32)
"""Channels of the registration network: the encoder of VoxelMorph (Balakrishnan et al. 2019)."""

RATE, BATCH = 1e-3, 2
"""Of the registration: ten times the authors' rate, as it has hundreds of steps and not thousands; scans a step."""

SUPERVISION = 1.0
"""Weight of 1 - Dice in the registration's second iteration: that of 1 - LNCC."""

LOW = 0.1
"""Highest frequency whose amplitude is exchanged, cycles a voxel along each axis. Of 0.01 to 0.5 it made a phantom most
like its own anatomy in another look, when it took the style from a phantom that was aligned to it but for a voxel."""

LEAST_STYLE = 0.5
"""Least share of the scan in an exchanged amplitude, up to 1: the perturbation of the first paper, its size ours."""

REAL = 0.5
"""Chance that voxels of the scan are pasted into a pair; otherwise it is the styled atlas alone. Ours."""

ERROR = 1.0
"""Voxels by which the flows of scan and mirror image differ where a scan's voxel counts for 1 / e. Ours."""

ROUNDS = 4
"""Of the segmenter, of equal length: the first is the first iteration, the others are the second."""

SHARES = (0.28, 0.56, 0.16)
"""Of the time: the registration's first iteration, the segmenter, the registration's second. Ours."""

REGISTER_COST, SUPERVISED_COST, LABEL_COST, SEGMENT_COST = 0.17, 0.19, 0.25, 1.1
"""U-Net steps that a step of the registration costs, one with labels, the segmentation of a scan for these, and a step
of the segmenter with pairs of scans whose flow is not known yet. Medians of 7 steps, interleaved in one process, one
thread, float32, on phantoms of 64 x 80 x 80 voxels with the preset real-cpu-statistics; that with labels is 1.14 times
one without by CPU time, of 5 steps. A pair with a new flow took 0.06, and a segmenter's step has two."""

KEEP = 64
"""Scans of which is kept what `align` found: 2 MB each at 64 x 80 x 80."""


def find_flow(net: nn.Module, moving: Tensor, fixed: Tensor, mirrored: bool = False) -> Tensor:
    """Register volumes (N, 1, D, H, W), or their mirror images: the flow (N, 3, D, H, W) is the volumes' own.

    A network that sees mirror images as it sees the volumes finds the same flow either way.
    """
    if not mirrored:
        found: Tensor = net(moving, fixed)
        return found
    flow = net(mirror_image(moving), mirror_image(fixed)).flip(SIDE)
    return torch.cat([-flow[:, :1], flow[:, 1:]], dim=1)


def shares_of(labels: Tensor, table: LabelTable = PAPER) -> Tensor:
    """Give the share of each structure in cubes of 2^3 voxels, (structures, d, h, w), of class indices (D, H, W)."""
    cubes = fold(labels[None, None].float(), 2)[0].long()
    counts = torch.zeros(table.classes, *cubes.shape[1:], device=labels.device)
    return counts.scatter_add_(0, cubes, torch.ones_like(cubes, dtype=counts.dtype))[1:] / len(cubes)


class Registering:
    """Train the registration of the atlas to scans by 1 - LNCC, smoothness, and 1 - soft Dice where there are labels.

    Labels are compared at half resolution, which is the flow's own, too, and takes an eighth of the time.

    Args:
        net: from moving and fixed volumes to a flow.
        atlas: what is moved.
        scans: what it is registered to.
        smoothness: weight of the flow's gradient.
        given: a scan's labels (D, H, W) by its position; None in the first iteration.
    """

    def __init__(
        self,
        net: nn.Module,
        atlas: Atlas,
        scans: Scans,
        smoothness: float,
        given: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.nets: dict[str, nn.Module] = {"registration": net}
        self.optimisers: dict[str, torch.optim.Optimizer] = {"registration": adam(net, RATE)}
        self.own: dict[str, Tensor] = {}
        self.scans, self.smoothness, self.given = scans, smoothness, given
        image, labels = atlas
        self.moving = image[None].expand(BATCH, -1, -1, -1, -1)
        still = image.new_zeros(1, 3, *image.shape[1:])
        self.table = labels.table
        self.shares = F.avg_pool3d(labels.probabilities(still)[1:], 2)[None]  # as `shares_of` gives a scan's

    def step(self, draws: torch.Generator) -> Losses:
        """Register the atlas to a few scans, or all of them mirrored."""
        drawn = [below(len(self.scans), draws) for _ in range(BATCH)]
        fixed = torch.stack([self.scans.image(index) for index in drawn]).to(self.moving)
        flow = find_flow(self.nets["registration"], self.moving, fixed, chance(0.5, draws))
        total = 1 - lncc(fixed, warp(self.moving, flow), LNCC_WINDOW) + self.smoothness * gradient_l1(flow)
        if self.given:
            truth = torch.stack([shares_of(self.given(index), self.table) for index in drawn])
            total = total + SUPERVISION * (1 - soft_dice(warp(self.shares, F.avg_pool3d(flow, 2) / 2), truth))
        self.optimisers["registration"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["registration"].step()
        return {"total": total}


def transfer_style(image: Tensor, scan: Tensor, share: float) -> Tensor:
    """Give an image the style of a scan that it is aligned to (IST): the scan's low amplitudes, its own phases.

    Args:
        image: (1, D, H, W) in [0, 1], background 0.
        scan: likewise.
        share: of the scan in the amplitudes up to `LOW`, 0 to 1; the rest is the image's.

    Returns:
        (1, D, H, W) in [0, 1], 0 where the image is.
    """
    ours, theirs = (torch.fft.rfftn(volume[0]) for volume in (image, scan))
    *others, last = image.shape[1:]
    axes = [*(torch.fft.fftfreq(side) for side in others), torch.fft.rfftfreq(last)]
    low = torch.stack(torch.meshgrid(*axes, indexing="ij")).abs().amax(0) <= LOW
    amplitude = torch.lerp(ours.abs(), theirs.abs(), share * low.to(image))
    styled: Tensor = torch.fft.irfftn(torch.polar(amplitude, ours.angle()), s=image.shape[1:])
    return styled.clamp(0, 1)[None] * (image > 0)


def paste(scan: Tensor, styled: Tensor, trust: Tensor, level: float) -> Tensor:
    """Give the scan (1, D, H, W) where its trust (D, H, W) is above a level, and the styled atlas elsewhere.

    With a level drawn evenly from 0 to 1, a voxel is the scan's as often as its trust says.
    """
    return torch.where(trust > level, scan, styled)


@dataclass(frozen=True)
class Aligned:
    """The atlas as a registration bends it onto a scan."""

    image: Tensor  # (1, D, H, W) float16 in [0, 1]
    labels: Tensor  # (D, H, W) uint8 class indices
    trust: Tensor  # (D, H, W) float16: 1 where scan and mirror image are registered alike, falling to 0


@torch.no_grad()
def align(net: nn.Module, atlas: Atlas, scan: Tensor) -> Aligned:
    """Bend the atlas onto a scan (1, D, H, W); how far the mirror image's flow differs says where that is wrong."""
    image, labels = atlas
    flow, other = (find_flow(net, image[None], scan[None], mirrored) for mirrored in (False, True))
    trust = torch.exp(-(flow - other).square().sum(1).sqrt()[0] / ERROR)
    return Aligned(warp(image[None], flow)[0].half(), labels.propagate(flow).to(torch.uint8), trust.half())


def aligned_pairs(net: nn.Module, atlas: Atlas, scans: Scans) -> Pairs:
    """Give pairs that lie on scans: the atlas in a scan's style, with the scan itself where labels can be trusted."""
    aligned = lru_cache(maxsize=KEEP)(lambda index: align(net, atlas, scans.image(index).to(atlas[0])))

    def pairs(draws: torch.Generator) -> tuple[Tensor, Tensor]:
        index = below(len(scans), draws)
        style, level = torch.rand(2, generator=draws).tolist()
        scan, bent = scans.image(index).to(atlas[0]), aligned(index)
        image = transfer_style(bent.image.float(), scan, LEAST_STYLE + (1 - LEAST_STYLE) * style)
        if chance(REAL, draws):
            image = paste(scan, image, bent.trust, level)
        return image, bent.labels.long()

    return pairs


def pseudo_labels(net: nn.Module, experiment: Experiment, atlas: Tensor, scans: Scans) -> Callable[[int], Tensor]:
    """Give a segmenter's labels of scans by position, (D, H, W) uint8: each is segmented once, when it is needed."""
    how = replace(Prediction.of(experiment), test_time_augmentation="none", em_weight=0.0)
    return lru_cache(maxsize=None)(lambda index: segment(net, scans.image(index).to(atlas), how).to(torch.uint8))


def learn(bench: "Bench", site: str, lesson: "Lesson") -> Arrays:
    """Train a segmenter on a site's unlabelled scans, or go on where a training was stopped; give its weights."""
    experiment, atlas, scans = bench.experiment, bench.atlas, bench.scans(site)
    net = _registration(experiment.seed, bench.device)
    alone, taught, supervised = (share * lesson.steps for share in SHARES)  # time, in steps of a U-Net
    per_round = lesson.steps_of(SEGMENT_COST, SHARES[1] / ROUNDS)

    def register(iteration: int, steps: int, watch: Watch | None, given: Callable[[int], Tensor] | None) -> Pairs:
        name = f"registration-{iteration}"
        learner = Registering(net, atlas, scans, experiment.registration.smoothness, given)
        fit(learner, f"styleseg-{name}", experiment.seed, steps, lesson.folder / name, watch)
        return aligned_pairs(net, atlas, scans)

    def teach(rounds: int, folder: Path, watch: Watch | None, pairs: Pairs) -> Arrays:
        phase = replace(experiment.phases.segment, rounds=rounds, steps=per_round)
        how = replace(experiment, phases=replace(experiment.phases, segment=phase))
        return train_alone(how, pairs, "styleseg", folder, bench.device, watch)

    first, second = lesson.folder / "segmenter-1", lesson.folder / "segmenter-2"
    count = lesson.steps_of(REGISTER_COST, SHARES[0])
    pairs = register(1, count, lesson.counted(alone / count), None)
    found = teach(1, first, lesson.counted(SEGMENT_COST, alone), pairs)
    given = pseudo_labels(segmenter_of(found, experiment, bench.device), experiment, atlas[0], scans)
    count = _supervised_steps(supervised, len(scans))
    pairs = register(2, count, lesson.counted(supervised / count, alone + taught / ROUNDS), given)
    _begin_with(first, second)
    return teach(ROUNDS, second, lesson.counted(SEGMENT_COST, alone + supervised), pairs)


def _registration(seed: int, device: torch.device) -> nn.Module:
    """Make the registration network with its first weights, which depend on the seed alone."""
    return place(seeded(lambda: RegistrationUNet(WIDTHS, 2), seed, "styleseg"), device)


def _supervised_steps(time: float, scans: int) -> int:
    """Give how many steps with labels there is time for: each needs `BATCH` more scans labelled, until all are."""
    if_all_new, if_all_known = SUPERVISED_COST + BATCH * LABEL_COST, time - LABEL_COST * scans
    return max(1, round(time / if_all_new), round(if_all_known / SUPERVISED_COST))


def _begin_with(first: Path, second: Path) -> None:
    """Let the second iteration of a segmenter begin with the round that was the first, unless it has begun."""
    if not any(second.glob("round-*.safetensors")):
        for name in ("memory-1.safetensors", "round-1.safetensors"):  # the round last, as it says that all is there
            weights.save(weights.load(first / name), second / name)
