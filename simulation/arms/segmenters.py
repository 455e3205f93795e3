"""Arms that segment a scan by a U-Net: of the federation, of one site alone, of all scans in one place."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from simulation.arms.arm import (
    ALL,
    ALONE_SOURCE,
    ALONE_TARGET,
    FEDERATED,
    MOMENTS,
    POOLED,
    SOURCE,
    TARGET,
    UNSEEN,
    Arm,
    Bench,
    Need,
    Predict,
    Predicted,
)

if TYPE_CHECKING:
    from configs.schema import Experiment
    from sst_models.phases.segment import Pairs


def network(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict by the U-Net alone."""
    from sst_models.propagation.predict import segment

    net, how = bench.segmenter(arm, site), replace(bench.prediction(arm), em_weight=0.0)
    return lambda image: Predicted(segment(net, image, how))


def network_refined(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict by the U-Net, refined by the scan's own intensities."""
    from sst_models.propagation.predict import segment

    net, how = bench.segmenter(arm, site), bench.prediction(arm)
    return lambda image: Predicted(segment(net, image, how))


def network_and_f(bench: Bench, arm: Arm, site: str) -> Predict:
    """Predict by label fusion of the U-Net with what F propagates."""
    from sst_models.propagation.fusion import fused_probabilities

    net, how, aligner = bench.segmenter(arm, site), bench.prediction(arm), bench.aligner(FEDERATED, site)
    return lambda image: Predicted(fused_probabilities(net, image, aligner, how).argmax(dim=0))


def em_is_on(experiment: "Experiment") -> bool:
    """Whether a refined arm differs from the arm that it refines."""
    return bool(experiment.propagation.em_weight)


def common_is_taught(experiment: "Experiment") -> bool:
    """Whether a hub can train a segmenter in all sites' styles: by their statistics."""
    return bool(experiment.phases.statistics.rounds)


def _alone_pairs(bench: Bench, site: str) -> "Pairs":
    """Give the paper's cross-site pairs: flow side of one site by itself, A of the other (Sec. 4.1)."""
    return bench.generated_pairs(ALONE_SOURCE, ALONE_TARGET, site)


def _family(
    name: str, meanings: tuple[str, ...], need: Need, tested: tuple[str, ...], how: tuple[Callable[..., Predict], ...]
) -> list[Arm]:
    """Make a U-Net's arms: by itself, and refined or fused with F where there is a meaning for it."""
    ends = {network: "", network_refined: " refined", network_and_f: " and F"}
    arms: list[Arm] = []
    for meaning, predict in zip(meanings, how, strict=True):
        base, applies = (arms[0] if arms else None), em_is_on if predict is network_refined else (lambda _: True)
        arms.append(Arm(name + ends[predict], meaning, predict, (need,), tested, base, applies=applies))
    return arms


_WITHOUT = _family(
    "U-Net w/o adaptation",
    (
        "A segmenter trained on generated images in the style of the atlas's own site.",
        "The first of these, its labels refined by the scan's own intensities (EM).",
    ),
    Need(FEDERATED, SOURCE),
    (TARGET, UNSEEN),
    (network, network_refined),
)
_WITH = _family(
    "U-Net w/ adaptation",
    (
        "A segmenter trained on generated images in the style of the tested site.",
        "The adapted one, its labels refined likewise.",
        "The adapted one fused with F: their weighted mean where they agree, refined likewise.",
    ),
    Need(FEDERATED, TARGET),
    (TARGET,),
    (network, network_refined, network_and_f),
)
_IN_SITE = _family(
    "U-Net in-site",
    (
        "Atlas, style and test scans all from one site.",
        "The same, its labels refined by the scan's own intensities (EM).",
        "The same U-Net fused with F: their weighted mean where they agree, refined likewise.",
    ),
    Need(FEDERATED, SOURCE),
    (SOURCE,),
    (network, network_refined, network_and_f),
)

_COMMON = [
    replace(arm, applies=common_is_taught)
    for arm in _family(
        "U-Net common",
        (
            "A segmenter trained on generated images in the styles of all sites that take part.",
            "The common one fused with F: what a hospital that comes later segments with.",
        ),
        Need(FEDERATED, ALL),
        (TARGET, UNSEEN),
        (network, network_and_f),
    )
]

ARMS = (
    _WITHOUT[0],
    _WITH[0],
    _WITHOUT[1],
    *_WITH[1:],
    Arm(
        "U-Net w/ adaptation (moments)",
        "The adapted one, but the tested site shared only averages of its style.",
        network,
        (Need(MOMENTS, TARGET),),
    ),
    *_COMMON,
    *_IN_SITE,
    Arm(
        "U-Net alone",
        "The atlas's site and the tested one train each by themselves, without a federation.",
        network,
        (Need(ALONE_SOURCE, SOURCE), Need(ALONE_TARGET)),
        (SOURCE, TARGET),
        pairs=_alone_pairs,
    ),
    Arm(
        "U-Net pooled",
        "Everything trained on all scans in one place, as if they could be moved there.",
        network,
        (Need(POOLED, ALL),),
        (TARGET, UNSEEN),
    ),
    Arm(
        "U-Net federated",
        "Everything trained by the federation, scans staying where they are.",
        network,
        (Need(FEDERATED, TARGET),),
    ),
)
