"""Arms of VoxelMorph (Balakrishnan et al. 2019), as its authors release it: a network that learns to bend the atlas.

They need the package voxelmorph, which is an extra: pip install '.[baselines]'.
"""

from typing import TYPE_CHECKING

from simulation.arms.arm import SOURCE, TARGET, Arm, Bench, Lesson
from simulation.arms.registration import Flows, by_flows, by_flows_refined
from simulation.arms.segmenters import em_is_on

if TYPE_CHECKING:
    from sst_models.wire.exchange import Arrays


def _learn(bench: Bench, site: str, lesson: Lesson) -> "Arrays":
    """Learn flows of the atlas onto a site's own scans."""
    from simulation.baselines.voxelmorph import learn

    return learn(bench.atlas[0], bench.scans(site), bench.experiment.seed, lesson)


def _flows(bench: Bench, arm: Arm, site: str) -> Flows:
    """Find the learnt flow, to the first atlas."""
    from simulation.baselines.voxelmorph import flow_of, load

    net, atlas = load(bench.learnt(arm, site), bench.experiment.seed, bench.device), bench.atlas[0]
    return lambda image: [flow_of(net, atlas, image)]


VOXELMORPH = Arm(
    "VoxelMorph",
    "The atlas bent onto the scan by VoxelMorph as released, trained on the tested site's scans without labels.",
    by_flows(_flows),
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
        by_flows_refined(_flows),
        tested=(SOURCE, TARGET),
        base=VOXELMORPH,
        applies=em_is_on,
        flows=True,
        package="voxelmorph",
    ),
)
