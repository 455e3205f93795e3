"""Segmentation: the 3D U-Net learns from labelled pairs (paper, Sec. 3.6), generated or, as upper bound, real."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.schema import Experiment, Segment
from configs.structures import CLASSES
from sst_models.losses.overlap import dice_ce
from sst_models.networks.appearance import brain
from sst_models.networks.segmenter import Segmenter, labels_inside
from sst_models.propagation.em import LEARNT_EDGE, settle
from sst_models.training.device import half
from sst_models.training.learner import Losses, adam, freeze
from sst_models.training.muon import Muon
from sst_models.training.seeds import chance, generator
from sst_models.volume.intensity import brain_moments
from sst_models.volume.mirror import mean_of_both, mirror_chances, mirror_image, mirror_labels, mirror_pair
from sst_models.volume.warp import warp, warp_labels

Pairs = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Gives one labelled pair for a step: image (1, D, H, W) in [0, 1], labels (D, H, W) int64."""


AXES = (-3, -2, -1)
SHIFTS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
"""Voxels along `AXES` by which a scan is moved for `segmenter.shifts`: a network that folds voxels, or halves sides,
sees other neighbours together there, so that its errors differ. What leaves at a border comes in again: background."""

START_PAIRS = 4
"""Pairs whose labels a segmenter starts with."""


def normalise(volume: Tensor, how: str) -> Tensor:
    """Bring (N, 1, D, H, W) to what the segmenter reads: "minmax" leaves [0, 1]; "zscore" centres the brain."""
    if how == "minmax":
        return volume
    mean, spread = brain_moments(volume)
    return (volume - mean) / spread * brain(volume)


