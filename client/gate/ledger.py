"""The site's own record of everything that left the building, written before it leaves.

One JSON line per release, each with the hash of the line before it: an entry that is changed, dropped or put in later
breaks the chain, and `verify` says where. The ledger holds names, shapes and digests, never values.
"""

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from client.gate.noise import multiplier_in
from configs.dp_sgd import DpSgd
from sst_models.wire import chain
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel

NAME = "ledger.jsonl"
WHAT = "ledger"


def append(path: Path, request: PhaseRequest, reply: SiteReply, parcel: Parcel, training: DpSgd | None = None) -> str:
    """Write the entry of one release to stable storage and give its hash; `parcel` is the reply's parts as they travel.

    Raises:
        OSError: the entry could not be written; then the reply must not be sent.
        RunError: the last entry cannot be read.
    """
    return chain.append(path, describe(request, reply, parcel, training), WHAT)


def describe(request: PhaseRequest, reply: SiteReply, parcel: Parcel, training: DpSgd | None = None) -> dict[str, Any]:
    """Say what a reply holds, without a value: part by part names and shapes; form, bytes, SHA-256 of what travels.

    With statistics, the noise multiplier that they have, and with networks that trained with noise how they did:
    `client.gate.budget` adds them up.
    """
    sent = {part: ("whole", arrays) for part, arrays in parcel.whole.items()}
    sent |= {part: ("difference", step.arrays) for part, step in parcel.deltas.items()}
    measured = reply.arrays.get("statistics")
    found = {
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
    if measured is not None:
        found["noise"] = multiplier_in(measured)
    if training is not None:
        found["training"] = {"multiplier": training.multiplier, "rate": training.rate, "steps": training.steps}
    return found


def verify(path: Path) -> int:
    """Check the whole chain and give the number of its entries.

    Raises:
        RunError: the first line that was changed, dropped, moved or put in.
    """
    return len(verified(path))


def verified(path: Path) -> list[dict[str, Any]]:
    """Check the whole chain and give its entries; none where there is no ledger yet.

    Raises:
        RunError: the first line that was changed, dropped, moved or put in.
    """
    return chain.verify(path, WHAT) if path.exists() else []


def runs_with(path: Path, part: str) -> set[str]:
    """Give the names of the runs in which a part left this site.

    Raises:
        RunError: an entry cannot be read.
    """
    return {str(entry["run"]) for entry in chain.entries(path, WHAT) if part in entry.get("parts", {})}


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
