"""The simulated federation of two sites, both directions, all arms: what `sst simulate` and `sst demo` run.

Read `simulate` first. Everything that takes long is kept in the run's folder when it is done, so that the same
command goes on where it was stopped.
"""

import json
import math
import multiprocessing
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from configs.errors import RunError
from configs.schema import Experiment, load
from server import segmenters
from server.atlas import Atlas
from server.state import RunState
from simulation import arms, pictures, schemes
from simulation.arms import Tested
from simulation.atlases import choose_atlas
from simulation.control import control_pairs
from simulation.measured import WITH_F, ArmScore, PairsPoint, Results, ScanScore, unrefined
from simulation.panels import PICTURES, Panel, save_panels
from simulation.progress import Progress
from simulation.records import curves, set_aside, traffic
from simulation.report import write_report
from simulation.results import write
from simulation.schemes import POOLED, Direction, Scheme
from simulation.stage import COST, Stage, federate, planned, prepare
from sst_models.phases.segment import Pairs
from sst_models.training.device import choose, keep_freed
from sst_models.training.learner import Watch
from sst_models.wire import weights
from sst_models.wire.files import write_json


@dataclass(frozen=True)
class Options:
    """What the user asked for, already checked word by word."""

    preset: str
    sites: tuple[tuple[str, Path], ...]
    out: Path
    engine: str
    arms: tuple[str, ...]
    atlases: Mapping[str, str]
    splits: Path | None
    seed: int | None
    device: str
    style: str | None = None
    changes: tuple[str, ...] = ()  # of the preset, as `configs.schema.load` takes them
    bias: bool = True  # the sites take their scanners' bias fields out
    data: str = ""  # what kind of data it is, for the report


