"""Segmentation: the 3D U-Net learns from labelled pairs (paper, Sec. 3.6), generated or, as upper bound, real."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from configs.schema import Experiment, Segment
from configs.schema import Segmenter as SegmenterSettings
from configs.structures import LabelTable
from sst_models.losses.overlap import dice_ce
from sst_models.networks.segmenter import Segmenter, labels_inside
from sst_models.propagation.predict import normalise
from sst_models.training.device import half
from sst_models.training.learner import Losses, adam, freeze
from sst_models.training.muon import Muon
from sst_models.training.seeds import chance, generator
from sst_models.volume.mirror import mirror_labels, mirror_pair
from sst_models.volume.warp import warp, warp_labels

Pairs = Callable[[torch.Generator], tuple[Tensor, Tensor]]
"""Gives one labelled pair for a step: image (1, D, H, W) in [0, 1], labels (D, H, W) int64."""


START_PAIRS = 4
"""Pairs whose labels a segmenter starts with."""


def move(image: Tensor, labels: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vary where a pair is: a small affine map (10 % of scale and shear, 3 % of the sides), image and labels alike."""
    sides = torch.tensor(image.shape[1:], dtype=torch.float32)
    change = (0.1 * (torch.rand(3, 3, generator=draws) * 2 - 1)).to(image)
    shift = (0.03 * (torch.rand(3, generator=draws) * 2 - 1) * sides).to(image)
    axes = [torch.arange(side).to(image) - (side - 1) / 2 for side in image.shape[1:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    flow = (torch.einsum("ab,bdhw->adhw", change, grid) + shift.view(3, 1, 1, 1))[None]
    return warp(image[None], flow)[0], warp_labels(labels[None], flow)[0]


RUNNING_MEAN = 0.99
"""Momentum of the running mean of weights, which is what is delivered."""


@dataclass(frozen=True)
class SegmentSettings:
    """The parts of a preset by which a segmenter learns."""

    phase: Segment  # of the hub or of the site
    segmenter: SegmenterSettings
    spacing: float  # of the grid, mm
    bf16_cpu: bool
    table: LabelTable

    @classmethod
    def of(cls, experiment: Experiment, phase: Segment) -> "SegmentSettings":
        """Take them from a preset, for `phases.segment` or `phases.adapt`."""
        return cls(phase, experiment.segmenter, experiment.grid.spacing, experiment.bf16_cpu, experiment.table)


class SegmentLearner:
    """Train a segmenter by cross-entropy and soft Dice.

    Args:
        nets: {"segmenter"}.
        pairs: gives one labelled pair a call.
        settings: how to learn.
    """

    def __init__(self, nets: dict[str, nn.Module], pairs: Pairs, settings: SegmentSettings) -> None:
        self.nets, self.pairs = nets, pairs
        self.settings, self.phase = settings.segmenter, settings.phase
        self.spacing, self.bf16_cpu, self.table = settings.spacing, settings.bf16_cpu, settings.table
        phase = settings.phase
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
            labels = torch.cat([labels, mirror_labels(labels, self.table)])
        for net in (self.nets["segmenter"], self.mean):
            if isinstance(net, Segmenter):
                net.start(labels, self.settings.location_prior / self.spacing)

    def step(self, draws: torch.Generator) -> Losses:
        """Learn from one batch of pairs."""
        self.optimisers["segmenter"].param_groups[0]["lr"] = self.phase.rate * self._pace()
        made = [self._pair(draws) for _ in range(self.phase.batch)]
        image, labels = (torch.stack(items) for items in zip(*made, strict=True))
        net = self.nets["segmenter"]
        assert isinstance(net, Segmenter)
        with half(image.device, self.bf16_cpu):
            found = net.inside(normalise(image, self.settings.normalise))
        truth = labels_inside(labels, found, net.factor).flatten()
        counts = [cells * net.factor**3 for cells in found.counts]
        total = dice_ce(found.logits.float().flatten(0, 1), truth, counts, labels.numel())
        self.optimisers["segmenter"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["segmenter"].step()
        self._average()
        return {"total": total}

    def _pair(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        image, labels = self.pairs(draws)
        if self.settings.mirror and chance(0.5, draws):
            image, labels = mirror_pair(image, labels, self.table)
        if self.settings.affine_probability and chance(self.settings.affine_probability, draws):
            image, labels = move(image, labels, draws)
        return image, labels

    def _pace(self) -> float:
        """Give the share of the rate for this step: 1, falling linearly over the last `decay` of all rounds."""
        total = self.phase.rounds * self.phase.steps
        left = max(1, total - int(self.steps))
        return min(1.0, left / (self.phase.decay * total)) if self.phase.decay else 1.0

    def _average(self) -> None:
        self.steps += 1
        # Short at first, so that a training of few steps does not drag its first weights along.
        momentum = min(RUNNING_MEAN, int(self.steps) / (10 + int(self.steps)))
        with torch.no_grad():
            for ours, theirs in zip(self.mean.parameters(), self.nets["segmenter"].parameters(), strict=True):
                ours.lerp_(theirs, 1 - momentum)
