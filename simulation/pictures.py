"""The slices that the report shows with an atlas: segmentations, registrations, and a grid of generated images."""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from client.pictures import coronal
from server.generators import generator_of
from server.state import RunState
from simulation.arms import ARMS
from simulation.bench import labelled
from simulation.measured import Resemblance
from simulation.panels import GENERATED, REAL, REGISTRATION, SCAN, SEGMENTATION, TRUTH, Panel, direction_name
from simulation.resemblance import compare
from simulation.stage import Stage
from sst_models.phases.generate import PairGenerator, Recipe

STYLES, FLOWS = 3, 4
"""Rows and columns of the grid of generated images."""

DRAWS, LEAST = 24, 5
"""Pairs that are held against scans, and fewest scans for that."""


def predictions(stage: Stage, target: str, shown: Mapping[str, Tensor]) -> list[Panel]:
    """Show the first test scan of a site with its truth and each arm's prediction (Fig. 5 and 6)."""
    name = direction_name(stage.roles.source, target)
    case, image, truth = next(labelled(stage.cases(target, "test")), (None, None, None))
    if case is None or image is None or truth is None:
        return []
    slice_ = _image(image)
    panels = []
    for figure in (SEGMENTATION, REGISTRATION):
        arms = {arm: found for arm, found in shown.items() if ARMS[arm].flows == (figure == REGISTRATION)}
        if arms:
            panels.append(Panel(name, figure, case, SCAN, slice_))
            panels.append(Panel(name, figure, case, TRUTH, slice_, _labels(truth)))
            panels += [Panel(name, figure, case, arm, slice_, _labels(found)) for arm, found in arms.items()]
    return panels


def generator(stage: Stage, state: RunState, target: str) -> PairGenerator:
    """Give what makes pairs of a site's style."""
    counts = {site: len(stage.cases(site, "train")) for site in stage.roles.members}
    return generator_of(stage.experiment, stage.atlas, state, target, counts, stage.device)


def generated(stage: Stage, generator: PairGenerator, target: str) -> list[Panel]:
    """Show pairs of a site's style: a row a style, a column a flow, beside the atlas and a real scan (Fig. 8)."""
    name = direction_name(stage.roles.source, target)
    panels = [Panel(name, GENERATED, REAL, "atlas", _image(stage.atlas.image))]
    scan = stage.cases(target, "train").image(0)
    panels.append(Panel(name, GENERATED, REAL, f"a scan of {target}", _image(scan)))
    for style in range(STYLES):
        for flow in range(FLOWS):
            pair = generator.pair(Recipe(stage.experiment.seed, style, flow, target))
            panels.append(
                Panel(
                    name,
                    GENERATED,
                    f"style {style + 1}",
                    f"flow {flow + 1}",
                    _image(pair.image.cpu()),
                    _labels(pair.labels.cpu()),
                )
            )
    return panels


def resemblance(stage: Stage, generator: PairGenerator, target: str) -> Resemblance | None:
    """Hold pairs of a site's style against its training scans; None where too few of these have labels."""
    scans = [(image, truth) for _, image, truth in labelled(stage.cases(target, "train"))]
    if len(scans) < LEAST:
        return None
    made = [generator.pair(Recipe(stage.experiment.seed, number, number, target)) for number in range(DRAWS)]
    draws = [(pair.image.cpu(), pair.labels.cpu()) for pair in made]
    return compare(draws, scans, stage.roles.source, target, stage.experiment.table)


def _image(volume: Tensor) -> np.ndarray:
    return np.ascontiguousarray(coronal(volume[0].numpy())).astype(np.float32)


def _labels(labels: Tensor) -> np.ndarray:
    return np.ascontiguousarray(coronal(labels.numpy())).astype(np.uint8)
