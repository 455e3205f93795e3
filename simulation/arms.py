"""The arms of a direction: what each one predicts on the held-out scans, and how well."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from client.cases import Cases
from configs.schema import Experiment
from server import segmenters
from server.run import look, segmenter_folder
from server.state import RunState
from simulation.measured import ArmScore, PairsPoint, ScanScore, mean_of, std_of
from simulation.schemes import Scheme
from simulation.stage import Stage
from sst_models.losses.flow import folded_fraction
from sst_models.networks.build import build
from sst_models.phases.segment import Pairs, segment
from sst_models.propagation.align import align_atlas, align_both
from sst_models.propagation.demons import finish
from sst_models.propagation.em import carry_labels
from sst_models.propagation.fusion import PARTS, chances_together
from sst_models.training.device import place
from sst_models.training.seeds import below
from sst_models.volume.metrics import dice_per_group, mean_hd95
from sst_models.wire import weights


@dataclass(frozen=True)
class Predicted:
    """What an arm says of one scan."""

    labels: Tensor  # (D, H, W) class indices
    folded: float = math.nan  # % of voxels where its flow folds; NaN where it has none


Predict = Callable[[Tensor], Predicted]
"""From a test scan (1, D, H, W) to its segmentation, both on the run's device."""


@dataclass(frozen=True)
class Tested:
    """An arm's score, and its prediction for the first test scan, which the report shows."""

    score: ArmScore
    shown: Tensor  # (D, H, W) class indices


def test(stage: Stage, arm: str, target: str, predict: Predict) -> Tested:
    """Test an arm on the held-out labelled scans of one site."""
    rows, shown = [], None
    for case, image, truth in labelled(stage.cases(target, "test")):
        predicted = predict(image.to(stage.device))
        found = predicted.labels.cpu()
        shown = found if shown is None else shown
        dice = _dice(found, truth)
        distance = mean_hd95(found, truth, stage.experiment.grid.spacing)
        rows.append(ScanScore.of(case, dice, distance, predicted.folded))
    assert shown is not None
    return Tested(ArmScore(arm, stage.direction.source, target, tuple(rows)), shown)


def _dice(found: Tensor, truth: Tensor) -> dict[str, float]:
    return {group: 100 * value for group, value in dice_per_group(found, truth).items()}


def labelled(cases: Cases) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Give (case, image, labels) of the scans that have labels."""
    for position, name in enumerate(cases.names):
        truth = cases.labels(position)
        if truth is not None:
            yield name, cases.image(position), truth


def affine(stage: Stage) -> Predict:
    """Predict the atlas's labels where the affine put the scan."""
    return lambda image: Predicted(stage.atlas.labels.on_grid.to(image.device))


def registration(stage: Stage, state: RunState, arm: str, site: str, experiment: Experiment) -> Predict:
    """Predict the atlas's labels, warped by T or F; F sees the atlas in the scan's style, by the site's own A."""
    part, refined = arm[0], arm == "F refined"
    nets = {name: _net(name, state, site, experiment, stage.device) for name in ("E", "A", "F", "T")}
    atlas, labels = stage.atlas.image.to(stage.device), stage.atlas.labels.to(stage.device)

    def predict(image: Tensor) -> Predicted:
        mirrored = None
        if part == "T":
            with torch.no_grad():
                flow = nets["T"](atlas[None], image[None])
            flow = finish(atlas[None], image[None], flow, experiment.registration)
        elif refined:
            flow, mirrored = align_both(nets, atlas, image[None], experiment, labels)
        else:
            flow = align_atlas(nets, atlas, image[None], experiment, labels)
        found = carry_labels(image[None], labels, flow, experiment, mirrored) if refined else labels.carry(flow)
        return Predicted(found, 100 * float(folded_fraction(flow)))

    return predict


def unet(stage: Stage, path: Path, experiment: Experiment) -> Predict:
    """Predict by a saved segmenter."""
    net = segmenters.load_segmenter(path, experiment, stage.device)
    return lambda image: Predicted(segment(net, image, experiment))


def together(stage: Stage, state: RunState, path: Path, site: str) -> Predict:
    """Predict by a saved segmenter and by F together, see `sst_models.propagation.fusion`."""
    nets = {name: _net(name, state, site, stage.experiment, stage.device) for name in PARTS}
    nets["segmenter"] = segmenters.load_segmenter(path, stage.experiment, stage.device)
    atlas, labels = stage.atlas.image.to(stage.device), stage.atlas.labels.to(stage.device)
    return lambda image: Predicted(chances_together(nets, image, atlas, labels, stage.experiment).argmax(dim=0))


def last_segmenter(stage: Stage, scheme: Scheme, site: str) -> Path:
    """Give the file of a site's finished segmenter at the hub of a federation."""
    return segmenters.last(segmenter_folder(scheme.hub(stage.folder, stage.direction), site))


def supervised_pairs(stage: Stage, site: str) -> Pairs:
    """Give real labelled training scans of a site: the upper bound's pairs."""
    cases = stage.cases(site, "train")
    real = [(image.to(stage.device), truth.to(stage.device)) for _, image, truth in labelled(cases)]

    def pairs(draws: torch.Generator) -> tuple[Tensor, Tensor]:
        return real[below(len(real), draws)]

    return pairs


def alone_pairs(stage: Stage, source: RunState, target: RunState) -> Pairs:
    """Give the paper's cross-site pairs: flow side of one site by itself, A of the other (Sec. 4.1)."""
    own = look(stage.experiment, target, stage.direction.target)
    generator = segmenters.make_generator(stage.experiment, stage.atlas, own, source.parts["decoder"], stage.device)
    return segmenters.generated(generator, stage.experiment, own)


def by_pairs(stage: Stage, arm: str, folder: Path, experiment: Experiment) -> list[PairsPoint]:
    """Test a segmenter after each of its rounds, the site's too: Dice against the number of pairs it saw (Fig. 7)."""
    points = []
    hub, site, direction = experiment.phases.segment, experiment.phases.adapt, stage.direction
    at_hub = [min(n * hub.steps * hub.batch, experiment.generation.pairs) for n in range(1, hub.rounds + 1)]
    at_site = [at_hub[-1] + n * site.steps * site.batch for n in range(1, site.rounds + 1)]
    paths = segmenters.rounds(folder) + segmenters.adapted(folder)
    for seen, path in zip(at_hub + at_site, paths, strict=False):  # a site may have left its rounds out
        predict, scans = unet(stage, path, experiment), labelled(stage.cases(direction.target, "test"))
        found = ((predict(image.to(stage.device)).labels.cpu(), truth) for _, image, truth in scans)
        means = tuple(mean_of(_dice(*pair).values()) for pair in found)
        points.append(PairsPoint(arm, direction.source, direction.target, seen, mean_of(means), std_of(means), means))
    return points


def _net(part: str, state: RunState, site: str, experiment: Experiment, device: torch.device) -> nn.Module:
    net = build(part, experiment)
    arrays = state.of(part, site)
    assert arrays is not None, part
    weights.load_parameters(net, arrays, part)
    return place(net, device).eval()
