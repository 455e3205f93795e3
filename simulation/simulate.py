"""The simulated federation of sites, each one's atlas in turn, all arms: what `sst simulate` and `sst demo` run.

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
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from configs import levels
from configs.errors import RunError
from configs.phases import phase_of
from configs.schema import Experiment, from_dict, load
from server import bounds
from server.atlas import load_atlases
from simulation import pictures, schemes
from simulation.arms import ARMS, Arm
from simulation.arms.arm import FEDERATED
from simulation.atlases import Chosen, bring, choose, no_atlas, splits_of
from simulation.bench import Bench, Tested, without_federation
from simulation.measured import PairsPoint, Resemblance, Results
from simulation.panels import PICTURES, Panel, save_panels
from simulation.progress import Progress
from simulation.records import crossings, curves, set_aside, traffic
from simulation.report import write_report
from simulation.results import write
from simulation.schemes import Roles
from simulation.stage import TEST, Stage, federate, forget_brains, planned, prepare
from sst_models.training.device import choose as choose_device
from sst_models.training.memory import keep_freed_on
from sst_models.wire.files import write_json


@dataclass(frozen=True)
class Options:
    """What the user asked for, already checked word by word."""

    preset: str
    sites: tuple[tuple[str, Path], ...]
    out: Path
    engine: str
    arms: tuple[str, ...]
    splits: Path | None
    seed: int | None
    device: str
    style: str | None = None
    changes: tuple[str, ...] = ()  # of the preset, as `configs.schema.load` takes them
    bias: bool = True  # the sites take their scanners' bias fields out
    data: str = ""  # what kind of data it is, for the report
    levels: Mapping[str, str] = field(default_factory=dict)  # site -> level of sharing; one that is not here shares all
    epsilon: float = math.inf  # of the sites' statistics; inf adds no noise
    atlases: tuple[tuple[str, str], ...] = ()  # site and scan, "": the usual one; none: one of each site in turn
    unseen: tuple[str, ...] = ()  # sites that take no part, and are tested as hospitals that come later


def simulate(options: Options, progress: Progress) -> Results:
    """Run or continue a simulation; write results.json, the CSV files, pictures and report.html into its folder.

    Raises:
        SstError: what the user gave cannot be used, or the folder holds another run.
    """
    began, started = time.monotonic(), datetime.now(UTC)
    experiment = experiment_of(options)
    keep_freed_on(experiment.grid.shape)
    options = replace(options, arms=tuple(arm for arm in options.arms if ARMS[arm].applies(experiment)))
    claim(options, experiment)
    stages = set_up(options, experiment, progress)
    _announce(stages, options.arms, progress)
    with _timed(options.out, "prepare"):
        prepare_all(stages, progress)
    found = [_run_arms(stage, options.arms, progress) for stage in stages]
    spent = _spent(options.out, TOTAL, time.monotonic() - began)
    scores = [tested.score for one in found for tested in one.tested]
    results = Results(
        run=_run(options, experiment, started, spent[TOTAL]),
        scores=tuple(score for score in scores if not score.against),
        agreements=tuple(score for score in scores if score.against),
        crossings=tuple(item for stage in stages for item in crossings(stage, options.arms)),
        curves=tuple(curve for stage in stages for curve in curves(stage, options.arms)),
        traffic=tuple(item for stage in stages for item in traffic(stage, options.arms)),
        pairs=tuple(point for one in found for point in one.pairs),
        set_aside=set_aside(stages),
        resemblance=tuple(item for one in found for item in one.resemblance),
        timings=spent,
        label_table=experiment.label_table,
    )
    panels = [panel for one in found for panel in one.panels]
    write(results, options.out)
    save_panels(panels, options.out / PICTURES)
    write_report(results, panels, options.out)
    return results


def experiment_of(options: Options) -> Experiment:
    """Read the preset and apply what the command line overrides.

    Raises:
        ConfigError: the preset cannot be read.
        FederationError: it wants a trimmed mean, for which these sites are too few.
    """
    experiment = load(options.preset, options.changes)
    if options.seed is not None:
        experiment = replace(experiment, seed=options.seed)
    if options.style == "moments":
        experiment = replace(experiment, generation=replace(experiment.generation, styles="moments"))
    if options.style is not None:
        federation = replace(experiment.federation, style=options.style)  # type: ignore[arg-type]
        experiment = replace(experiment, federation=federation)
    bounds.least(experiment, len(options.sites) - len(options.unseen))
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
        "atlas": _asked_atlas(options.atlases),
        "unseen": list(options.unseen),
        "splits": str(options.splits.resolve()) if options.splits else "",
        "bias": options.bias,
        "levels": dict(options.levels),
        "epsilon": str(options.epsilon),
    }
    if path.exists():
        usual = {"bias": True, "levels": {}, "epsilon": str(math.inf)}  # of runs before these could be chosen
        kept = usual | json.loads(path.read_text(encoding="utf-8"))
        if "unseen" not in kept:
            raise RunError(f"{options.out} holds a run of an older version; choose another --out")
        # A run of an older version names the key that is called otherwise now.
        kept["experiment"] = json.loads(from_dict(kept["experiment"], str(path)).to_json())
        odd = [key for key in asked if kept.get(key) != asked[key]]
        if odd:
            raise RunError(f"{options.out} holds another run (its {odd[0]} differs); choose another --out")
        return
    strange = [item.name for item in options.out.glob("*") if item.name != "sites"] if options.out.exists() else []
    if strange:
        raise RunError(f"{options.out} is not empty and holds no run ('{strange[0]}'); choose another --out")
    write_json(asked, path)


def _asked_atlas(atlases: Sequence[tuple[str, str]]) -> dict[str, str] | list[list[str]]:
    """Give what a run's folder belongs to: a site alone may be followed by others in turn."""
    if len(atlases) > 1:
        return [list(item) for item in atlases]
    return {site: case for site, case in atlases if case}


