"""The site's last replies on disk, so that a request which comes twice costs one training.

The hub asks again when a node went away with its reply (docs/flower.md, finding 9). The key is the request's content,
so a request that differs in one weight is a new one. A file that cannot be read counts as absent.
"""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np

from client import pipe
from configs.errors import DataError
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.files import replace_file

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
        return pipe.read_reply((folder / f"{key}.safetensors").read_bytes())
    except (OSError, DataError):
        return None


def remember(folder: Path, key: str, reply: SiteReply) -> None:
    """Keep a reply under `key`, whole or not at all, and drop all but the last few.

    Raises:
        OSError: the folder cannot be written.
    """
    replace_file(folder / f"{key}.safetensors", pipe.write_reply(reply))
    kept = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for path in kept[KEEP:]:
        path.unlink(missing_ok=True)
