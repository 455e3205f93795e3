"""What style adaptation gained in each direction, scan by scan: the one figure that the whole run is for."""

import math
from dataclasses import dataclass

from simulation.measured import ArmScore, Results, mean_of

WITHOUT = "U-Net w/o adaptation"
WITH = "U-Net w/ adaptation"


@dataclass(frozen=True)
class Gain:
    """Dice without and with adaptation on the same scans."""

    source: str
    target: str
    without: float  # mean Dice, 0 to 100
    adapted: float  # mean Dice, 0 to 100
    better: int  # scans on which adaptation was the better of the two
    scans: int  # scans that both segmenters were tested on
    p: float = math.nan  # Wilcoxon's signed-rank test on the scans, two-sided; NaN for fewer than two

    @property
    def points(self) -> float:
        """Dice points gained; negative if adaptation made it worse."""
        return self.adapted - self.without

    @property
    def significance(self) -> str:
        """Say p, as "p = 0.021" or "p < 0.001"; empty where there is none."""
        if math.isnan(self.p):
            return ""
        return "p < 0.001" if self.p < 0.001 else f"p = {self.p:.3f}"


def gains(results: Results) -> tuple[Gain, ...]:
    """The gain in each direction for which the run tested both segmenters on a common scan.

    Of results in brief (`simulation.overview`) "scans" are pairs of sites.
    """
    found = []
    for source, target in results.directions:
        without = results.score(WITHOUT, source, target)
        adapted = results.score(WITH, source, target)
        if without is not None and adapted is not None:
            found.append(_gain(without, adapted))
    return tuple(gain for gain in found if gain.scans)


def _gain(without: ArmScore, adapted: ArmScore) -> Gain:
    before = {scan.case: scan.mean for scan in without.scans}
    pairs = [(before[scan.case], scan.mean) for scan in adapted.scans if scan.case in before]
    pairs = [pair for pair in pairs if not any(math.isnan(value) for value in pair)]
    return Gain(
        source=adapted.source,
        target=adapted.target,
        without=mean_of(low for low, _ in pairs),
        adapted=mean_of(high for _, high in pairs),
        better=sum(high > low for low, high in pairs),
        scans=len(pairs),
        p=paired([high - low for low, high in pairs]),
    )


def paired(differences: list[float]) -> float:
    """Give p of Wilcoxon's signed-rank test on scans' differences, two-sided; NaN for fewer than two, or none."""
    from scipy.stats import wilcoxon

    if len(differences) < 2 or not any(differences):
        return math.nan
    return float(wilcoxon(differences).pvalue)