def set_up(options: Options, experiment: Experiment, progress: Progress) -> list[Stage]:
    """Choose atlas and split of each site, and make a stage for each atlas, or one for those that are wanted.

    Raises:
        DataError: no atlas can be made of the scans of the site that is to have it, or of any site.
    """
    device, data, grid = choose_device(options.device), dict(options.sites), experiment.grid
    wanted = list(dict.fromkeys(site for site, _ in options.atlases))
    chosen: dict[str, Chosen] = {}
    splits: dict[str, Mapping[str, str]] = {}
    for name, folder in data.items():
        named = [case for site, case in options.atlases if site == name] or [""]
        found = choose(name, folder, experiment, options.splits, named)
        if found is None:
            splits[name] = splits_of(name, folder, experiment, options.splits)
            continue
        splits[name] = found.splits  # whose atlas it is changes nobody's split
        if name not in options.unseen and (not wanted or name in wanted):
            chosen[name] = found
            progress.note(f"atlas of {name}: {found.cases}")
    for name in wanted:
        if name not in chosen:
            raise no_atlas(f"site '{name}'")
    if not chosen:
        raise no_atlas("any site")
    members = [name for name in data if name not in options.unseen]
    stages = []
    for source in wanted[:1] or chosen:
        roles = Roles(source, tuple(name for name in members if name != source), options.unseen)
        files = [pair for name in wanted or [source] for pair in chosen[name].files]
        atlas = load_atlases(files, grid.shape, grid.spacing, grid.label_oversampling, bring, table=experiment.table)
        how = (options.engine, device, options.bias, options.levels, options.epsilon)
        stage = Stage(options.out, roles, experiment, atlas, data, *how)
        stage.split(splits)
        stages.append(stage)
    return stages


PREPARE = 400.0
"""Work units of preparing all scans, on the scale of the costs in `configs.phases`: 5 s a scan for some fifty scans."""


def _announce(stages: Sequence[Stage], chosen: Sequence[str], progress: Progress) -> None:
    plan = {"prepare": PREPARE}
    for stage in stages:
        for scheme in schemes.schemes_for(map(ARMS.__getitem__, chosen), stage.roles, stage.experiment):
            plan |= {item.name: item.units for item in planned(stage, scheme) if item.units}
        for arm in _extra(chosen):
            tested = stage.roles.of(*arm.tested)
            learns = [site for site in tested if not arm.needs or site != stage.roles.source]  # as `Bench.owners`
            for site in learns if arm.by_site else [""]:
                plan[_training(stage, arm, site)] = _segment_units(stage)
        plan[f"{stage.where}: test"] = TEST * sum(len(stage.roles.of(*ARMS[name].tested)) for name in chosen)
    progress.plan(plan)


def _segment_units(stage: Stage) -> float:
    phase = without_federation(stage.experiment, ARMS["supervised"]).phases.segment
    return phase_of("segment").cost * phase.rounds * phase.steps * phase.batch


def _extra(chosen: Sequence[str]) -> list[Arm]:
    """List the arms that learn what no federation makes: those that are chosen, or that a chosen one refines."""
    wanted = {ARMS[name].trained_as.name for name in chosen}
    return [arm for arm in ARMS.values() if arm.name in wanted and arm.trains]


