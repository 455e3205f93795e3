"""The command of the audit: `sst audit`."""

from pathlib import Path
from typing import Annotated

import typer

from client.api import DEVICES
from client.cli import Device
from configs.console import Json, Output, Quiet, example
from configs.errors import RunError
from simulation.cli import check_choice

app = typer.Typer()


@app.command("audit", epilog=example("sst audit runs/demo"))
def audit_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished simulation.")],
    atlas: Annotated[
        str, typer.Option(metavar="SITE", help="Only the federation whose atlas is of this site; without it, all.")
    ] = "",
    shadows: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Also attack T and segmenters by N networks of each, trained anew on halves of a site's people: N is "
            "even, and 6 or more; each takes as long as the site's own training did. What is done is kept.",
        ),
    ] = 0,
    device: Device = "auto",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack what the sites of a simulation released, and say in numbers what a hub could learn."""
    check_choice("--device", device, DEVICES)
    if not run.is_dir():
        raise RunError(f"there is no folder {run}; give that of a simulation, sst simulate --out RUN")

    from simulation.audit.audit import FOLDER, audit
    from simulation.audit.report import as_document, sentences, write
    from simulation.audit.shadows import LEAST
    from simulation.progress import RichProgress
    from sst_models.training.device import choose

    if shadows and (shadows < LEAST or shadows % 2):
        raise RunError(
            f"--shadows: an even number, {LEAST} or more, not {shadows}: half of the people train every other"
        )
    output = Output(json_, quiet)
    with RichProgress(quiet=quiet) as progress:
        found = audit(run, choose(device), progress, atlas, shadows)
    page = write(found, run / FOLDER)
    for line in sentences(found):
        output.say(line)
    output.say(f"report: {page}")
    output.give({"report": page, **as_document(found)})
