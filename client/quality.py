"""Whether a prepared scan is what it should be: lies on the atlas, has its contrast, looks like its site's others."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from configs.contrast import T1, weighted

Light = Literal["green", "yellow", "red"]

QUANTILES = 16
"""Numbers that stand for a histogram: the mean intensity of each sixteenth of the brain's voxels, darkest first."""

OVERLAP = (0.90, 0.80)
"""Dice of the scan's brain with the atlas's below which a scan is yellow, and red; good affines reach 0.94 to 0.98."""

SIMILARITY = (0.30, 0.05)
"""Correlation of intensities with the atlas below which a scan is yellow, and red; T2 and CT are about 0 or less."""

DISTANCE = (0.08, 0.16)
"""Distance of histograms above which a scan is yellow, and red; intensities run from 0 to 1."""


@dataclass(frozen=True)
class Quality:
    """What can be said of a prepared scan without a label."""

    overlap: float  # Dice of its brain with the atlas's
    similarity: float  # correlation of its intensities with the atlas's, in both brains
    distance: float  # of its histogram from the usual one
    contrast: str = T1  # that it should have, by the suffix of BIDS

    @property
    def light(self) -> Light:
        """The worst of the three, as a traffic light."""
        low = ((self.overlap, OVERLAP), (self.similarity, SIMILARITY), (-self.distance, tuple(-d for d in DISTANCE)))
        if any(not value >= bounds[1] for value, bounds in low):
            return "red"
        return "yellow" if any(value < bounds[0] for value, bounds in low) else "green"

    @property
    def concerns(self) -> tuple[str, ...]:
        """Say what is wrong, in words; empty where all is well."""
        return (*self.of_place, *self.of_style)

    @property
    def of_place(self) -> tuple[str, ...]:
        """Say what is wrong with where it lies, and with its contrast."""
        found = []
        if self.overlap < OVERLAP[0]:
            found.append(f"its brain and the atlas's overlap by {self.overlap:.2f} (Dice); check orientation and mask")
        if self.similarity < SIMILARITY[0]:
            found.append(
                f"its contrast agrees with a {weighted(self.contrast)} scan's by {self.similarity:.2f} only; is it one?"
            )
        return tuple(found)

    @property
    def of_style(self) -> tuple[str, ...]:
        """Say that it looks unlike its site's others."""
        if self.distance <= DISTANCE[0]:
            return ()
        return (f"its intensities are {self.distance:.2f} off what is usual here; results may be worse",)


def histogram(image: Tensor) -> Tensor:
    """Give the mean intensity of each of `QUANTILES` equal parts of the brain's voxels: (QUANTILES,), ascending.

    Args:
        image: any shape, in [0, 1], 0 outside the brain.
    """
    inside = image[image > 0].sort().values
    if inside.numel() < QUANTILES:
        return torch.zeros(QUANTILES)
    return torch.stack([part.mean() for part in inside.tensor_split(QUANTILES)])


def usual(histograms: Sequence[Tensor]) -> Tensor:
    """Give the median of several scans' histograms, (QUANTILES,)."""
    return torch.stack(list(histograms)).median(dim=0).values


def assess(image: Tensor, atlas: Tensor, usually: Tensor, contrast: str = T1) -> Quality:
    """Judge a prepared scan.

    Args:
        image: (D, H, W) in [0, 1].
        atlas: likewise, on the same grid.
        usually: the site's `usual` histogram.
        contrast: that both should have.
    """
    ours, theirs = image > 0, atlas > 0
    both = ours & theirs
    overlap = 2 * int(both.sum()) / max(1, int(ours.sum()) + int(theirs.sum()))
    similarity = 0.0
    if int(both.sum()) > 1:
        found = torch.corrcoef(torch.stack([image[both], atlas[both]]))[0, 1]
        similarity = float(found.nan_to_num())
    return Quality(overlap, similarity, float((histogram(image) - usually).abs().mean()), contrast)
