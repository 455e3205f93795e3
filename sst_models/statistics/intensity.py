"""Look of a scan in a few dozen numbers: how bright each structure is, and how much it varies.

Known forms of "style by structure" learn a code for each region (SEAN: Zhu et al. 2020, CVPR); here the codes are
measured: mean and standard deviation of the intensities of each of the 16 groups and of the unlabelled inside of the
brain, in the cores of their labels, and the strength of the smooth shading that is left. Nothing is learnt.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from sst_models.volume.groups import COUNT, groups, one_hot
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.separable import blur
from sst_models.volume.warp import warp

CORE, CORE_SIGMA = 0.5, 1.0
"""A voxel tells of its structure if more than this share of its neighbourhood (a Gaussian, sigma in voxels) is of it:
others hold two tissues."""

RIM = 0.7
"""Voxels by which edges between structures are softened when the atlas is given new intensities."""

FEW = 20.0
"""Voxels: a structure with fewer of them in its core keeps the atlas's own intensities."""

LEAST = 1e-3
"""Least standard deviation of a structure, and least intensity in the brain: 0 is background."""

GAIN = (0.5, 2.0)
"""Least and most by which variation within a structure of the atlas is scaled."""

SHADE = 19.2
"""Millimetres, sigma within which what is left of a scan is shading."""


@dataclass(frozen=True)
class Look:
    """An intensity code, part by part."""

    mean: Tensor  # (17,), of each group, in [0, 1]
    spread: Tensor  # (17,), standard deviations
    shading: float  # standard deviation of what is added to the whole scan, smoothly

    @classmethod
    def of(cls, code: Tensor) -> "Look":
        """Read a code (35,), measured or drawn."""
        return cls(code[:COUNT].clamp(0, 1), code[COUNT : 2 * COUNT].exp(), float(code[2 * COUNT].exp()))


@dataclass(frozen=True, eq=False)
class Restyling:
    """An atlas that takes on intensity codes.

    Args:
        atlas: (1, D, H, W) in [0, 1], background 0.
        labels: its labels.
        spacing: of the grid, mm.
    """

    atlas: Tensor
    labels: AtlasLabels
    spacing: float

    @torch.no_grad()
    def restyled(self, look: Look) -> Tensor:
        """Give the atlas with the means and variation of a look, (1, 1, D, H, W); its edges stay what they are."""
        own_mean, own_spread, count = self._own
        known = count > FEW
        # The softened edges mix means, in cores of small structures, too; the change is as much larger.
        change = torch.linalg.solve(self._mixing, torch.where(known, look.mean - own_mean, torch.zeros_like(own_mean)))
        mean = own_mean + change
        gain = torch.where(known, look.spread / own_spread, torch.ones_like(own_spread)).clamp(*GAIN)
        rows = torch.stack([mean, own_mean, gain])
        to, here, scale = (rows @ self._weights.flatten(1)).view(3, 1, 1, *self.atlas.shape[1:])
        styled: Tensor = (to + scale * (self.atlas - here)).clamp(LEAST, 1) * self._inside
        return styled

    @torch.no_grad()
    def code(self, scan: Tensor, labels: Tensor, flow: Tensor) -> Tensor:
        """Measure the intensity code of a scan, (35,).

        Args:
            scan: (1, 1, D, H, W) in [0, 1], background 0.
            labels: of the scan, class indices (D, H, W).
            flow: (1, 3, D, H, W) in voxels, scan -> atlas.
        """
        mean, spread, count = _measure(scan, labels)
        own_mean, own_spread, _ = self._own
        mean, spread = torch.where(count > FEW, mean, own_mean), torch.where(count > FEW, spread, own_spread)
        rest = (scan - warp(self.restyled(Look(mean, spread, 0.0)), flow)) * (scan > 0)
        sigma = SHADE / self.spacing
        smooth = blur(rest[0], sigma) / blur((scan > 0).to(scan)[0], sigma).clamp(min=0.05)
        shading = smooth[scan[0] > 0].std().clamp(min=LEAST)
        return torch.cat([mean, spread.log(), shading.log()[None]])

    @property
    def _inside(self) -> Tensor:
        return (self.atlas > 0).to(self.atlas)

    @cached_property
    def _own(self) -> tuple[Tensor, Tensor, Tensor]:
        return _measure(self.atlas[None], self.labels.on_grid)

    @cached_property
    def _weights(self) -> Tensor:
        """(17, D, H, W): how much of each group a voxel of the atlas is, softened, summing to 1."""
        soft = blur(_shares(self.labels.on_grid, self._inside), RIM)
        return soft / soft.sum(0, keepdim=True).clamp(min=1e-6)

    @cached_property
    def _mixing(self) -> Tensor:
        """(17, 17): the mean of each group's weight in the core of each group; the identity for what has no core."""
        core = _core(_shares(self.labels.on_grid, self._inside)).flatten(1)
        count = core.sum(1, keepdim=True)
        return torch.where(
            count > FEW, core @ self._weights.flatten(1).T / count.clamp(min=1), torch.eye(COUNT).to(core)
        )


def shading(shape: tuple[int, ...], spacing: float, strength: float, draws: torch.Generator) -> Tensor:
    """Draw a smooth shading, (1, *shape), of a standard deviation of about `strength`."""
    knots = [max(3, round(side * spacing / (1.5 * SHADE))) for side in shape]
    coarse = torch.randn(1, 1, *knots, generator=draws)
    return strength * F.interpolate(coarse, shape, mode="trilinear", align_corners=True)[0]


def _shares(labels: Tensor, inside: Tensor) -> Tensor:
    """Give what each voxel is: (17, D, H, W), the 16 groups and the unlabelled inside of the brain."""
    return one_hot(groups(labels.device)[labels.long()], COUNT, inside.dtype) * inside


def _core(shares: Tensor) -> Tensor:
    return shares * (blur(shares, CORE_SIGMA) > CORE)


def _measure(scan: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give mean, standard deviation and number of voxels of each group's core, (17,) each."""
    own = _shares(labels, (scan[0] > 0).to(scan))
    own = _core(own)
    count = own.sum((1, 2, 3))
    mean = (own * scan[0]).sum((1, 2, 3)) / count.clamp(min=1)
    variance = (own * (scan[0] - mean.view(-1, 1, 1, 1)).square()).sum((1, 2, 3)) / count.clamp(min=1)
    return mean, variance.sqrt().clamp(min=LEAST), count
