"""A brain that nobody has: a label map of all 28 structures, drawn from a seed and an age.

    anatomy = draw_anatomy(seed=7, age=43.0)
    anatomy.labels.shape, anatomy.volumes()["Left-Hippocampus"]

Each subject has its own folds, sizes, asymmetry, pose and smooth deformation; the same seed gives the same bytes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.structures import PAPER
from simulation.anatomy import INDEX, SIDE, Traits, deep_shapes
from simulation.folding import hull, pial_depth
from simulation.shapes import Floats, Shape, rotation, sample, smooth_noise

Labels = NDArray[np.uint8]

NOMINAL_SPACING = 1.5
"""Voxel edge in mm at which folds are resolved: half the cortex's thickness."""

_REACH = (82.0, 103.0, 84.0)  # half of the field of view, mm: the largest head in any pose


@dataclass(frozen=True)
class Anatomy:
    """One person's brain, before any scanner has seen it."""

    labels: Labels  # (D, H, W) uint8, class index of configs.structures, RAS
    fluid: Floats  # (D, H, W) float32 in [0, 1]: share of a voxel that is fluid in a sulcus or over the brain
    affine: NDArray[np.float64]  # (4, 4), voxel to mm, RAS
    age: float  # years

    @property
    def spacing(self) -> float:
        """Voxel edge in mm."""
        return float(self.affine[0, 0])

    def volumes(self) -> dict[str, float]:
        """Volume of each structure in ml, by its FreeSurfer name."""
        counts = np.bincount(self.labels.ravel(), minlength=PAPER.classes)
        return {s.name: float(counts[s.index]) * self.spacing**3 / 1000 for s in PAPER.structures}


def draw_anatomy(seed: int, age: float, spacing: float = NOMINAL_SPACING) -> Anatomy:
    """Draw the brain of one person.

    Args:
        seed: who it is; any non-negative integer.
        age: years, 4 to 100; older brains have wider ventricles and sulci and a thinner cortex.
        spacing: voxel edge in mm; the shape of the volume follows from it (110 x 138 x 113 at 1.5 mm).

    Returns:
        Labels, fluid, affine and age.

    Raises:
        ValueError: if `spacing` is not positive or `age` is outside of 0 to 120.
    """
    if spacing <= 0 or not 0 <= age <= 120:
        raise ValueError(f"spacing={spacing} mm, age={age}: spacing must be positive and age 0 to 120 years")
    rng = np.random.default_rng([seed, 0x5157])
    traits = Traits.of(rng, age)
    grid, affine = _grid(spacing)
    shape = grid.shape[1:]
    points = _into_head(grid.reshape(3, -1), traits, rng)
    labels, fluid = _paint(points, traits, spacing, rng)
    return Anatomy(labels.reshape(shape), fluid.reshape(shape), affine, age)


def _grid(spacing: float) -> tuple[Floats, NDArray[np.float64]]:
    counts = [2 * int(np.ceil(reach / spacing)) for reach in _REACH]
    axes = [(np.arange(n) - (n - 1) / 2) * spacing for n in counts]
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [axis[0] for axis in axes]
    return np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32), affine


def _into_head(points: Floats, traits: Traits, rng: np.random.Generator) -> Floats:
    """Scanner to head frame: undo the person's pose and size, then bend smoothly so that no two heads are alike."""
    turn = rotation(*(4.0 * rng.standard_normal(3)).clip(-9, 9))
    size = traits.size * np.exp(0.02 * rng.standard_normal(3).clip(-2, 2))
    shift = (2.5 * rng.standard_normal(3)).clip(-6, 6)
    matrix = (turn / size).T.astype(np.float32)
    head = matrix @ (points - shift.astype(np.float32)[:, None])
    bend = [1.5 * smooth_noise(rng, 110.0).field + 0.35 * smooth_noise(rng, 48.0).field for _ in range(3)]
    return head + sample(np.stack(bend).astype(np.float32), head)


