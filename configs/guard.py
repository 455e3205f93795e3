"""Our own `flwr-clientapp` and `flwr-serverapp`: refuse every app but the approved one, then do what Flower's do.

Flower starts these by name, from a folder that `sst site start` and `sst hub start` write. They are run as a file, not
as a module, and import nothing of ours, so that the packages that the app brings are the only ones of their names.
SST_APPROVED names the file with the approved digest and, at a site, the files behind it; SST_REFUSED the log for what
was refused.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tool:
    """One of Flower's commands."""

    command: str  # module:function
    runner: str  # module that installs the app
    refusal: str  # module:exception that makes Flower say "load", and nothing more, to the other side
    files: bool  # look at the unpacked files, too: Flower takes a folder that is there as it is


TOOLS = {
    "flwr-clientapp": Tool(
        command="flwr.supernode.cli:flwr_clientapp",
        runner="flwr.supernode.runtime.run_clientapp",
        refusal="flwr.clientapp.client_app:LoadClientAppError",
        files=True,
    ),
    "flwr-serverapp": Tool(
        command="flwr.superlink.cli:flwr_serverapp",
        runner="flwr.superlink.runtime.run_serverapp",
        refusal="builtins:PermissionError",
        files=False,
    ),
}


CHECKED = "1.42"
"""The minor version of Flower whose commands this stands for, as `tests/configs/test_guard.py` found them."""

OTHERS = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-simulation")
"""By which Flower would run anything else, whoever asks for it: ours do nothing."""


def fault(content: bytes, approved: Path, home: Path, files: bool = True) -> str:
    """Say why a bundle may not run, or ""."""
    try:
        about = json.loads(approved.read_text(encoding="utf-8"))
        digest = str(about["digest"])
        folder, expected = (str(about["folder"]), dict(about["files"])) if files else ("", {})
    except (OSError, ValueError, KeyError, TypeError):
        return "no app is approved"
    if hashlib.sha256(content).hexdigest() != digest:
        return "the app that was sent is not the approved one"
    odd = difference(home / "apps" / folder, expected) if files else ""
    return f"the unpacked app differs from what was approved: {odd}" if odd else ""


def difference(folder: Path, expected: Mapping[str, str]) -> str:
    """Name a path at which an unpacked app differs from what was approved; "" where there is none.

    All files count, compiled ones too: what lies in the app's folder can be imported before anything else of its name.
    So does what is neither a file nor a folder, such as a link to a folder. Files are read in pieces.
    """
    left = dict(expected)
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file() or left.pop(name, "") != digest_of(path):
            return name
    return min(left, default="")


def digest_of(path: Path) -> str:
    """Give the SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(name: str) -> None:
    """Run Flower's own command with the check in front of its installation of the app."""
    _end_with_parent()
    os.umask(0o077)  # what the app writes, scans that were prepared for one, is for its user alone
    tool = TOOLS[name]
    runner: Any = import_module(tool.runner)
    install = runner.install_from_fab

    def checked(content: bytes, *more: Any, **options: Any) -> Any:
        why = fault(bytes(content), Path(os.environ["SST_APPROVED"]), Path(os.environ["FLWR_HOME"]), tool.files)
        if not why:
            return install(content, *more, **options)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(os.environ["SST_REFUSED"], "a", encoding="utf-8") as log:
            log.write(f"{when} refused {hashlib.sha256(bytes(content)).hexdigest()}: {why}\n")
        raise _named(tool.refusal)

    runner.install_from_fab = checked
    sys.argv[0] = name
    _named(tool.command)()


def _end_with_parent() -> None:
    """Let the app end when what started it is gone: Flower's own goes on asking a SuperLink that has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wrapper(name: str, python: str) -> str:
    """Give the shell script that stands for one of Flower's commands."""
    from shlex import quote

    return f'#!/bin/sh\nexec {quote(python)} -P {quote(str(Path(__file__).resolve()))} {name} "$@"\n'


def refusal(name: str) -> str:
    """Give the shell script that stands for a command by which nothing may run here."""
    line = f"$(date -u +%Y-%m-%dT%H:%M:%SZ) refused {name}: nothing that is approved needs it"
    return f'#!/bin/sh\necho "{line}" >> "$SST_REFUSED"\nexit 1\n'


def _named(reference: str) -> Any:
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    main(sys.argv.pop(1))