def move(image: Tensor, labels: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vary where a pair is: a small affine map (10 % of scale and shear, 3 % of the sides), image and labels alike."""
    sides = torch.tensor(image.shape[1:], dtype=torch.float32)
    change = (0.1 * (torch.rand(3, 3, generator=draws) * 2 - 1)).to(image)
    shift = (0.03 * (torch.rand(3, generator=draws) * 2 - 1) * sides).to(image)
    axes = [torch.arange(side).to(image) - (side - 1) / 2 for side in image.shape[1:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    flow = (torch.einsum("ab,bdhw->adhw", change, grid) + shift.view(3, 1, 1, 1))[None]
    return warp(image[None], flow)[0], warp_labels(labels[None], flow)[0]


def vary(image: Tensor, draws: torch.Generator) -> Tensor:
    """Vary how a volume (1, D, H, W) looks: gamma 0.7 to 1.4, noise up to 0.04; background stays 0.

    Mild against what two scanners differ by: a control for style, not a replacement.
    """
    gamma = float(torch.exp(torch.rand(1, generator=draws) * 0.7 - 0.35))
    noise = torch.randn(image.shape, generator=draws).to(image) * 0.04 * float(torch.rand(1, generator=draws))
    return (image.clamp(0, 1) ** gamma + noise).clamp(0, 1) * (image > 0)


class SegmentLearner:
    """Train a segmenter by cross-entropy and soft Dice.

    Args:
        nets: {"segmenter"}.
        experiment: the preset.
        pairs: gives one labelled pair a call.
        phase: how to learn; `experiment.phases.segment` or `.adapt`.
    """

    def __init__(self, nets: dict[str, nn.Module], experiment: Experiment, pairs: Pairs, phase: Segment) -> None:
        self.nets = nets
        self.settings, self.phase, self.pairs = experiment.segmenter, phase, pairs
        self.amx = experiment.amx
        net = nets["segmenter"]
        optimiser = Muon(net.parameters(), phase.rate) if phase.optimiser == "muon" else adam(net, phase.rate)
        self.optimisers: dict[str, torch.optim.Optimizer] = {"segmenter": optimiser}
        self.mean = copy.deepcopy(nets["segmenter"])
        freeze([self.mean])
        self.steps = torch.zeros((), dtype=torch.int64)
        self.own = {"steps": self.steps, **{f"mean/{name}": p for name, p in self.mean.named_parameters()}}
        self.own |= {f"net/{name}": p.data for name, p in nets["segmenter"].named_parameters()}

    def start(self, seed: int) -> None:
        """Let an untrained network begin with what the labels of a few pairs say."""
        pairs = [self.pairs(generator(seed, "segment", "start", number)) for number in range(START_PAIRS)]
        labels = torch.stack([labels for _, labels in pairs])
        if self.settings.mirror:
            labels = torch.cat([labels, mirror_labels(labels)])
        for net in (self.nets["segmenter"], self.mean):
            if isinstance(net, Segmenter):
                net.start(labels, self.settings.prior)

    def step(self, draws: torch.Generator) -> Losses:
        """Learn from one batch of pairs."""
        self.optimisers["segmenter"].param_groups[0]["lr"] = self.phase.rate * self._pace()
        made = [self._pair(draws) for _ in range(self.phase.batch)]
        image, labels = (torch.stack(items) for items in zip(*made, strict=True))
        net = self.nets["segmenter"]
        assert isinstance(net, Segmenter)
        with half(image.device, self.amx):
            found = net.inside(normalise(image, self.settings.normalise))
        truth = labels_inside(labels, found, net.stem).flatten()
        counts = [cells * net.stem**3 for cells in found.counts]
        total = dice_ce(found.logits.float().flatten(0, 1), truth, counts, labels.numel())
        self.optimisers["segmenter"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["segmenter"].step()
        self._average()
        return {"total": total}

    def _pair(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        image, labels = self.pairs(draws)
        if self.settings.mirror and chance(0.5, draws):
            image, labels = mirror_pair(image, labels)
        if self.settings.augment != "none" and chance(self.settings.moved, draws):
            image, labels = move(image, labels, draws)
        return (vary(image, draws) if self.settings.augment == "all" else image), labels

    def _pace(self) -> float:
        """Give the share of the rate for this step: 1, falling linearly over the last `decay` of all rounds."""
        total = self.phase.rounds * self.phase.steps
        left = max(1, total - int(self.steps))
        return min(1.0, left / (self.phase.decay * total)) if self.phase.decay else 1.0

    def _average(self) -> None:
        self.steps += 1
        # Short at first, so that a training of few steps does not drag its first weights along.
        momentum = min(self.phase.average, int(self.steps) / (10 + int(self.steps))) if self.phase.average else 0.0
        with torch.no_grad():
            for ours, theirs in zip(self.mean.parameters(), self.nets["segmenter"].parameters(), strict=True):
                ours.lerp_(theirs, 1 - momentum)


@torch.no_grad()
def chances(net: nn.Module, volume: Tensor, experiment: Experiment) -> Tensor:
    """Give each voxel's chances of each class, (29, D, H, W), of one volume (1, D, H, W) in [0, 1].

    They are what the network says (`own_chances`), and what that becomes by the scan's own intensities
    (`segmenter.likelihood`).
    """
    return weighed(own_chances(net, volume, experiment), volume, experiment)


def weighed(found: Tensor, volume: Tensor, experiment: Experiment) -> Tensor:
    """Weigh chances (29, D, H, W) with the intensities of their volume, as far as `segmenter.likelihood` says."""
    weight = experiment.segmenter.likelihood
    return settle(volume[None], found, weight, experiment.grid.spacing, LEARNT_EDGE) if weight else found


@torch.no_grad()
def own_chances(net: nn.Module, volume: Tensor, experiment: Experiment) -> Tensor:
    """Give what a network says of each voxel of one volume (1, D, H, W) in [0, 1]: chances (29, D, H, W).

    It is the network's word on the volume, or the mean of that and of its word on the mirror image
    (`segmenter.mirror`), and on the volume at several places (`segmenter.shifts`).
    """
    own = experiment.segmenter
    seen = normalise(volume[None], own.normalise)
    places = SHIFTS if own.shifts else SHIFTS[:1]
    found, mirrored = volume.new_zeros(2, CLASSES, *volume.shape[1:])
    with half(volume.device, experiment.amx):
        for there in places:
            moved, back = seen.roll(there, AXES), tuple(-voxels for voxels in there)
            found += _told(net, moved).roll(back, AXES)
            if own.mirror:
                mirrored += mirror_chances(_told(net, mirror_image(moved))).roll(back, AXES)
    found /= len(places)
    return mean_of_both(found, mirrored.div_(len(places))) if own.mirror else found


def _told(net: nn.Module, seen: Tensor) -> Tensor:
    return F.softmax(net(seen).float(), dim=1)[0]


def segment(net: nn.Module, volume: Tensor, experiment: Experiment) -> Tensor:
    """Segment one volume (1, D, H, W) in [0, 1]: class indices (D, H, W)."""
    return chances(net, volume, experiment).argmax(dim=0)
