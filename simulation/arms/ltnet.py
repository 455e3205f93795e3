"""Arms of LT-Net (Wang et al. 2020), whose flow is learnt together with the one back: `simulation.baselines.ltnet`."""

from dataclasses import replace
from typing import TYPE_CHECKING

from simulation.arms.arm import SOURCE, TARGET, Arm, Bench, Lesson, Predict, Predicted
from simulation.arms.registration import propagated
from simulation.arms.segmenters import em_is_on

if TYPE_CHECKING:
    from torch import Tensor

    from sst_models.wire.exchange import Arrays


def _learn(bench: Bench, site: str, lesson: Lesson) -> "Arrays":
    """Train the correspondence network on a site's scans."""
    from simulation.baselines.ltnet import learn

    return learn(bench, site, lesson)


def _flow(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict the atlas's labels as the forward flow propagates them."""
    import torch

    from simulation.baselines.ltnet import network

    net = network(bench, bench.learnt(arm, site))
    atlas, labels = bench.atlas

    def predict(image: "Tensor") -> Predicted:
        with torch.no_grad():
            return propagated(labels, net(atlas[None], image[None]))

    return predict


def _flow_refined(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict the same labels, refined by the scan's own intensities."""
    import torch

    from simulation.baselines.ltnet import network
    from sst_models.propagation.em import propagate_labels

    net = network(bench, bench.learnt(arm, site))
    atlas, labels = bench.atlas
    weight, spacing = bench.experiment.propagation.em_weight, bench.experiment.grid.spacing

    def predict(image: "Tensor") -> Predicted:
        with torch.no_grad():
            flow = net(atlas[None], image[None])
            refined = propagate_labels(image[None], labels, flow, weight, spacing)
            return replace(propagated(labels, flow), labels=refined)

    return predict


LT_NET = Arm(
    "LT-Net",
    "The atlas bent onto the scan by a network that learns to bend it back, too (Wang et al. 2020).",
    _flow,
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
        _flow_refined,
        tested=(SOURCE, TARGET),
        base=LT_NET,
        applies=em_is_on,
        flows=True,
    ),
)
