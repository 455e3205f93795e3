"""The commands of the simulation: `sst simulate` on sites that you have, `sst demo` on two that it makes.

Everything that the user typed is checked here, before anything heavy is imported and any training starts.
"""

import difflib
import math
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.api import DEVICES
from client.cli import Device
from configs.console import PRESET, Json, Output, Quiet, complete_preset, example, one_of
from configs.errors import ConfigError, DataError, RunError
from configs.levels import LEVELS, MODELS
from configs.structures import LABEL_TABLE, change_of
from simulation.arms import ARMS, BASELINES, Arm
from simulation.engines import ENGINES, check_engine
from simulation.measured import Results

if TYPE_CHECKING:  # torch and all that: imported only when a run begins, so that --help is quick
    from configs import schema
    from simulation.progress import Progress

STYLES = ("weights", "moments")

CORE_ARMS = (
    "affine", "T", "F", "F refined", "U-Net w/o adaptation", "U-Net w/ adaptation",
    "U-Net w/o adaptation refined", "U-Net w/ adaptation refined",
    "U-Net w/ adaptation and F",
)  # fmt: skip
LATE_ARMS = ("U-Net common", "U-Net common and F")  # core, too, where a site comes later
DEMO_ARMS = ("affine", "F", "U-Net w/o adaptation", "U-Net w/ adaptation", "supervised")
DEMO_SPLIT = {"train": 9, "val": 1, "test": 16}  # people a site; one of those who train becomes the atlas
MANY_SPLIT = {"train": 2, "val": 1, "test": 2}  # of a demo of more sites than two; the first has one more for the atlas
MOST_DEMO_SITES = 1000
DEMO_SPACING = 3.0  # mm at which they are drawn: the demo's grid is coarse, and finer ones would take minutes

app = typer.Typer()

Preset = Annotated[str, typer.Option(metavar="NAME", help=PRESET, autocompletion=complete_preset)]
Out = Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run; the same command goes on where it stopped.")]
Engine = Annotated[
    str,
    typer.Option(
        metavar="NAME", help=f"What carries the messages: {', '.join(ENGINES)}.", autocompletion=one_of(ENGINES)
    ),
]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Seed, instead of the preset's.")]
Style = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(STYLES),
        help="How style reaches the hub, instead of the preset's way.",
        autocompletion=one_of(STYLES),
    ),
]

Watch = Annotated[bool, typer.Option("--watch", help="Show a live page of the run, for this machine's browsers alone.")]
WatchPort = Annotated[
    int, typer.Option(metavar="PORT", min=0, max=65535, help="Of the page of --watch; 0: any that is free.")
]


def complete_site(context: typer.Context, incomplete: str) -> list[str]:
    """Give the sites that were named so far, for options that name one."""
    named = [word.partition("=")[0] for word in context.params.get("site") or ()]
    return [name for name in named if name.startswith(incomplete)]


