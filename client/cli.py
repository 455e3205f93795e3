"""The commands of a site: `sst prepare`, `sst segment`, `sst generate`, `sst export`, `sst evaluate`.

Each prints what a function of `client.api` did, which checks what the user typed before anything heavy is imported.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client import api
from configs.structures import LABEL_TABLE
from sst_models.training.memory import keep_freed

if TYPE_CHECKING:
    from client.prepare import SetAside

app = typer.Typer()

Sources = Annotated[
    list[Path],
    typer.Argument(metavar="SCANS...", help="Files, folders (BIDS, NIfTI, DICOM), or tables of files (.csv)."),
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where to write.")]
ModelFolder = Annotated[
    Path, typer.Option("--model", metavar="MODEL", help="A model's folder, or that of a run or site that holds one.")
]
Mask = Annotated[
    str,
    typer.Option(metavar="PATTERN", help="Brain masks, from a scan's folder: e.g. '{stem}_mask.nii.gz'."),
]
Strip = Annotated[
    str,
    typer.Option(
        metavar="COMMAND",
        help="For whole heads: deepbet, or a stripper's command, e.g. 'mri_synthstrip -i {in} -m {mask}'.",
    ),
]
Bias = Annotated[bool, typer.Option(help="Take the scanner's bias field out (N4), as in training.")]
Series = Annotated[
    int | None,
    typer.Option("--series", metavar="N", help="Of DICOM: number of the series to take, not the T1 by its tags."),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where to compute.")]


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
    series: Series = None,
    jobs: Annotated[int, typer.Option(min=0, metavar="N", help="Scans at a time; 0: one a core.")] = 0,
    label_table: Annotated[Path | None, typer.Option(metavar="FILE", help=LABEL_TABLE)] = None,
) -> None:
    """Bring scans to the atlas, as a federation would, and check them by eye before it does."""
    with _progress("prepare") as watch:
        done = api.prepare(
            sources,
            atlas,
            out,
            preset=preset,
            report=report,
            mask_pattern=mask_pattern,
            skull_stripping=strip,
            bias_correction=bias,
            series=series,
            jobs=jobs,
            label_table=label_table,
            progress=watch,
        )
    _show_set_aside(done.set_aside, done.notes)
    typer.echo(f"{len(done.scans)} scans prepared, {len(done.set_aside)} set aside: {done.folder}")
    if done.report is not None:
        found = [row.light for row in done.checks]
        lights = ", ".join(f"{found.count(light)} {light}" for light in ("red", "yellow", "green"))
        typer.echo(f"{lights}: {done.report}")


@app.command("segment")
def segment_command(
    sources: Sources,
    model: ModelFolder,
    out: Out,
    mask_pattern: Mask = "",
    strip: Strip = "",
    bias: Bias = True,
    series: Series = None,
    largest: Annotated[bool, typer.Option(help="Keep only the largest piece of each structure.")] = False,
    device: Device = "auto",
) -> None:
    """Segment scans: a label map on each scan's own voxels, volumes in ml, an overlay to look at."""
    keep_freed()
    with _progress("segment") as watch:
        done = api.segment(
            sources,
            model,
            out,
            mask_pattern=mask_pattern,
            skull_stripping=strip,
            bias_correction=bias,
            series=series,
            largest_component=largest,
            device=device,
            progress=watch,
        )
    for one in done.scans:
        for concern in one.concerns:
            what = "do not use" if one.judgement.light == "red" else "look at"
            typer.echo(f"{what} {one.case}: {concern}", err=True)
    _show_set_aside(done.set_aside, done.notes)
    found = [one.judgement.light for one in done.scans]
    lights = ", ".join(f"{found.count(light)} {light}" for light in ("red", "yellow", "green"))
    typer.echo(f"{len(done.scans)} scans segmented ({lights}), {len(done.set_aside)} set aside: {done.page}")


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
    if recipe is not None:
        pair = api.regenerate(recipe, model, out, device=device)
        typer.echo(f"{pair.image}\n{pair.labels}")
        return
    with _progress("generate") as watch:
        done = api.generate(model, out, count=count, layout=layout, seed=seed, device=device, progress=watch)
    typer.echo(f"{len(done.pairs)} pairs: {done.folder}")


@app.command("export")
def export_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model's folder, or that of a run or site that holds one.")
    ],
    to: Annotated[str, typer.Option(metavar="monai-bundle|torchscript|onnx", help="For which software.")],
    out: Out,
    with_atlas: Annotated[
        bool, typer.Option("--with-atlas", help="Add the atlas's image, a person's scan: only if it may be passed on.")
    ] = False,
) -> None:
    """Write a model's network for other software: prepared scans in, probabilities out, with a model card.

    Its labels are not those of `sst segment`; README.md says what is left out.
    """
    done = api.export(model, out, to=to, with_atlas=with_atlas)
    off = done.checked
    typer.echo(f"{len(done.files)} files: {done.folder}; what it leaves out: {done.folder / 'README.md'}")
    typer.echo(f"on the atlas, as the model but for {off.difference:.0e}; {off.differing} voxels have another label")


@app.command("evaluate")
def evaluate_command(
    found: Annotated[Path, typer.Argument(metavar="FOUND", help="A label map, or a folder of them.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="What they should be.")],
    out: Out,
    label_table: Annotated[Path | None, typer.Option(metavar="FILE", help=LABEL_TABLE)] = None,
) -> None:
    """Compare label maps with a reference: Dice, surface distances and volumes, by structure and by group."""
    with _progress("evaluate") as watch:
        done = api.evaluate(found, reference, out, label_table=label_table, progress=watch)
    for line in done.left_out:
        typer.echo(f"left out: {line}", err=True)
    typer.echo(f"mean Dice over {len(done.scans)} scans: {100 * done.mean_dice:.1f} %: {done.table}")


@contextmanager
def _progress(what: str) -> Iterator[api.Watch]:
    """Show how far a command is, and how long it will take; on a terminal only."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of)


def _show_set_aside(aside: "Sequence[SetAside]", notes: Sequence[str]) -> None:
    for item in aside:
        typer.echo(f"set aside: {item.reason}", err=True)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
