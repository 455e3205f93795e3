"""Arms without style transfer: a control that learns from the atlas alone, and upper bounds that learn from labels."""

from typing import TYPE_CHECKING

from simulation.arms.arm import EVERYWHERE, SOURCE, TARGET, UNSEEN, Arm, Bench
from simulation.arms.segmenters import em_is_on, network, network_refined

if TYPE_CHECKING:
    from sst_models.phases.segment import Pairs


def _control_pairs(bench: Bench, site: str) -> "Pairs":
    from simulation.control import control_pairs

    return control_pairs(bench.atlases, bench.experiment.grid.spacing)


def _labelled_source(bench: Bench, site: str) -> "Pairs":
    return bench.labelled_pairs(bench.source)


def _labelled_target(bench: Bench, site: str) -> "Pairs":
    return bench.labelled_pairs(site)


OTHERS = (TARGET, UNSEEN)


CONTROL = Arm(
    "control",
    "A segmenter trained on the atlas alone, bent and coloured at random: nothing is learnt for it.",
    network,
    tested=EVERYWHERE,
    pairs=_control_pairs,
    zscore=True,
)

SUPERVISED = Arm(
    "supervised",
    "A segmenter trained on labelled scans of the tested site: what labels for all would give.",
    network,
    tested=OTHERS,
    pairs=_labelled_target,
    labels=TARGET,
)

ARMS = (
    CONTROL,
    Arm(
        "control refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        network_refined,
        tested=EVERYWHERE,
        base=CONTROL,
        zscore=True,
        applies=em_is_on,
    ),
    Arm(
        "supervised across",
        "A segmenter trained on labelled scans of the atlas's site: what labels there would give.",
        network,
        tested=OTHERS,
        pairs=_labelled_source,
        labels=SOURCE,
    ),
    SUPERVISED,
    Arm(
        "supervised refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        network_refined,
        tested=OTHERS,
        base=SUPERVISED,
        applies=em_is_on,
    ),
)
