"""Alignment: F's flow from the atlas to a scan (paper, eq. 2 and 6), with all that the preset adds to it.

Where the atlas's labels are at hand they help. A first flow propagates them, to measure how bright each tissue is in
the scan, and the atlas with tissue intensities matched to these is aligned anew (`propagation.tissue_matching`). A
first flow that stops short of large ventricles makes its own mistake look right, so there can be a second
initialisation (`propagation.second_initialisation`, multi-start): demons that see intensities themselves beside what is
left of them in windows. Of the two, the one is kept whose labels explain the scan better. Nothing here has a gradient.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from configs.schema import Experiment, Propagation
from sst_models.propagation.demons import ascend_lncc, multiresolution_demons, refine_by_demons
from sst_models.propagation.em import mean_log_likelihood, propagate_labels
from sst_models.propagation.tissue_matching import match_tissues
from sst_models.training.device import half
from sst_models.volume.intensity import match_quantiles
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.mirror import mirror_image

Initialisation = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A first alignment: from a scan to the atlas as it was compared with it, and its flow."""


class Alignments(Protocol):
    """Alignments that were found, by the number of a scan: flow (1, 3, D, H, W) float16, and labels (D, H, W) uint8."""

    def load(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Give a scan's flow and labels, or None where they have to be found."""
        ...

    def save(self, index: int, flow: Tensor, labels: Tensor) -> None:
        """Keep a scan's flow and labels."""
        ...


@dataclass(frozen=True)
class Alignment:
    """How the atlas is aligned to scans: the part of a preset that says so."""

    settings: Propagation
    spacing: float  # of the grid, mm
    restyle: bool  # A restyles the atlas first
    bf16_cpu: bool  # A computes in bfloat16 on a CPU that is fast in it

    @classmethod
    def of(cls, experiment: Experiment) -> "Alignment":
        """Take it from a preset."""
        restyle = bool(experiment.appearance.weight)
        return cls(experiment.propagation, experiment.grid.spacing, restyle, experiment.bf16_cpu)

    @property
    def matches_tissues(self) -> bool:
        """Whether labels, where they are at hand, give the atlas's tissues the scan's intensities."""
        return self.restyle and bool(self.settings.tissue_matching)


class Aligner:
    """Align one atlas to scans.

    Args:
        nets: {"E", "A", "F"}; E and A are not needed where `how.restyle` is off.
        atlas: (1, D, H, W) in [0, 1].
        labels: the atlas's, or None.
        how: the preset's part.
    """

    def __init__(
        self, nets: Mapping[str, nn.Module], atlas: Tensor, labels: AtlasLabels | None, how: Alignment
    ) -> None:
        self.nets, self.atlas, self.labels, self.how = nets, atlas, labels, how

    @torch.no_grad()
    def flow(self, scan: Tensor) -> Tensor:
        """Give F's finished flow, (1, 3, D, H, W) in voxels, scan -> atlas, for a scan (1, 1, D, H, W) in [0, 1]."""
        return self._align(scan, self._initialisations())[0]

    @torch.no_grad()
    def flows(self, scan: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give `flow`, and the flow to the scan's mirror image where `propagation.mirror` is on.

        Which initialisation is kept is decided by the scan, for both.
        """
        flow, start = self._align(scan, self._initialisations())
        if not self.how.settings.mirror:
            return flow, None
        return flow, self._align(mirror_image(scan), [start])[0]

    @torch.no_grad()
    def restyled(self, scan: Tensor, flow: Tensor) -> Tensor:
        """Give the atlas in a scan's style, (1, 1, D, H, W): by its tissues where labels lie on it, otherwise by A.

        Args:
            scan: (1, 1, D, H, W) in [0, 1].
            flow: scan -> atlas, (1, 3, D, H, W) in voxels.
        """
        if self.labels is None or not self.how.matches_tissues:
            return self.by_appearance(scan)
        sigma = self.how.settings.tissue_matching / self.how.spacing
        return match_tissues(self.atlas[None], self.labels.on_grid, scan, self.labels.propagate(flow), sigma)

    @torch.no_grad()
    def by_appearance(self, scan: Tensor) -> Tensor:
        """Give the atlas in a scan's style by A, (1, 1, D, H, W), or as it is where the preset has no A."""
        if not self.how.restyle:
            return self.atlas[None]
        with half(scan.device, self.how.bf16_cpu):
            styled: Tensor = self.nets["A"](self.atlas[None], self.nets["E"](scan))
        return styled.float()

    def labels_on(self, scan: Tensor, flow: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Give a scan the atlas's labels, (D, H, W): by flows alone, or refined by EM, as the preset says."""
        assert self.labels is not None
        return propagate_labels(scan, self.labels, flow, self.how.settings.em_weight, self.how.spacing, mirrored)

    def _align(self, scan: Tensor, starts: Sequence[Initialisation]) -> tuple[Tensor, Initialisation]:
        """Give the finished flow, and its initialisation: of several, the one whose labels explain the scan best."""
        begun = [start(scan) for start in starts]
        best = 0
        if self.labels is not None and len(starts) > 1:
            fits = [mean_log_likelihood(scan, self.labels.propagate(flow), self.how.spacing) for _, flow in begun]
            best = fits.index(max(fits))
        moving, flow = begun[best]
        if self.labels is not None and self.how.matches_tissues:
            moving = self.restyled(scan, flow)
            flow = self._by_f(moving, scan)
        return ascend_lncc(moving, scan, flow, self.how.settings.lncc_ascent_iterations), starts[best]

    def _initialisations(self) -> list[Initialisation]:
        if self.labels is None or not self.how.settings.second_initialisation:
            return [self._by_network]
        return [self._by_network, self._by_intensity]

    def _by_network(self, scan: Tensor) -> tuple[Tensor, Tensor]:
        moving = self.by_appearance(scan)
        return moving, self._by_f(moving, scan)

    def _by_intensity(self, scan: Tensor) -> tuple[Tensor, Tensor]:
        own = self.how.settings
        moving = match_quantiles(self.atlas[None], scan)
        flow = multiresolution_demons(moving, scan, own.demons_iterations_per_level, own.second_initialisation)
        iterations = own.demons_iterations_full_resolution
        return moving, refine_by_demons(moving, scan, flow, iterations, own.second_initialisation)

    def _by_f(self, moving: Tensor, scan: Tensor) -> Tensor:
        flow = self.nets["F"](moving, scan)
        return refine_by_demons(moving, scan, flow, self.how.settings.demons_iterations_full_resolution)
