"""A file of JSON lines that only grows: each line has the hash of the one before.

A line that is changed, dropped or put in later breaks the chain, and `verify` says where. Who can write the file can
cut lines off its end, or write a whole new chain: keep copies elsewhere.
"""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from configs.errors import RunError
from sst_models.wire.files import lock

_START = "0" * 64


def append(path: Path, entry: Mapping[str, Any], what: str) -> str:
    """Write one entry to stable storage, with the time, and give its hash; of two processes one waits for the other.

    Args:
        path: the file; made if need be.
        entry: what happened.
        what: the file is, in an error.

    Raises:
        OSError: the entry could not be written.
        RunError: the last entry cannot be read, or the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        lock(file, fcntl.LOCK_EX, path)
        previous = _cut_torn_tail(path, what)
        whole = {**entry, "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "previous": previous}
        whole["hash"] = _hash(whole)
        file.write(_canonical(whole) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return str(whole["hash"])


def verify(path: Path, what: str) -> list[dict[str, Any]]:
    """Check the whole chain and give its entries.

    Raises:
        RunError: the first line that was changed, dropped, moved or put in.
    """
    previous, entries = _START, []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        entry = _parse(line, path, number, what)
        if entry.get("previous") != previous or entry.get("hash") != _hash(entry):
            raise RunError(f"{path} line {number} does not follow from the lines above it: the {what} was altered")
        previous = entry["hash"]
        entries.append(entry)
    return entries


def entries(path: Path, what: str) -> list[dict[str, Any]]:
    """Give the entries of a file as they stand there, without a half-written last one; none where there is no file.

    Raises:
        RunError: one cannot be read.
    """
    data = path.read_bytes() if path.exists() else b""
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return [_parse(line, path, number, what) for number, line in enumerate(lines, start=1)]


def _cut_torn_tail(path: Path, what: str) -> str:
    """Give the last entry's hash; drop a half-written last line: what it stood for did not happen."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    lines = whole.splitlines()
    return str(_parse(lines[-1], path, len(lines), what).get("hash")) if lines else _START


def _parse(line: bytes, path: Path, number: int, what: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise RunError(f"{path} line {number} is not JSON: the {what} was altered") from error
    if not isinstance(entry, dict):
        raise RunError(f"{path} line {number} is not an entry: the {what} was altered")
    return entry


def _hash(entry: Mapping[str, Any]) -> str:
    return sha256(_canonical({key: value for key, value in entry.items() if key != "hash"})).hexdigest()


def _canonical(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
