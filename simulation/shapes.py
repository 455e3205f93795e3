"""Implicit shapes and smooth noise: the two materials that the phantom is drawn with.

A shape is a function of points (3, N) in mm that returns its depth (N,) in mm: positive inside, zero on the surface,
negative outside. Union is `np.maximum`, intersection `np.minimum`, complement the minus sign.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PERIOD = 192.0
"""Edge in mm of the cube after which noise repeats: longer than a brain, so that no fold comes twice."""

_CELLS = 64


@dataclass(frozen=True)
class Noise:
    """Periodic smooth noise with zero mean and unit variance.

    `field` is (n, n, n) float32 over a cube of `PERIOD` mm, `slope` its gradient's length per mm, of the same shape.
    """

    field: Floats
    slope: Floats

    @staticmethod
    def of(field: NDArray[np.floating]) -> "Noise":
        """Noise from its field over the cube."""
        cell = PERIOD / len(field)
        steps = ((np.roll(field, -1, axis) - np.roll(field, 1, axis)) / (2 * cell) for axis in range(3))
        slope = np.sqrt(sum((step**2 for step in steps), start=np.zeros_like(field)))
        return Noise(field.astype(np.float32), slope.astype(np.float32))

    def at(self, points: Floats) -> Floats:
        """Value at `points` (3, N) mm, trilinear; returns (N,)."""
        return np.asarray(sample(self.field[None], points)[0], dtype=np.float32)

    def sheet(self, points: Floats) -> Floats:
        """Distance in mm (N,) to the surfaces where the noise is zero: a maze of curved sheets, as sulci are."""
        value, slope = sample(np.stack([self.field, self.slope]), points)
        return np.asarray(np.abs(value) / (slope + np.float32(0.02)), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, wavelength: float, bandwidth: float = 0.25) -> Noise:
    """Draw noise whose waves are about `wavelength` mm long (at least 8), within +- `bandwidth` of it (relative)."""
    cell = PERIOD / _CELLS
    k, kz = np.fft.fftfreq(_CELLS, cell), np.fft.rfftfreq(_CELLS, cell)
    radius = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + kz[None, None, :] ** 2) * wavelength
    band = np.exp(-0.5 * ((radius - 1.0) / bandwidth) ** 2)
    white = np.fft.rfftn(rng.standard_normal((_CELLS,) * 3))
    field = np.fft.irfftn(white * band, s=(_CELLS,) * 3, axes=(0, 1, 2))
    field = (field - field.mean()) / field.std()
    return Noise.of(field)


def sample(fields: Floats, points: Floats) -> Floats:
    """Look up periodic `fields` (C, n, n, n) over a cube of `PERIOD` mm at `points` (3, N) mm; returns (C, N)."""
    padded = torch.from_numpy(np.pad(fields, ((0, 0), (0, 1), (0, 1), (0, 1)), mode="wrap"))[None]
    turns = points[::-1].T * np.float32(1 / PERIOD)  # grid_sample wants kji
    turns -= np.floor(turns)
    grid = torch.from_numpy(np.ascontiguousarray(turns)).mul_(2).sub_(1)[None, None, None]
    value = torch.nn.functional.grid_sample(padded, grid, mode="bilinear", align_corners=True)
    return np.asarray(value.reshape(len(fields), -1).numpy(), dtype=np.float32)


def length(vectors: NDArray[np.floating]) -> Floats:
    """Euclidean length (N,) of `vectors` (3, N)."""
    return np.asarray(np.sqrt(np.einsum("in,in->n", vectors, vectors)), dtype=np.float32)


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid at `centre` with half axes `semi` (mm), turned by `yaw` about z, then `pitch` about x (degrees)."""

    centre: tuple[float, float, float]
    semi: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0

    def depth(self, points: Floats) -> Floats:
        """Depth in mm (N,), exact on the surface and to first order near it."""
        turn = rotation(self.pitch, 0.0, self.yaw).T.astype(np.float32)
        local = turn @ (points - np.asarray(self.centre, np.float32)[:, None])
        semi = np.asarray(self.semi, np.float32)[:, None]
        scaled = local / semi
        k0, k1 = length(scaled), length(scaled / semi)
        return np.asarray(k0 * (1 - k0) / (k1 + np.float32(1e-6)), dtype=np.float32)

    def box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two corners (3,) in mm of a box that holds the shape."""
        return np.asarray(self.centre) - max(self.semi), np.asarray(self.centre) + max(self.semi)


@dataclass(frozen=True)
class Tube:
    """A bent tube through `stations`: (x, y, z, radius) in mm, its radius running on linearly between them.

    `stretch` above 1 makes cross-sections taller (z) than wide.
    """

    stations: tuple[tuple[float, float, float, float], ...]
    stretch: float = 1.0

    def depth(self, points: Floats) -> Floats:
        """Depth in mm (N,); exact for a constant radius."""
        squeeze = np.array([1.0, 1.0, 1.0 / self.stretch], np.float32)[:, None]
        local = points * squeeze
        best = np.full(points.shape[1], -np.inf, np.float32)
        for a, b in zip(self.stations, self.stations[1:], strict=False):
            start, end = np.asarray(a[:3], np.float32) * squeeze[:, 0], np.asarray(b[:3], np.float32) * squeeze[:, 0]
            along = end - start
            t = np.clip((along @ (local - start[:, None])) / np.float32(along @ along), 0, 1).astype(np.float32)
            gap = length(local - start[:, None] - along[:, None] * t)
            best = np.maximum(best, np.float32(a[3]) + np.float32(b[3] - a[3]) * t - gap)
        return best

    def box(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Two corners (3,) in mm of a box that holds the shape."""
        stations = np.asarray(self.stations)
        margin = stations[:, 3:] * np.array([1.0, 1.0, self.stretch])
        return (stations[:, :3] - margin).min(axis=0), (stations[:, :3] + margin).max(axis=0)


Shape = Ellipsoid | Tube


def rotation(x: float, y: float, z: float) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) about x, then y, then z; degrees."""
    cx, cy, cz = np.cos(np.deg2rad([x, y, z]))
    sx, sy, sz = np.sin(np.deg2rad([x, y, z]))
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)
