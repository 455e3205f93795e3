"""Look of a scan in a few dozen numbers: how bright each structure is, and how much it varies.

Known forms of "style by structure" learn a code for each region (SEAN: Zhu et al. 2020, CVPR); here the codes are
measured, and nothing is learnt. A scan is taken as a mixture of tissues: what of each group of structures, or of the
unlabelled inside of the brain, a voxel holds times the intensity of that group (partial volume; as SynthSeg draws
images, Billot et al. 2023, Med. Image Anal. 86), and what is left. A pair is rendered likewise: shares of groups are
counted in the deformed labels, which are finer than the grid, so that a thin ventricle stays dark and edges stay sharp
however often a volume is interpolated; what the atlas's own mixture leaves is added on top.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from sst_models.volume.groups import count, group_probabilities, groups, one_hot
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.separable import blur
from sst_models.volume.warp import warp

SPREAD_OUT = 0.6
"""Voxels by which a scan's labels are softened to shares: they are of whole voxels, and the scan is not."""

PURE = 0.8
"""Share of a group from which on a voxel tells how much the group varies."""

FEW = 20.0
"""Voxels: a structure with fewer of them keeps the atlas's own intensities."""

RIDGE = 1.0
"""Voxels, of the least squares for the groups' intensities: two groups may share all of theirs."""

LEAST = 1e-3
"""Least standard deviation of a structure, and least intensity in the brain: 0 is background."""

GAIN = (0.5, 2.0)
"""Least and most by which variation within a structure of the atlas is scaled."""

SHADE = 19.2
"""Millimetres, sigma within which what is left of a scan is shading."""


@dataclass(frozen=True)
class Look:
    """An intensity code, part by part, of N groups: the unlabelled inside of the brain, and those of a label table."""

    mean: Tensor  # (N,), intensity of each group
    spread: Tensor  # (N,), standard deviations
    shading: float  # standard deviation of what is added to the whole scan, smoothly

    @classmethod
    def of(cls, code: Tensor) -> "Look":
        """Read a code (2 N + 1,), measured or drawn."""
        groups = len(code) // 2
        return cls(code[:groups].clamp(0, 1), code[groups : 2 * groups].exp(), float(code[2 * groups].exp()))


@dataclass(frozen=True, eq=False)
class Rendering:
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
    def pair(self, look: Look, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Give the deformed atlas with the intensities of a look, (1, D, H, W), and its labels, (D, H, W) int64.

        The image is not cut to [0, 1]; outside of the brain it is exactly 0.

        Args:
            look: of a scan, or drawn.
            flow: (1, 3, D, H, W) in voxels.
        """
        mixture = self._mixture
        known = mixture.voxels > FEW
        mean = torch.where(known, look.mean, mixture.mean)
        gain = torch.where(known, look.spread / mixture.spread, torch.ones_like(mixture.spread)).clamp(*GAIN)
        classes = self.labels.probabilities(flow)
        shares = group_probabilities(classes, self.labels.table)
        image = _mix(shares, mean) + _mix(shares, gain) * warp(mixture.rest[None], flow)[0]
        inside = warp(self._inside[None], flow)[0] > 0.5
        likeliest = classes.max(0).indices  # as argmax, in half of its time on a CPU
        return torch.where(inside & (image < LEAST), LEAST, image) * inside, likeliest

    @torch.no_grad()
    def code(self, scan: Tensor, labels: Tensor) -> Tensor:
        """Measure the intensity code of a scan, (2 N + 1,).

        Args:
            scan: (1, 1, D, H, W) in [0, 1], background 0.
            labels: of the scan, class indices (D, H, W).
        """
        inside = (scan[0] > 0).to(scan)
        table = self.labels.table
        own = one_hot(groups(scan.device, table)[labels.long()], count(table), scan.dtype)
        shares = blur(own * inside, SPREAD_OUT)
        found = _unmix(scan[0], shares / shares.sum(0, keepdim=True).clamp(min=1e-6) * inside)
        known = found.voxels > FEW
        mean = torch.where(known, found.mean, self._mixture.mean)
        spread = torch.where(known, found.spread, self._mixture.spread)
        sigma = SHADE / self.spacing
        smooth = blur(found.rest, sigma) / blur(inside, sigma).clamp(min=0.05)
        return torch.cat([mean, spread.log(), smooth[inside > 0].std().clamp(min=LEAST).log()[None]])

    @property
    def own(self) -> Look:
        """The look of the atlas itself."""
        return Look(self._mixture.mean, self._mixture.spread, LEAST)

    @property
    def _inside(self) -> Tensor:
        return (self.atlas > 0).to(self.atlas)

    @cached_property
    def _mixture(self) -> "_Mixture":
        still = self.atlas.new_zeros(1, 3, *self.atlas.shape[1:])
        return _unmix(
            self.atlas, group_probabilities(self.labels.probabilities(still), self.labels.table) * self._inside
        )


def shading(shape: tuple[int, ...], spacing: float, strength: float, draws: torch.Generator) -> Tensor:
    """Draw a smooth shading, (1, *shape), of a standard deviation of about `strength`."""
    knots = [max(3, round(side * spacing / (1.5 * SHADE))) for side in shape]
    coarse = torch.randn(1, 1, *knots, generator=draws)
    return strength * F.interpolate(coarse, shape, mode="trilinear", align_corners=True)[0]


@dataclass(frozen=True, eq=False)
class _Mixture:
    """A volume as a mixture of groups."""

    mean: Tensor  # (N,)
    spread: Tensor  # (N,)
    voxels: Tensor  # (N,), how many there are of each group
    rest: Tensor  # (1, D, H, W), what the mixture leaves


def _unmix(image: Tensor, shares: Tensor) -> _Mixture:
    """Find the intensity of each group in a volume (1, D, H, W), by the shares (N, D, H, W) that its voxels hold."""
    brain = image[0] > 0
    own, values = shares[:, brain], image[0][brain]
    gram = own @ own.T + RIDGE * torch.eye(len(shares)).to(image)
    mean = torch.linalg.solve(gram, own @ values)
    rest = (image - _mix(shares, mean)) * brain
    pure = shares * (shares > PURE)
    variance = (pure * rest.square()).sum((1, 2, 3)) / pure.sum((1, 2, 3)).clamp(min=1)
    return _Mixture(mean, variance.sqrt().clamp(min=LEAST), shares.sum((1, 2, 3)), rest)


def _mix(shares: Tensor, values: Tensor) -> Tensor:
    """Give each voxel the mean of its groups' values (N,): (1, D, H, W)."""
    return torch.einsum("gdhw,g->dhw", shares, values)[None]
