"""Where each deep structure lies in a head, how large it is, and how both change with age.

Points are in mm in a head-centred frame: x to the right, y forward, z up, origin at the middle of the adult brain's
bounding box. Volumes aim at the means of healthy adults that textbooks give (tests/simulation/test_phantom.py has the
ranges); places and ageing are round numbers that look right beside real scans, and nothing rests on them.
"""

from dataclasses import dataclass

import numpy as np

from configs.structures import PAPER
from simulation.shapes import Ellipsoid, Shape, Tube

INDEX = {s.name: s.index for s in PAPER.structures}
SIDE = {s.index: s.name.startswith("Right-") - s.name.startswith("Left-") for s in PAPER.structures}


@dataclass(frozen=True)
class Traits:
    """What age and chance make of one person's brain; all that the shapes below depend on."""

    size: float  # linear, 1 for an adult
    ventricle: float  # linear factor of the lateral ventricles' cross-section, 1 for a young adult
    slit: float  # half width of the 3rd ventricle, mm
    thickness: float  # of the cortex, mm
    gap: float  # half width of a sulcus and width of the fluid over the brain, mm
    sulcal_depth: float  # mm
    grey: float  # linear factor of the deep grey structures

    @staticmethod
    def of(rng: np.random.Generator, age: float) -> "Traits":
        """Draw the traits of a person of `age` years (4 to 100)."""
        old = max(0.0, age - 20.0)
        growth = 0.955 + 0.045 * min(1.0, max(0.0, age - 3.0) / 13.0)
        vary = rng.standard_normal(7)
        return Traits(
            size=growth * float(np.exp(0.025 * vary[0])),
            ventricle=float(np.sqrt((1.0 + 0.0008 * old**2) * np.exp(0.22 * vary[1]))),
            slit=(1.6 + 0.03 * old) * float(np.exp(0.12 * vary[2])),
            thickness=(2.75 - 0.006 * old) * float(np.exp(0.03 * vary[3])),
            gap=(0.35 + 0.009 * old) * float(np.exp(0.10 * vary[4])),
            sulcal_depth=13.5 + 0.8 * float(vary[5]),
            grey=(1.0 - 0.0010 * old) * float(np.exp(0.02 * vary[6])),
        )


def deep_shapes(traits: Traits, rng: np.random.Generator) -> list[tuple[int, Shape]]:
    """Deep structures in painting order (a later one covers an earlier one), each side with its own variation."""
    shapes: list[tuple[int, Shape]] = [(INDEX["Brain-Stem"], _varied(_BRAIN_STEM, rng, 1.0))]
    for side, sign in (("Left", -1), ("Right", 1)):
        for name, shape in _PAIRED.items():
            shapes.append((INDEX[f"{side}-{name}"], _mirrored(_varied(shape, rng, traits.grey), sign)))
        for name, shape in _ventricle_and_caudate(traits).items():
            shapes.append((INDEX[f"{side}-{name}"], _mirrored(_varied(shape, rng, 1.0), sign)))
    third = Ellipsoid((0, 5, -8), (traits.slit, 13, 9 + 0.4 * traits.slit))
    return [
        *shapes,
        (INDEX["CSF"], _varied(Ellipsoid((0, -9, 10.5), (4.5 + 0.7 * traits.slit, 12, 3.9)), rng, 1.0)),
        (INDEX["3rd-Vent"], _varied(third, rng, 1.0)),
        (INDEX["4th-Vent"], _varied(_FOURTH, rng, 1.0 + 0.04 * (traits.ventricle - 1))),
    ]


_BRAIN_STEM = Tube(((0, -5, -15, 12.0), (0, -3, -34, 14.2), (0, -9, -48, 10.0), (0, -14, -64, 7.5)))
_FOURTH = Ellipsoid((0, -21.5, -37), (7.0, 4.6, 13.5), pitch=-8)

# For the right side (x > 0), in painting order; half axes are for a young adult.
_PAIRED: dict[str, Shape] = {
    "VentralDC": Ellipsoid((9.5, 2, -13), (9.0, 14.0, 8.0), yaw=-12, pitch=8),
    "Hippocampus": Tube(
        ((20, 10, -23, 5.3), (26, 2, -21, 5.6), (28, -10, -16, 4.9), (25, -21, -8, 4.3), (17, -26, 0, 2.6))
    ),
    "Amygdala": Ellipsoid((20.5, 15, -22), (6.8, 7.0, 7.8)),
    "Putamen": Ellipsoid((25.5, 15, -1), (5.4, 19.0, 12.0), yaw=-12, pitch=6),
    "Pallidum": Ellipsoid((19.5, 12, -4), (4.5, 11.5, 7.6), yaw=-20, pitch=6),
    "Thalamus-Proper": Ellipsoid((11.2, -3, 1.5), (9.4, 17.0, 11.2), yaw=22, pitch=-6),
}


def _ventricle_and_caudate(traits: Traits) -> dict[str, Shape]:
    """The caudate lies on the ventricle's outer wall and gives way as the ventricle widens."""
    w, grey = traits.ventricle, traits.grey
    push = 4.6 * (w - 1.0)
    ventricle = Tube(
        (
            (7.0 + push / 2, 37, 2, 2.2 * w),
            (5.8 + push / 2, 27, 8, 3.6 * w),
            (5.2 + push / 2, 10, 15, 3.6 * w),
            (7.5 + push / 2, -8, 17, 3.6 * w),
            (16.0 + push / 2, -24, 15, 4.0 * w),
            (24.0, -34, 6, 4.6 * w),
            (23.0, -46, 3, 2.8 * w),
            (21.0, -58, 2, 1.2 * w),
            (23.0, -46, 3, 2.0 * w),
            (29.0, -30, -4, 3.0 * w),
            (34.0, -14, -14, 1.5 * w),
            (30.0, 6, -17, 1.5 * w),
        ),
        stretch=1.25,
    )
    caudate = Tube(
        (
            (12.5 + push, 34, -2, 4.2 * grey),
            (13.0 + push, 27, 4, 6.2 * grey),
            (14.5 + push, 14, 11, 4.5 * grey),
            (17.0 + push, -2, 16, 3.0 * grey),
            (22.0 + push, -16, 16, 2.1 * grey),
            (28.0 + push / 2, -26, 10, 1.6 * grey),
        ),
        stretch=1.2,
    )
    return {"Caudate": caudate, "Lateral-Vent": ventricle}


def _varied(shape: Shape, rng: np.random.Generator, scale: float) -> Shape:
    """Move a shape by about half a mm and scale it by about 3 % a direction."""
    shift, factor = 0.6 * rng.standard_normal(3), scale * np.exp(0.03 * rng.standard_normal(3))
    if isinstance(shape, Tube):
        moved = ((x + shift[0], y + shift[1], z + shift[2], r * factor[0]) for x, y, z, r in shape.stations)
        return Tube(tuple(moved), shape.stretch * float(factor[2] / factor[0]))
    x, y, z = (float(c + s) for c, s in zip(shape.centre, shift, strict=True))
    a, b, c = (float(s * f) for s, f in zip(shape.semi, factor, strict=True))
    return Ellipsoid((x, y, z), (a, b, c), shape.yaw + 2 * float(shift[0]), shape.pitch + 2 * float(shift[1]))


def _mirrored(shape: Shape, sign: int) -> Shape:
    if isinstance(shape, Tube):
        return Tube(tuple((sign * x, y, z, r) for x, y, z, r in shape.stations), shape.stretch)
    x, y, z = shape.centre
    return Ellipsoid((sign * x, y, z), shape.semi, sign * shape.yaw, shape.pitch)
