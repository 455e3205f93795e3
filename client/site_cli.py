"""The commands of a hospital: `sst site join`, `new-key`, `approve`, `check`, `start`, `ledger`, `peer`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from configs.console import Json, Output, example
from configs.errors import RunError
from configs.processes import PRIVATE
from configs.shown import LINE, shown

START = example("sst site join north.zip --data scans --folder north", "sst site approve north", "sst site check north")

app = typer.Typer(no_args_is_help=True, epilog=START)

Folder = Annotated[Path, typer.Argument(metavar="SITE", help="The site's folder.")]


@app.callback()
def private(context: typer.Context) -> None:
    """A hospital's side of a federation."""
    before = os.umask(PRIVATE)
    context.call_on_close(lambda: os.umask(before))


@app.command(epilog=example("sst site join north.zip --data /data/mri --folder north"))
def join(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The zip from the hub's operator.")],
    data: Annotated[list[Path], typer.Option("--data", metavar="DIR", help="A folder of scans; may be given again.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="The site's folder; its name, here, if not given.")
    ] = None,
) -> None:
    """Make this site's folder and key from a start-up kit."""
    from client import home
    from sst_models.wire.credentials import fingerprint

    own, public, digest = home.join(kit, folder, tuple(data))
    typer.echo(f"digest of the kit: {digest}")
    typer.echo("compare it with the one that the hub's operator reads to you, by telephone say; if they differ, stop")
    typer.echo(shown(f"{own.folder} is made; send {public} to the hub's operator", LINE))
    typer.echo(f"fingerprint of this site's key, which the operator sees, too: {fingerprint(public.read_bytes())}")
    typer.echo(shown(f"then: sst site approve {own.folder}", LINE))


@app.command("new-key", epilog=example("sst site new-key north", "sst site new-key north --use"))
def new_key(
    site: Folder,
    use: Annotated[bool, typer.Option("--use", help="Take it in use: once the hub's operator has let it in.")] = False,
) -> None:
    """Make a new key beside this site's, and later take it in use; the old one stays where it is until then."""
    from client import home
    from sst_models.wire.credentials import fingerprint

    own = home.Home(site)
    public = home.use_new_key(own) if use else home.new_key(own)
    typer.echo(f"fingerprint of the new key, which the hub's operator sees, too: {fingerprint(public.read_bytes())}")
    if use:
        typer.echo(f"it is in use from the next sst site start {site} on; the old one is {site}/private/old.key")
    else:
        typer.echo(f"send {public} to the hub's operator, who lets it in by sst hub admit HUB {public.name} --replace")
        typer.echo(f"then: sst site new-key {site} --use")


@app.command(epilog=example("sst site approve north", "sst site approve north --kit north-2.zip"))
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
        typer.echo(shown(line, LINE))
    if not (yes or typer.confirm("Approve this app and this run, and let the above leave?")):
        raise RunError("not approved; nothing runs here")
    consent.approve(own, found)
    typer.echo(f"approved: {own.flower / 'apps' / found.folder} (read-only), {own.policy}")


@app.command(epilog=example("sst site check north"))
def check(site: Folder, json_: Json = False) -> None:
    """Look at everything that has to be right before the site starts; exit code 2 if something is not."""
    from rich.console import Console
    from rich.text import Text

    from client.home import Home
    from client.preflight import check as look

    console, lines = Console(highlight=False, stderr=json_), []
    for line in look(Home(site)):
        mark = ("  ok", "green") if line.fine else ("STOP", "red")
        told = f"  {line.name}: {line.found}" + ("" if line.fine else f" -> {line.do}")
        console.print(Text.assemble(mark, shown(told, LINE)))
        lines.append(line)
    wrong = sum(not line.fine for line in lines)
    Output(json_).give({"fine": not wrong, "lines": lines})
    if wrong:
        raise RunError(f"{wrong} of the lines above are red; mend them, then check again")


@app.command(epilog=example("sst site start north"))
def start(
    site: Folder,
    print_command: Annotated[bool, typer.Option("--print-command", help="Show what would be run, and end.")] = False,
) -> None:
    """Run the site until Ctrl-C."""
    from client import launch
    from client.home import Home

    own = Home(site)
    _ = own.settings
    if print_command:
        typer.echo("\n".join(shown(line, 10 * LINE) for line in launch.printed(own).splitlines()))
        return
    launch.start(own, lambda line: typer.echo(shown(line, LINE)))


@app.command(epilog=example("sst site ledger north", "sst site ledger north --json"))
def ledger(site: Folder, json_: Json = False) -> None:
    """Show what left the site, and verify that nothing was changed or taken out, nor what the hub has seen cut off."""
    import json

    from rich.console import Console
    from rich.table import Table

    from client.gate import receipts
    from client.gate.ledger import NAME, verify
    from client.home import Home

    own, output = Home(site), Output(json_)
    gate = own.gate
    path, cut = gate / NAME, receipts.missing(gate)
    if not path.exists() and not cut:
        _ = own.settings  # or a folder that is misspelt would have let nothing out
        output.say("nothing has left this site")
        output.give({"entries": []})
        return
    count = verify(path) if path.exists() else 0
    if cut:
        raise RunError(
            f"the hub has seen {len(cut)} entries that {path} does not have, {cut[0][:12]} for one: they were cut off, "
            "or the file is another one; look for a copy"
        )
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if json_:
        output.give({"entries": entries})
        return
    table = Table("time", "run", "phase", "round", "parts", "bytes", "error")
    for entry in entries:
        words = (entry["time"], entry["run"], entry["phase"], entry["round"], ", ".join(entry["parts"]))
        table.add_row(*map(shown, (*words, f"{entry['bytes']:,}", entry["error"])))
    Console(markup=False, emoji=False, highlight=False).print(table)
    typer.echo(f"{count} entries, each following from the one before it")


@app.command(epilog=example("sst site peer north south.pub west.pub"))
def peer(
    site: Folder,
    keys: Annotated[list[Path], typer.Argument(metavar="OTHER.pub ...", help="Public keys of other hospitals' sites.")],
) -> None:
    """Approve the keys of other sites, for secure sums: compare each fingerprint with that hospital first."""
    from client.gate.sums import add_peer
    from client.home import Home
    from sst_models.wire.credentials import fingerprint

    own = Home(site)
    _ = own.settings
    for key in keys:
        name = add_peer(own.gate, key)
        typer.echo(shown(f"{name}: {fingerprint(key.read_bytes())}", LINE))
    typer.echo("compare each with what that hospital's sst site join showed, by telephone say; if one differs, remove")
    typer.echo(shown(f"its file from {own.gate / 'peers'}", LINE))


@app.command(epilog=example("sst site report north -o assessment.md"))
def report(
    site: Folder,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write it.")] = None,
) -> None:
    """Draft a data protection impact assessment from the site's ledger, policy and approvals, in Markdown."""
    from client.assessment import draft
    from client.home import Home
    from sst_models.wire.files import replace_file

    text = draft(Home(site))
    if out is None:
        typer.echo(text)
        return
    if out.exists():
        raise RunError(f"{out} is there already: give another name, as somebody may have written in it")
    replace_file(out, text)
    typer.echo(shown(f"{out}: what stands in brackets is for you to write", LINE))
