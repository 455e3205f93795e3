"""Adaptation: a site's segmenter goes on learning at the site, from pairs that lie on the site's own scans.

Not in the paper. Its generator draws flows from a prior that a dozen scans barely fill; here the flows are those that F
finds from the atlas to the site's scans, so that shapes and styles are the site's (docs/decisions.md, "Pairs on
real scans" and "Real images"). Only the segmenter's weights leave, and those at the highest level of sharing alone.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn

from configs.errors import DataError
from configs.schema import Adapt, Experiment
from sst_models.phases.material import Material
from sst_models.phases.segment import SegmentLearner, SegmentSettings
from sst_models.propagation.align import Aligner, Alignment, Alignments
from sst_models.statistics.drawing import Drawing
from sst_models.statistics.intensity import Look, Rendering
from sst_models.training.learner import Losses, Scans, freeze
from sst_models.training.seeds import below, chance

KEEP = 64
"""Scans whose flow and labels stay in memory: 23 MB each at 128 x 160 x 160."""


class AdaptLearner:
    """Train a segmenter on the atlas's labels, propagated onto the site's scans by F.

    A pair's image is the scan itself, whose labels are then as good as the registration, and as the scan's intensities
    make them (`sst_models.propagation.em`); or the atlas, rendered with the look of one scan in the shape of another,
    whose labels are exact; of several atlases one is drawn. What is released is the running mean of the weights.

    Args:
        nets: {"segmenter"}.
        aligner: finds the flow from the atlas to a scan, with E, A, F, and the atlas's labels.
        settings: how the segmenter learns.
        phase: what pairs are made of.
        scans: the site's training scans.
        kept: their alignments, as far as they were found before; those found here are kept there, too.
    """

    def __init__(
        self,
        nets: dict[str, nn.Module],
        aligner: Aligner,
        settings: SegmentSettings,
        phase: Adapt,
        scans: Scans,
        kept: Alignments | None = None,
    ) -> None:
        assert aligner.labels is not None
        freeze(aligner.nets.values())
        self.aligner, self.atlas, self.labels = aligner, aligner.atlas, aligner.labels
        self.phase, self.scans, self.kept = phase, scans, kept
        self.drawings = tuple(
            Drawing(Rendering(one.atlas, one.labels, aligner.how.spacing)) for one in aligner.each if one.labels
        )
        self._aligned = lru_cache(maxsize=KEEP)(self._align)
        self._learner = SegmentLearner({"segmenter": nets["segmenter"]}, self.pair, settings)
        self.nets: dict[str, nn.Module] = {"segmenter": self._learner.mean}
        self.optimisers, self.own = self._learner.optimisers, self._learner.own

    def step(self, draws: torch.Generator) -> Losses:
        """Learn from one batch of pairs."""
        return self._learner.step(draws)

    def pair(self, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Make one pair: image (1, D, H, W) in [0, 1], labels (D, H, W) int64."""
        index, other = below(len(self.scans), draws), below(len(self.scans), draws)
        flows, labels, _ = self._aligned(index)
        if chance(self.phase.real_probability, draws):
            return self.scans.image(index).to(self.atlas), labels.long()
        which = below(len(flows), draws) if len(flows) > 1 else 0
        drawing, flow = self.drawings[which], flows[which : which + 1].float()
        others, _, look = self._aligned(other)
        if chance(self.phase.flow_mixing, draws):
            another = others[which : which + 1].float()
            flow = torch.lerp(flow, another, float(torch.rand(1, generator=draws)))
        return drawing.pair(look, drawing.finer(flow, draws), draws)

    def _align(self, index: int) -> tuple[Tensor, Tensor, Look]:
        """Give of a scan: F's flow to each atlas (N, 3, D, H, W), its labels, and its look."""
        target = self.scans.image(index)[None].to(self.atlas)
        flow, labels = self._kept(index) or self._found(index, target)
        return flow, labels, Look.of(self.drawings[0].rendering.code(target, labels.long()))

    def _kept(self, index: int) -> tuple[Tensor, Tensor] | None:
        found = self.kept.load(index) if self.kept else None
        return None if found is None else (found[0].to(self.atlas.device), found[1].to(self.atlas.device))

    def _found(self, index: int, target: Tensor) -> tuple[Tensor, Tensor]:
        flow, mirrored = self.aligner.flows(target)
        found = flow.half(), self.aligner.labels_on(target, flow, mirrored).to(torch.uint8)
        if self.kept:
            self.kept.save(index, *found)
        return found


def make(nets: dict[str, nn.Module], experiment: Experiment, material: Material) -> AdaptLearner:
    """Make the learner of a preset.

    Raises:
        DataError: the material has no labels of the atlas.
    """
    if material.labels is None:
        raise DataError("the request holds no labels of the atlas; hub and site need the same version")
    used = {part: nets[part] for part in ("E", "A", "F")}
    aligner = Aligner(used, material.atlas, material.labels, Alignment.of(experiment), material.further)
    phase = experiment.phases.adapt
    settings = SegmentSettings.of(experiment, phase)
    return AdaptLearner({"segmenter": nets["segmenter"]}, aligner, settings, phase, material.scans, material.alignments)
