"""The hub operator's commands: `sst hub init`, `invite`, `admit`, `dismiss`, `renew`, `start`, `resume`, `status`."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The hub's side of a federation.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="HUB", help="The hub's folder.")]
Printed = Annotated[bool, typer.Option("--print-command", help="Show what would be run, and end.")]
Proxy = Annotated[bool, typer.Option("--proxy/--no-proxy", help="Start nginx, too, or leave that to a service.")]


@app.command()
def init(
    hub: Folder,
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="By which sites will reach the hub.")],
    image: Annotated[Path, typer.Option(metavar="FILE", help="The labelled scan, skull-stripped: the atlas.")],
    labels: Annotated[Path, typer.Option(metavar="FILE", help="Its label map, FreeSurfer ids.")],
    preset: Annotated[str, typer.Option(metavar="NAME", help="A preset's name or path.")] = "real-cpu",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Of the federation; sites keep its state under it.")
    ] = "sst",
    sites: Annotated[int, typer.Option(metavar="N", min=1, help="How many must be there before the first round.")] = 2,
    inner: Annotated[int, typer.Option(metavar="PORT", help="Of the SuperLink, on loopback.")] = 8000,
) -> None:
    """Make a hub: authority, certificate, the run's folder, the app that sites approve, the proxy's configuration."""
    from server.office import Settings, check_address
    from server.setup import make_hub

    host, port = check_address(address)
    office = make_hub(hub, Settings(name, host, port, inner, sites), preset, image, labels)
    typer.echo(f"{office.folder} is made; keep a copy of {office.tls / 'ca.key'} where nobody else can read it")
    typer.echo(f"then: sst hub invite {office.folder} SITE ...")


@app.command()
def invite(hub: Folder, site: Annotated[list[str], typer.Argument(metavar="SITE ...", help="Names of sites.")]) -> None:
    """Make a start-up kit for each site: no secret is in it."""
    from server.kit import invite as make
    from server.office import Office

    for one in site:
        kit = make(Office(hub), one)
        typer.echo(f"{kit.path}: send it to {kit.site}")
    typer.echo(f"SHA-256 of the certificate in the kits, to tell each site by another way: {kit.certificate}")


@app.command()
def admit(
    hub: Folder, key: Annotated[list[Path], typer.Argument(metavar="SITE.pub ...", help="Keys that sites sent back.")]
) -> None:
    """Let sites in, by the public keys that they sent back."""
    from server.kit import admit as take
    from server.office import Office

    for one in key:
        typer.echo(f"{take(Office(hub), one)} is admitted; a hub that is running lets it in by itself")


@app.command()
def dismiss(
    hub: Folder, site: Annotated[list[str], typer.Argument(metavar="SITE ...", help="Names of sites.")]
) -> None:
    """Let sites out: their keys are taken away, and the run goes on without them; admit lets them in again."""
    from server.kit import dismiss as let_out
    from server.office import Office

    for one in site:
        let_out(Office(hub), one)
        typer.echo(f"{one} is dismissed; a hub that is running lets it out by itself")


@app.command()
def renew(hub: Folder) -> None:
    """Take the app of these sources, and make the kits anew: every site must approve it before the run goes on."""
    from server.kit import invite as make
    from server.office import Office
    from server.setup import build_bundle
    from sst_models.wire.files import replace_file

    office = Office(hub)
    _ = office.settings
    replace_file(office.bundle, build_bundle())
    for kit in sorted((hub / "kits").glob("*.zip")):
        typer.echo(f"{make(office, kit.stem).path}: send it to {kit.stem}, for sst site approve --kit")


@app.command()
def start(hub: Folder, print_command: Printed = False, proxy: Proxy = True) -> None:
    """Run the hub until its run is finished; what ends is started again, and a run that was stopped goes on."""
    from configs.shown import LINE, shown
    from server import launch
    from server.office import Office

    if print_command:
        typer.echo(launch.printed(Office(hub)))
        return
    launch.serve(Office(hub), lambda line: typer.echo(shown(line, LINE)), proxy)


@app.command()
def resume(hub: Folder, print_command: Printed = False, proxy: Proxy = True) -> None:
    """Go on with a run that was stopped or failed, from its last finished round: the same as start."""
    start(hub, print_command, proxy)


@app.command("status")
def status_command(
    hub: Folder, json_: Annotated[bool, typer.Option("--json", help="One line of JSON instead of a table.")] = False
) -> None:
    """Show the sites, when each was last seen, phase, round and time left; exit code 1 if the run failed."""
    from rich.console import Console
    from rich.table import Table

    from server.office import Office
    from server.status import ago, lasting, status

    found = status(Office(hub))
    if json_:
        typer.echo(found.json())
    else:
        where = f", phase {found.phase}, round {found.round}, since {ago(found.since)}" if found.phase else ""
        left = f", about {lasting(found.left)} left" if found.left is not None else ""
        typer.echo(f"{found.state}{where}{left}{': ' + found.message if found.message else ''}")
        table = Table("site", "state", "last seen", "rounds", "last failure")
        for site in found.sites:
            table.add_row(site.name, site.state, ago(site.seen), str(site.rounds), site.last)
        Console(markup=False, emoji=False, highlight=False).print(table)
    if found.state == "failed":
        raise typer.Exit(1)
