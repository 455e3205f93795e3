"""Simulated scanners: how a brain looks in the images of one site, and on which grid they are stored.

    image, labels, affine = scan(draw_anatomy(7, 43.0), OASIS, seed=7)

Two presets differ as the paper's two sites do: `OASIS` (adults, 1 mm, high contrast) and `CANDI` (children, thick
coronal slices, low contrast, strong bias field, noise). Intensities are relative to cerebral white matter.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from configs.structures import PAPER
from simulation.phantom import NOMINAL_SPACING, Anatomy, Labels
from simulation.resampling import Matrix, averaging, resample, resampled_labels, stored
from simulation.shapes import Floats, length, smooth_noise


@dataclass(frozen=True)
class Scanner:
    """What makes one site's images look as they do."""

    name: str
    ages: tuple[float, float]  # youngest and oldest person, years
    tissue: tuple[tuple[str, float], ...]  # (group of configs.structures, intensity over white matter's)
    fluid: float  # intensity of the fluid around the brain
    gamma: float  # exponent of the intensity curve, 1 is linear
    centre: float  # systematic rise of the bias field at the head's centre, relative
    bias: float  # random smooth bias field, relative standard deviation
    noise: float  # Rician sigma over white matter's intensity
    texture: float  # variation within a tissue, relative standard deviation
    voxel: tuple[float, float, float]  # mm along right, anterior, superior
    axes: str  # orientation in the file, e.g. "LAS": what each array axis points at
    gain: float  # white matter's value in the file
    variation: float = 0.02  # of contrast, bias and gamma from one person to the next, relative

    def intensities(self) -> Floats:
        """Intensity of each class (classes,), that of background being 0."""
        table = np.zeros(PAPER.classes, np.float32)
        for group, value in self.tissue:
            table[list(PAPER.members[group])] = value
        return table


# The contrast of adult 1.5 T MP-RAGE scans, rounded.
OASIS = Scanner(
    name="OASIS",
    ages=(18.0, 96.0),
    tissue=(
        ("Cerebral-WM", 1.0), ("Cerebral-CX", 0.62), ("Lateral-Vent", 0.30), ("Cerebellum-WM", 1.0),
        ("Cerebellum-CX", 0.66), ("Thalamus-Proper", 0.83), ("Caudate", 0.69), ("Putamen", 0.78), ("Pallidum", 0.94),
        ("3rd-Vent", 0.32), ("4th-Vent", 0.28), ("Brain-Stem", 0.91), ("Hippocampus", 0.65), ("Amygdala", 0.63),
        ("CSF", 0.33), ("VentralDC", 0.90),
    ),
    fluid=0.24, gamma=1.0, centre=0.0, bias=0.04, noise=0.025, texture=0.025,
    voxel=(1.0, 1.0, 1.0), axes="LAS", gain=1450.0,
)  # fmt: skip

# Children on an older scanner, in coronal slices of 1.5 mm, as CANDI's. It looks as a real site of the same institute
# and protocol does (IBSR v2.0, nine people): medians of thalamus, cortex and lateral ventricle are 0.88 to 0.95, 0.57
# to 0.79 and 0.11 to 0.54 of white matter's there, of putamen and pallidum 0.83 to 0.94 and 0.94 to 1.07. Tissues
# differ as at the other site, the exponent brings them together, and the coil lifts the head's centre.
CANDI = Scanner(
    name="CANDI",
    ages=(4.0, 17.0),
    tissue=(
        ("Cerebral-WM", 1.0), ("Cerebral-CX", 0.70), ("Lateral-Vent", 0.26), ("Cerebellum-WM", 1.08),
        ("Cerebellum-CX", 0.80), ("Thalamus-Proper", 0.79), ("Caudate", 0.70), ("Putamen", 0.80), ("Pallidum", 0.93),
        ("3rd-Vent", 0.17), ("4th-Vent", 0.25), ("Brain-Stem", 0.87), ("Hippocampus", 0.66), ("Amygdala", 0.64),
        ("CSF", 0.25), ("VentralDC", 0.84),
    ),
    fluid=0.30, gamma=0.70, centre=0.30, bias=0.10, noise=0.05, texture=0.03,
    voxel=(1.0, 1.5, 1.0), axes="ASR", gain=190.0,
)  # fmt: skip

SCANNERS: dict[str, Scanner] = {"candi": CANDI, "oasis": OASIS}
"""The presets by the name that a user types."""


