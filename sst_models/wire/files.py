"""Small files that are written whole or not at all, and locks between processes."""

import errno
import fcntl
import json
import os
from pathlib import Path
from typing import IO, Any

from configs.errors import RunError

_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS})


def lock(file: int | IO[Any], how: int, where: Path) -> None:
    """Lock an open file or folder (`fcntl.LOCK_*`) until it is closed.

    Raises:
        BlockingIOError: another process has it, and `how` does not wait.
        RunError: the file system has no locks, as some network shares.
    """
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise RunError(f"{where} is on a file system without locks; put its folder on a local disk") from error


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old one or the new one and nothing between.

    Folders are made if need be; text is UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(value: object, path: Path, indent: int | None = None) -> None:
    """Write a value as JSON, whole or not at all."""
    replace_file(path, json.dumps(value, indent=indent))
