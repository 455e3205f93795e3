"""Tests the arms of one direction on held-out labelled scans, each once: a score on disk is not measured again."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor, nn

from client.cases import Cases
from configs import levels
from configs.schema import Experiment
from server import generators, segmenters
from server.state import SEGMENTER, RunState
from simulation.arms.arm import ALL, FEDERATED, POOLED, SOURCE, TARGET, Arm, Predict
from simulation.measured import ArmScore, PairsPoint, ScanScore, mean_of, std_of
from simulation.schemes import Scheme
from simulation.stage import Stage
from simulation.training import train_alone
from sst_models.networks.build import first
from sst_models.phases.segment import Pairs
from sst_models.propagation.align import Aligner, Alignment
from sst_models.propagation.predict import Prediction, segment
from sst_models.training.device import place
from sst_models.training.learner import Watch
from sst_models.training.seeds import below
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import dice_per_group, mean_hd95
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays
from sst_models.wire.files import write_json


@dataclass(frozen=True)
class Tested:
    """An arm's score, and its prediction for the first test scan, which the report shows."""

    score: ArmScore
    shown: Tensor  # (D, H, W) class indices


@dataclass(frozen=True)
class Bench:
    """What the arms of a direction are made of, and their tests."""

    stage: Stage
    states: Mapping[str, tuple[Scheme, RunState]]  # by name of the federation, those that were run
    trained: dict[str, Arrays] = field(default_factory=dict)  # by arm, segmenters that no federation makes

    @property
    def experiment(self) -> Experiment:
        """The preset of the run."""
        return self.stage.experiment

    @property
    def atlas(self) -> tuple[Tensor, AtlasLabels]:
        """The atlas's volume (1, D, H, W) and its labels, on the run's device."""
        return self.stage.atlas.image.to(self.stage.device), self.stage.atlas.labels.to(self.stage.device)

    def state(self, scheme: str) -> RunState:
        """Give the last state of a federation's hub."""
        return self.states[scheme][1]

    def net(self, scheme: str, part: str, site: str) -> nn.Module:
        """Give a network of a federation as a site has it."""
        own, state = self.states[scheme]
        net = first(part, own.experiment)
        arrays = self.stage.own(own, part, site) or state.of(part, site)
        # A site that trains no networks has them as they begin, and so has everybody those that nobody trained.
        if arrays is not None and levels.reaches(self.stage.level(site), levels.NETWORKS):
            weights.load_parameters(net, arrays, part)
        return place(net, self.stage.device).eval()

    def aligner(self, scheme: str, site: str) -> Aligner:
        """Give the alignment of the atlas to a site's scans by a federation's E, A and F."""
        nets = {part: self.net(scheme, part, site) for part in ("E", "A", "F")}
        return Aligner(nets, *self.atlas, Alignment.of(self.states[scheme][0].experiment))

    def prediction(self, arm: Arm) -> Prediction:
        """Give how an arm's segmenter predicts."""
        return Prediction.of(without_federation(self.experiment, arm) if arm.zscore else self.experiment)

    def segmenter(self, arm: Arm, site: str) -> nn.Module:
        """Give the U-Net of an arm that is tested at a site."""
        base = arm.trained_as
        # "U-Net alone" in-site is the segmenter of its site's own federation of one.
        if base.name in self.trained and (not base.needs or site == self.stage.direction.target):
            arrays: Arrays | None = self.trained[base.name]
        else:
            need = next(need for need in base.needs if need.segmenter)
            scheme, whose = self.states[need.scheme][0], self.site(need.segmenter)
            kept = self.stage.own(scheme, SEGMENTER, whose)
            arrays = kept or self.state(need.scheme).of(SEGMENTER, whose)
        assert arrays is not None, arm.name
        return segmenters.segmenter_of(arrays, self.experiment, self.stage.device)

    def site(self, role: str) -> str:
        """Give the name of the site that has a role in this direction."""
        direction = self.stage.direction
        return {SOURCE: direction.source, TARGET: direction.target, ALL: POOLED}[role]

    def sites(self, arm: Arm) -> list[str]:
        """Give the names of the sites that an arm is tested at."""
        return [self.site(role) for role in arm.tested]

    def generated_pairs(self, flows: str, styles: str) -> Pairs:
        """Give generated pairs: flow codes of one federation, the target's style of another."""
        target, decoder = self.stage.direction.target, self.state(flows).parts["decoder"]
        source = generators.style_source(self.experiment, self.state(styles), target)
        generator = generators.make_generator(self.experiment, self.stage.atlas, source, decoder, self.stage.device)
        return generators.generated(generator, self.experiment, target)

    def labelled_pairs(self, role: str) -> Pairs:
        """Give real labelled training scans of the source or the target: the pairs of the upper bounds."""
        cases = self.stage.cases(self.site(role), "train")
        real = [(image.to(self.stage.device), truth.to(self.stage.device)) for _, image, truth in labelled(cases)]

        def pairs(draws: torch.Generator) -> tuple[Tensor, Tensor]:
            return real[below(len(real), draws)]

        return pairs

    def train(self, arm: Arm, watch: Watch | None = None) -> None:
        """Train the segmenter of an arm that no federation makes, or find it trained."""
        assert arm.pairs is not None
        folder = self.stage.folder / "segmenters" / self.stage.direction.name / arm.name.replace(" ", "-")
        experiment = without_federation(self.experiment, arm)
        self.trained[arm.name] = train_alone(experiment, arm.pairs(self), arm.name, folder, self.stage.device, watch)

    def test(self, arm: Arm, site: str) -> Tested:
        """Test an arm on the held-out labelled scans of a site."""
        name = f"{arm.name.replace('/', '').replace(' ', '-')}-at-{site}"
        path = self.stage.folder / "tested" / self.stage.direction.name / f"{name}.json"
        shown = path.with_suffix(".safetensors")
        if path.exists():
            return Tested(_score(json.loads(path.read_text(encoding="utf-8"))), weights.load(shown)["labels"])
        tested = score(self.stage, arm.name, site, arm.predict(self, arm, site))
        weights.save({"labels": tested.shown}, shown)
        write_json(asdict(tested.score), path)
        return tested

    def by_pairs(self, arm: Arm) -> list[PairsPoint]:
        """Test the segmenter of a federated arm after each of its rounds: Dice against pairs seen (Fig. 7)."""
        path = self.stage.folder / "tested" / self.stage.direction.name / "by-pairs.json"
        if not path.exists():
            write_json([asdict(point) for point in self._by_pairs(arm)], path)
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [PairsPoint(**{**row, "scans": tuple(row["scans"])}) for row in rows]

    def _by_pairs(self, arm: Arm) -> Iterator[PairsPoint]:
        experiment, direction = self.states[FEDERATED][0].experiment, self.stage.direction
        hub, site = experiment.phases.segment, experiment.phases.adapt
        at_hub = [min(n * hub.steps * hub.batch, experiment.generation.pairs) for n in range(1, hub.rounds + 1)]
        at_site = [at_hub[-1] + n * site.steps * site.batch for n in range(1, site.rounds + 1)]
        rounds = self.state(FEDERATED).trained.get(direction.target, ())
        how = replace(Prediction.of(experiment), em_weight=0.0)
        for seen, arrays in zip(at_hub + at_site, rounds, strict=False):  # a site may have left its rounds out
            net = segmenters.segmenter_of(arrays, experiment, self.stage.device)
            scans = labelled(self.stage.cases(direction.target, "test"))
            means = tuple(
                mean_of(_dice(segment(net, image.to(self.stage.device), how).cpu(), truth).values())
                for _, image, truth in scans
            )
            yield PairsPoint(arm.name, direction.source, direction.target, seen, mean_of(means), std_of(means), means)


