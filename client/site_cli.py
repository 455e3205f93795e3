"""The commands of a hospital: `sst site join`, `new-key`, `approve`, `check`, `start`, `ledger`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.gate.policy import read_policy
from configs.errors import RunError
from configs.phases import NOTHING, asked, phase_of
from configs.shown import LINE, shown

if TYPE_CHECKING:
    from client.bundle import Bundle
    from client.home import Home

app = typer.Typer(help="A hospital's side of a federation.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="SITE", help="The site's folder.")]


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
    from sst_models.wire.credentials import fingerprint

    own, public, certificate = home.join(kit, folder, tuple(data))
    typer.echo(f"SHA-256 of the kit's certificate: {certificate}")
    typer.echo("compare it with the hub operator's, by telephone say")
    typer.echo(shown(f"{own.folder} is made; send {public} to the hub's operator", LINE))
    typer.echo(f"fingerprint of this site's key, which the operator sees, too: {fingerprint(public.read_bytes())}")
    typer.echo(shown(f"then: sst site approve {own.folder}", LINE))


@app.command("new-key")
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


@app.command()
def approve(
    site: Folder,
    kit: Annotated[Path | None, typer.Option("--kit", metavar="KIT", help="A new kit, for a new version.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking; for scripts.")] = False,
) -> None:
    """Show the code that the hub would run here and what may leave, and approve both."""
    from client import bundle, home
    from sst_models.wire.files import replace_file

    own = home.Home(site)
    _ = own.settings
    if kit is not None:
        for name, text in home.read_kit(kit).items():
            replace_file(own.folder / name, text)
    found = bundle.read_bundle(own.bundle)
    _show(own, found)
    if not (yes or typer.confirm("Approve this app, and let the above leave?")):
        raise RunError("not approved; nothing runs here")
    folder = bundle.approve(own, found)
    if not own.policy.exists():
        replace_file(own.policy, _policy())
    typer.echo(f"approved: {folder} (read-only), {own.policy}")


def _show(own: "Home", found: "Bundle") -> None:
    from client.bundle import approved_files, changes

    before = approved_files(own)
    differ = changes(found.files, before)
    typer.echo(f"app {found.folder}, SHA-256 {found.digest}: {len(found.files)} files, {found.lines} lines of Python")
    if not before:
        for name, digest in found.files.items():
            typer.echo(f"  {digest[:12]}  {name}")
    else:
        for word, names in (("new", differ.added), ("changed", differ.changed), ("gone", differ.removed)):
            for name in names:
                typer.echo(f"  {word:8s} {name}")
        if before == found.files:
            typer.echo("  nothing changed since the last approval")
    typer.echo(f"what may leave ({own.policy}; phases that are not in it are refused):")
    policy = read_policy(own.policy if own.policy.exists() else None)
    for name in ("hello", *policy.phases):
        for number, item in enumerate(phase_of(name).leaves or (NOTHING,)):
            typer.echo(f"  {'' if number else name:11s} {item}")
    typer.echo("and with each: phase and round, how long it took and, where it failed, an error code")


def _policy() -> str:
    lines = []
    for phase in asked():
        lines += [f'    "{phase.name}",', *(f"    #   {item}" for item in phase.leaves or (NOTHING,))]
    phases = "\n".join(lines)
    return (
        "# What may leave this site, whatever the hub asks for; a phase that is not here is refused.\n"
        f"# Before these, hello: {phase_of('hello').consent}.\n"
        f"phases = [\n{phases}\n]\n"
        "moments = true  # mean and standard deviation of style codes, in style, joint and flow_codes\n"
        "appearance = true  # weights of the appearance model A, which carry the scanner's style\n"
        "most_bytes = 50_000_000  # of one reply\n"
        "min_cases = 5  # fewest scans behind moments\n"
    )


@app.command()
def check(site: Folder) -> None:
    """Look at everything that has to be right before the site starts; exit code 2 if something is not."""
    from rich.console import Console
    from rich.text import Text

    from client.home import Home
    from client.preflight import check as look

    console, wrong = Console(highlight=False), 0
    for line in look(Home(site)):
        mark = ("  ok", "green") if line.fine else ("STOP", "red")
        told = f"  {line.name}: {line.found}" + ("" if line.fine else f" -> {line.do}")
        console.print(Text.assemble(mark, shown(told, LINE)))
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
        typer.echo("\n".join(shown(line, 10 * LINE) for line in launch.printed(own).splitlines()))
        return
    launch.start(own, lambda line: typer.echo(shown(line, LINE)))


@app.command()
def ledger(site: Folder) -> None:
    """Show what left the site, and verify that nothing was changed or taken out."""
    import json

    from rich.console import Console
    from rich.table import Table

    from client.gate.ledger import NAME, verify
    from client.home import Home

    path = Home(site).state / NAME
    if not path.exists():
        typer.echo("nothing has left this site")
        return
    count = verify(path)
    table = Table("time", "run", "phase", "round", "parts", "bytes", "error")
    for line in path.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        words = (entry["time"], entry["run"], entry["phase"], entry["round"], ", ".join(entry["parts"]))
        table.add_row(*map(shown, (*words, f"{entry['bytes']:,}", entry["error"])))
    Console(markup=False, emoji=False, highlight=False).print(table)
    typer.echo(f"{count} entries, each following from the one before it")
