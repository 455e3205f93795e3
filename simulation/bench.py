"""Tests arms with one atlas on held-out labelled scans, each once: a score on disk is not measured again."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor, nn

from client.cases import Cases
from configs import levels
from configs.schema import Experiment
from configs.structures import LabelTable
from server import generators, segmenters
from server.state import COMMON, SEGMENTER, RunState
from simulation.arms.arm import ALL, FEDERATED, POOLED, SOURCE, TARGET, Arm, Lesson, Predict
from simulation.measured import AGREEMENT, ArmScore, PairsPoint, ScanScore, mean_of, std_of
from simulation.schemes import Scheme, called
from simulation.stage import Stage
from simulation.training import train_alone
from sst_models.networks.build import first
from sst_models.phases.segment import Pairs
from sst_models.propagation.align import Aligner, Alignment
from sst_models.propagation.predict import Prediction, segment
from sst_models.training.device import place
from sst_models.training.learner import Watch
from sst_models.training.seeds import below
from sst_models.volume.labels import AtlasLabels, LabelledVolume
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
class Scans:
    """Test scans with what they are held against."""

    cases: Cases
    labels: Sequence[Tensor] | None = None  # (D, H, W) of each; None: their own, and scans without are left out

    def __iter__(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Give (case, image, labels)."""
        if self.labels is None:
            yield from labelled(self.cases)
            return
        for position, (name, labels) in enumerate(zip(self.cases.names, self.labels, strict=True)):
            yield name, self.cases.image(position), labels