@app.command(
    "simulate",
    epilog=example(
        "sst simulate --preset real-cpu \\", "  --site oasis=/data/oasis --site ixi=/data/ixi --out runs/mine"
    ),
)
def simulate_command(
    preset: Preset,
    site: Annotated[list[str], typer.Option(metavar="NAME=DIR", help="A site and its folder of scans; two or more.")],
    out: Out,
    engine: Engine = "inprocess",
    arms: Annotated[
        str,
        typer.Option(
            metavar="ARM,ARM",
            help=f"What to compare: core, baselines, all, or some of these: {', '.join(ARMS)}.",
            autocompletion=one_of(("core", "baselines", "all")),
        ),
    ] = "core",
    atlas: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE[=CASE]",
            help="The site, and its labelled scan, that is the atlas, or one of several; without it, each in turn.",
            autocompletion=complete_site,
        ),
    ] = None,
    unseen: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SITE",
            help="A site that takes no part, and is tested as a hospital that comes later.",
            autocompletion=complete_site,
        ),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A splits.tsv, instead of a split by person.")
    ] = None,
    seed: Seed = None,
    device: Device = "auto",
    style: Style = None,
    label_table: Annotated[Path | None, typer.Option(metavar="FILE", help=LABEL_TABLE)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting instead of the preset's: style.code=8."),
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LEVEL|SITE=LEVEL",
            help=f"How much the sites, or one, share: {', '.join(LEVELS)} (the usual).",
            autocompletion=one_of(LEVELS),
        ),
    ] = None,
    epsilon: Annotated[
        float,
        typer.Option(metavar="E", help="Noise on the sites' statistics, as in a hospital's policy; inf: none."),
    ] = math.inf,
    bias: Annotated[
        bool, typer.Option("--bias/--no-bias", help="Take the scanners' bias fields out (N4), as `sst prepare` does.")
    ] = True,
    watch: Watch = False,
    watch_port: WatchPort = 8765,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Play the federation of two or more sites on this machine, and compare what each would get."""
    sites = parse_sites(site)
    names = [name for name, _ in sites]
    late = parse_unseen(unseen or (), names)
    members = [name for name in names if name not in late]
    atlases = parse_atlases(atlas or (), members)
    chosen = parse_arms(arms, bool(late), max(1, len(atlases)))
    shared = parse_levels(level or (), members)
    check_choices(engine, device, style)
    if not epsilon > 0:
        raise ConfigError(f"--epsilon: {epsilon:g} is not above 0; give 4, for one, or inf for no noise")
    check_files(out, splits)
    changes = (*(set_ or ()), *change_of(label_table))
    check_preset(preset, changes)

    from simulation.progress import RichProgress
    from simulation.simulate import Options, simulate
    from simulation.watching import page

    options = Options(
        preset=preset,
        sites=sites,
        out=out,
        engine=engine,
        arms=chosen,
        splits=splits,
        seed=seed,
        device=device,
        style=style,
        changes=changes,
        bias=bias,
        levels=shared,
        epsilon=epsilon,
        atlases=atlases,
        unseen=late,
    )
    output = Output(json_, quiet)
    with page(out, watch_port if watch else None, output.say) as told, RichProgress(told=told, quiet=quiet) as progress:
        results = simulate(options, progress)
    _show(results, out, output)


@app.command("demo", epilog=example("sst demo --out runs/demo"))
def demo_command(
    out: Out,
    preset: Preset = "demo",
    sites: Annotated[
        int,
        typer.Option(
            metavar="N", min=2, max=MOST_DEMO_SITES, help="How many sites; of more than two the first has the atlas."
        ),
    ] = 2,
    engine: Engine = "inprocess",
    seed: Seed = None,
    device: Device = "auto",
    style: Style = None,
    watch: Watch = False,
    watch_port: WatchPort = 8765,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make sites of simulated scans, then play the federation between them."""
    check_choices(engine, device, style)
    check_files(out)
    people = check_preset(preset).seed if seed is None else seed

    from simulation.progress import RichProgress
    from simulation.simulate import Options, simulate
    from simulation.watching import page

    output = Output(json_, quiet)
    with page(out, watch_port if watch else None, output.say) as told, RichProgress(told=told, quiet=quiet) as progress:
        made, splits = write_demo_sites(out / "sites", people, progress, sites)
        options = Options(
            preset=preset,
            sites=made,
            out=out,
            engine=engine,
            arms=DEMO_ARMS,
            splits=splits,
            seed=seed,
            device=device,
            style=style,
            bias=False,  # N4 would take a third of the time, and leave less of what the scanners differ by
            data="simulated scans of simulated people",
            atlases=() if sites == 2 else ((made[0][0], ""),),
        )
        results = simulate(options, progress)
    _show(results, out, output)


def _show(results: Results, out: Path, output: Output) -> None:
    from rich.console import Console

    from client.model import SHOWN, models_in
    from simulation.table import print_table

    print_table(results, Console(stderr=output.json, quiet=output.quiet))
    report, models = out / "report.html", [(path.relative_to(out).parts[1], path) for path in models_in(out)]
    output.say(f"report: {report}")
    for site, path in models[:SHOWN]:
        output.say(f"model of {site}: {path}")
    if models:
        more = f" (of {len(models)} models the first {SHOWN} are listed)" if len(models) > SHOWN else ""
        output.say(f"to use one: sst segment SCANS --model MODEL -o DIR{more}")
    listed = [{"site": site, "model": path} for site, path in models]
    output.give({"folder": out, "report": report, "results": out / "results.json", "models": listed})


