"""Arms of LT-Net (Wang et al. 2020), whose flow is learnt together with the one back: `simulation.baselines.ltnet`."""

from typing import TYPE_CHECKING

from simulation.arms.arm import SOURCE, TARGET, Arm, Bench, Lesson
from simulation.arms.registration import Flows, by_flows, by_flows_refined
from simulation.arms.segmenters import em_is_on

if TYPE_CHECKING:
    from torch import Tensor

    from sst_models.wire.exchange import Arrays


def _learn(bench: Bench, site: str, lesson: Lesson) -> "Arrays":
    """Train the correspondence network on a site's scans."""
    from simulation.baselines.ltnet import learn

    return learn(bench, site, lesson)


def _flows(bench: Bench, arm: Arm, site: str) -> Flows:
    """Find the forward flow, to the first atlas."""
    import torch

    from simulation.baselines.ltnet import network

    net, atlas = network(bench, bench.learnt(arm, site)), bench.atlas[0]

    @torch.no_grad()
    def flows(image: "Tensor") -> "list[Tensor]":
        return [net(atlas[None], image[None])]

    return flows


LT_NET = Arm(
    "LT-Net",
    "The atlas bent onto the scan by a network that learns to bend it back, too (Wang et al. 2020).",
    by_flows(_flows),
    tested=(SOURCE, TARGET),
    learn=_learn,
    scans=TARGET,
    flows=True,
)

ARMS = (
    LT_NET,
    Arm(
        "LT-Net refined",
        "The same, its labels refined by the scan's own intensities (EM).",
        by_flows_refined(_flows),
        tested=(SOURCE, TARGET),
        base=LT_NET,
        applies=em_is_on,
        flows=True,
    ),
)
