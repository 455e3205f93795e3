"""The site's last replies on disk, so that a request which comes twice costs one training.

The hub asks again when a node went away with its reply (docs/flower.md, finding 9). The key is the request's content,
so a request that differs in one weight is a new one. A file that cannot be read counts as absent.
"""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sst_models.wire.exchange import PhaseRequest, SiteReply

KEEP = 4
"""Replies on disk: one for the request under way, and some for runs that interleave at one site."""


def key_of(request: PhaseRequest) -> str:
    """Digest a request's whole content: the same content, the same key."""
    words = (request.run, request.phase, request.round, request.site, request.experiment, dict(request.settings))
    digest = sha256(json.dumps(words, sort_keys=True).encode())
    for part, arrays in sorted(request.arrays.items()):
        for name, array in sorted(arrays.items()):
            digest.update(json.dumps([part, name, str(array.dtype), array.shape]).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def recall(folder: Path, key: str) -> SiteReply | None:
    """Give the reply kept under `key`, or None."""
    try:
        data = (folder / f"{key}.safetensors").read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        meta = json.loads(header["__metadata__"]["reply"])
        tensors = load(data)
        return _inflate(meta, tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def remember(folder: Path, key: str, reply: SiteReply) -> None:
    """Keep a reply under `key`, whole or not at all, and drop all but the last few.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors, meta = _flatten(reply)
    unfinished = folder / f"{key}.unfinished"
    with unfinished.open("wb") as file:
        file.write(save(tensors, {"reply": json.dumps(meta)}))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(folder / f"{key}.safetensors")
    kept = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in kept[KEEP:]:
        path.unlink(missing_ok=True)


def _flatten(reply: SiteReply) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    names = [(part, name) for part, arrays in reply.arrays.items() for name in arrays]
    tensors = {
        str(number): np.asarray(reply.arrays[part][name], order="C") for number, (part, name) in enumerate(names)
    }
    meta = {
        "site": reply.site,
        "phase": reply.phase,
        "round": reply.round,
        "count": reply.count,
        "parts": list(reply.arrays),
        "names": names,
        "metrics": dict(reply.metrics),
        "series": dict(reply.series),
        "settings": dict(reply.settings),
    }
    return tensors, meta


def _inflate(meta: dict[str, Any], tensors: dict[str, np.ndarray]) -> SiteReply:
    names, parts, series = meta.pop("names"), meta.pop("parts"), meta.pop("series")
    arrays: dict[str, dict[str, np.ndarray]] = {part: {} for part in parts}
    for number, (part, name) in enumerate(names):
        arrays[part][name] = tensors[str(number)]
    curves = {key: tuple(values) for key, values in series.items()}
    return SiteReply(**meta, arrays=arrays, series=curves)
