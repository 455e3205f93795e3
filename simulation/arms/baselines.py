"""Arms without style transfer: a control that learns from the atlas alone, and upper bounds that learn from labels."""

from typing import TYPE_CHECKING

from simulation.arms.arm import SOURCE, TARGET, Arm
from simulation.arms.segmenters import em_is_on, network, network_refined

if TYPE_CHECKING:
    from simulation.bench import Bench
    from sst_models.phases.segment import Pairs


def _control_pairs(bench: "Bench") -> "Pairs":
    from simulation.control import control_pairs

    return control_pairs(*bench.atlas, bench.experiment.grid.spacing)


def _labelled_source(bench: "Bench") -> "Pairs":
    return bench.labelled_pairs(bench.stage.direction.source)


def _labelled_target(bench: "Bench") -> "Pairs":
    return bench.labelled_pairs(bench.stage.direction.target)


ARMS = (
    Arm(
        "control",
        "A segmenter trained on the atlas alone, bent and coloured at random: nothing is learnt for it.",
        network,
        tested=(SOURCE, TARGET),
        pairs=_control_pairs,
        zscore=True,
    ),
    Arm(
        "control refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        network_refined,
        tested=(SOURCE, TARGET),
        base="control",
        zscore=True,
        applies=em_is_on,
    ),
    Arm(
        "supervised across",
        "A segmenter trained on labelled scans of the atlas's site: what labels there would give.",
        network,
        pairs=_labelled_source,
    ),
    Arm(
        "supervised",
        "A segmenter trained on labelled scans of the tested site: what labels for all would give.",
        network,
        pairs=_labelled_target,
    ),
    Arm(
        "supervised refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        network_refined,
        base="supervised",
        applies=em_is_on,
    ),
)