def scan(anatomy: Anatomy, scanner: Scanner, seed: int) -> tuple[Floats, Labels, Matrix]:
    """Take one skull-stripped T1 scan of a person.

    Partial volume comes from averaging over each voxel of the scanner's grid. An anatomy drawn more coarsely than
    nominal is scanned on a grid that is coarser by as much, which keeps small sites small.

    Args:
        anatomy: the person.
        scanner: the site's scanner; each scan varies a little around it.
        seed: of that variation, the bias field and the noise.

    Returns:
        Image (float32, whole numbers 0 to 32767, 0 outside of the brain), labels (uint8 class index) of the same shape,
        and their voxel-to-mm affine (4, 4), all in the scanner's own orientation, which is not RAS.
    """
    rng = np.random.default_rng([seed, 0x5CA7])
    scanner, contrast = _of_the_day(scanner, rng)
    ratio = max(1.0, anatomy.spacing / NOMINAL_SPACING)
    voxel = [edge * ratio for edge in scanner.voxel]
    mats = [averaging(n, anatomy.spacing, v) for n, v in zip(anatomy.labels.shape, voxel, strict=True)]
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = [-(len(m) - 1) / 2 * v for m, v in zip(mats, voxel, strict=True)]
    brain = ((anatomy.labels > 0) | (anatomy.fluid > 0.5)).astype(np.float32)
    mask = resample(brain, mats) > 0.5
    signal = resample(_emitted(anatomy, scanner, contrast, rng) * brain, mats)
    image = acquired(signal, mask, scanner, voxel, rng)
    return stored(image, resampled_labels(anatomy.labels, mats), affine, scanner.axes)


def _of_the_day(scanner: Scanner, rng: np.random.Generator) -> tuple[Scanner, Floats]:
    """The scanner as it is for one person, and its contrast (classes,): both sides of a structure vary together."""
    draw = 1.0 + scanner.variation * rng.standard_normal(len(scanner.tissue))
    tissue = tuple((group, value * float(d)) for (group, value), d in zip(scanner.tissue, draw, strict=True))
    factor = np.exp(scanner.variation * np.array([2.0, 5.0, 5.0, 4.0]) * rng.standard_normal(4))
    today = replace(
        scanner,
        tissue=tissue,
        gamma=scanner.gamma * float(factor[0]),
        centre=scanner.centre * float(factor[1]),
        noise=scanner.noise * float(factor[2]),
        gain=scanner.gain * float(factor[3]),
    )
    return today, today.intensities()


def _emitted(anatomy: Anatomy, scanner: Scanner, contrast: Floats, rng: np.random.Generator) -> Floats:
    """Signal of the tissue at each point of the anatomy's grid, white matter 1."""
    solid = contrast[anatomy.labels]
    brain = anatomy.labels > 0
    grain = smooth_noise(rng, 12.0).at(_mm(brain, [anatomy.spacing] * 3))
    solid[brain] *= 1 + np.float32(scanner.texture) * grain
    solid[~brain] = scanner.fluid
    mixed = solid + (np.float32(scanner.fluid) - solid) * anatomy.fluid
    return np.asarray(np.maximum(mixed, 0) ** np.float32(scanner.gamma), dtype=np.float32)


def acquired(
    signal: Floats, mask: NDArray[np.bool_], scanner: Scanner, voxel: list[float], rng: np.random.Generator
) -> Floats:
    """Give what a scanner stores of a signal: with its bias field, Rician noise and gain, in whole numbers.

    Args:
        signal: (i, j, k), white matter 1, on the grid of the scan.
        mask: (i, j, k), the brain; outside of it the result is 0, inside at least 1.
        scanner: whose `centre`, `bias`, `noise` and `gain` are used.
        voxel: mm along each axis.
        rng: of the bias field and the noise.
    """
    points = _mm(mask, voxel)
    bump = np.exp(-0.5 * (length(points) / 48) ** 2)
    bias = 1 + scanner.centre * (bump - 0.4) + scanner.bias * smooth_noise(rng, 130.0).at(points)
    sigma = np.float32(scanner.noise)
    real, imaginary = sigma * rng.standard_normal((2, points.shape[1]), np.float32)
    magnitude = np.hypot(signal[mask] * np.clip(bias, 0.4, 2.0) + real, imaginary)
    image = np.zeros(mask.shape, np.float32)
    image[mask] = np.clip(np.rint(magnitude * scanner.gain), 1, 32767)  # 0 is outside of the brain only
    return image


def _mm(mask: NDArray[np.bool_], voxel: list[float]) -> Floats:
    """Points (3, N) in mm, from the grid's centre, of the voxels in a mask, in C order."""
    where = np.stack(np.nonzero(mask)).astype(np.float32)
    centre = (np.array(mask.shape, np.float32) - 1) / 2
    return np.asarray((where - centre[:, None]) * np.array(voxel, np.float32)[:, None], dtype=np.float32)
