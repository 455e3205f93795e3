"""Shapes of brains in a few hundred numbers: coefficients of smooth velocities by which an atlas is deformed.

The velocities are made of the atlas's labels and of its grid alone, so they are public and hold nothing of a patient.
Of each structure there is one that inflates it and three that move it; cosine waves of low frequency do the rest. Flows
of coefficients are diffeomorphic, as they are integrated from a stationary velocity (Arsigny et al. 2006, MICCAI;
statistical deformation models: Rueckert et al. 2003, IEEE TMI 22). How far coefficients vary over people is in `prior`.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.structures import PAPER, LabelTable
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.separable import blur
from sst_models.volume.warp import integrate

WAVES = (3, 4, 4)
"""Cosine waves along each axis, the constant among them, of the velocities that deform a whole brain."""

CONTROL = 4.8
"""Millimetres between control points of a velocity: fine enough to widen a ventricle, coarse enough to be smooth."""

SQUARINGS = 5
"""Of `integrate`: velocities are of a few control points, and each step is a thirty-second of them."""

EDGE, DECAY, NEAR = 2.9, 12.0, 9.6
"""Millimetres: sigma by which a structure is softened before it is inflated, the length over which an inflation decays
(a screened Poisson equation), and sigma of what moves with a structure."""

RIDGE = 1e-2
"""Of the projection on the velocities, beside the mean of their squared lengths: neighbours are nearly dependent."""


def length(table: LabelTable) -> int:
    """Give the coefficients of a shape code: an inflation of each structure, three moves of each, and the waves.

    With the paper's table they are 256.
    """
    return 4 * len(table.structures) + 3 * prod(WAVES)


@dataclass(frozen=True, eq=False)
class ShapeBasis:
    """The velocities of one atlas.

    Args:
        labels: the atlas's.
        inside: (1, D, H, W), 1 in the atlas's brain, 0 around it: where a deformation counts.
        spacing: of the grid, mm.
    """

    labels: AtlasLabels
    inside: Tensor
    spacing: float

    @property
    def reduction(self) -> int:
        """Voxels of the grid between control points."""
        return max(1, round(CONTROL / self.spacing))

    @property
    def sides(self) -> tuple[int, ...]:
        """Control points along each axis."""
        return tuple(side // self.reduction for side in self.labels.shape)

    @cached_property
    def velocities(self) -> Tensor:
        """(`length`, 3, d, h, w), voxels of the control grid; the largest displacement of each is 1 mm."""
        step, classes = self.reduction * self.spacing, self.labels.table.classes
        share = [self._pooled((self.labels.on_grid == index).float()[None]) for index in range(1, classes)]
        fields = [_inflation(blur(one, EDGE / step)[0], step / DECAY) for one in share]
        fields += [move for one in share for move in _along_axes(blur(one, NEAR / step)[0])]
        axes = [torch.arange(side).to(self.inside) + 0.5 for side in self.sides]
        for waves in product(*map(range, WAVES)):
            lines = [torch.cos(math.pi * k * axis / len(axis)) for k, axis in zip(waves, axes, strict=True)]
            fields += _along_axes(torch.einsum("d,h,w->dhw", *lines))
        found = torch.stack(fields)
        peak = found.square().sum(1).amax((1, 2, 3)).sqrt().clamp(min=1e-6)
        return found / (peak.view(-1, 1, 1, 1, 1) * step)

    @torch.no_grad()
    def flow(self, code: Tensor, more: Tensor | None = None) -> Tensor:
        """Give the flow of a shape code, (1, 3, D, H, W) in voxels of the grid.

        Args:
            code: (`length`,).
            more: (3, d, h, w), a velocity that is added, in voxels of the control grid.
        """
        velocity = (code @ self.velocities.flatten(1)).view(1, 3, *self.sides)
        flow = integrate(velocity if more is None else velocity + more[None], SQUARINGS)
        return self.reduction * F.interpolate(flow, self.labels.shape, mode="trilinear", align_corners=False)

    @torch.no_grad()
    def beside(self, velocity: Tensor) -> Tensor:
        """Take out of a velocity (3, d, h, w) what codes can say: what is left changes no structure's volume or place.

        It has the standard deviation that it had.
        """
        left = velocity.flatten()
        left = left - (self._projection @ (left * self._weight)) @ self.velocities.flatten(1)
        return (velocity.std() / left.std().clamp(min=1e-6) * left).view(velocity.shape)

    @cached_property
    def _weight(self) -> Tensor:
        """(3 d h w,), 1 in the brain and falling off around it."""
        soft = blur(self._pooled(self.inside), 1.5)[0].clamp(0, 1).sqrt()
        return soft.expand(3, -1, -1, -1).flatten()

    @cached_property
    def _projection(self) -> Tensor:
        """(`length`, 3 d h w): least squares on the velocities, with a ridge."""
        own = self.velocities.flatten(1) * self._weight
        gram = own @ own.T
        projection: Tensor = torch.linalg.solve(_ridged(gram, RIDGE), own)
        return projection

    def _pooled(self, maps: Tensor) -> Tensor:
        return F.avg_pool3d(maps, self.reduction) if self.reduction > 1 else maps


def volumes(labels: Tensor, table: LabelTable = PAPER) -> Tensor:
    """Give the volume of each structure, (structures,) float32, in voxels of a label map (D, H, W)."""
    return torch.bincount(labels.flatten().long(), minlength=table.classes)[1:].float()


def _ridged(gram: Tensor, ridge: float) -> Tensor:
    """Add a share of its mean diagonal to the diagonal of a matrix."""
    return gram + ridge * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)


def _along_axes(weight: Tensor) -> list[Tensor]:
    """Give three velocities, (3, d, h, w) each, that move along one axis by a weight (d, h, w)."""
    return [torch.stack([weight * (axis == along) for axis in range(3)]) for along in range(3)]


def _inflation(source: Tensor, decay: float) -> Tensor:
    """Give a velocity (3, d, h, w) whose divergence is a source (d, h, w): the gradient of a screened potential.

    Args:
        source: where volume is to appear.
        decay: how fast the potential falls off, per control point.
    """
    sides = [2 * side for side in source.shape]  # zeros beside it, as the transform is periodic
    lines = [2 * torch.cos(2 * math.pi * torch.fft.fftfreq(side, device=source.device)) - 2 for side in sides]
    laplacian = lines[0].view(-1, 1, 1) + lines[1].view(1, -1, 1) + lines[2].view(1, 1, -1)
    potential = torch.fft.ifftn(torch.fft.fftn(source, s=sides) / (laplacian - decay**2)).real
    d, h, w = source.shape
    return torch.stack(torch.gradient(potential[:d, :h, :w]))
