"""The paper's numbers, to be shown beside ours: Tables 1 and 2 of Tomar et al. (WACV 2022), as printed.

They were measured on other data than any run here (CANDI and OASIS with the paper's split, 128 x 160 x 160), so a
difference to them is not a ranking. The means are the printed ones; for two rows (CANDI "3D U-Net", OASIS "Bayesian")
the mean of the printed groups differs from the printed mean by 0.3 and 0.6.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from configs.structures import PAPER

CANDI_TO_OASIS = ("CANDI", "OASIS")
OASIS_TO_CANDI = ("OASIS", "CANDI")
CANDI = ("CANDI", "CANDI")
OASIS = ("OASIS", "OASIS")


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper. `arm` is the arm of ours that it corresponds to, empty for the paper's baselines."""

    source: str
    target: str
    method: str
    arm: str
    mean: float  # Dice, 0 to 100
    std: float  # over scans
    groups: Mapping[str, float]  # empty where the paper prints only the mean


# Source, target | method | Dice in the order of its groups | mean, std.
_TABLE_1 = """
CANDI CANDI| MABMIS         | 86.3 90.5 86.1 75.9 90.2 84.2 79.2 79.5 67.6 66.7 79.8 90.8 73.4 64.8 60.4 77.0| 78.3 2.9
CANDI CANDI| VoxelMorph     | 81.1 87.3 83.7 69.9 82.4 85.9 82.6 81.0 74.7 64.3 73.4 89.2 66.2 66.7 59.4 81.1| 76.9 3.2
CANDI CANDI| Bayesian       | 89.5 84.5 85.3 84.9 82.4 82.1 83.7 83.0 77.2 57.5 75.7 84.1 74.3 72.8 48.6 75.9| 77.7 2.3
CANDI CANDI| DataAug        | 84.8 89.0 77.4 72.3 86.8 89.0 84.6 86.3 79.8 71.2 78.7 91.3 76.0 72.3 63.3 82.7| 80.4 3.2
CANDI CANDI| LT-Net         | 85.8 90.9 83.1 80.1 91.6 87.9 85.5 88.4 80.5 68.4 79.7 92.4 71.6 71.6 67.1 82.3| 81.7 8.0
CANDI CANDI| Ours           | 90.9 94.3 89.2 83.4 89.5 89.2 88.3 86.7 81.1 71.3 81.9 92.2 76.0 70.9 67.6 82.2| 83.5 3.0
CANDI CANDI| 3D U-Net       | 94.1 97.0 93.8 89.6 96.8 91.5 90.4 90.8 83.0 74.4 87.0 94.9 84.1 79.0 79.6 88.1| 88.1 1.5
OASIS OASIS| MABMIS         | 79.4 62.1 84.4 77.1 82.6 85.3 77.5 78.9 66.5 81.5 62.3 88.4 72.5 72.9 63.6 78.3| 75.8 6.9
OASIS OASIS| VoxelMorph     | 75.2 63.1 85.3 77.9 83.4 85.0 79.1 81.3 72.3 81.0 58.8 90.5 70.3 72.8 67.6 79.4| 76.4 4.3
OASIS OASIS| Bayesian       | 90.0 45.8 64.7 82.4 72.9 84.1 70.1 70.7 40.6 33.4 18.8 87.8 48.3 56.9 33.0 62.1| 59.5 3.0
OASIS OASIS| DataAug        | 74.8 69.0 69.2 67.2 80.1 78.0 61.8 66.2 50.4 70.5 50.6 83.2 64.8 56.8 56.8 69.2| 66.8 5.7
OASIS OASIS| Ours           | 89.4 89.2 89.2 86.3 91.7 84.8 80.5 80.1 65.1 82.0 70.3 91.5 74.7 69.4 65.4 77.9| 80.5 3.9
OASIS OASIS| 3D U-Net       | 94.2 95.6 94.6 92.0 97.5 91.8 89.1 89.5 79.7 90.9 89.8 96.9 89.3 85.1 86.3 87.9| 90.6 1.4
OASIS CANDI| w/o Style Adap.| 84.9 88.4 58.9 75.3 90.6 78.8 55.5 47.9 40.6 55.5 65.5 83.3 55.2 44.8 44.6 60.9| 64.4 3.5
OASIS CANDI| w/ Style Adap. | 85.0 90.0 77.0 74.7 89.8 83.3 78.1 75.8 68.6 66.3 73.6 88.1 58.8 52.3 52.4 69.2| 74.0 3.2
CANDI OASIS| w/o Style Adap.| 80.2 83.1 58.1 32.4 71.4 37.2 39.6 20.6  6.2  3.8  7.6 12.5 12.0 17.9  2.3 12.6| 31.1 11.7
CANDI OASIS| w/ Style Adap. | 85.4 85.4 81.6 45.3 67.8 67.6 51.9 29.0  6.6 30.5 14.2 67.7 31.8 45.0 32.2 44.2| 49.1 10.2
"""

