"""Shape of a brain in a few hundred numbers: how an atlas is deformed onto it, as coefficients of smooth velocities.

The velocities are made of the atlas's labels and of its grid alone, so they are public and hold nothing of a patient.
Of each structure there is one that inflates it and three that move it; cosine waves of low frequency do the rest. A
shape code has a coefficient for each; flows of codes are diffeomorphic, as they are integrated from a stationary
velocity (Arsigny et al. 2006, MICCAI; statistical deformation models: Rueckert et al. 2003, IEEE TMI 22).

A registration that stops short of large ventricles would make them small in every draw. So after the projection the
inflations are corrected until the deformed atlas has the volumes that the scan's own labels have. On twelve training
scans the control points of 9.6 mm gave 0.4 of the ventricles' variation, these coefficients 1.0 (LEARNING.md).
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from configs.statistics import INFLATIONS, SHAPE, WAVES
from configs.structures import CLASSES
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.separable import blur
from sst_models.volume.warp import integrate

CONTROL = 4.8
"""Millimetres between control points of a velocity: fine enough to widen a ventricle, coarse enough to be smooth."""

SQUARINGS = 5
"""Of `integrate`: velocities are of a few control points, and each step is a thirty-second of them."""

EDGE, DECAY, NEAR = 2.9, 12.0, 9.6
"""Millimetres: sigma by which a structure is softened before it is inflated, the length over which an inflation decays
(a screened Poisson equation), and sigma of what moves with a structure."""

RIDGE = 1e-2
"""Of the projection on the velocities, beside the mean of their squared lengths: neighbours are nearly dependent."""

LOG_STEPS, LOG_RATE = 6, 0.8
"""Of the fixed-point iteration that finds the stationary velocity of a flow."""

FIT_STEPS, FIT_RATE, FIT_MOST = 5, 0.7, 1.0
"""Steps towards the volumes of a scan's labels, the share of the way in each, and the most of a log-volume in one. A
structure that went too far goes half as far from then on."""

PROBE = 2.0
"""Millimetres of an inflation by which its effect on volumes is measured; a voxel where that is more."""

ABSENT = 4
"""Voxels: a structure that is smaller in a scan or in the atlas has no volume to fit."""


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
        """(256, 3, d, h, w), voxels of the control grid; the largest displacement of each is 1 mm."""
        step = self.reduction * self.spacing
        share = [self._pooled((self.labels.on_grid == index).float()[None]) for index in range(1, CLASSES)]
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
            code: (256,).
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

    @torch.no_grad()
    def code(self, flow: Tensor, labels: Tensor) -> Tensor:
        """Give the shape code of a scan, (256,).

        Args:
            flow: (1, 3, D, H, W) in voxels, scan -> atlas.
            labels: of the scan, class indices (D, H, W), whose volumes the code takes on.
        """
        velocity = self._velocity(flow).flatten()
        return self._fitted(self._projection @ (velocity * self._weight), volumes(labels))

    def _fitted(self, code: Tensor, wanted: Tensor) -> Tensor:
        """Correct the inflations until the deformed atlas has the volumes (28,) that are wanted."""
        known = (wanted > ABSENT) & (volumes(self.labels.on_grid) > ABSENT)
        code, rate, before = code.clone(), FIT_RATE * known, torch.zeros_like(wanted)
        for _ in range(FIT_STEPS):
            found = volumes(self.labels.propagate(self.flow(code)))
            missing = (_log(wanted) - _log(found)).clamp(-FIT_MOST, FIT_MOST)
            rate = torch.where(missing * before < 0, rate / 2, rate)
            code[:INFLATIONS] += self._inverse @ (rate * missing)
            before = missing
        return code

    @cached_property
    def _inverse(self) -> Tensor:
        """(28, 28): how much each inflation has to change, mm, for a change of each log-volume."""
        effects, probe = [], max(PROBE, self.spacing)
        for place in range(INFLATIONS):
            code = self.inside.new_zeros(SHAPE)
            code[place] = probe
            both = [_log(volumes(self.labels.propagate(self.flow(sign * code)))) for sign in (1, -1)]
            effects.append((both[0] - both[1]) / (2 * probe))
        effect = torch.stack(effects, dim=1)
        gram = effect.T @ effect
        inverse: Tensor = torch.linalg.solve(_ridged(gram, 1e-3), effect.T)
        return inverse

    @cached_property
    def _weight(self) -> Tensor:
        """(3 d h w,), 1 in the brain and falling off around it."""
        soft = blur(self._pooled(self.inside), 1.5)[0].clamp(0, 1).sqrt()
        return soft.expand(3, -1, -1, -1).flatten()

    @cached_property
    def _projection(self) -> Tensor:
        """(256, 3 d h w): least squares on the velocities, with a ridge."""
        own = self.velocities.flatten(1) * self._weight
        gram = own @ own.T
        projection: Tensor = torch.linalg.solve(_ridged(gram, RIDGE), own)
        return projection

    def _velocity(self, flow: Tensor) -> Tensor:
        """Find the stationary velocity of a flow, (3, d, h, w): v such that integrating it gives the flow."""
        wanted = self._pooled(flow[0].float())[None] / self.reduction
        found = wanted.clone()
        for _ in range(LOG_STEPS):
            found = found + LOG_RATE * (wanted - integrate(found, SQUARINGS))
        return found[0]

    def _pooled(self, maps: Tensor) -> Tensor:
        return F.avg_pool3d(maps, self.reduction) if self.reduction > 1 else maps


def volumes(labels: Tensor) -> Tensor:
    """Give the volume of each structure, (28,) float32, in voxels of a label map (D, H, W)."""
    return torch.bincount(labels.flatten().long(), minlength=CLASSES)[1:].float()


def _ridged(gram: Tensor, ridge: float) -> Tensor:
    """Add a share of its mean diagonal to the diagonal of a matrix."""
    return gram + ridge * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)


def _log(voxels: Tensor) -> Tensor:
    return voxels.clamp(min=1).log()


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
