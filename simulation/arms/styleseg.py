"""Arms of StyleSeg, one-shot segmentation by a registration network and a segmenter that teach each other.

The method is `simulation.baselines.styleseg` (Lv et al. 2023; Wang et al. 2024).
"""

from typing import TYPE_CHECKING

from simulation.arms.arm import SOURCE, TARGET, Arm, Bench, Lesson
from simulation.arms.segmenters import em_is_on, network, network_refined

if TYPE_CHECKING:
    from sst_models.wire.exchange import Arrays


def _learn(bench: Bench, site: str, lesson: Lesson) -> "Arrays":
    from simulation.baselines.styleseg import learn

    return learn(bench, site, lesson)


STYLESEG = Arm(
    "StyleSeg",
    "A segmenter and a registration network that teach each other at the tested site, "
    "on the atlas bent onto its scans in their style.",
    network,
    tested=(SOURCE, TARGET),
    learn=_learn,
    scans=TARGET,
)

ARMS = (
    STYLESEG,
    Arm(
        "StyleSeg refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        network_refined,
        tested=(SOURCE, TARGET),
        base=STYLESEG,
        applies=em_is_on,
    ),
)
