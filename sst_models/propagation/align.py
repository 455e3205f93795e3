"""Alignment: F's flow from the atlas to a scan (paper, eq. 2 and 6), with all that the preset adds to it.

Where the atlas's labels are at hand they help. A first flow propagates them, to measure how bright each tissue is in
the scan, and the atlas with tissue intensities matched to these is aligned anew (`propagation.tissue_matching`). A
first flow that stops short of large ventricles makes its own mistake look right, so there can be a second
initialisation (`propagation.second_initialisation`, multi-start): demons that see intensities themselves beside what is
left of them in windows. Of the two, the one is kept whose labels explain the scan better. Nothing here has a gradient.

Of several atlases each is aligned by itself, and what they say of a voxel is averaged: errors of registrations differ
from atlas to atlas (Heckemann et al. 2006, NeuroImage 33). Weighting each by how like the scan it is near a voxel gave
nothing on validation scans (benchmarks/LEARNING.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from configs.schema import Experiment, Propagation
from sst_models.propagation.demons import ascend_lncc, multiresolution_demons, refine_by_demons
from sst_models.propagation.em import expectation_maximisation, mean_log_likelihood, propagated_probabilities
from sst_models.propagation.tissue_matching import match_tissues
from sst_models.training.device import half
from sst_models.volume.intensity import match_quantiles
from sst_models.volume.labels import AtlasLabels, LabelledVolume
from sst_models.volume.mirror import mirror_image

Initialisation = Callable[[Tensor], tuple[Tensor, Tensor]]
"""A first alignment: from a scan to the atlas as it was compared with it, and its flow."""


class Alignments(Protocol):
    """Alignments that were found, by the number of a scan.

    A flow is (N, 3, D, H, W) float16, to each of N atlases; labels are (D, H, W) uint8.
    """

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
    """Align the atlas to scans, or each of several.

    Args:
        nets: {"E", "A", "F"}; E and A are not needed where `how.restyle` is off.
        atlas: (1, D, H, W) in [0, 1].
        labels: the atlas's, or None.
        how: the preset's part.
        further: more atlases.
    """

    def __init__(
        self,
        nets: Mapping[str, nn.Module],
        atlas: Tensor,
        labels: AtlasLabels | None,
        how: Alignment,
        further: Sequence[LabelledVolume] = (),
    ) -> None:
        self.nets, self.atlas, self.labels, self.how = nets, atlas, labels, how
        self.each: tuple[Aligner, ...] = (self, *(Aligner(nets, image, own, how) for image, own in further))

    @torch.no_grad()
    def flow(self, scan: Tensor) -> Tensor:
        """Give F's finished flow to each of N atlases, scan -> atlas.

        Args:
            scan: (1, 1, D, H, W) in [0, 1].

        Returns:
            (N, 3, D, H, W) in voxels.
        """
        return torch.cat([one._align(scan, one._initialisations())[0] for one in self.each])

    @torch.no_grad()
    def flows(self, scan: Tensor) -> tuple[Tensor, Tensor | None]:
        """Give `flow`, and the flow to the scan's mirror image where `propagation.mirror` is on.

        Which initialisation is kept is decided by the scan, for both.
        """
        found, mirrored = zip(*(one._flows(scan) for one in self.each), strict=True)
        return torch.cat(found), None if mirrored[0] is None else torch.cat(mirrored)

    def _flows(self, scan: Tensor) -> tuple[Tensor, Tensor | None]:
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
        sigma, own = self.how.settings.tissue_matching / self.how.spacing, self.labels
        return match_tissues(self.atlas[None], own.on_grid, scan, own.propagate(flow), sigma, own.table)

    @torch.no_grad()
    def by_appearance(self, scan: Tensor) -> Tensor:
        """Give the atlas in a scan's style by A, (1, 1, D, H, W), or as it is where the preset has no A."""
        if not self.how.restyle:
            return self.atlas[None]
        with half(scan.device, self.how.bf16_cpu):
            styled: Tensor = self.nets["A"](self.atlas[None], self.nets["E"](scan))
        return styled.float()

    @torch.no_grad()
    def probabilities(self, flow: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Give each voxel's probability of each class, (classes, D, H, W), by what the atlases' labels are there.

        Args:
            flow: to each atlas, as `flows` gives it.
            mirrored: likewise.
        """
        mean: Tensor | None = None
        for number, one in enumerate(self.each):
            assert one.labels is not None
            own = slice(number, number + 1)
            found = propagated_probabilities(one.labels, flow[own], None if mirrored is None else mirrored[own])
            mean = found if mean is None else mean.add_(found)
        assert mean is not None
        return mean if len(self.each) == 1 else mean.div_(len(self.each))

    @torch.no_grad()
    def labels_on(self, scan: Tensor, flow: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Give a scan the atlases' labels, (D, H, W): by flows alone, or refined by EM, as the preset says.

        Args:
            scan: (1, 1, D, H, W) in [0, 1].
            flow: as of `probabilities`.
            mirrored: likewise.
        """
        weight = self.how.settings.em_weight
        if not weight and mirrored is None:
            return self.propagate(flow)
        assert self.labels is not None
        prior = self.probabilities(flow, mirrored)
        return expectation_maximisation(scan, prior, weight, self.how.spacing, table=self.labels.table).argmax(0)

    @torch.no_grad()
    def propagate(self, flow: Tensor) -> Tensor:
        """Give a scan the atlases' labels, (D, H, W), by flows alone, as `flow` gives them."""
        assert self.labels is not None
        return self.labels.propagate(flow) if len(self.each) == 1 else self.probabilities(flow).argmax(0)

    def _align(self, scan: Tensor, starts: Sequence[Initialisation]) -> tuple[Tensor, Initialisation]:
        """Give the finished flow, and its initialisation: of several, the one whose labels explain the scan best."""
        begun = [start(scan) for start in starts]
        best = 0
        if self.labels is not None and len(starts) > 1:
            own, spacing = self.labels, self.how.spacing
            fits = [mean_log_likelihood(scan, own.propagate(flow), spacing, own.table) for _, flow in begun]
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