def write_demo_sites(
    folder: Path, seed: int, progress: "Progress", count: int = 2
) -> tuple[tuple[tuple[str, Path], ...], Path]:
    """Write the sites of the demo below `folder`, as far as they are not there.

    Two are called as their scanners are; more have a number each, and the two scanners in turn. Another `seed` gives
    other people at all sites, and no two seeds of one `count` share a person.

    Returns:
        Names and folders of the sites, and the table that says who trains and who is tested.
    """
    from simulation.atlases import write_splits
    from simulation.scanner import CANDI, OASIS
    from simulation.sites import write_site

    scanners = {"candi": CANDI, "oasis": OASIS}
    if count > 2:
        digits = len(str(count))
        scanners = {f"site-{number:0{digits}d}": (CANDI, OASIS)[number % 2] for number in range(1, count + 1)}
    roles = {name: _demo_roles(count, first=not place) for place, name in enumerate(scanners)}
    written: list[str] = []

    def report(person: str) -> None:
        written.append(person)
        progress.advance(len(written), person=person)

    sites = tuple((name, folder / name / "scans") for name in scanners)  # beside the state of the site, not in it
    progress.stage("make the sites", sum(map(len, roles.values())))
    splits = {}
    for number, (name, site) in enumerate(sites):
        write_site(site, scanners[name], len(roles[name]), len(sites) * seed + number, DEMO_SPACING, done=report)
        people = sorted(person.name for person in site.glob("sub-*"))
        splits[name] = dict(zip(people, roles[name], strict=True))
    write_splits(splits, folder / "splits.tsv")
    return sites, folder / "splits.tsv"


def _demo_roles(count: int, first: bool) -> list[str]:
    """List what each person of a site of the demo is for."""
    split = DEMO_SPLIT if count == 2 else MANY_SPLIT
    return ["train"] * (count > 2 and first) + [role for role, people in split.items() for _ in range(people)]


def parse_sites(words: Sequence[str]) -> tuple[tuple[str, Path], ...]:
    """Read two or more NAME=DIR.

    Raises:
        ConfigError: not NAME=DIR, a name twice, a name that is no plain word, or fewer than two sites.
        DataError: a folder that is not there or that is empty.
    """
    sites: list[tuple[str, Path]] = []
    for name, folder in _pairs(words, "--site", "NAME=DIR"):
        if not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigError(f"--site: '{name}' is no name for a site; use letters, digits, - and _")
        if name in dict(sites):
            raise ConfigError(f"--site: two sites are called '{name}'; give each its own name")
        sites.append((name, _folder(name, Path(folder))))
    if len(sites) < 2:
        raise ConfigError(f"--site: {len(sites)} given, but a federation is of two or more; give --site NAME=DIR again")
    return tuple(sites)


