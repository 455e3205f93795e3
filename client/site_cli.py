"""The commands of a hospital: `sst site join`, `approve`, `check`, `start`, `ledger`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from configs.errors import RunError
from configs.processes import PRIVATE

app = typer.Typer(no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="SITE", help="The site's folder.")]


@app.callback()
def private(context: typer.Context) -> None:
    """A hospital's side of a federation."""
    before = os.umask(PRIVATE)
    context.call_on_close(lambda: os.umask(before))


@app.command()
def join(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The zip from the hub's operator.")],
    data: Annotated[list[Path], typer.Option("--data", metavar="DIR", help="A folder of scans; may be given again.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="The site's folder; its name, here, if not given.")
    ] = None,
) -> None:
    """Make this site's folder and key from a start-up kit."""
    from client import home

    own, public, digest = home.join(kit, folder, tuple(data))
    typer.echo(f"digest of the kit: {digest}")
    typer.echo("compare it with the one that the hub's operator reads to you, by telephone say; if they differ, stop")
    typer.echo(f"{own.folder} is made; send {public} to the hub's operator")
    typer.echo(f"then: sst site approve {own.folder}")


@app.command()
def approve(
    site: Folder,
    kit: Annotated[Path | None, typer.Option("--kit", metavar="KIT", help="A new kit, for a new version.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking; for scripts.")] = False,
) -> None:
    """Show the hub's app, the run and what may leave, and approve all three; nothing else is answered afterwards."""
    from client import bundle, consent, home

    own = home.Home(site)
    _ = own.settings
    if kit is not None:
        home.take(own, kit)
    found = bundle.read_bundle(own.bundle)
    typer.echo(f"digest of the kit, to compare with the hub's operator: {own.kit_digest}")
    for line in consent.lines(own, found):
        typer.echo(line)
    if not (yes or typer.confirm("Approve this app and this run, and let the above leave?")):
        raise RunError("not approved; nothing runs here")
    consent.approve(own, found)
    typer.echo(f"approved: {own.flower / 'apps' / found.folder} (read-only), {own.policy}")


@app.command()
def check(site: Folder) -> None:
    """Look at everything that has to be right before the site starts; exit code 2 if something is not."""
    from rich.console import Console
    from rich.markup import escape

    from client.home import Home
    from client.preflight import check as look

    console, wrong = Console(highlight=False), 0
    for line in look(Home(site)):
        mark = "[green]  ok[/]" if line.fine else "[red]STOP[/]"
        console.print(f"{mark}  {line.name}: {escape(line.found)}" + ("" if line.fine else f" -> {escape(line.do)}"))
        wrong += not line.fine
    if wrong:
        raise RunError(f"{wrong} of the lines above are red; mend them, then check again")


@app.command()
def start(
    site: Folder,
    print_command: Annotated[bool, typer.Option("--print-command", help="Show what would be run, and end.")] = False,
) -> None:
    """Run the site until Ctrl-C."""
    from client import launch
    from client.home import Home

    own = Home(site)
    if print_command:
        typer.echo(launch.printed(own))
        return
    launch.start(own, typer.echo)


@app.command()
def ledger(site: Folder) -> None:
    """Show what left the site, and verify that nothing was changed or taken out."""
    import json

    from rich.console import Console
    from rich.table import Table

    from client.gate.ledger import NAME, verify
    from client.home import Home

    path = Home(site).gate / NAME
    if not path.exists():
        typer.echo("nothing has left this site")
        return
    count = verify(path)
    table = Table("time", "run", "phase", "round", "parts", "bytes", "error")
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        parts = ", ".join(entry["parts"])
        table.add_row(
            entry["time"],
            entry["run"],
            entry["phase"],
            str(entry["round"]),
            parts,
            f"{entry['bytes']:,}",
            entry["error"],
        )
    Console().print(table)
    typer.echo(f"{count} entries, each following from the one before it")