def simulate(options: Options, progress: Progress) -> Results:
    """Run or continue a simulation; write results.json, the CSV files, pictures and report.html into its folder.

    Raises:
        SstError: what the user gave cannot be used, or the folder holds another run.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    experiment = experiment_of(options)
    if math.prod(experiment.grid.shape) <= SMALL:
        keep_freed()
    options = replace(options, arms=tuple(arm for arm in options.arms if _differs(arm, experiment)))
    claim(options, experiment)
    stages = set_up(options, experiment, progress)
    _announce(stages, options.arms, progress)
    prepare_all(stages, progress)
    found = [_direction(stage, options.arms, progress) for stage in stages]
    spent = _spent(options.out, time.monotonic() - began)
    results = Results(
        run=_run(options, experiment, started, spent),
        scores=tuple(tested.score for one in found for tested in one.tested),
        curves=tuple(curve for stage in stages for curve in curves(stage, options.arms)),
        traffic=tuple(item for stage in stages for item in traffic(stage, options.arms)),
        pairs=tuple(point for one in found for point in one.pairs),
        set_aside=set_aside(stages),
        timings={"total": spent},
    )
    panels = [panel for one in found for panel in one.panels]
    write(results, options.out)
    save_panels(panels, options.out / PICTURES)
    write_report(results, panels, options.out)
    return results


SMALL = 64 * 80 * 80
"""Voxels of a grid on which a run keeps the memory that it frees: a ninth of its time for 0.3 to 0.8 GB (LEARNING.md).
At 128 x 160 x 160 a joint step would take more than the 3 GB that a laptop is to have for it."""


def experiment_of(options: Options) -> Experiment:
    """Read the preset and apply what the command line overrides."""
    experiment = load(options.preset, options.changes)
    if options.seed is not None:
        experiment = replace(experiment, seed=options.seed)
    if options.style == "statistics":
        experiment = replace(experiment, generation=replace(experiment.generation, styles="moments"))
    if options.style is not None:
        federation = replace(experiment.federation, style=options.style)  # type: ignore[arg-type]
        experiment = replace(experiment, federation=federation)
    return experiment


def claim(options: Options, experiment: Experiment) -> None:
    """See that the folder is new, or holds this very run.

    Raises:
        RunError: it holds something else.
    """
    path = options.out / "run.json"
    asked = {
        "experiment": json.loads(experiment.to_json()),
        "sites": {name: str(folder.resolve()) for name, folder in options.sites},
        "atlases": dict(options.atlases),
        "splits": str(options.splits.resolve()) if options.splits else "",
    } | ({} if options.bias else {"bias": False})
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        odd = [key for key in asked if kept.get(key) != asked[key]]
        if odd:
            raise RunError(f"{options.out} holds another run (its {odd[0]} differs); choose another --out")
        return
    strange = [item.name for item in options.out.glob("*") if item.name != "sites"] if options.out.exists() else []
    if strange:
        raise RunError(f"{options.out} is not empty and holds no run ('{strange[0]}'); choose another --out")
    write_json(asked, path)


def set_up(options: Options, experiment: Experiment, progress: Progress) -> list[Stage]:
    """Choose each site's atlas and split, and make the two directions.

    Raises:
        DataError: no atlas can be made of a site's scans.
    """
    device = choose(options.device)
    chosen = {}
    for name, folder in options.sites:
        given = (options.atlases.get(name), options.splits)
        chosen[name] = choose_atlas(name, folder, experiment.grid, experiment.seed, given)
        progress.note(f"atlas of {name}: {chosen[name].case}")
    (first, _), (second, _) = options.sites
    stages = []
    for source, target in ((first, second), (second, first)):
        direction = Direction(source, target)
        atlas: Atlas = chosen[source].atlas
        data = dict(options.sites)
        stage = Stage(options.out, direction, experiment, atlas, data, options.engine, device, options.bias)
        stage.split({name: own.splits for name, own in chosen.items()})
        stages.append(stage)
    return stages


PREPARE = 400.0
"""Work units of preparing all scans, on the scale of `stage.COST`: 5 s a scan for some fifty scans."""


def _announce(stages: Sequence[Stage], chosen: Sequence[str], progress: Progress) -> None:
    plan = {"prepare": PREPARE}
    for stage in stages:
        for scheme in schemes.schemes_for(chosen, stage.direction, stage.experiment):
            plan |= {item.name: item.units for item in planned(stage, scheme) if item.units}
        plan |= {f"{stage.where}: {arm}": _segment_units(stage) for arm in EXTRA if arm in chosen}
        plan[f"{stage.where}: test"] = 20.0
    progress.plan(plan)


def _segment_units(stage: Stage) -> float:
    phase = extra_experiment(stage.experiment, "").phases.segment
    return COST["segment"] * phase.rounds * phase.steps * phase.batch


def prepare_all(stages: Sequence[Stage], progress: Progress) -> None:
    """Prepare all sites' scans for both directions, a process each, with the client's own code.

    Raises:
        DataError: no scan of a site can be used.
    """
    jobs = [(stage, site) for stage in stages for site in stage.data]
    progress.stage("prepare", PREPARE)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(len(jobs), torch.get_num_threads()), mp_context=spawn) as pool:
        running = {pool.submit(prepare, stage, site): site for stage, site in jobs}
        for done, future in enumerate(as_completed(running), start=1):
            future.result()
            progress.advance(PREPARE * done / len(jobs), site=running[future])
    for site in stages[0].data:
        for file, reason in stages[0].set_aside(site):
            progress.note(f"set aside at {site}: {file}: {reason}")


@dataclass
class _Found:
    """What one direction gave."""

    tested: list[Tested]
    pairs: list[PairsPoint]
    panels: list[Panel]


def _direction(stage: Stage, chosen: Sequence[str], progress: Progress) -> _Found:
    """Run the federations of a direction, then test its arms."""
    wanted = schemes.schemes_for(chosen, stage.direction, stage.experiment)
    states = {scheme.name: (scheme, federate(stage, scheme, progress)) for scheme in wanted}
    extra = _train_extra(stage, chosen, states, progress)
    progress.stage(f"{stage.where}: test", 20.0)
    bench = Bench(stage, states, extra)
    tested = [bench.test(arm, site) for arm, site in cells(chosen, stage.direction)]
    pairs = bench.pairs() if "U-Net w/ adaptation" in chosen else []
    panels: list[Panel] = []
    for site in (stage.direction.target, stage.direction.source):
        shown = {one.score.arm: one.shown for one in tested if one.score.target == site}
        panels += pictures.predictions(stage, site, shown) if shown else []
    if schemes.FEDERATED in states:
        panels += pictures.generated(stage, states[schemes.FEDERATED][1])
    return _Found(tested, pairs, panels)


EXTRA = ("U-Net alone", "control", "supervised across", "supervised")
"""Arms whose segmenter no federation makes; that of "U-Net alone" is the one that is tested at the target."""

IN_SITE = ("affine", "T", "F", "F w/o appearance")
"""Arms that are tested at the source too: registration in-site is what Table 2a has."""


def cells(chosen: Sequence[str], direction: Direction) -> Iterator[tuple[str, str]]:
    """List (arm, tested site) of a direction; "U-Net in-site" is the source's segmenter tested at the source."""
    for arm in chosen:
        of = unrefined(arm)
        if of in IN_SITE:
            yield arm, direction.source
        if of == "U-Net in-site":
            yield arm, direction.source
        elif of in ("U-Net alone", "control"):
            yield arm, direction.source
            yield arm, direction.target
        else:
            yield arm, direction.target


