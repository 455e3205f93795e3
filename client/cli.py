"""The commands of a site: `sst prepare`, `sst segment`, `sst generate`, `sst evaluate`.

What the user typed is checked before anything heavy is imported.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from client.preparation import Preparation, Stripping
from configs.errors import ConfigError, DataError, RunError

app = typer.Typer()

Sources = Annotated[
    list[Path],
    typer.Argument(metavar="SCANS...", help="Files, folders (BIDS, or any NIfTI files), or tables of files (.csv)."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")]
ModelFolder = Annotated[Path, typer.Option("--model", metavar="MODEL", help="The folder of a model.")]
Mask = Annotated[
    str,
    typer.Option(metavar="PATTERN", help="Brain masks, from a scan's folder: e.g. '{stem}_mask.nii.gz'."),
]
Strip = Annotated[
    str, typer.Option(metavar="COMMAND", help="A stripper, e.g. 'mri_synthstrip -i {in} -o {out} -m {mask}'.")
]
Bias = Annotated[bool, typer.Option(help="Take the scanner's bias field out (N4), as in training.")]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]

Watch = Callable[[int, int], None]


@app.command("prepare")
def prepare_command(
    sources: Sources,
    atlas: Annotated[
        Path, typer.Option(metavar="ATLAS", help="A model, a run's folder with its atlas, or a stripped scan.")
    ],
    out: Out,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose grid to use where the atlas is a scan.")
    ] = None,
    report: Annotated[bool, typer.Option(help="Write check.html: each scan with the atlas's outline over it.")] = False,
    mask_pattern: Mask = "",
    strip: Strip = "",
    bias: Bias = True,
    jobs: Annotated[int, typer.Option(min=0, metavar="N", help="Scans at a time; 0: one a core.")] = 0,
) -> None:
    """Bring scans to the atlas, as a federation would, and check them by eye before it does."""
    _check_sources(sources)
    _check_exists(atlas, "--atlas")
    how = Preparation(bias, mask_pattern, Stripping(strip), jobs or os.cpu_count() or 1)

    from client.check import write_check
    from client.frames import frame_of
    from client.prepare import prepare_site, store_of

    frame = frame_of(atlas, preset)
    _writable(out)
    with _progress("prepare") as watch:
        prepared = prepare_site(sources, frame, store_of(out, frame), watch, how)
    for item in prepared.set_aside:
        typer.echo(f"set aside: {item.reason}", err=True)
    typer.echo(f"{len(prepared.cases)} scans prepared, {len(prepared.set_aside)} set aside: {store_of(out, frame)}")
    if report:
        rows = write_check(prepared, frame, out / "check.html")
        lights = ", ".join(f"{sum(row.light == light for row in rows)} {light}" for light in ("red", "yellow", "green"))
        typer.echo(f"{lights}: {out / 'check.html'}")


@app.command("segment")
def segment_command(
    sources: Sources,
    model: ModelFolder,
    out: Out,
    mask_pattern: Mask = "",
    strip: Strip = "",
    bias: Bias = True,
    largest: Annotated[bool, typer.Option(help="Keep only the largest piece of each structure.")] = False,
    device: Device = "auto",
) -> None:
    """Segment scans: a label map on each scan's own voxels, volumes in ml, an overlay to look at."""
    _check_sources(sources)
    how = Preparation(bias, mask_pattern, Stripping(strip))
    _check_device(device)

    from client.model import open_model
    from client.segment import scans_at, segment_all
    from sst_models.training.device import choose, keep_freed

    keep_freed()
    opened = open_model(model)
    scans = scans_at(sources, mask_pattern)
    _writable(out)
    with _progress("segment") as watch:
        done, aside = segment_all(scans, opened, out, how, choose(device), largest=largest, watch=watch)
    for one in done:
        for concern in one.concerns:
            typer.echo(f"look at {one.scan.case}: {concern}", err=True)
    for item in aside:
        typer.echo(f"set aside: {item.reason}", err=True)
    if not done:
        raise DataError(f"none of {len(scans)} scans could be segmented; the first: {aside[0].reason}")
    typer.echo(f"{len(done)} scans segmented, {len(aside)} set aside: {out}")


@app.command("generate")
def generate_command(
    model: ModelFolder,
    out: Out,
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="How many pairs.")] = 200,
    layout: Annotated[str, typer.Option(metavar="nifti|bids|nnunet", help="How the folder is laid out.")] = "nifti",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all draws.")] = 1,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make the one pair of this recipe again instead.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Make labelled pairs in the style of a site's scanner, to train a network of your own."""
    if layout not in ("nifti", "bids", "nnunet"):
        raise ConfigError(f"--layout: '{layout}' is none of nifti, bids, nnunet")
    _check_device(device)

    from client.generate import again, generate
    from client.model import open_model
    from sst_models.training.device import choose

    opened = open_model(model)
    _writable(out)
    if recipe is not None:
        image, labels = again(recipe, opened, out, choose(device))
        typer.echo(f"{image}\n{labels}")
        return
    with _progress("generate") as watch:
        generate(opened, count, out, layout, seed=seed, device=choose(device), watch=watch)
    typer.echo(f"{count} pairs: {out}")


@app.command("evaluate")
def evaluate_command(
    found: Annotated[Path, typer.Argument(metavar="FOUND", help="A label map, or a folder of them.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="What they should be.")],
    out: Out,
) -> None:
    """Compare label maps with a reference: Dice, surface distances and volumes, by structure and by group."""
    for path in (found, reference):
        if not path.exists():
            raise DataError(f"there is no {path}; give a label map or a folder of them")

    from client.evaluate import GROUP, evaluate_folder
    from configs.structures import GROUPS

    _writable(out)
    with _progress("evaluate") as watch:
        done, left = evaluate_folder(found, reference, out, watch)
    for line in left:
        typer.echo(f"left out: {line}", err=True)
    names = [GROUP + group for group in GROUPS]
    means = [agreement.mean(names, "dice") for agreement in done]
    typer.echo(f"mean Dice over {len(done)} scans: {100 * sum(means) / len(means):.1f} %: {out / 'evaluation.csv'}")


@contextmanager
def _progress(what: str) -> Iterator[Watch]:
    """Show how far a command is, and how long it will take; on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _check_sources(sources: list[Path]) -> None:
    for path in sources:
        if not path.exists():
            raise DataError(f"there is no {path}; give files, folders, or tables of files")


def _check_exists(path: Path, option: str) -> None:
    if not path.exists():
        raise DataError(f"{option}: there is no {path}")


def _check_device(device: str) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device: '{device}' is none of auto, cpu, cuda")


def _writable(folder: Path) -> None:
    """Make the folder, or say at once that it cannot be written: not after an hour's work."""
    probe = folder / f".sst-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; give another folder") from error
