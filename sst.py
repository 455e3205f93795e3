"""The one command, `sst`: it mounts what is installed and turns every error into one line and an exit code.

A hospital needs neither the hub's commands nor the simulation's, so each part brings its own commands in a `cli`
module and this file mounts those that it finds.
"""

import errno
import os
import shlex
import sys
import tempfile
import traceback
from datetime import datetime
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import click
import typer

from configs.errors import SstError
from configs.processes import QUIET

# Module with a Typer `app` -> the name of its command group; None puts its commands at the top.
PARTS: dict[str, str | None] = {
    "simulation.cli": None,
    "client.cli": None,
    "client.site_cli": "site",
    "server.cli": "hub",
}

DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM})
"""What the system says when a disk is full, or may not be written."""

BROKEN, USER_ERROR, STOPPED = 1, 2, 130  # exit codes; 130 is the shell's own for Ctrl-C


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    os.environ |= QUIET
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; give its exit code.

    0 is success, 2 an error that the user can mend, 130 a stop by Ctrl-C, 1 a fault of ours, whose trace goes into a
    log file. Errors are one line on stderr.
    """
    try:
        code = build()(arguments, prog_name="sst", standalone_mode=False) or 0
    except SstError as error:
        return _fail(str(error), USER_ERROR)
    except click.UsageError as error:
        return _usage(error)
    except (KeyboardInterrupt, click.Abort):
        code = STOPPED
    except OSError as error:
        if error.errno not in DISK:
            return _fail(f"{type(error).__name__}: {error} (a fault of ours; details are in {_log()})", BROKEN)
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"cannot write: {error.strerror}{where}; make room, or give another folder", USER_ERROR)
    except Exception as error:  # the last line of defence: a user never sees a stack trace
        return _fail(f"{type(error).__name__}: {error} (a fault of ours; details are in {_log()})", BROKEN)
    if code == STOPPED:
        print(f"stopped; the same command goes on where it stopped: {shlex.join(['sst', *arguments])}", file=sys.stderr)
    return int(code)


def build() -> typer.Typer:
    """Put together the commands of all parts that are installed."""
    app = typer.Typer(
        help="Federated one-shot segmentation of brain MRI.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for module, name in PARTS.items():
        if _installed(module):
            app.add_typer(import_module(module).app, name=name)
    return app


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda on: _version(on), help="Show the version.")
    ] = False,
) -> None:
    """Federated one-shot segmentation of brain MRI."""


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(metadata.version("sst-federation"))
        except metadata.PackageNotFoundError:
            typer.echo("not installed: run from a source tree")
        raise typer.Exit


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there either
        return False


def _usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USER_ERROR
    command = error.ctx.command_path if error.ctx else "sst"
    return _fail(f"{error.format_message()} (see `{command} --help`)", USER_ERROR)


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code


def _log() -> Path:
    """Append the current exception's trace to a log file, here or, where that cannot be written, in the temp folder."""
    entry = f"{datetime.now().isoformat(timespec='seconds')} {shlex.join(sys.argv)}\n{traceback.format_exc()}\n"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        path = folder / "sst-error.log"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(entry)
        except OSError:
            continue
        return path
    return Path("(no folder for a log file can be written)")


if __name__ == "__main__":
    main()