def score(stage: Stage, arm: str, target: str, predict: Predict) -> Tested:
    """Test a prediction on the held-out labelled scans of one site."""
    rows, shown = [], None
    for case, image, truth in labelled(stage.cases(target, "test")):
        predicted = predict(image.to(stage.device))
        found = predicted.labels.cpu()
        shown = found if shown is None else shown
        distance = mean_hd95(found, truth, stage.experiment.grid.spacing)
        rows.append(ScanScore.of(case, _dice(found, truth), distance, predicted.folded))
    assert shown is not None
    return Tested(ArmScore(arm, stage.direction.source, target, tuple(rows)), shown)


def dice_alone(net: nn.Module, how: Prediction, cases: Cases, device: torch.device) -> list[float]:
    """Test a segmenter alone, without refinement: mean Dice over groups, in percent, of each scan with labels."""
    alone = replace(how, em_weight=0.0)
    return [
        100 * mean_of(dice_per_group(segment(net, image.to(device), alone).cpu(), truth).values())
        for _, image, truth in labelled(cases)
    ]


def labelled(cases: Cases) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Give (case, image, labels) of the scans that have labels."""
    for position, name in enumerate(cases.names):
        truth = cases.labels(position)
        if truth is not None:
            yield name, cases.image(position), truth


def without_federation(experiment: Experiment, arm: Arm) -> Experiment:
    """Give the preset by which a segmenter without a federation is trained: as many steps, the site's counted in."""
    segment, adapt = experiment.phases.segment, experiment.phases.adapt
    segment = replace(segment, steps=segment.steps + adapt.rounds * adapt.steps // segment.rounds)
    own = experiment.segmenter
    if arm.zscore:
        own = replace(own, normalise="zscore", affine_probability=own.affine_probability or 1.0)
    return replace(experiment, phases=replace(experiment.phases, segment=segment), segmenter=own)


def _dice(found: Tensor, truth: Tensor) -> dict[str, float]:
    return {group: 100 * value for group, value in dice_per_group(found, truth).items()}


def _score(row: Mapping[str, object]) -> ArmScore:
    scans = tuple(ScanScore(**scan) for scan in row["scans"])  # type: ignore[attr-defined]
    return ArmScore(str(row["arm"]), str(row["source"]), str(row["target"]), scans)
