"""Arms of VoxelMorph (Balakrishnan et al. 2019), as its authors release it: a network that learns to bend the atlas.

They need the package voxelmorph, which is an extra: pip install '.[baselines]'.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from simulation.arms.arm import SOURCE, TARGET, Arm, Bench, Lesson, Predict, Predicted
from simulation.arms.registration import propagated
from simulation.arms.segmenters import em_is_on

if TYPE_CHECKING:
    from torch import Tensor

    from sst_models.wire.exchange import Arrays


def _learn(bench: Bench, site: str, lesson: Lesson) -> "Arrays":
    """Learn flows of the atlas onto a site's own scans."""
    from simulation.baselines.voxelmorph import learn

    return learn(bench.atlas[0], bench.scans(site), bench.experiment.seed, lesson)


def _voxelmorph(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict the atlas's labels as the learnt flow propagates them."""
    flow, labels = _flows(bench, arm, site), bench.atlas[1]
    return lambda image: propagated(labels, flow(image))


def _voxelmorph_refined(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict likewise, refined by the scan's own intensities."""
    from sst_models.propagation.em import propagate_labels

    flow, labels, experiment = _flows(bench, arm, site), bench.atlas[1], bench.experiment
    weight, spacing = experiment.propagation.em_weight, experiment.grid.spacing

    def predict(image: "Tensor") -> Predicted:
        found = flow(image)
        refined = propagate_labels(image[None], labels, found, weight, spacing)
        return replace(propagated(labels, found), labels=refined)

    return predict


def _flows(bench: Bench, arm: Arm, site: str) -> "Callable[[Tensor], Tensor]":
    """Give what makes the flow (1, 3, D, H, W) of the atlas onto a scan (1, D, H, W)."""
    from simulation.baselines.voxelmorph import flow_of, load

    net = load(bench.learnt(arm, site), bench.experiment.seed, bench.device)
    atlas, _ = bench.atlas
    return lambda image: flow_of(net, atlas, image)


VOXELMORPH = Arm(
    "VoxelMorph",
    "The atlas bent onto the scan by VoxelMorph as released, trained on the tested site's scans without labels.",
    _voxelmorph,
    tested=(SOURCE, TARGET),
    learn=_learn,
    scans=TARGET,
    flows=True,
    package="voxelmorph",
)

ARMS = (
    VOXELMORPH,
    Arm(
        "VoxelMorph refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        _voxelmorph_refined,
        tested=(SOURCE, TARGET),
        base=VOXELMORPH,
        applies=em_is_on,
        flows=True,
        package="voxelmorph",
    ),
)