def prepare_all(stages: Sequence[Stage], progress: Progress) -> None:
    """Prepare all sites' scans for each atlas, several sites in processes of their own, with the client's own code.

    Raises:
        DataError: no scan of a site can be used.
    """
    sites, done = list(stages[0].data), 0
    progress.stage("prepare", PREPARE)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(len(sites), torch.get_num_threads()), mp_context=spawn) as pool:
        # A site's scans for one atlas after the other: each after the first finds their brains.
        more = len(stages) > 1
        running = {pool.submit(prepare, stages[0], site, keep=more): (site, 0) for site in sites}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                site, number = running.pop(future)
                future.result()
                if number + 1 < len(stages):
                    running[pool.submit(prepare, stages[number + 1], site, keep=True)] = (site, number + 1)
                else:
                    forget_brains(stages[0], site)
                done += 1
                progress.advance(PREPARE * done / (len(sites) * len(stages)), site=site)
    for site in sites:
        for file, reason in stages[0].set_aside(site):
            progress.note(f"set aside at {site}: {file}: {reason}")
        for note in stages[0].notes(site):
            progress.note(f"at {site}: {note}")


@dataclass(frozen=True)
class _Found:
    """What arms with one atlas gave."""

    tested: list[Tested]
    pairs: list[PairsPoint]
    panels: list[Panel]
    resemblance: list[Resemblance]


PICTURED = 10
"""Sites of which a report has pictures, with each atlas: a page of hundreds of sites would hold nothing else."""


def _run_arms(stage: Stage, chosen: Sequence[str], progress: Progress) -> _Found:
    """Run the federations with an atlas, train what no federation makes, then test the arms."""
    wanted = schemes.schemes_for(map(ARMS.__getitem__, chosen), stage.roles, stage.experiment)
    states = {}
    for scheme in wanted:
        with _timed(stage.folder, f"{stage.where}, {scheme.name}"):
            states[scheme.name] = (scheme, federate(stage, scheme, progress))
    bench = Bench(stage, states)
    for arm in _extra(chosen):
        for site in bench.owners(arm):
            with _timed(stage.folder, _training(stage, arm, site)):
                train(bench, arm, site, progress)
    tested = _test(bench, [(ARMS[name], site) for name in chosen for site in bench.sites(ARMS[name])], progress)
    adapted = ARMS["U-Net w/ adaptation"]
    sites = [one.score.target for one in tested if one.score.arm == adapted.name and not one.score.against]
    pairs = [point for site in sites for point in bench.by_pairs(adapted, site)]
    found = _Found(tested, pairs, [], [])
    pictured = stage.roles.targets[:PICTURED]
    for site in (*pictured, *stage.roles.unseen[:PICTURED], stage.roles.source):
        shown = {one.score.arm: one.shown for one in tested if one.score.target == site}
        found.panels.extend(pictures.predictions(stage, site, shown) if shown else [])
    for site in pictured if FEDERATED in bench.states else ():
        made = pictures.generator(stage, bench.state(FEDERATED), site)
        found.panels.extend(pictures.generated(stage, made, site))
        found.resemblance.extend(filter(None, [pictures.resemblance(stage, made, site)]))
    return found


def _test(bench: Bench, tests: Sequence[tuple[Arm, str]], progress: Progress) -> list[Tested]:
    """Test arms at sites, with their stage on the display."""
    tested: list[Tested] = []
    progress.stage(f"{bench.stage.where}: test", TEST * len(tests))
    for arm, site in tests:
        progress.advance(TEST * len(tested), arm=arm.name, site=site)
        tested.append(bench.test(arm, site))
    return tested


def _training(stage: Stage, arm: Arm, site: str) -> str:
    """Give the name on the display of training what no federation makes."""
    return f"{stage.where}: {arm.name}" + (f" at {site}" if site else "")


def train(bench: Bench, arm: Arm, site: str, progress: Progress) -> None:
    """Train what an arm learns and no federation makes, with its stage on the display."""
    units = _segment_units(bench.stage)
    segment = without_federation(bench.experiment, arm).phases.segment
    unit = units / (segment.rounds * segment.steps)
    progress.stage(_training(bench.stage, arm, site), units)
    bench.train(arm, site, lambda step, loss: progress.advance(step * unit, loss=loss))


TOTAL = "total"


def _spent(folder: Path, what: str, now: float) -> dict[str, float]:
    """Add seconds to those that earlier calls of the same run spent on something; give what was spent on each."""
    path = folder / "seconds.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = before if isinstance(before, dict) else {TOTAL: before}  # runs of before knew their total alone
    known[what] = known.get(what, 0.0) + now
    write_json(known, path)
    return dict(known)


@contextmanager
def _timed(folder: Path, what: str) -> Iterator[None]:
    """Count the seconds of a part of the run, also of one that is stopped."""
    began = time.monotonic()
    try:
        yield
    finally:
        _spent(folder, what, time.monotonic() - began)


def _run(options: Options, experiment: Experiment, started: datetime, seconds: float) -> dict[str, str]:
    return {
        "preset": experiment.name,
        "data": options.data or ", ".join(name for name, _ in options.sites),
        "seed": str(experiment.seed),
        "engine": options.engine,
        "levels": ", ".join(f"{name}: {options.levels.get(name, levels.MODELS)}" for name, _ in options.sites),
        "epsilon": f"{options.epsilon:g}",
        "device": str(choose_device(options.device)),
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
