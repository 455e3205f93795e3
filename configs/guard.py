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
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

RUNNER, COMMAND = "flwr.superlink.runtime.run_serverapp", "flwr.superlink.cli:flwr_serverapp"


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
    if not files:
        return ""
    target = home / "apps" / folder
    # All files, compiled ones too: what lies in the app's folder can be imported before anything else of its name.
    there = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if not path.is_dir()}
    for name in sorted({*expected, *there}):
        path = there.get(name)
        if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != expected.get(name):
            return f"the unpacked app differs from what was approved: {name}"
    return ""


def checked(
    approved: Path, home: Path, refused: Path, install: Callable[..., Any] | None, refusal: str = ""
) -> Callable[..., Any]:
    """Give what stands for Flower's installation of an app: the check, and then the installation, if there is one.

    Args:
        approved: file with the approved digest and, where nothing is installed, the unpacked files.
        home: Flower's folder.
        refused: log for what was refused.
        install: Flower's own; None: the app is unpacked already, and each of its files is looked at.
        refusal: module:exception to raise.
    """

    def check(content: bytes, *more: Any, **options: Any) -> Any:
        why = fault(bytes(content), approved, home, files=install is None)
        if not why:
            return None if install is None else install(content, *more, **options)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with refused.open("a", encoding="utf-8") as log:
            log.write(f"{when} refused {hashlib.sha256(bytes(content)).hexdigest()}: {why}\n")
        raise named(refusal or "flwr.clientapp.client_app:LoadClientAppError")  # Flower says "load", and nothing more

    return check


def main() -> None:
    """Run the hub's command with the check in front of Flower's installation of the app."""
    end_with_parent()
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


def named(reference: str) -> Any:
    """Give what "module:name" names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


if __name__ == "__main__":
    main()
