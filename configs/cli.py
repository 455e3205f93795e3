"""The command that lists presets: `sst presets`."""

import json
from typing import Annotated

import typer

from configs import presets
from configs.console import Json, Output, complete_preset, example

app = typer.Typer()


@app.command("presets", epilog=example("sst presets", "sst presets real-cpu > mine.toml"))
def presets_command(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Print this preset's file, or one of your own; with --json all settings, also those that it takes "
            "from another preset.",
            autocompletion=complete_preset,
            show_default=False,
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """List the presets: what each is for, how long it takes, and on which machine."""
    output = Output(json_)
    if name is None:
        found = [presets.about(presets.find(one)) for one in presets.names()]
        output.give({"presets": found})
        if not json_:
            _table(found)
        return
    path = presets.find(name)
    about = presets.about(path)
    if json_:
        from configs.schema import load

        output.give({"about": about, "settings": json.loads(load(name).to_json())})
        return
    typer.echo(path.read_text(encoding="utf-8"), nl=False)
    if about.extends:
        output.warn(f"all else is taken from {about.extends}: sst presets {about.extends}")


def _table(found: list[presets.About]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(Column("preset", no_wrap=True), "for", "takes", box=box.SIMPLE, pad_edge=False)
    for one in found:
        table.add_row(one.name, one.purpose.replace("`", ""), one.takes)
    Console(markup=False, highlight=False).print(table)
