"""Adaptation: a site's segmenter goes on learning at the site, from pairs that lie on the site's own scans.

Not in the paper. Its generator draws flows from a prior that a dozen scans barely fill; here the flows are those that F
finds from the atlas to the site's scans, so that shapes and styles are the site's (METHOD, "What came after", 1 and 3).
Only the segmenter's weights leave.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from configs.schema import Experiment
from sst_models.phases.segment import SegmentLearner
from sst_models.propagation.align import align_both, restyle_atlas
from sst_models.propagation.em import carry_labels
from sst_models.training.learner import Losses, Scans, freeze
from sst_models.training.seeds import below, chance
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.warp import warp

KEEP = 64
"""Scans whose flow and labels stay in memory: 30 MB each at 128 x 160 x 160."""


class AdaptLearner:
    """Train a segmenter on the atlas's labels, carried onto the site's scans by F.

    A pair's image is the scan itself, whose labels are then as good as the registration, and as the scan's intensities
    make them (`sst_models.propagation.em`); or the atlas, restyled as one scan and warped onto another, whose labels
    are exact. What is released is the running mean of the weights.

    Args:
        nets: {"segmenter"} to train and {"E", "A", "F"} to use.
        experiment: the preset.
        scans: the site's training scans.
        atlas: the atlas's volume, (1, D, H, W).
        labels: the atlas's.
    """

    def __init__(
        self, nets: dict[str, nn.Module], experiment: Experiment, scans: Scans, atlas: Tensor, labels: AtlasLabels
    ) -> None:
        self.used = {part: nets[part] for part in ("E", "A", "F")}
        freeze(self.used.values())
        self.experiment, self.phase = experiment, experiment.phases.adapt
        self.scans, self.atlas, self.labels = scans, atlas, labels
        self._aligned = lru_cache(maxsize=KEEP)(self._align)
        self._learner = SegmentLearner({"segmenter": nets["segmenter"]}, experiment, self.pair, self.phase)
        self.nets: dict[str, nn.Module] = {"segmenter": self._learner.mean}
        self.optimisers, self.own = self._learner.optimisers, self._learner.own

    def step(self, draws: torch.Generator) -> Losses:
        """Learn from one batch of pairs."""
        return self._learner.step(draws)

    def pair(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Make one pair: image (1, D, H, W) in [0, 1], labels (D, H, W) int64."""
        index, other = below(len(self.scans), draws), below(len(self.scans), draws)
        flow, labels, _ = self._aligned(index)
        if chance(self.phase.real, draws):
            return self.scans.image(index).to(self.atlas), labels.long()
        flow = flow.float()
        _, _, styled = self._aligned(other)
        if chance(self.phase.mix, draws):
            share = float(torch.rand(1, generator=draws))
            flow = torch.lerp(flow, self._aligned(other)[0].float(), share)
        return warp(styled.float(), flow)[0].clamp(0, 1), self.labels.carry(flow)

    def _align(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Give of a scan: F's flow from the atlas (1, 3, D, H, W), its labels, the atlas in its style."""
        target = self.scans.image(index)[None].to(self.atlas)
        flow, mirrored = align_both(self.used, self.atlas, target, self.experiment, self.labels)
        styled = restyle_atlas(self.used, self.atlas, target, self.experiment, self.labels, flow)
        labels = carry_labels(target, self.labels, flow, self.experiment, mirrored)
        return flow.half(), labels.to(torch.uint8), styled.half()