def _train_extra(
    stage: Stage, chosen: Sequence[str], states: Mapping[str, tuple[Scheme, RunState]], progress: Progress
) -> dict[str, Path]:
    """Train the segmenters that no federation makes: the upper bound, and the paper's exchange between two alone."""
    folders = {}
    for arm in EXTRA:
        if arm in map(unrefined, chosen):
            progress.stage(f"{stage.where}: {arm}", _segment_units(stage))
            folders[arm] = train(stage, pairs_of(arm, stage, states), arm, progress)
    return folders


def pairs_of(arm: str, stage: Stage, states: Mapping[str, tuple[Scheme, RunState]]) -> Pairs:
    """Give the pairs that an arm of `EXTRA` learns from; "U-Net alone" needs the states of both federations of one."""
    if arm == "control":
        atlas, labels = stage.atlas.image.to(stage.device), stage.atlas.labels.to(stage.device)
        return control_pairs(atlas, labels, stage.experiment.grid.spacing)
    if arm == "U-Net alone":
        return arms.alone_pairs(stage, states[schemes.ALONE_SOURCE][1], states[schemes.ALONE_TARGET][1])
    site = stage.direction.source if arm == "supervised across" else stage.direction.target
    return arms.supervised_pairs(stage, site)


def train(stage: Stage, pairs: Pairs, arm: str, progress: Progress) -> Path:
    """Train the segmenter of an arm that no federation makes; give its folder."""
    folder = stage.folder / "segmenters" / stage.direction.name / arm.replace(" ", "-")
    experiment = extra_experiment(stage.experiment, arm)
    unit = _segment_units(stage) / (experiment.phases.segment.rounds * experiment.phases.segment.steps)
    watch: Watch = lambda step, loss: progress.advance(step * unit, loss=loss)  # noqa: E731
    segmenters.train_segmenter(experiment, pairs, arm, folder, stage.device, watch)
    return folder


