"""Arms that propagate the atlas's labels onto a scan: an affine, T, and F with and without style."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from simulation.arms.arm import EVERYWHERE, FEDERATED, PLAIN, Arm, Bench, Need, Predict, Predicted

if TYPE_CHECKING:
    from torch import Tensor

    from configs.schema import Experiment
    from sst_models.volume.labels import AtlasLabels


def _affine(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict the atlas's labels where the affine put the scan."""
    import torch

    each = [labels for _, labels in bench.atlases]
    still = torch.zeros(1, 3, *each[0].shape, device=bench.device)
    labels = fused(each, [still] * len(each))
    return lambda image: Predicted(labels)


def _t(bench: Bench, arm: Arm, site: str) -> "Flows":
    """Find the flows of T, which end as F's do."""
    import torch

    from sst_models.propagation.demons import finish

    net, settings = bench.net(FEDERATED, "T", site), bench.experiment.propagation

    def flow(atlas: "Tensor", image: "Tensor") -> "Tensor":
        with torch.no_grad():
            found = net(atlas[None], image[None])
        return finish(atlas[None], image[None], found, settings)

    return lambda image: [flow(atlas, image) for atlas, _ in bench.atlases]


def _f(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict the atlas's labels as F propagates them, which sees the atlas in the scan's style."""
    aligner = bench.aligner(arm.needs[0].scheme, site)

    def predict(image: "Tensor") -> Predicted:
        flow = aligner.flow(image[None])
        return _predicted(aligner.propagate(flow), flow)

    return predict


def _f_refined(bench: Bench, arm: Arm, site: str) -> Predict:
    aligner = bench.aligner(FEDERATED, site)

    def predict(image: "Tensor") -> Predicted:
        flow, mirrored = aligner.flows(image[None])
        return _predicted(aligner.labels_on(image[None], flow, mirrored), flow)

    return predict


def fused(each: "Sequence[AtlasLabels]", flows: "Sequence[Tensor]") -> "Tensor":
    """Give the labels (D, H, W) that flows (1, 3, D, H, W) in voxels propagate from atlases, by the mean of several."""
    if len(each) == 1:
        return each[0].propagate(flows[0])
    import torch

    said = [labels.probabilities(flow) for labels, flow in zip(each, flows, strict=True)]
    return torch.stack(said).sum(0).argmax(dim=0)


Flows = Callable[["Tensor"], "Sequence[Tensor]"]
"""From a scan (1, D, H, W) to a flow (1, 3, D, H, W) in voxels to each atlas that an arm uses, the first ones first."""


def by_flows(find: "Callable[[Bench, Arm, str], Flows]") -> Callable[[Bench, Arm, str], Predict]:
    """Make what predicts the labels that flows propagate, by the mean of several atlases."""

    def how(bench: Bench, arm: Arm, site: str) -> Predict:
        flows = find(bench, arm, site)
        each = [labels for _, labels in bench.atlases]

        def predict(image: "Tensor") -> Predicted:
            found = flows(image)
            return propagated_by(fused(each[: len(found)], found), found)

        return predict

    return how


def by_flows_refined(find: "Callable[[Bench, Arm, str], Flows]") -> Callable[[Bench, Arm, str], Predict]:
    """Make what predicts the same labels, refined by the scan's own intensities."""

    def how(bench: Bench, arm: Arm, site: str) -> Predict:
        import torch

        from sst_models.propagation.em import expectation_maximisation

        flows = find(bench, arm, site)
        each = [labels for _, labels in bench.atlases]
        weight, spacing = bench.experiment.propagation.em_weight, bench.experiment.grid.spacing
        table = each[0].table

        def predict(image: "Tensor") -> Predicted:
            found = flows(image)
            said = [labels.probabilities(flow) for labels, flow in zip(each, found, strict=False)]
            refined = expectation_maximisation(image[None], torch.stack(said).mean(0), weight, spacing, table=table)
            return propagated_by(refined.argmax(0), found)

        return predict

    return how


def propagated_by(labels: "Tensor", flows: "Sequence[Tensor]") -> Predicted:
    """Give labels (D, H, W) that flows (1, 3, D, H, W) in voxels propagated, and how much of these folds."""
    import torch

    return _predicted(labels, torch.cat(list(flows)))


def _predicted(labels: "Tensor", flow: "Tensor") -> Predicted:
    from sst_models.losses.flow import folded_fraction

    return Predicted(labels, 100 * float(folded_fraction(flow)))


def _refines(experiment: "Experiment") -> bool:
    return bool(experiment.propagation.em_weight or experiment.propagation.mirror)


F = Arm(
    "F",
    "The atlas given the style of the scan, then bent onto it by the flow network.",
    _f,
    (Need(FEDERATED),),
    EVERYWHERE,
    flows=True,
)

ARMS = (
    Arm(
        "affine",
        "The atlas moved, turned and scaled onto the scan, nothing else.",
        _affine,
        tested=EVERYWHERE,
        flows=True,
    ),
    Arm(
        "T",
        "The atlas bent onto the scan by the registration network that is trained first.",
        by_flows(_t),
        (Need(FEDERATED),),
        EVERYWHERE,
        flows=True,
    ),
    F,
    Arm(
        "F refined",
        "The labels that F propagates, refined by the scan's own intensities (EM) and by its mirror image.",
        _f_refined,
        (Need(FEDERATED),),
        EVERYWHERE,
        base=F,
        applies=_refines,
        flows=True,
    ),
    Arm(
        "F w/o appearance",
        "The same flow network, trained and used without the change of style.",
        _f,
        (Need(PLAIN),),
        EVERYWHERE,
        flows=True,
    ),
)