def _paint(points: Floats, traits: Traits, spacing: float, rng: np.random.Generator) -> tuple[Labels, Floats]:
    labels = np.zeros(points.shape[1], np.uint8)
    fluid = np.zeros(points.shape[1], np.float32)
    cerebrum, cerebellum = hull(points)
    inside = np.flatnonzero(cerebrum > -1.5)
    labels[inside], fluid[inside] = _cerebrum(points[:, inside], cerebrum[inside], traits, spacing, rng)
    inside = np.flatnonzero(cerebellum > -1.5)
    small, wet = _cerebellum(points[:, inside], cerebellum[inside], traits, spacing, rng)
    labels[inside] = np.where(small > 0, small, labels[inside])
    fluid[inside] = np.where(small > 0, wet, np.maximum(wet, fluid[inside]))
    _paint_deep(labels, fluid, points, deep_shapes(traits, rng))
    return labels, fluid


def _cerebrum(
    points: Floats, envelope: Floats, traits: Traits, spacing: float, rng: np.random.Generator
) -> tuple[Labels, Floats]:
    """Cortex, white matter and the fluid in the sulci, at points near or in the cerebrum."""
    depth = pial_depth(points, envelope, traits, rng) - np.float32(traits.gap)
    thickness = traits.thickness * (1 + 0.10 * smooth_noise(rng, 40.0).at(points))
    right = points[0] > 0
    cortex = np.where(right, INDEX["Right-Cerebral-CX"], INDEX["Left-Cerebral-CX"])
    white = np.where(right, INDEX["Right-Cerebral-WM"], INDEX["Left-Cerebral-WM"])
    wet = np.where(envelope > 0, np.clip(0.5 - depth / spacing, 0, 1), 0)
    labels = np.where(depth <= 0, 0, np.where(depth < thickness, cortex, white))
    return labels.astype(np.uint8), wet.astype(np.float32)


def _cerebellum(
    points: Floats, envelope: Floats, traits: Traits, spacing: float, rng: np.random.Generator
) -> tuple[Labels, Floats]:
    """Cerebellar cortex with its leaves, and the branching white matter below it."""
    right = points[0] > 0
    leaves = points * np.array([[0.25], [1.0], [1.0]], np.float32)  # leaves run from side to side
    branch = smooth_noise(rng, 15.0).sheet(leaves)
    depth = envelope - np.float32(traits.gap)
    cortex = np.where(right, INDEX["Right-Cerebellum-CX"], INDEX["Left-Cerebellum-CX"])
    white = np.where(right, INDEX["Right-Cerebellum-WM"], INDEX["Left-Cerebellum-WM"])
    core = np.maximum(depth - 14.5, np.minimum(depth - 4.0, 0.9 - branch))
    labels = np.where(depth <= 0, 0, np.where(core > 0, white, cortex))
    cleft = smooth_noise(rng, 9.0).sheet(leaves) + np.maximum(depth - 7, 0)
    wet = np.where(core > 0, 0, np.clip(0.5 + (traits.gap - cleft) / max(spacing, 1.0), 0, 0.8))
    wet = np.where(envelope > 0, np.maximum(wet, np.clip(0.5 - depth / spacing, 0, 1)), 0)
    return labels.astype(np.uint8), wet.astype(np.float32)


def _paint_deep(labels: Labels, fluid: Floats, points: Floats, shapes: list[tuple[int, Shape]]) -> None:
    """Paint the deep structures over what is there, in place; a paired one never crosses the midline."""
    for index, shape in shapes:
        low, high = (corner.astype(np.float32) for corner in shape.box())
        near = np.arange(points.shape[1])
        for axis in range(3):
            near = near[(points[axis, near] > low[axis]) & (points[axis, near] < high[axis])]
        local = points[:, near]
        inside = shape.depth(local) > 0
        if (side := SIDE[index]) != 0:
            inside &= local[0] * side > 0
        labels[near[inside]] = index
        fluid[near[inside]] = 0