@dataclass(frozen=True)
class Bench:
    """What arms with one atlas are made of, and their tests."""

    stage: Stage
    states: Mapping[str, tuple[Scheme, RunState]]  # by name of the federation, those that were run
    trained: dict[tuple[str, str], Arrays] = field(default_factory=dict)  # by arm and site: no federation makes them
    propagated: dict[str, Sequence[Tensor]] = field(default_factory=dict)  # by site, labels where scans have none

    @property
    def experiment(self) -> Experiment:
        """The preset of the run."""
        return self.stage.experiment

    @property
    def atlas(self) -> tuple[Tensor, AtlasLabels]:
        """The volume (1, D, H, W) of the atlas, of several the first, and its labels, on the run's device."""
        return self.stage.atlas.image.to(self.stage.device), self.stage.atlas.labels.to(self.stage.device)

    @property
    def atlases(self) -> list[LabelledVolume]:
        """All atlases, that of `atlas` first."""
        device = self.stage.device
        return [(image.to(device), labels.to(device)) for image, labels in self.stage.atlas.each]

    @property
    def source(self) -> str:
        """The site of the atlas, of several the first one's."""
        return self.stage.roles.source

    @property
    def device(self) -> torch.device:
        """Where the run computes."""
        return self.stage.device

    def scans(self, site: str) -> Cases:
        """Give a site's training scans, without labels."""
        return self.stage.cases(site, "train")

    def learnt(self, arm: Arm, site: str) -> Arrays:
        """Give what an arm learnt that no federation makes, for a site."""
        base = arm.trained_as
        return self.trained[base.name, self._whose(base, site)]

    def state(self, scheme: str) -> RunState:
        """Give the last state of a federation's hub."""
        return self.states[scheme][1]

    def net(self, scheme: str, part: str, site: str) -> nn.Module:
        """Give a network of a federation as a site has it."""
        own, state = self.states[scheme]
        net = first(part, own.experiment)
        arrays = self.stage.own(own, part, site) or state.of(part, site)
        # A site that trains no networks has them as they begin, and so has everybody those that nobody trained.
        trains = site in self.stage.roles.members and levels.reaches(self.stage.level(site), levels.NETWORKS)
        if arrays is not None and trains:
            weights.load_parameters(net, arrays, part)
        return place(net, self.stage.device).eval()

    def aligner(self, scheme: str, site: str) -> Aligner:
        """Give the alignment of the atlas to a site's scans by a federation's E, A and F."""
        nets = {part: self.net(scheme, part, site) for part in ("E", "A", "F")}
        (atlas, labels), *further = self.atlases
        return Aligner(nets, atlas, labels, Alignment.of(self.states[scheme][0].experiment), further)

    def prediction(self, arm: Arm) -> Prediction:
        """Give how an arm's segmenter predicts."""
        return Prediction.of(without_federation(self.experiment, arm) if arm.zscore else self.experiment)

    def segmenter(self, arm: Arm, site: str) -> nn.Module:
        """Give the U-Net of an arm that is tested at a site."""
        base = arm.trained_as
        # "U-Net alone" in-site is the segmenter of its site's own federation of one.
        if base.trains and (not base.needs or site != self.source):
            arrays: Arrays | None = self.learnt(base, site)
        else:
            need = next(need for need in base.needs if need.segmenter)
            scheme, state = self.states[called(need.scheme, self.stage.roles, site)]
            whose = {SOURCE: self.source, TARGET: site, ALL: COMMON if scheme.common else POOLED}[need.segmenter]
            kept = None if whose == COMMON else self.stage.own(scheme, SEGMENTER, whose)
            arrays = kept or state.of(SEGMENTER, whose)
        assert arrays is not None, arm.name
        return segmenters.segmenter_of(arrays, self.experiment, self.stage.device)

    def sites(self, arm: Arm) -> list[str]:
        """Give the names of the sites that an arm can be tested at."""
        roles = self.stage.roles
        tested = list(roles.of(*arm.tested))
        if wanted := arm.trained_as.labels:
            tested = [site for site in tested if self._labelled({SOURCE: roles.source}.get(wanted, site), "train")]
        # Without labels an arm is held against F, which says nothing of F itself, and less of what F is made of.
        judged = FEDERATED in self.states and not arm.flows
        return [site for site in tested if judged or self._labelled(site, "test")]

    def generated_pairs(self, flows: str, styles: str, site: str) -> Pairs:
        """Give generated pairs: flow codes of one federation, a site's style of another."""
        roles = self.stage.roles
        decoder = self.state(called(flows, roles, site)).parts["decoder"]
        source = generators.style_source(self.experiment, self.state(called(styles, roles, site)), site)
        generator = generators.make_generator(self.experiment, self.stage.atlas, source, decoder, self.stage.device)
        return generators.generated(generator, self.experiment, site)

    def labelled_pairs(self, site: str) -> Pairs:
        """Give a site's real labelled training scans: the pairs of the upper bounds."""
        cases = self.stage.cases(site, "train")
        real = [(image.to(self.stage.device), truth.to(self.stage.device)) for _, image, truth in labelled(cases)]

        def pairs(draws: torch.Generator) -> tuple[Tensor, Tensor]:
            return real[below(len(real), draws)]

        return pairs

    def _whose(self, arm: Arm, site: str) -> str:
        """Say whose a thing is that no federation makes: a site's, or "" for one that is the same at all."""
        return site if arm.by_site else ""

    def owners(self, arm: Arm) -> list[str]:
        """List for whom an arm has to learn, as no federation makes it."""
        sites = [site for site in self.sites(arm) if not arm.needs or site != self.source]
        return list(dict.fromkeys(self._whose(arm, site) for site in sites))

    def train(self, arm: Arm, site: str = "", watch: Watch | None = None) -> None:
        """Train what an arm learns and no federation makes, or find it trained; `site` is one of its owners."""
        name = "-at-".join(filter(None, (arm.name.replace(" ", "-"), site)))
        folder = self.stage.folder / "segmenters" / self.stage.roles.name / name
        how = without_federation(self.experiment, arm)
        if arm.learn is not None:
            phase = how.phases.segment
            learnt = arm.learn(self, site, Lesson(phase.rounds * phase.steps, folder, watch))
        else:
            assert arm.pairs is not None
            learnt = train_alone(how, arm.pairs(self, site), arm.name, folder, self.stage.device, watch)
        self.trained[arm.name, site] = learnt

    def _labelled(self, site: str, split: str) -> bool:
        cases = self.stage.cases(site, split)
        return any(cases.labels(position) is not None for position in range(len(cases)))

    def _propagated(self, site: str) -> Sequence[Tensor]:
        """Give what stands for labels at a site that has none: those that F propagates, refined; once for all arms."""
        if site not in self.propagated:
            aligner, cases = self.aligner(FEDERATED, site), self.stage.cases(site, "test")
            volumes = (cases.image(position)[None].to(self.stage.device) for position in range(len(cases)))
            self.propagated[site] = [aligner.labels_on(one, *aligner.flows(one)).cpu() for one in volumes]
        return self.propagated[site]

    def test(self, arm: Arm, site: str) -> Tested:
        """Test an arm on the held-out scans of a site: their labels, or where there are none, what F says."""
        name = f"{arm.name.replace('/', '').replace(' ', '-')}-at-{site}"
        path = self.stage.folder / "tested" / self.stage.roles.name / f"{name}.json"
        shown = path.with_suffix(".safetensors")
        if path.exists():
            return Tested(_score(json.loads(path.read_text(encoding="utf-8"))), weights.load(shown)["labels"])
        scans = Scans(self.stage.cases(site, "test"), None if self._labelled(site, "test") else self._propagated(site))
        tested = score(self.stage, arm.name, site, arm.predict(self, arm, site), scans)
        weights.save({"labels": tested.shown}, shown)
        write_json(asdict(tested.score), path)
        return tested

    def by_pairs(self, arm: Arm, site: str) -> list[PairsPoint]:
        """Test the segmenter of a federated arm after each of its rounds: Dice against pairs seen (Fig. 7)."""
        path = self.stage.folder / "tested" / self.stage.roles.name / f"by-pairs-at-{site}.json"
        if not path.exists():
            write_json([asdict(point) for point in self._by_pairs(arm, site)], path)
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [PairsPoint(**{**row, "scans": tuple(row["scans"])}) for row in rows]

    def _by_pairs(self, arm: Arm, site: str) -> Iterator[PairsPoint]:
        experiment = self.states[FEDERATED][0].experiment
        hub, own = experiment.phases.segment, experiment.phases.adapt
        at_hub = [min(n * hub.steps * hub.batch, experiment.generation.pairs) for n in range(1, hub.rounds + 1)]
        at_site = [at_hub[-1] + n * own.steps * own.batch for n in range(1, own.rounds + 1)]
        rounds = self.state(FEDERATED).trained.get(site, ())
        how = replace(Prediction.of(experiment), em_weight=0.0)
        for seen, arrays in zip(at_hub + at_site, rounds, strict=False):  # a site may have left its rounds out
            net = segmenters.segmenter_of(arrays, experiment, self.stage.device)
            scans = labelled(self.stage.cases(site, "test"))
            means = tuple(
                mean_of(_dice(segment(net, image.to(self.stage.device), how).cpu(), truth, experiment.table).values())
                for _, image, truth in scans
            )
            yield PairsPoint(arm.name, self.source, site, seen, mean_of(means), std_of(means), means)


