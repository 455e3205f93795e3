"""What operators did to a hub, in a file that only grows: `admin.jsonl`, which `sst hub log` shows and verifies."""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest
from pathlib import Path
from typing import Any

from configs.errors import RunError
from server.office import Office
from server.pulse import reason
from sst_models.wire import chain

NAME = "admin.jsonl"

WHAT = "admin log"


def note(office: Office, what: str, **facts: object) -> None:
    """Write down one thing that was done, by whom on this machine.

    Args:
        office: the hub's folder.
        what: the command.
        facts: whom it concerned, and digests and fingerprints of what came of it.

    Raises:
        OSError: it could not be written.
        RunError: the last entry cannot be read.
    """
    chain.append(office.folder / NAME, {"what": what, "user": user(), **facts}, WHAT)


def read(office: Office) -> list[dict[str, Any]]:
    """Verify the log and give its entries, the oldest first.

    Raises:
        RunError: the folder is no hub's, or the first line that does not follow from those above it.
    """
    _ = office.settings
    path = office.folder / NAME
    return chain.verify(path, WHAT) if path.exists() else []


@contextmanager
def noted(office: Office) -> Iterator[None]:
    """Write down that the hub was started, and when the block ends that it stopped, and why."""
    note(office, "start", pid=os.getpid(), app=digest(office.bundle))
    try:
        yield
    except BaseException as error:
        with suppress(OSError, RunError):  # why it stopped matters more than that it cannot be written down
            note(office, "stop", pid=os.getpid(), why=reason(error))
        raise
    note(office, "stop", pid=os.getpid(), why=reason(None))


def digest(path: Path) -> str:
    """Give the SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def user() -> str:
    """Give the user of this process, by the system and not by the environment, and who used sudo, by its own word."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user has no name
        name = str(os.getuid())
    asked = os.environ.get("SUDO_USER")
    return f"{name} (sudo: {asked})" if asked else name