# What we call the paper's own rows, and the arm of ours that each corresponds to.
_OWN_ROWS = {
    "Ours": ("generated pairs (the paper's method)", "U-Net in-site"),
    "3D U-Net": ("supervised", "supervised"),
    "w/o Style Adap.": ("without style adaptation", "U-Net w/o adaptation"),
    "w/ Style Adap.": ("with style adaptation", "U-Net w/ adaptation"),
}

# Registration by the flow network (a) and the segmenter (b) without the appearance model; the other rows are Table 1's.
_TABLE_2 = (
    (CANDI, "registration without the appearance model", "F w/o appearance", 71.6, 3.2),
    (CANDI, "registration, networks not trained jointly", "", 73.6, 3.3),
    (CANDI, "registration", "F", 78.9, 2.4),
    (CANDI, "generated pairs without the appearance model", "", 54.9, 20.4),
    (OASIS, "registration without the appearance model", "F w/o appearance", 68.5, 3.8),
    (OASIS, "registration, networks not trained jointly", "", 69.9, 3.7),
    (OASIS, "registration", "F", 73.3, 3.1),
    (OASIS, "generated pairs without the appearance model", "", 41.2, 22.7),
)


def _row(line: str) -> PaperRow:
    where, method, dice, summary = (part.split() for part in line.split("|"))
    name, arm = _OWN_ROWS.get(" ".join(method), (" ".join(method), ""))
    groups = dict(zip(PAPER.groups, map(float, dice), strict=True))
    return PaperRow(where[0], where[1], name, arm, float(summary[0]), float(summary[1]), groups)


TABLE_1: tuple[PaperRow, ...] = tuple(_row(line) for line in _TABLE_1.strip().splitlines())
TABLE_2: tuple[PaperRow, ...] = tuple(
    PaperRow(*where, method, arm, mean, std, {}) for where, method, arm, mean, std in _TABLE_2
)


def paper_rows(arm: str) -> tuple[PaperRow, ...]:
    """The rows of the paper for one arm of ours, those tested on CANDI first; none for an arm that it has not."""
    return tuple(sorted((r for r in TABLE_1 + TABLE_2 if r.arm == arm), key=lambda row: row.target))


def rows_for(source: str, target: str) -> tuple[PaperRow, ...]:
    """The rows of Table 1 to print beside a direction of ours.

    Only those of the same kind, between sites or in-site; of these only those tested at a site of the same name (in
    any case) where the paper has it, and all of them otherwise. Of the paper's baselines only VoxelMorph is among them.
    """
    chosen = [r for r in TABLE_1 if (r.source == r.target) == (source == target)]
    chosen = [r for r in chosen if r.arm or r.method == "VoxelMorph"]
    named = [r for r in chosen if r.target == target.upper()]
    return tuple(named or chosen)