def extra_experiment(experiment: Experiment, arm: str) -> Experiment:
    """Give the preset by which a segmenter without a federation is trained: as many steps, the site's counted in."""
    segment, adapt = experiment.phases.segment, experiment.phases.adapt
    segment = replace(segment, steps=segment.steps + adapt.rounds * adapt.steps // segment.rounds)
    settings = replace(experiment.segmenter, normalise="zscore", augment="space")
    return replace(
        experiment,
        phases=replace(experiment.phases, segment=segment),
        segmenter=settings if arm == "control" else experiment.segmenter,
    )


def alone(experiment: Experiment) -> Experiment:
    """Give the preset by which a segmenter's word stands as it is; arms that are called refined have it corrected."""
    return replace(experiment, segmenter=replace(experiment.segmenter, likelihood=0.0))


def _differs(arm: str, experiment: Experiment) -> bool:
    """Whether the preset refines what a refined arm is about; otherwise it would be the arm without."""
    if arm.endswith(WITH_F):
        return True
    if arm == "F refined":
        return bool(experiment.registration.likelihood or experiment.registration.mirror)
    return arm == unrefined(arm) or bool(experiment.segmenter.likelihood)


@dataclass(frozen=True)
class Bench:
    """Tests the arms of one direction, each once: a score that is on disk is not worked out again."""

    stage: Stage
    states: Mapping[str, tuple[Scheme, RunState]]
    extra: Mapping[str, Path]

    def test(self, arm: str, site: str) -> Tested:
        """Test an arm at a site."""
        name = f"{arm.replace('/', '').replace(' ', '-')}-at-{site}"
        path = self.stage.folder / "tested" / self.stage.direction.name / f"{name}.json"
        shown = path.with_suffix(".safetensors")
        if path.exists():
            return Tested(_score(json.loads(path.read_text(encoding="utf-8"))), weights.load(shown)["labels"])
        tested = arms.test(self.stage, arm, site, self.predict(arm, site))
        weights.save({"labels": tested.shown}, shown)
        write_json(asdict(tested.score), path)
        return tested

    def pairs(self) -> list[PairsPoint]:
        """Test the adapted segmenter after each of its rounds."""
        scheme, _ = self.states[schemes.FEDERATED]
        path = self.stage.folder / "tested" / self.stage.direction.name / "by-pairs.json"
        if not path.exists():
            folder = arms.last_segmenter(self.stage, scheme, self.stage.direction.target).parent
            found = arms.by_pairs(self.stage, "U-Net w/ adaptation", folder, alone(scheme.experiment))
            write_json([asdict(point) for point in found], path)
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [PairsPoint(**{**row, "scans": tuple(row["scans"])}) for row in rows]

    def predict(self, arm: str, site: str) -> arms.Predict:
        """Give what an arm says of a scan of a site."""
        if arm == "affine":
            return arms.affine(self.stage)
        of = unrefined(arm)
        if of in ("T", "F", "F w/o appearance"):
            scheme, state = self.states[schemes.PLAIN if "w/o" in arm else schemes.FEDERATED]
            return arms.registration(self.stage, state, arm, site, scheme.experiment)
        experiment = extra_experiment(self.stage.experiment, of)
        if arm.endswith(WITH_F):
            return arms.together(self.stage, self.states[schemes.FEDERATED][1], self.segmenter(of, site), site)
        return arms.unet(self.stage, self.segmenter(of, site), alone(experiment) if of == arm else experiment)

    def segmenter(self, arm: str, site: str) -> Path:
        """Give the file of an arm's segmenter."""
        source, target = self.stage.direction.source, self.stage.direction.target
        if arm in EXTRA and (arm != "U-Net alone" or site == target):
            return segmenters.rounds(self.extra[arm])[-1]
        scheme_name, style = {
            "U-Net w/o adaptation": (schemes.FEDERATED, source),
            "U-Net in-site": (schemes.FEDERATED, source),
            "U-Net w/ adaptation": (schemes.FEDERATED, target),
            "U-Net federated": (schemes.FEDERATED, target),
            "U-Net w/ adaptation (statistics)": (schemes.STATISTICS, target),
            "U-Net alone": (schemes.ALONE_SOURCE, source),
            "U-Net pooled": (schemes.POOLED, POOLED),
        }[arm]
        return arms.last_segmenter(self.stage, self.states[scheme_name][0], style)


def _score(row: Mapping[str, object]) -> ArmScore:
    scans = tuple(ScanScore(**scan) for scan in row["scans"])  # type: ignore[attr-defined]
    return ArmScore(str(row["arm"]), str(row["source"]), str(row["target"]), scans)


def _spent(folder: Path, now: float) -> float:
    """Add this call's seconds to those of earlier calls of the same run."""
    path = folder / "seconds.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else 0.0
    write_json(before + now, path)
    return float(before + now)


def _run(options: Options, experiment: Experiment, started: datetime, seconds: float) -> dict[str, str]:
    return {
        "preset": experiment.name,
        "data": options.data or ", ".join(name for name, _ in options.sites),
        "seed": str(experiment.seed),
        "engine": options.engine,
        "device": str(choose(options.device)),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "started": started.isoformat(timespec="seconds"),
        "seconds": f"{seconds:.0f}",
        "peak_memory": str(_peak_memory()),
        "version": _version(),
        "commit": _commit(),
        "grid": f"{' x '.join(map(str, experiment.grid.shape))} at {experiment.grid.spacing} mm",
    }


def _peak_memory() -> int:
    """Give the peak memory of this process in bytes, 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _version() -> str:
    try:
        return version("sst-federation")
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    here = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()
