"""The commands of a site: `sst prepare`, `sst segment`, `sst generate`, `sst export`, `sst evaluate`.

Each prints what a function of `client.api` did, which checks what the user typed before anything heavy is imported.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client import api
from configs.console import PRESET, Json, Output, Quiet, complete_preset, example, one_of
from configs.structures import LABEL_TABLE
from sst_models.training.memory import keep_freed

if TYPE_CHECKING:
    from client.display import Display
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
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda",
        help="Where to compute; auto: on a GPU if there is one.",
        autocompletion=one_of(api.DEVICES),
    ),
]


@app.command("prepare", epilog=example("sst prepare scans --atlas model -o prepared --report"))
def prepare_command(
    sources: Sources,
    atlas: Annotated[
        Path, typer.Option(metavar="ATLAS", help="A model, a run's folder with its atlas, or a stripped scan.")
    ],
    out: Out,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Whose grid to use where the atlas is a scan. {PRESET}",
            autocompletion=complete_preset,
        ),
    ] = None,
    report: Annotated[bool, typer.Option(help="Write check.html: each scan with the atlas's outline over it.")] = False,
    mask_pattern: Mask = "",
    strip: Strip = "",
    bias: Bias = True,
    series: Series = None,
    jobs: Annotated[int, typer.Option(min=0, metavar="N", help="Scans at a time; 0: one a core.")] = 0,
    label_table: Annotated[Path | None, typer.Option(metavar="FILE", help=LABEL_TABLE)] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring scans to the atlas, as a federation would, and check them by eye before it does."""
    output = Output(json_, quiet)
    with _display("prepare", quiet) as display:
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
            progress=display.progress,
            begin=display.begin,
        )
    _warn_set_aside(output, done.set_aside, done.notes)
    output.say(f"{len(done.scans)} scans prepared, {len(done.set_aside)} set aside: {done.folder}")
    if done.report is not None:
        output.say(f"{_lights([row.light for row in done.checks])}: {done.report}")
    output.give(done)


@app.command("segment", epilog=example("sst segment scans --model model -o segmented"))
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
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Segment scans: a label map on each scan's own voxels, volumes in ml, an overlay to look at."""
    keep_freed()
    output = Output(json_, quiet)
    with _display("segment", quiet) as display:
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
            progress=display.progress,
            begin=display.begin,
        )
    for one in done.scans:
        for concern in one.concerns:
            what = "do not use" if one.judgement.light == "red" else "look at"
            output.warn(f"{what} {one.case}: {concern}")
    _warn_set_aside(output, done.set_aside, done.notes)
    lights = _lights([one.judgement.light for one in done.scans])
    output.say(f"{len(done.scans)} scans segmented ({lights}), {len(done.set_aside)} set aside: {done.page}")
    output.give(done)


@app.command("generate", epilog=example("sst generate --model model -n 200 --layout nnunet -o pairs"))
def generate_command(
    model: ModelFolder,
    out: Out,
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="How many pairs.")] = 200,
    layout: Annotated[
        str,
        typer.Option(
            metavar="nifti|bids|nnunet", help="How the folder is laid out.", autocompletion=one_of(api.LAYOUTS)
        ),
    ] = "nifti",
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of all draws.")] = 1,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Make the one pair of this recipe again instead.")
    ] = None,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make labelled pairs in the style of a site's scanner, to train a network of your own."""
    output = Output(json_, quiet)
    if recipe is not None:
        pair = api.regenerate(recipe, model, out, device=device)
        output.say(str(pair.image))
        output.say(str(pair.labels))
        output.give(api.GeneratedPairs(out, (pair,)))
        return
    with _display("generate", quiet) as display:
        done = api.generate(
            model,
            out,
            count=count,
            layout=layout,
            seed=seed,
            device=device,
            progress=display.progress,
            begin=display.begin,
        )
    output.say(f"{len(done.pairs)} pairs: {done.folder}")
    output.give(done)


@app.command("export", epilog=example("sst export model --to monai-bundle -o bundle"))
def export_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A model's folder, or that of a run or site that holds one.")
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="monai-bundle|torchscript|onnx", help="For which software.", autocompletion=one_of(api.FORMATS)
        ),
    ],
    out: Out,
    with_atlas: Annotated[
        bool, typer.Option("--with-atlas", help="Add the atlas's image, a person's scan: only if it may be passed on.")
    ] = False,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write a model's network for other software: prepared scans in, probabilities out, with a model card.

    Its labels are not those of `sst segment`; README.md says what is left out.
    """
    output = Output(json_, quiet)
    done = api.export(model, out, to=to, with_atlas=with_atlas)
    off = done.checked
    output.say(f"{len(done.files)} files: {done.folder}; what it leaves out: {done.folder / 'README.md'}")
    output.say(f"on the atlas, as the model but for {off.difference:.0e}; {off.differing} voxels have another label")
    output.give(done)


@app.command("evaluate", epilog=example("sst evaluate segmented reference -o figures"))
def evaluate_command(
    found: Annotated[Path, typer.Argument(metavar="FOUND", help="A label map, or a folder of them.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="What they should be.")],
    out: Out,
    label_table: Annotated[Path | None, typer.Option(metavar="FILE", help=LABEL_TABLE)] = None,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare label maps with a reference: Dice, surface distances and volumes, by structure and by group."""
    output = Output(json_, quiet)
    with _display("evaluate", quiet) as display:
        done = api.evaluate(
            found, reference, out, label_table=label_table, progress=display.progress, begin=display.begin
        )
    for line in done.left_out:
        output.warn(f"left out: {line}")
    output.say(f"mean Dice over {len(done.scans)} scans: {100 * done.mean_dice:.1f} %: {done.table}")
    output.give(done)


def _display(what: str, quiet: bool) -> "Display":
    from client.display import Display

    return Display(what, quiet=quiet)


def _lights(found: Sequence[str]) -> str:
    return ", ".join(f"{found.count(light)} {light}" for light in ("red", "yellow", "green"))


def _warn_set_aside(output: Output, aside: "Sequence[SetAside]", notes: Sequence[str]) -> None:
    for item in aside:
        output.warn(f"set aside: {item.reason}")
    for note in notes:
        output.warn(f"note: {note}")
