"""The hub operator's commands, `sst hub ...`: making a hub, letting sites in and out, running it, watching it."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from configs.console import PRESET, Json, Output, complete_preset, example
from configs.errors import ConfigError
from configs.processes import PRIVATE
from configs.shown import LINE, shown
from configs.structures import LABEL_TABLE, change_of, tables_beside

if TYPE_CHECKING:
    from server.office import Office

INIT = (
    "sst hub init hub --address hub.example.org:8443 \\",
    "  --image atlas.nii.gz --labels labels.nii.gz",
)

app = typer.Typer(no_args_is_help=True, epilog=example(*INIT, "sst hub invite hub north south", "sst hub start hub"))

Folder = Annotated[Path, typer.Argument(metavar="HUB", help="The hub's folder.")]
Printed = Annotated[bool, typer.Option("--print-command", help="Show what would be run, and end.")]
Proxy = Annotated[bool, typer.Option("--proxy/--no-proxy", help="Start nginx, too, or leave that to a service.")]


@app.callback()
def private(context: typer.Context) -> None:
    """The hub's side of a federation."""
    before = os.umask(PRIVATE)
    context.call_on_close(lambda: os.umask(before))


@app.command(epilog=example(*INIT))
def init(
    context: typer.Context,
    hub: Folder,
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="By which sites will reach the hub.")],
    image: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="The labelled scan, skull-stripped: the atlas, or one of them."),
    ],
    labels: Annotated[list[Path], typer.Option(metavar="FILE", help="Its label map; of several in their order.")],
    preset: Annotated[str, typer.Option(metavar="NAME", help=PRESET, autocompletion=complete_preset)] = "real-cpu",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Of the federation; sites keep its state under it.")
    ] = "sst",
    sites: Annotated[int, typer.Option(metavar="N", min=1, help="How many must be there before the first round.")] = 2,
    inner: Annotated[int, typer.Option(metavar="PORT", help="Of the SuperLink, on loopback.")] = 8000,
    health: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", help="Of the SuperLink's health service, on loopback; 0: none. The next free one."
        ),
    ] = None,
    label_table: Annotated[Path | None, typer.Option(metavar="FILE", help=LABEL_TABLE)] = None,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Take labels even if they do not look as if they were the scan's.")
    ] = False,
) -> None:
    """Make a hub: authority, certificate, the run's folder, the app that sites approve, the proxy's configuration."""
    from configs.schema import load
    from server.journal import digest, note
    from server.office import Settings, check_address
    from server.setup import make_hub

    host, port = check_address(address)
    free = next(one for one in (inner + 1, inner + 2) if one != port)
    settings = Settings(name, host, port, inner, sites, health=free if health is None else health)
    if len(image) != len(labels):
        raise ConfigError(f"{len(image)} --image and {len(labels)} --labels: give each atlas both, in the same order")
    find, files = context.find_object(dict) or {}, list(zip(image, labels, strict=True))
    bring = find["bring"]() if "bring" in find and len(files) > 1 else None
    office = make_hub(hub, settings, preset, files, table=label_table, bring=bring, checked=not unchecked)
    made = {
        "authority": digest(office.tls / "ca.crt"),
        "app": digest(office.bundle),
        "atlas": digest(hub / "atlas.json"),
    }
    note(office, "init", **made, unchecked=unchecked)
    typer.echo(f"{office.folder} is made; keep a copy of {office.tls / 'ca.key'} where nobody else can read it")
    experiment = load(preset, change_of(label_table))
    typer.echo(f"it segments {len(experiment.table.structures)} structures: {', '.join(experiment.table.groups)}")
    for path in () if experiment.label_table else tables_beside(labels[0]):
        typer.echo(f"{path} was not read: if it is the label table, make the hub anew with --label-table")
    typer.echo(f"then: sst hub invite {office.folder} SITE ...")


@app.command(epilog=example("sst hub invite hub north south"))
def invite(
    hub: Folder,
    site: Annotated[list[str], typer.Argument(metavar="SITE ...", help="Names of sites.")],
    json_: Json = False,
) -> None:
    """Make a start-up kit for each site: no secret is in it."""
    from server.journal import digest, note
    from server.kit import invite as make
    from server.office import Office

    output, kits = Output(json_), []
    for one in site:
        kit = make(Office(hub), one)
        note(Office(hub), "invite", site=one, kit=digest(kit.path))
        output.say(f"{kit.path}: send it to {kit.site}, and tell them its digest by another way: {kit.digest}")
        kits.append(kit)
    output.give({"kits": kits})


