"""The outer form of the brain: the envelopes of cerebrum and cerebellum, and the folds of the cortex.

Points (3, N) and depths (N,) are in mm in the head-centred frame of `simulation.anatomy`.
"""

import numpy as np

from simulation.anatomy import Traits
from simulation.shapes import Ellipsoid, Floats, Noise, length, sample, smooth_noise

_FOLD = 24.0  # mm from one gyrus over a sulcus and a gyrus to the next


def hull(points: Floats) -> tuple[Floats, Floats]:
    """Depth (N,) in mm inside the cerebrum's and inside the cerebellum's envelope: both sides, no folds yet."""
    folded = points.copy()
    folded[0] = np.abs(folded[0])
    hemisphere = Ellipsoid((20, -40, -42), (32, 31, 24), pitch=-8)
    vermis = Ellipsoid((0, -38, -38), (13, 29, 25))
    cerebellum = np.maximum(hemisphere.depth(folded), vermis.depth(folded))
    temporal = Ellipsoid((42, -2, -23), (23, 47, 22), yaw=-6, pitch=-8)
    cistern = Ellipsoid((0, -9, -42), (18, 22, 30))
    cerebrum = np.minimum(np.maximum(_egg(folded), temporal.depth(folded)), -cistern.depth(folded))
    return np.minimum(cerebrum, -cerebellum - 1.0), cerebellum


def _egg(folded: Floats) -> Floats:
    """The cerebrum without its temporal lobes: an ellipsoid, wider behind than in front, with a flat base."""
    x, y, z = folded
    taper = 1.0 - 0.0009 * y - 0.000012 * y**2
    below = np.maximum((10 - z) / 38, 0)
    u = np.stack([x / taper / 66, y / 87, np.where(z < 10, -(below**1.5), (z - 10) / 58)])
    rate = np.stack([1 / taper / 66, np.full_like(y, 1 / 87), np.where(z < 10, 1.5 * below**0.5 / 38, 1 / 58)])
    k = length(u) + 1e-6
    return np.asarray(k * (1 - k) / (length(u * rate) + 1e-4), dtype=np.float32)


def pial_depth(points: Floats, envelope: Floats, traits: Traits, rng: np.random.Generator) -> Floats:
    """Depth (N,) in mm below the folded surface of the cerebrum, given its `envelope` depth at the same points.

    Sulci are the sheets where smooth noise is zero, drawn along the way to the hemisphere's centre so that they stand
    upright on the surface, and ending at a depth that varies over it.
    """
    x = np.abs(points[0])
    core = Ellipsoid((0, -3, 1), (200, 38, 25)).depth(points)
    midline = length(np.stack([x, np.maximum(core, 0), np.zeros_like(x)]))
    outer = np.minimum(envelope, midline)
    wander = sample(np.stack([smooth_noise(rng, 26.0).field for _ in range(3)]), points)
    bent = points + np.float32(1.5) * wander
    floor = traits.sulcal_depth + 3.5 * wander[0]
    floor = np.where(midline < envelope, 0.6 * floor, floor)  # the inner face folds less deeply
    sulci = length(np.stack([_sulci(bent, rng), np.maximum(outer - floor, 0), np.zeros_like(x)]))
    return np.minimum(np.minimum(outer, sulci), _sylvian(bent))


def _sulci(points: Floats, rng: np.random.Generator) -> Floats:
    """Distance (N,) in mm to the nearest sulcal sheet, as if sheets had no floor."""
    side = np.sign(points[0])
    centre = np.stack([side * 24, np.full_like(side, -3), np.full_like(side, 4)])
    arm = points - centre
    shrink = np.clip(length(arm / np.array([[42], [85], [58]], np.float32)), 0.3, 1.2) ** np.float32(0.6)
    spots = centre + arm / shrink
    spots[0] += side * 60  # far from the mirror plane of the folds
    return _folds(rng).sheet(spots) * shrink


def _folds(rng: np.random.Generator) -> Noise:
    """Noise whose zeros are the sulci: four fifths common to mankind and to both sides, the rest one's own."""
    common = smooth_noise(np.random.default_rng(1909), _FOLD, 0.2).field  # the same for all
    mirrored = np.roll(common[::-1], 1, axis=0)  # value at -x, in a periodic cube
    common = (common + mirrored) / np.float32(np.sqrt(2))
    return Noise.of(np.float32(0.8) * common + np.float32(0.6) * smooth_noise(rng, _FOLD, 0.2).field)


def _sylvian(points: Floats) -> Floats:
    """Distance (N,) to the lateral fissure and to the island of cortex (the insula) at its bottom."""
    x, y, z = np.abs(points[0]), points[1], points[2]
    rise = z + np.float32(5) + np.float32(0.28) * (y - 10)
    fissure = length(np.stack([0.95 * rise, np.maximum(38 - x, 0), np.maximum(np.abs(y - 2) - 38, 0)]))
    disc = np.sqrt(((y - 10) / 24) ** 2 + ((rise - 4) / 13) ** 2)
    insula = length(np.stack([x - 38 + 0.004 * (y - 10) ** 2, 14 * np.maximum(disc - 1, 0), np.zeros_like(x)]))
    return np.minimum(fissure, insula)
