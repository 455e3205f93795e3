"""A made-up run, small and complete, for the tests of results and report."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from configs.structures import PAPER
from simulation.panels import GENERATED, REAL, REGISTRATION, SCAN, SEGMENTATION, TRUTH, Panel, direction_name
from simulation.results import ArmScore, Crossing, Curve, PairsPoint, Resemblance, Results, ScanScore, SetAside, Traffic

LEVELS = {
    "affine": 60.0,
    "T": 68.0,
    "F": 72.0,
    "F refined": 69.0,
    "F w/o appearance": 66.0,
    "U-Net w/o adaptation": 58.0,
    "U-Net w/ adaptation": 71.0,
    "U-Net w/ adaptation (moments)": 69.0,
}
IN_SITE = {"U-Net in-site": 76.0, "U-Net alone": 70.0, "U-Net pooled": 75.0, "supervised": 86.0}
SITES = ("oasis", "ixi")


def arm_score(rng: np.random.Generator, arm: str, where: tuple[str, str], level: float) -> ArmScore:
    """Five scans around a level; one of them lacks the amygdala."""
    scans = []
    for number in range(5):
        dice = {group: float(np.clip(level + rng.normal(0, 9), 0, 100)) for group in PAPER.groups}
        if number == 2:
            dice["Amygdala"] = float("nan")
        scans.append(ScanScore.of(f"sub-{number:02d}", dice))
    return ArmScore(arm, *where, tuple(scans))


def directions(sites: Sequence[str]) -> list[tuple[str, str]]:
    """All pairs of two sites: that of the atlas, and the tested one."""
    return [(source, target) for source in sites for target in sites if source != target]


def run_results(seed: int = 0, sites: Sequence[str] = SITES) -> Results:
    """A run with every section that the report knows."""
    rng = np.random.default_rng(seed)
    between = directions(sites)
    scores = [arm_score(rng, arm, where, level) for where in between for arm, level in LEVELS.items()]
    scores += [arm_score(rng, arm, (s, s), level) for s in sites for arm, level in IN_SITE.items()]
    unlabelled = [arm_score(rng, "U-Net w/ adaptation", (s, "bare"), 78.0) for s in sites]
    return Results(
        run={"preset": "tiny", "seed": "0", "seconds": "754.2", "peak_memory": "3100000000", "data": "made-up scans",
             "command": "sst simulate --preset tiny --out RUN"},
        scores=tuple(scores),
        agreements=tuple(replace(score, against="F refined") for score in unlabelled),
        crossings=tuple(Crossing(a, b, c, 60 + 20 * rng.random(), 5) for a in sites for b in sites for c in sites),
        curves=_curves(rng),
        traffic=_traffic(),
        pairs=_pairs(rng, between),
        resemblance=(Resemblance("oasis", "ixi", {"CSF": 0.8, "Amygdala": 1.3}, {"CSF": 1.0, "Amygdala": float("nan")},
                                 0.93, 0.89, 0.92, 0.98),),
        set_aside=(SetAside("ixi", "sub-99/anat/sub-99_T1w.nii.gz", "the file ends early"),),
        timings={"register": 120.0, "joint": 400.5, "train <segmenter> & test": 3700.0},
    )  # fmt: skip


def _curves(rng: np.random.Generator) -> tuple[Curve, ...]:
    steps = tuple(range(10, 110, 10))
    names = {"register": ("image", "smooth"), "joint": ("cycle", "identity", "contrast", "image", "smooth", "critic")}
    curves = []
    for phase, losses in names.items():
        for site in ("ixi", "oasis"):
            falling = {name: tuple(np.exp(-np.arange(10) / 4) + rng.random(10) / 9) for name in losses}
            curves.append(Curve(phase, site, "federated", steps, falling))
    return tuple(curves)


def _traffic() -> tuple[Traffic, ...]:
    sizes = {"register": 4_400_000, "style": 5_700_000, "joint": 12_000_000, "flow_codes": 41_000_000}
    return tuple(
        Traffic("weights", phase, number, site, size, size - 1000)
        for phase, size in sizes.items()
        for number in (1, 2, 3)
        for site in ("oasis", "ixi")
    )


def _pairs(rng: np.random.Generator, between: list[tuple[str, str]]) -> tuple[PairsPoint, ...]:
    points = []
    for where in between:
        for number, count in enumerate((25, 50, 100, 200)):
            scans = tuple(float(v) for v in 55 + 5 * number + rng.normal(0, 3, 5))
            mean, std = float(np.mean(scans)), float(np.std(scans, ddof=1))
            points.append(PairsPoint("U-Net w/ adaptation", *where, count, mean, std, scans))
    return tuple(points)


def slice_of(rng: np.random.Generator, size: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A round head with a few rings of structures: image in [0, 1] and class indices."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y * rng.uniform(0.9, 1.1), x * 1.1) / size
    labels = np.zeros((size, size), np.uint8)
    for index, (outer, inner) in zip((2, 1, 6, 3), pairwise((0.44, 0.36, 0.2, 0.1, 0.0)), strict=True):
        labels[(radius <= outer) & (radius >= inner)] = index
    image = np.where(radius < 0.44, 0.9 - radius + rng.normal(0, 0.03, radius.shape), 0.0)
    return np.clip(image, 0, 1).astype(np.float32), labels


def run_panels(seed: int = 0, sites: Sequence[str] = SITES) -> list[Panel]:
    """Panels of Fig. 5, 6 and 8 in all directions."""
    rng = np.random.default_rng(seed)
    panels = []
    for where in directions(sites):
        name = direction_name(*where)
        for figure, arms in ((SEGMENTATION, ("F", "U-Net w/ adaptation")), (REGISTRATION, ("affine", "T", "F"))):
            image, truth = slice_of(rng)
            panels += [Panel(name, figure, "sub-00", SCAN, image), Panel(name, figure, "sub-00", TRUTH, image, truth)]
            panels += [Panel(name, figure, "sub-00", arm, image, np.roll(truth, 1, axis=0)) for arm in arms]
        panels.append(Panel(name, GENERATED, REAL, "atlas", slice_of(rng)[0]))
        cells = [(f"style {row}", f"flow {column}") for row in (1, 2, 3) for column in (1, 2, 3, 4)]
        panels += [Panel(name, GENERATED, row, column, slice_of(rng)[0]) for row, column in cells]
    return panels
