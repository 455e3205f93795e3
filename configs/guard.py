"""Refuse every app but the approved one, where Flower would run what it is sent.

At the hub this file stands for `flwr-serverapp`: Flower starts it by name from a folder that `sst hub start` writes. It
is run as a file, not as a module, and imports nothing of ours, so that the packages that the app brings are the only
ones of their names. SST_APPROVED names the file with the approved digest, SST_REFUSED the log for what was refused. At
a site `client.gate.clientapp` does the same, and runs the app in a process of its own.
"""

import ctypes
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

RUNNER, COMMAND = "flwr.superlink.runtime.run_serverapp", "flwr.superlink.cli:flwr_serverapp"

CHECKED = "1.42"
"""The minor version of Flower whose commands this stands for, as `tests/configs/test_guard.py` found them."""

GUARDED = ("flwr-clientapp", "flwr-serverapp")
"""By which Flower would run an app: ours stand in their places, at a site and at the hub."""

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


def checked(
    approved: Path, home: Path, refused: Path, install: Callable[..., Any] | None, error: str = ""
) -> Callable[..., Any]:
    """Give what stands for Flower's installation of an app: the check, and then the installation, if there is one.

    Args:
        approved: file with the approved digest and, where nothing is installed, the unpacked files.
        home: Flower's folder.
        refused: log for what was refused.
        install: Flower's own; None: the app is unpacked already, and each of its files is looked at.
        error: module:exception to raise; Flower's own, by which it says "load" and nothing more, if not given.
    """

    def check(content: bytes, *more: Any, **options: Any) -> Any:
        why = fault(bytes(content), approved, home, files=install is None)
        if not why:
            return None if install is None else install(content, *more, **options)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with refused.open("a", encoding="utf-8") as log:
            log.write(f"{when} refused {hashlib.sha256(bytes(content)).hexdigest()}: {why}\n")
        raise named(error or "flwr.clientapp.client_app:LoadClientAppError")

    return check


def main() -> None:
    """Run the hub's command with the check in front of Flower's installation of the app."""
    end_with_parent()
    os.umask(0o077)
    runner: Any = import_module(RUNNER)
    files = Path(os.environ["SST_APPROVED"]), Path(os.environ["FLWR_HOME"]), Path(os.environ["SST_REFUSED"])
    runner.install_from_fab = checked(*files, runner.install_from_fab, "builtins:PermissionError")
    sys.argv[0] = "flwr-serverapp"
    named(COMMAND)()


def end_with_parent() -> None:
    """Let the app end when what started it is gone: Flower's own goes on asking a SuperLink that has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wrapper(python: str) -> str:
    """Give the shell script that stands for the hub's command."""
    from shlex import quote

    return f'#!/bin/sh\nexec {quote(python)} -P {quote(str(Path(__file__).resolve()))} "$@"\n'


def refusal(name: str) -> str:
    """Give the shell script that stands for a command by which nothing may run here."""
    line = f"$(date -u +%Y-%m-%dT%H:%M:%SZ) refused {name}: nothing that is approved needs it"
    return f'#!/bin/sh\necho "{line}" >> "$SST_REFUSED"\nexit 1\n'


def named(reference: str) -> Any:
    """Give what "module:name" names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    main()