def score(stage: Stage, arm: str, target: str, predict: Predict, scans: Scans) -> Tested:
    """Test a prediction on the held-out scans of one site."""
    rows, shown, table = [], None, stage.experiment.table
    for case, image, truth in scans:
        predicted = predict(image.to(stage.device))
        found = predicted.labels.cpu()
        shown = found if shown is None else shown
        distance = mean_hd95(found, truth, stage.experiment.grid.spacing)
        rows.append(ScanScore.of(case, _dice(found, truth, table), distance, predicted.folded))
    assert shown is not None
    against = "" if scans.labels is None else AGREEMENT
    return Tested(ArmScore(arm, stage.roles.source, target, tuple(rows), against), shown)


def dice_alone(net: nn.Module, how: Prediction, cases: Cases, device: torch.device) -> list[float]:
    """Test a segmenter alone, without refinement: mean Dice over groups, in percent, of each scan with labels."""
    alone = replace(how, em_weight=0.0)
    return [
        100 * mean_of(dice_per_group(segment(net, image.to(device), alone).cpu(), truth, how.table).values())
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


def _dice(found: Tensor, truth: Tensor, table: LabelTable) -> dict[str, float]:
    return {group: 100 * value for group, value in dice_per_group(found, truth, table).items()}


def _score(row: Mapping[str, object]) -> ArmScore:
    scans = tuple(ScanScore(**scan) for scan in row["scans"])  # type: ignore[attr-defined]
    return ArmScore(str(row["arm"]), str(row["source"]), str(row["target"]), scans, str(row["against"]))
