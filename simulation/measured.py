"""Everything that one run measured, as values: scores of arms, curves, traffic, scans set aside."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from configs.structures import GROUPS

ARMS: dict[str, str] = {
    "affine": "The atlas moved, turned and scaled onto the scan, nothing else.",
    "T": "The atlas bent onto the scan by the registration network that is trained first.",
    "F": "The atlas given the style of the scan, then bent onto it by the flow network.",
    "F refined": "The labels that F carries, corrected by the scan's own intensities and by its mirror image.",
    "F w/o appearance": "The same flow network, trained and used without the change of style.",
    "U-Net w/o adaptation": "A segmenter trained on generated images in the style of the atlas's own site.",
    "U-Net w/ adaptation": "A segmenter trained on generated images in the style of the tested site.",
    "U-Net w/o adaptation refined": "The first of these, its labels corrected where the scan's own intensities say so.",
    "U-Net w/ adaptation refined": "The adapted one, its labels corrected likewise.",
    "U-Net w/ adaptation and F": "The adapted one and F: the mean of both where they agree, corrected likewise.",
    "U-Net w/ adaptation (statistics)": "The adapted one, but the tested site shared only averages of its style.",
    "U-Net in-site": "Atlas, style and test scans all from one site.",
    "U-Net in-site refined": "The same, its labels corrected where the scan's own intensities say so.",
    "U-Net in-site and F": "The same U-Net and F: the mean of both where they agree, corrected likewise.",
    "U-Net alone": "The atlas's site and the tested one train each by themselves, without a federation.",
    "U-Net pooled": "Everything trained on all scans in one place, as if they could be moved there.",
    "U-Net federated": "Everything trained by the federation, scans staying where they are.",
    "control": "A segmenter trained on the atlas alone, bent and coloured at random: nothing is learnt for it.",
    "control refined": "The same, its labels corrected where the scan's own intensities say so.",
    "supervised across": "A segmenter trained on labelled scans of the atlas's site: what labels there would give.",
    "supervised": "A segmenter trained on labelled scans of the tested site: what labels for all would give.",
    "supervised refined": "The same, its labels corrected where the scan's own intensities say so.",
}
"""The arms in the order of every table, each with what it means in plain words."""


WITH_F = " and F"
"""How the name of an arm ends in which a segmenter and F speak together."""


def unrefined(arm: str) -> str:
    """Give the arm whose labels a refined one corrects, or which F is added to; any other arm is its own."""
    return arm.removesuffix(" refined").removesuffix(WITH_F)


def mean_of(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; NaN if there are none."""
    known = [v for v in values if not math.isnan(v)]
    return statistics.fmean(known) if known else math.nan


def std_of(values: Iterable[float]) -> float:
    """Sample standard deviation (n - 1) of the values that are numbers; 0 for one of them, NaN for none."""
    known = [v for v in values if not math.isnan(v)]
    if len(known) < 2:
        return 0.0 if known else math.nan
    return statistics.stdev(known)


@dataclass(frozen=True)
class ScanScore:
    """Dice of one test scan. `dice` has NaN for a group that neither the truth nor the prediction has."""

    case: str
    dice: Mapping[str, float]  # group -> 0 to 100
    mean: float  # over the groups that are there
    hd95: float = math.nan  # mm, mean over structures
    folded: float = math.nan  # % of voxels with a negative Jacobian; NaN for an arm that bends nothing

    @classmethod
    def of(cls, case: str, dice: Mapping[str, float], hd95: float = math.nan, folded: float = math.nan) -> "ScanScore":
        """The score with the mean worked out from its groups."""
        return cls(case, dict(dice), mean_of(dice.values()), hd95, folded)


@dataclass(frozen=True)
class ArmScore:
    """One arm tested on the held-out scans of one site."""

    arm: str  # a key of ARMS
    source: str  # site of the atlas and the flow side
    target: str  # tested site; the same as `source` for an in-site arm
    scans: tuple[ScanScore, ...]

    @property
    def mean(self) -> float:
        """Mean Dice over the scans."""
        return mean_of(scan.mean for scan in self.scans)

    @property
    def hd95(self) -> float:
        """Mean HD95 over the scans, mm."""
        return mean_of(scan.hd95 for scan in self.scans)

    @property
    def folded(self) -> float:
        """Mean share of folded voxels over the scans, %."""
        return mean_of(scan.folded for scan in self.scans)

    @property
    def std(self) -> float:
        """Standard deviation of the mean Dice over the scans."""
        return std_of(scan.mean for scan in self.scans)

    @property
    def groups(self) -> dict[str, float]:
        """Mean Dice of each group over the scans that have it, in the order of the paper's Table 1."""
        named = {group for scan in self.scans for group in scan.dice}
        order = [g for g in GROUPS if g in named] + sorted(named - set(GROUPS))
        return {group: mean_of(scan.dice.get(group, math.nan) for scan in self.scans) for group in order}


@dataclass(frozen=True)
class Curve:
    """Losses of one phase at one site. All tuples have the same length."""

    phase: str
    site: str
    scheme: str
    steps: tuple[int, ...]
    losses: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Traffic:
    """Bytes between the hub and one site in one round."""

    scheme: str
    phase: str
    round: int
    site: str
    down: int  # bytes, hub to site
    up: int  # bytes, site to hub


@dataclass(frozen=True)
class PairsPoint:
    """A segmenter trained on so many generated pairs (Fig. 7)."""

    arm: str
    source: str
    target: str
    pairs: int
    mean: float
    std: float
    scans: tuple[float, ...]  # mean Dice of each test scan


@dataclass(frozen=True)
class SetAside:
    """A scan that the run did not use, and why."""

    site: str
    file: str
    reason: str


@dataclass(frozen=True)
class Results:
    """All that a run measured.

    `run` says how to make it again: any text under any name, of which the report knows preset, seed, engine, command,
    data, version, commit, machine, device, started, seconds and peak_memory. `timings` are seconds by name.
    """

    run: Mapping[str, str]
    groups: tuple[str, ...] = GROUPS
    scores: tuple[ArmScore, ...] = ()
    curves: tuple[Curve, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    pairs: tuple[PairsPoint, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def directions(self) -> tuple[tuple[str, str], ...]:
        """(source, target) of all scores: between sites first, then in-site, each by name."""
        return tuple(sorted({(s.source, s.target) for s in self.scores}, key=lambda d: (d[0] == d[1], d)))

    def score(self, arm: str, source: str, target: str) -> ArmScore | None:
        """The score of an arm in a direction, or None if the run has not measured it."""
        return next((s for s in self.scores if (s.arm, s.source, s.target) == (arm, source, target)), None)


def arms_in_order(arms: Iterable[str]) -> tuple[str, ...]:
    """The given arms without repetition, in the order of `ARMS`; unknown ones come last, by name."""
    present = set(arms)
    return tuple(a for a in ARMS if a in present) + tuple(sorted(present - set(ARMS)))
