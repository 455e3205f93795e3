"""What a site measures of its people, and what a hub makes of it: numbers of each person, of which a mean leaves.

The atlas is aligned to each training scan, its labels are refined by the scan's own intensities, and an intensity code
and a shape code are read off. A shape is measured in the scan and in its mirror image (`propagation.mirror`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.statistics import INTENSITY
from sst_models.propagation.align import Aligner, Alignments
from sst_models.statistics import prior
from sst_models.statistics.intensity import Rendering
from sst_models.statistics.moments import Moments
from sst_models.statistics.shape import ShapeBasis
from sst_models.training.learner import Scans
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.mirror import mirror_labels


@dataclass(frozen=True, eq=False)
class Statistics:
    """What codes of a site's people are drawn from."""

    intensity: Moments  # of intensity codes
    shape: Moments  # of shape codes

    def to(self, device: torch.device) -> "Statistics":
        """Give the same statistics on another device."""
        return Statistics(self.intensity.to(device), self.shape.to(device))

    @staticmethod
    def of(released: Mapping[str, np.ndarray], rendering: Rendering) -> "Statistics":
        """Give the distribution of people's codes by what a site released: the mean of their numbers, with noise.

        Sites' means are normal around the atlas, and people around their site's (`prior`); noise is normal, too, and so
        is what it leaves to be known (the Kalman gain of a single observation).

        Args:
            released: the arrays of `configs.statistics.SHAPES`; none says nothing, as noise without end would.
            rendering: of the atlas.
        """
        scale, apart = prior.scale().double(), prior.sites().double()
        apart = apart / (scale[:, None] * scale)
        mean = torch.zeros_like(scale)
        if released:
            noise = float(released["noise"][0]) ** 2 * torch.eye(len(scale), dtype=torch.float64)
            gain = torch.linalg.solve(apart + noise, apart).T  # both are symmetric
            mean = gain @ torch.from_numpy(np.array(released["mean"], np.float64))
            apart = apart - gain @ apart
        code = prior.centre(rendering) + (scale * mean).to(rendering.atlas)
        spread = (prior.people() + scale[:, None] * apart * scale).to(rendering.atlas)
        looks, shapes = slice(None, INTENSITY), slice(INTENSITY, None)
        return Statistics(Moments(code[looks], spread[looks, looks]), Moments(code[shapes], spread[shapes, shapes]))

    @staticmethod
    def pooled(looks: Sequence[tuple["Statistics", int]], every: Sequence[tuple["Statistics", int]]) -> "Statistics":
        """Give the intensities of some sites with the shapes of others; each by its statistics and number of people."""
        return Statistics(
            Moments.pooled([(own.intensity, count) for own, count in looks]),
            Moments.pooled([(own.shape, count) for own, count in every]),
        )


def basis_of(atlas: Tensor, labels: AtlasLabels, spacing: float) -> ShapeBasis:
    """Give the shape basis of an atlas (1, D, H, W) in [0, 1], background 0; `spacing` of the grid in mm."""
    return ShapeBasis(labels, (atlas > 0).to(atlas), spacing)


def measure(
    scans: Scans, aligner: Aligner, watch: Callable[[int], None] | None = None, kept: Alignments | None = None
) -> Tensor:
    """Measure each of a site's scans, (N, NUMBERS), in standard units.

    Args:
        scans: the site's training scans.
        aligner: finds the flow from the atlas to a scan, with the atlas's labels.
        watch: called with the number of scans done.
        kept: where the alignments go, for a later phase.
    """
    assert aligner.labels is not None
    spacing = aligner.how.spacing
    basis = basis_of(aligner.atlas, aligner.labels, spacing)
    rendering = Rendering(aligner.atlas, aligner.labels, spacing)
    centre, scale = prior.centre(rendering), prior.scale().to(aligner.atlas)
    rows: list[Tensor] = []
    for index in range(len(scans)):
        scan = scans.image(index)[None].to(aligner.atlas)
        flow, mirrored = aligner.flows(scan)
        labels = aligner.labels_on(scan, flow, mirrored)
        if kept:
            kept.save(index, flow.half(), labels.to(torch.uint8))
        shapes = [basis.code(flow, labels)]
        if mirrored is not None:
            shapes.append(basis.code(mirrored, mirror_labels(labels)))
        code = torch.cat([rendering.code(scan, labels), torch.stack(shapes).mean(0)])
        rows.append(((code - centre) / scale).clamp(-prior.FAR, prior.FAR))
        if watch:
            watch(index + 1)
    return torch.stack(rows)
