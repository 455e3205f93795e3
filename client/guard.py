"""The site's own `flwr-clientapp`: refuses every app but the approved one, then does what Flower's does.

Flower starts this by its name, from a folder that `sst site start` writes. It is run as a file, not as a module, and
imports nothing of ours, so that the packages that the app brings are the only ones of their names. SST_APPROVED names
the file with the approved digest and the files behind it; SST_REFUSED the log for what was refused.
"""

import hashlib
import json
import os
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any


def fault(content: bytes, approved: Path, home: Path) -> str:
    """Say why a bundle may not run, or ""."""
    try:
        about = json.loads(approved.read_text(encoding="utf-8"))
        digest, folder, files = str(about["digest"]), str(about["folder"]), dict(about["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return "no app is approved"
    if hashlib.sha256(content).hexdigest() != digest:
        return "the app that the hub sent is not the approved one"
    target = home / "apps" / folder
    # All files, compiled ones too: what lies in the app's folder can be imported before anything else of its name.
    there = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if not path.is_dir()}
    for name in sorted({*files, *there}):
        path = there.get(name)
        if path is None or hashlib.sha256(path.read_bytes()).hexdigest() != files.get(name):
            return f"the unpacked app differs from what was approved: {name}"
    return ""


def main() -> None:
    """Run Flower's own command with the check in front of its installation of the app."""
    from flwr.clientapp.client_app import LoadClientAppError
    from flwr.supernode.cli import flwr_clientapp

    runner: Any = import_module("flwr.supernode.runtime.run_clientapp")
    install = runner.install_from_fab

    def checked(content: bytes, *more: Any, **options: Any) -> Any:
        why = fault(bytes(content), Path(os.environ["SST_APPROVED"]), Path(os.environ["FLWR_HOME"]))
        if not why:
            return install(content, *more, **options)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with open(os.environ["SST_REFUSED"], "a", encoding="utf-8") as log:
            log.write(f"{when} refused {hashlib.sha256(bytes(content)).hexdigest()}: {why}\n")
        raise LoadClientAppError  # the hub hears a code for it, and no word

    runner.install_from_fab = checked
    sys.argv[0] = "flwr-clientapp"
    flwr_clientapp()


if __name__ == "__main__":
    main()
