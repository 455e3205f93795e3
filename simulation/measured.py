"""Everything that one run measured, as values: scores of arms, curves, traffic, scans set aside."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from configs.structures import PAPER, LabelTable, Row, table_of
from simulation.arms import ARMS


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


AGREEMENT = "F refined"
"""The arm whose labels stand for a reference where a site's test scans have none."""


@dataclass(frozen=True)
class ArmScore:
    """One arm tested on the held-out scans of one site."""

    arm: str  # a key of `simulation.arms.ARMS`
    source: str  # site of the atlas and the flow side
    target: str  # tested site; the same as `source` for an in-site arm
    scans: tuple[ScanScore, ...]
    against: str = ""  # `AGREEMENT` where the scans have no labels: Dice is then how far two ways agree, not accuracy

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
        """Mean Dice of each group over the scans that have it, in the order of the paper's Table 1, if it is there."""
        named = dict.fromkeys(group for scan in self.scans for group in scan.dice)
        order = [*(g for g in PAPER.groups if g in named), *(g for g in named if g not in PAPER.groups)]
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
class Crossing:
    """The U-Net in the style of one site, refined as the preset has it, at another: a cell of the cross-site table."""

    source: str  # site of the atlas
    style: str  # whose segmenter, or "all sites"
    target: str  # tested site
    mean: float  # Dice, 0 to 100
    scans: int


@dataclass(frozen=True)
class Resemblance:
    """What generated pairs and the scans of the site whose style they have are like, beside each other."""

    source: str
    target: str
    variation: Mapping[str, float]  # by group: coefficient of variation of its volume over draws, by that over scans
    size: Mapping[str, float]  # by group: its mean volume over draws, by that over scans
    auc: float  # of a classifier that tells draws from scans: 0.5 at chance, 1 where it always can
    nearest: float  # highest MS-SSIM of a draw to a scan
    nearest_scans: float  # likewise, of a scan to another: a draw above it looks like a copy
    order: float  # share of the pairs of groups whose order by brightness, in the mean, is that of the scans


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
    label_table: tuple[Row, ...] = ()  # of the preset; none: the paper's
    scores: tuple[ArmScore, ...] = ()
    agreements: tuple[ArmScore, ...] = ()  # at sites whose test scans have no labels
    crossings: tuple[Crossing, ...] = ()
    curves: tuple[Curve, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    pairs: tuple[PairsPoint, ...] = ()
    set_aside: tuple[SetAside, ...] = ()
    resemblance: tuple[Resemblance, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)

    @property
    def table(self) -> LabelTable:
        """The label table."""
        return table_of(self.label_table)

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of structures."""
        return self.table.groups

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
