"""Arms of a segmenter that learns from the atlas, changed as unlabelled scans differ from it (Zhao et al. 2019)."""

from typing import TYPE_CHECKING

from simulation.arms.arm import SOURCE, TARGET, Arm, Bench, Lesson
from simulation.arms.segmenters import em_is_on, network, network_refined

if TYPE_CHECKING:
    from sst_models.wire.exchange import Arrays


def _learn(bench: Bench, site: str, lesson: Lesson) -> "Arrays":
    from simulation.baselines.dataaug import learn

    return learn(bench, site, lesson)


DATAAUG = Arm(
    "DataAug",
    "A segmenter trained on the atlas bent as one unlabelled scan is and coloured as another, both learnt.",
    network,
    tested=(SOURCE, TARGET),
    learn=_learn,
    scans=TARGET,
)

ARMS = (
    DATAAUG,
    Arm(
        "DataAug refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        network_refined,
        tested=(SOURCE, TARGET),
        base=DATAAUG,
        applies=em_is_on,
    ),
)
