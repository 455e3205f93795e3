"""`import sst`, the Python interface, and `sst`, the one command.

From Python, the functions and results of `client.api` are here, imported when they are first used:

    >>> import sst
    >>> model = sst.open_model("model")
    >>> found = sst.segment("scans", model, "segmented")
    >>> len(found.scans), len(found.set_aside)
    (1, 0)

The command mounts what is installed and turns every error into one line and an exit code. A hospital needs neither the
hub's commands nor the simulation's, so each part brings its own commands in a `cli` module and this file mounts those
that it finds.
"""

import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import datetime
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

HERE = Path(__file__).resolve().parent
PACKAGES = ("configs", "sst_models", "client", "server", "simulation")
"""Our packages, beside this file; the last three are not everywhere. Other projects have some of these names, too."""


def _strangers() -> str:
    """Say whose packages Python finds instead of ours that lie beside this file, or what of ours was overwritten."""
    for name in PACKAGES:
        if not (HERE / name).is_dir():
            continue
        spec = find_spec(name)
        places = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
        if places and Path(places[0]).resolve() != HERE / name:
            where = f"{name!r} is another project's ({places[0]})"
            return f"{where}, not the one beside {HERE / 'sst.py'}; run sst in an environment of its own"
    for found in metadata.distributions(name="sst-federation", path=[str(HERE)]):  # a wheel's record; a tree has none
        for file in found.files or ():
            path = HERE / file
            if file.suffix == ".py" and file.size not in (None, path.stat().st_size if path.is_file() else -1):
                return f"{path} is not the one that was installed; install sst anew, in an environment of its own"
    return ""


if _found := _strangers():
    if Path(sys.argv[0]).name in ("sst", "sst.exe") or __name__ == "__main__":
        print(f"error: {_found}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(_found)

from configs.console import Command, example  # noqa: E402
from configs.errors import ConfigError, DataError, RunError, SstError, disk_error  # noqa: E402
from configs.processes import QUIET  # noqa: E402
from configs.shown import LINE, shown  # noqa: E402

if TYPE_CHECKING:  # of `__all__` below, what is imported when it is first used: torch takes seconds
    from client.api import (
        Evaluation,
        Exported,
        GeneratedPairs,
        PreparedScans,
        SegmentedScans,
        evaluate,
        export,
        generate,
        open_model,
        prepare,
        regenerate,
        segment,
    )
    from client.model import Model

__all__ = [
    "ConfigError",
    "DataError",
    "Evaluation",
    "Exported",
    "GeneratedPairs",
    "Model",
    "PreparedScans",
    "RunError",
    "SegmentedScans",
    "SstError",
    "evaluate",
    "export",
    "generate",
    "open_model",
    "prepare",
    "regenerate",
    "segment",
]

# Module with a Typer `app` -> the name of its command group; None puts its commands at the top.
PARTS: dict[str, str | None] = {
    "simulation.cli": None,
    "simulation.audit.cli": None,
    "client.cli": None,
    "configs.cli": None,
    "client.site_cli": "site",
    "server.cli": "hub",
}

BROKEN, USER_ERROR, STOPPED = 1, 2, 130  # exit codes; 130 is the shell's own for Ctrl-C


if not TYPE_CHECKING:  # a type checker has the names from above, and finds those that are misspelt

    def __getattr__(name: str) -> object:
        """Import what `__all__` names when it is first used."""
        if name not in __all__:
            raise AttributeError(f"module 'sst' has no attribute '{name}'")
        return getattr(import_module("client.model" if name == "Model" else "client.api"), name)


def __dir__() -> list[str]:
    return __all__


def main() -> None:
    """Run the command line and leave the process with its exit code."""
    os.environ |= QUIET
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # torch's threads that wait leave the core to other programs
    code = run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries again, and shows a trace
        if isinstance(error, BrokenPipeError):  # whoever reads wants no more, as `head`
            sys.exit(code or BROKEN)
        said = f"cannot write to standard output: {error.strerror}; make room, or write elsewhere"
        code = code or _fail(said, USER_ERROR)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command; give its exit code.

    0 is success, 2 an error that the user can mend, 130 a stop by Ctrl-C, 1 a fault of ours, whose trace goes into a
    log file. Errors are one line on stderr.
    """
    try:
        code = build()(arguments, prog_name="sst", standalone_mode=False, obj=_lent()) or 0
    except SstError as error:
        return _fail(str(error), USER_ERROR)
    except click.UsageError as error:
        return _usage(error)
    except (KeyboardInterrupt, click.Abort):
        code = STOPPED
    except OSError as error:
        if full := disk_error(error):
            return _fail(str(full), USER_ERROR)
        return _fail(f"{type(error).__name__}: {error} (a fault of ours; details are in {_log()})", BROKEN)
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
        epilog=example("sst demo --out runs/demo", "sst segment scans --model model -o segmented"),
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for module, name in PARTS.items():
        if _installed(module):
            part = import_module(module).app
            for command in part.registered_commands:
                command.cls = Command
            app.add_typer(part, name=name)
    return app


def _lent() -> dict[str, Callable[[], Any]]:
    """Give what one part's commands need of another that it may not import, each as a function that imports it."""
    module = "simulation.atlases"
    return {"bring": lambda: import_module(module).bring} if _installed(module) else {}


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda on: _version(on), help="Show the version.")
    ] = False,
) -> None:
    """Federated one-shot segmentation of brain MRI."""
    if os.environ.get("NO_COLOR"):  # rich heeds it by itself, click does not
        context.color = False


def _version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(metadata.version("sst-federation"))
        except metadata.PackageNotFoundError:
            typer.echo("not installed: run from a source tree")
        raise typer.Exit


def _installed(module: str) -> bool:
    """Say whether this module is there; another project's `simulation`, where ours is not, is no part of this one."""
    package = module.partition(".")[0]
    if package in PACKAGES and not (HERE / package).is_dir():
        return False
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there either
        return False


def _usage(error: click.UsageError) -> int:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return USER_ERROR
    command = error.ctx.command_path if error.ctx else "sst"
    message = re.sub(r"(Did you mean .*?\?) .*", r"\1", error.format_message())  # click says it, and typer, too
    return _fail(f"{message} (see `{command} --help`)", USER_ERROR)


def _fail(message: str, code: int) -> int:
    print("error: " + shown(" ".join(message.split()), LINE), file=sys.stderr)
    return code


def _log() -> Path:
    """Append the current exception's trace to a log file, here or, where that cannot be written, in the temp folder."""
    entry = f"{datetime.now().isoformat(timespec='seconds')} {shlex.join(sys.argv)}\n{traceback.format_exc()}\n"
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        path = folder / "sst-error.log"
        try:
            with open(path, "a", encoding="utf-8", opener=_private) as file:  # a trace may name a patient's file
                file.write(entry)
        except OSError:
            continue
        return path
    return Path("(no folder for a log file can be written)")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)


if __name__ == "__main__":
    main()