@app.command(epilog=example("sst hub admit hub north.pub south.pub"))
def admit(
    hub: Folder,
    key: Annotated[list[Path], typer.Argument(metavar="SITE.pub ...", help="Keys that sites sent back.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Take a new key of a site that had another; ask the site first.")
    ] = False,
    json_: Json = False,
) -> None:
    """Let sites in, by the public keys that they sent back; the fingerprint shown is the one that the site sees."""
    from server.journal import note
    from server.kit import admit as take
    from server.office import Office
    from sst_models.wire.credentials import fingerprint

    office, output, admitted = Office(hub), Output(json_), []
    _ = office.settings
    for one in key:
        site = take(office, one, replace)
        shows = fingerprint(office.key(site).read_bytes())
        note(office, "admit", site=site, key=shows, replace=replace)
        output.say(f"{site} is admitted; a hub that is running lets it in by itself, any other at sst hub start")
        output.say(f"fingerprint of its key, to compare by telephone: {shows}")
        admitted.append({"site": site, "fingerprint": shows})
    output.give({"admitted": admitted})


def _complete_admitted(context: typer.Context, incomplete: str) -> list[str]:
    from server.office import Office

    hub, given = context.params.get("hub"), context.params.get("site") or ()
    admitted = Office(Path(hub)).admitted if hub else ()
    return [site for site in admitted if site.startswith(incomplete) and site not in given]


@app.command(epilog=example("sst hub dismiss hub north"))
def dismiss(
    hub: Folder,
    site: Annotated[
        list[str], typer.Argument(metavar="SITE ...", help="Names of sites.", autocompletion=_complete_admitted)
    ],
) -> None:
    """Let sites out: their keys are taken away, and the run goes on without them; admit lets them in again."""
    from server.journal import note
    from server.kit import dismiss as let_out
    from server.office import Office
    from sst_models.wire.credentials import fingerprint

    office = Office(hub)
    _ = office.settings
    for one in site:
        let_out(office, one)
        note(office, "dismiss", site=one, key=fingerprint(office.old_key(one).read_bytes()))
        typer.echo(f"{one} is dismissed; a hub that is running lets it out by itself")


@app.command(epilog=example("sst hub renew hub"))
def renew(hub: Folder) -> None:
    """Take the app of these sources, and make the kits anew: every site must approve it before the run goes on."""
    from server.journal import digest, note
    from server.kit import invite as make
    from server.office import Office
    from server.setup import write_bundle

    office = Office(hub)
    _ = office.settings
    write_bundle(office)
    note(office, "renew", app=digest(office.bundle))
    for path in sorted((hub / "kits").glob("*.zip")):
        kit = make(office, path.stem)
        typer.echo(f"{kit.path}: send it to {kit.site}, for sst site approve --kit; its digest: {kit.digest}")


@app.command("renew-certificates", epilog=example("sst hub renew-certificates hub"))
def renew_certificates(hub: Folder) -> None:
    """Issue the server's certificate anew, for the host in hub.toml; kits and keys stay as they are."""
    from server.certificates import renew as issue
    from server.journal import digest, note
    from server.office import Office

    office = Office(hub)
    told = issue(office).told
    note(office, "renew-certificates", server=digest(office.tls / "server.crt"), told=told)
    typer.echo(told)
    typer.echo(
        "an nginx that sst hub start runs shows it within seconds; one of your own needs nginx -s reload. "
        f"The SuperLink, on loopback, takes it when the hub is started again: stop it, then sst hub start {hub}"
    )


@app.command(epilog=example("sst hub start hub"))
def start(hub: Folder, print_command: Printed = False, proxy: Proxy = True) -> None:
    """Run the hub until its run is finished; what ends is started again, and a run that was stopped goes on."""
    from server import launch
    from server.office import Office

    if print_command:
        typer.echo(launch.printed(Office(hub)))
        return
    _warn(Office(hub))
    launch.serve(Office(hub), lambda line: typer.echo(shown(line, LINE)), proxy)


@app.command(epilog=example("sst hub backup hub /safe/hub.tar"))
def backup(
    hub: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="Where to; outside of HUB, not there yet.")],
    json_: Json = False,
) -> None:
    """Save all that is needed to go on with the run on another machine, also while the hub runs. Secrets are in it."""
    from server.backup import backup as save
    from server.journal import note
    from server.office import Office

    saved = save(Office(hub), file)
    note(Office(hub), "backup", file=str(file.resolve()), digest=saved.digest)
    output = Output(json_)
    output.say(f"{saved.path}: {saved.files} files, SHA-256 {saved.digest}")
    output.say("the keys of the authority and of the server are in it: keep it where nobody else can read it")
    output.give(saved)


