"""What a site measures of its scans: the moments of their intensity codes and of their shape codes.

The atlas is aligned to each training scan, its labels are refined by the scan's own intensities, and both codes are
read off. A dozen scans become two dozen shapes by their mirror images (`propagation.mirror`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from configs.statistics import SHAPE
from sst_models.propagation.align import Aligner, Alignments
from sst_models.statistics.intensity import Rendering
from sst_models.statistics.moments import Moments
from sst_models.statistics.shape import ShapeBasis
from sst_models.training.learner import Scans
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.mirror import mirror_labels

FEWEST = 2
"""Scans whose moments can be measured."""

PRIOR_MEAN, PRIOR_SPREAD, PRIOR_SHADING = 0.1, 0.3, (0.02, 0.5)
"""Where no site says anything: standard deviation of a structure's intensity, of the logarithm of how much it varies,
and the usual shading with the standard deviation of its logarithm; about what two public sites differ by."""

PRIOR_SHAPE, PRIOR_RESIDUAL = 0.6, 1.4
"""Millimetres, likewise: standard deviation of each coefficient of a shape, and what codes leave out."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Everything that a site of level "statistics" says of its scans."""

    intensity: Moments  # of intensity codes
    shape: Moments  # of shape codes
    residual: float  # RMS in mm of what shape codes leave out of a scan's velocity

    def to(self, device: torch.device) -> "Statistics":
        """Give the same statistics on another device."""
        return Statistics(self.intensity.to(device), self.shape.to(device), self.residual)

    @staticmethod
    def pooled(looks: Sequence[tuple["Statistics", int]], every: Sequence[tuple["Statistics", int]]) -> "Statistics":
        """Give the intensities of some sites with the shapes of others; each by its statistics and number of scans."""
        total = sum(count for _, count in every)
        return Statistics(
            Moments.pooled([(own.intensity, count) for own, count in looks]),
            Moments.pooled([(own.shape, count) for own, count in every]),
            sum(own.residual * count for own, count in every) / total,
        )

    @staticmethod
    def prior(rendering: Rendering) -> "Statistics":
        """Give statistics of nobody, for a hub to which no site says more: an atlas's own look and shape, varied."""
        own, (shading, varies) = rendering.own, PRIOR_SHADING
        mean = torch.cat([own.mean, own.spread.log(), own.mean.new_tensor([shading]).log()])
        spread = torch.cat([torch.full_like(own.mean, PRIOR_MEAN), torch.full_like(own.mean, PRIOR_SPREAD)])
        intensity = Moments(mean, torch.cat([spread, spread.new_tensor([varies])]).square().diag())
        shape = Moments(mean.new_zeros(SHAPE), PRIOR_SHAPE**2 * torch.eye(SHAPE).to(mean))
        return Statistics(intensity, shape, PRIOR_RESIDUAL)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Give them as arrays by name, float32."""
        tensors = {
            "intensity.mean": self.intensity.mean,
            "intensity.covariance": self.intensity.covariance,
            "shape.mean": self.shape.mean,
            "shape.covariance": self.shape.covariance,
            "shape.residual": torch.tensor([self.residual]),
        }
        return {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "Statistics":
        """Read what `arrays` gave."""
        found = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        intensities = Moments(found["intensity.mean"], found["intensity.covariance"])
        shapes = Moments(found["shape.mean"], found["shape.covariance"])
        return cls(intensities, shapes, float(found["shape.residual"]))


def basis_of(atlas: Tensor, labels: AtlasLabels, spacing: float) -> ShapeBasis:
    """Give the shape basis of an atlas (1, D, H, W) in [0, 1], background 0; `spacing` of the grid in mm."""
    return ShapeBasis(labels, (atlas > 0).to(atlas), spacing)


def measure(
    scans: Scans, aligner: Aligner, watch: Callable[[int], None] | None = None, kept: Alignments | None = None
) -> Statistics:
    """Measure a site's scans, N >= 2.

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
    looks: list[Tensor] = []
    found: list[tuple[Tensor, float]] = []
    for index in range(len(scans)):
        scan = scans.image(index)[None].to(aligner.atlas)
        flow, mirrored = aligner.flows(scan)
        labels = aligner.labels_on(scan, flow, mirrored)
        if kept:
            kept.save(index, flow.half(), labels.to(torch.uint8))
        looks.append(rendering.code(scan, labels))
        found.append(basis.code(flow, labels))
        if mirrored is not None:
            found.append(basis.code(mirrored, mirror_labels(labels)))
        if watch:
            watch(index + 1)
    codes, rests = zip(*found, strict=True)
    residual = float(np.sqrt(np.mean(np.square(rests))))
    return Statistics(Moments.of(torch.stack(looks)), Moments.of(torch.stack(codes)), residual)
