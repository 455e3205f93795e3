"""The command of the audit: `sst audit`."""

from pathlib import Path
from typing import Annotated

import typer

from configs.errors import RunError
from simulation.cli import DEVICES, Device, check_choice

app = typer.Typer()


@app.command("audit")
def audit_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished simulation.")],
    source: Annotated[
        str, typer.Option(metavar="SITE", help="Only the direction whose atlas is of this site; without it, both.")
    ] = "",
    device: Device = "auto",
) -> None:
    """Attack what the sites of a simulation released, and say in numbers what a hub could learn."""
    check_choice("--device", device, DEVICES)
    if not run.is_dir():
        raise RunError(f"there is no folder {run}; give that of a simulation, sst simulate --out RUN")

    from simulation.audit.audit import FOLDER, audit
    from simulation.audit.report import sentences, write
    from simulation.progress import RichProgress
    from sst_models.training.device import choose

    with RichProgress() as progress:
        found = audit(run, choose(device), progress, source)
    page = write(found, run / FOLDER)
    for line in sentences(found):
        typer.echo(line)
    typer.echo(f"report: {page}")
