"""The site's own record of everything that left the building, written before it leaves.

One JSON line per release, each with the hash of the line before it: an entry that is changed, dropped or put in later
breaks the chain, and `verify` says where. The ledger holds names, shapes and digests, never values.
"""

import json
import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from configs.errors import RunError
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel

NAME = "ledger.jsonl"
_START = "0" * 64


def append(path: Path, request: PhaseRequest, reply: SiteReply, parcel: Parcel) -> str:
    """Write the entry of one release to stable storage and give its hash; `parcel` is the reply's parts as they travel.

    Raises:
        OSError: the entry could not be written; then the reply must not be sent.
        RunError: the last entry cannot be read.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    previous = _cut_torn_tail(path)
    entry = {**describe(request, reply, parcel), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    entry["previous"] = previous
    entry["hash"] = _hash(entry)
    with path.open("ab") as file:
        file.write(_canonical(entry) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return str(entry["hash"])


def describe(request: PhaseRequest, reply: SiteReply, parcel: Parcel) -> dict[str, Any]:
    """Say what a reply holds, without a value: part by part names and shapes; form, bytes, SHA-256 of what travels."""
    sent = {part: ("whole", arrays) for part, arrays in parcel.whole.items()}
    sent |= {part: ("difference", step.arrays) for part, step in parcel.deltas.items()}
    return {
        "run": request.run,
        "phase": request.phase,
        "round": request.round,
        "site": request.site,
        "count": reply.count,
        "bytes": parcel.bytes,
        "parts": {part: _describe_part(arrays, *sent[part]) for part, arrays in sorted(reply.arrays.items())},
        "metrics": sorted(reply.metrics),
        "series": {key: len(values) for key, values in sorted(reply.series.items())},
        "settings": sorted(reply.settings),
        "error": reply.error,
    }


def verify(path: Path) -> int:
    """Check the whole chain and give the number of its entries.

    Raises:
        RunError: the first line that was changed, dropped, moved or put in.
    """
    previous = _START
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        entry = _parse(line, path, number)
        if entry.get("previous") != previous or entry.get("hash") != _hash(entry):
            raise RunError(f"{path} line {number} does not follow from the lines above it: the ledger was altered")
        previous = entry["hash"]
    return len(lines)


def runs_with(path: Path, part: str) -> set[str]:
    """Give the names of the runs in which a part left this site.

    Raises:
        RunError: an entry cannot be read.
    """
    data = path.read_bytes() if path.exists() else b""
    lines = data[: data.rfind(b"\n") + 1].splitlines()  # a half-written last one left nothing
    entries = [_parse(line, path, number) for number, line in enumerate(lines, start=1)]
    return {str(entry["run"]) for entry in entries if part in entry.get("parts", {})}


def _describe_part(arrays: Arrays, form: str, sent: Arrays) -> dict[str, Any]:
    digest = sha256()
    for name, array in sorted(sent.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return {
        "arrays": {name: list(array.shape) for name, array in sorted(arrays.items())},
        "form": form,
        "bytes": sum(array.nbytes for array in sent.values()),
        "sha256": digest.hexdigest(),
    }


def _cut_torn_tail(path: Path) -> str:
    """Give the last entry's hash; drop a half-written last line: its reply was never sent."""
    if not path.exists():
        return _START
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    lines = whole.splitlines()
    return str(_parse(lines[-1], path, len(lines)).get("hash")) if lines else _START


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise RunError(f"{path} line {number} is not JSON: the ledger was altered") from error
    if not isinstance(entry, dict):
        raise RunError(f"{path} line {number} is not an entry: the ledger was altered")
    return entry


def _hash(entry: dict[str, Any]) -> str:
    return sha256(_canonical({key: value for key, value in entry.items() if key != "hash"})).hexdigest()


def _canonical(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