def parse_atlases(words: Iterable[str], sites: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read SITE or SITE=CASE of each atlas; give site and case, "" for what was not said.

    Raises:
        ConfigError: a site that does not take part, no case after the =, or a case twice.
    """
    found: list[tuple[str, str]] = []
    for word in words:
        site, equals, case = word.partition("=")
        check_choice("--atlas", site, sites)
        if equals and not case:
            raise ConfigError(f"--atlas: '{word}' is not SITE=CASE; leave the = out to have the scan chosen")
        if case and (site, case) in found:
            raise ConfigError(f"--atlas: '{word}' is there twice; name each scan once")
        found.append((site, case))
    return tuple(found)


def parse_unseen(words: Iterable[str], sites: Sequence[str]) -> tuple[str, ...]:
    """Read the names of sites that take no part, in the order in which sites were given.

    Raises:
        ConfigError: a site that there is none of, or fewer than two are left.
    """
    chosen = set()
    for word in words:
        check_choice("--unseen", word, sites)
        chosen.add(word)
    if len(sites) - len(chosen) < 2:
        raise ConfigError("--unseen: fewer than two sites are left for the federation; give more sites, or name fewer")
    return tuple(site for site in sites if site in chosen)


def parse_levels(words: Iterable[str], sites: Sequence[str]) -> dict[str, str]:
    """Read levels of sharing, LEVEL for all sites or SITE=LEVEL for one, of which the latter counts.

    Raises:
        ConfigError: no level, a site that does not take part, or two levels for the same.
    """
    given: dict[str, str] = {}
    for word in words:
        site, equals, level = word.rpartition("=")
        check_choice("--level", level, LEVELS)
        if equals:
            check_choice("--level", site, sites)
        if site in given:
            whom = f"'{site}'" if site else "all sites"
            raise ConfigError(f"--level: two levels for {whom}; give one")
        given[site] = level
    every = {site: given.get(site, given.get("", MODELS)) for site in sites}
    return {site: level for site, level in every.items() if level != MODELS}


def parse_arms(text: str, late: bool = False, atlases: int = 1) -> tuple[str, ...]:
    """Read `core`, `baselines`, `all` or names of arms, with commas, in any case; give them in the table's order.

    `all` and `baselines` have those that can run here.

    Args:
        text: what was typed.
        late: a site is kept out: `core` has what such a site would get, too.
        atlases: how many the run has.

    Raises:
        ConfigError: an arm that does not exist, with the nearest that does; one whose package is not installed; or one
            that wants more atlases.
    """
    core = (*CORE_ARMS, *LATE_ARMS) if late else CORE_ARMS
    here = tuple(name for name, arm in ARMS.items() if _is_here(arm) and arm.atlases <= atlases)
    baselines = tuple(arm.name for family in BASELINES for arm in family.ARMS if arm.name in here)
    known = {"core": core, "baselines": baselines, "all": here} | {arm: (arm,) for arm in ARMS}
    folded = {name.lower(): arms for name, arms in known.items()}
    chosen: set[str] = set()
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word.lower() not in folded:
            check_choice("--arms", word, known)
        chosen.update(folded[word.lower()])
    if not chosen:
        raise ConfigError("--arms: no arm given; give core, baselines, all, or names of arms with commas")
    for missing in (ARMS[name] for name in ARMS if name in chosen and name not in here):
        if _is_here(missing):
            raise ConfigError(
                f"--arms: '{missing.name}' needs {missing.atlases} atlases; give --atlas SITE[=CASE] again"
            )
        raise ConfigError(
            f"--arms: '{missing.name}' needs {missing.package}; pip install '.[baselines]', or leave it out"
        )
    return tuple(arm for arm in ARMS if arm in chosen)


def _is_here(arm: Arm) -> bool:
    """Say whether what an arm needs is installed."""
    try:
        return not arm.package or bool(version(arm.package))
    except PackageNotFoundError:
        return False


def check_choices(engine: str, device: str, style: str | None) -> None:
    """Check the options that are one of few words.

    Raises:
        ConfigError: a word that is none of them, with the nearest that is.
    """
    check_choice("--engine", engine, ENGINES)
    check_engine(engine)
    check_choice("--device", device, DEVICES)
    if style is not None:
        check_choice("--style", style, STYLES)


def check_choice(option: str, word: str, known: Iterable[str]) -> None:
    """Check that `word` is one of `known`.

    Raises:
        ConfigError: if not; it names the nearest and all others.
    """
    known = tuple(known)
    if word not in known:
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{option}: there is no '{word}'; did you mean '{near}'? (one of: {', '.join(known)})")


def check_preset(preset: str, changes: Sequence[str] = ()) -> "schema.Experiment":
    """Load a preset with its changes, so that one that cannot be used is refused early.

    Raises:
        ConfigError: there is none, or it has an unknown or ill-typed key.
    """
    from configs.schema import load

    return load(preset, changes)


def check_files(out: Path, splits: Path | None = None) -> None:
    """Check the paths of an output folder and of a split.

    Raises:
        RunError: the output folder is a file.
        DataError: the split is not a file.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"--out: {out} is a file; give a folder")
    if splits is not None and not splits.is_file():
        raise DataError(f"--splits: there is no file {splits}; give a .tsv file, or leave the option out")


def _pairs(words: Iterable[str], option: str, form: str) -> list[tuple[str, str]]:
    pairs = []
    for word in words:
        left, equals, right = word.partition("=")
        if not (left and equals and right):
            raise ConfigError(f"{option}: '{word}' is not {form}")
        pairs.append((left, right))
    return pairs


def _folder(site: str, folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"site '{site}': there is no folder {folder}; give the folder that holds its scans")
    if next(folder.iterdir(), None) is None:
        raise DataError(f"site '{site}': the folder {folder} is empty; give the folder that holds its scans")
    return folder