@app.command(epilog=example("sst hub restore /safe/hub.tar hub"))
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE.tar", help="What sst hub backup wrote.")],
    hub: Annotated[Path, typer.Argument(metavar="HUB", help="The hub's folder to be; new or empty.")],
) -> None:
    """Make a hub's folder from a backup; the run goes on from its last saved round."""
    from server.backup import restore as load
    from server.journal import note
    from server.office import Office

    made = load(file, hub)
    note(Office(hub), "restore", file=str(file.resolve()), digest=made.digest)
    typer.echo(f"{made.path}: {made.files} files; the backup is the one of SHA-256 {made.digest}")
    typer.echo(f"stop the old hub for good before you go on with this one: sst hub start {hub}")


@app.command(epilog=example("sst hub log hub"))
def log(
    hub: Folder,
    json_: Annotated[bool, typer.Option("--json", help="The lines as they are, each JSON, not a table.")] = False,
) -> None:
    """Show what operators did to the hub, when and as which user, and verify that nothing was changed or taken out."""
    import json

    from rich.console import Console
    from rich.table import Column, Table

    from server.journal import read
    from server.office import Office

    entries = read(Office(hub))
    table = Table("time", "user", "what", Column("about", overflow="fold"))  # digests whole, to be compared
    for entry in entries:
        more = {key: value for key, value in entry.items() if key not in ("time", "user", "what", "previous", "hash")}
        about = ", ".join(f"{key} {shown(value)}" for key, value in more.items() if value not in ("", False))
        table.add_row(*map(shown, (entry["time"], entry["user"], entry["what"])), about)
        if json_:
            typer.echo(json.dumps(entry, sort_keys=True))
    if not json_:
        Console(markup=False, emoji=False, highlight=False).print(table)
        typer.echo(f"{len(entries)} entries, each following from the one before it")


def _warn(office: "Office") -> None:
    """Say what ends soon, or has ended, on standard error."""
    from server.certificates import warnings

    for one in warnings(office):
        typer.secho(f"warning: {one.text}", fg=typer.colors.RED if one.severe else typer.colors.YELLOW, err=True)


@app.command(epilog=example("sst hub resume hub"))
def resume(hub: Folder, print_command: Printed = False, proxy: Proxy = True) -> None:
    """Go on with a run that was stopped or failed, from its last finished round: the same as start."""
    start(hub, print_command, proxy)


@app.command("status", epilog=example("sst hub status hub", "sst hub status hub --json"))
def status_command(
    hub: Folder, json_: Annotated[bool, typer.Option("--json", help="One line of JSON instead of a table.")] = False
) -> None:
    """Show the sites, when each was last seen, phase, round and time left, and until when certificates hold.

    Exit code 0: running, waiting for sites, finished or not begun. 1: failed. 2: this is no hub's folder. 3: stopped or
    killed before the end.
    """
    from rich.console import Console
    from rich.table import Table

    from server.office import Office
    from server.status import CODES, ago, span, status, with_health

    found = with_health(Office(hub), status(Office(hub)))
    if json_:
        typer.echo(found.json())
    else:
        where = f", phase {found.phase}, round {found.round}, since {ago(found.since)}" if found.phase else ""
        left = f", {span(found.between)} left" if found.between is not None else ""
        typer.echo(f"{found.state}{where}{left}{': ' + found.message if found.message else ''}")
        table = Table("site", "state", "last seen", "rounds", "last failure")
        for site in found.sites:
            table.add_row(site.name, site.state, ago(site.seen), str(site.rounds), site.last)
        Console(markup=False, emoji=False, highlight=False).print(table)
        if found.superlink:
            typer.echo(f"SuperLink: {found.superlink}")
        for one in found.certificates:
            typer.echo(one.told)
        _warn(Office(hub))
    if code := CODES[found.state]:
        raise typer.Exit(code)


@app.command(epilog=example("sst hub dashboard hub"))
def dashboard(
    hub: Folder,
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Of the page; 0: any that is free.")
    ] = 8765,
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Address to listen at: as it is, this machine alone sees the page.")
    ] = "127.0.0.1",
) -> None:
    """Show a page that follows the run: sites, rounds, losses, bytes, refusals, images, time left. Ctrl-C ends it.

    It reads the hub's folder and changes nothing; the run may be at work, over, or not begun.
    """
    from server import dashboard as live
    from server.office import Office

    source = live.HubSource(Office(hub))
    own = live.listen(host, port)
    if not live.is_loopback(host):
        typer.secho(live.OPEN.format(host=host), fg=typer.colors.YELLOW, err=True)
    typer.echo(f"{live.address(own, host)} shows {hub}; Ctrl-C ends it")
    live.serve(source, own, live.own_names(host))
