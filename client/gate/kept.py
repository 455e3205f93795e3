"""The last parts that hub and site both hold, on the site's disk, so that only what changed has to travel.

A part is kept under its digest, whatever it is called. What cannot be read, or is not what its name says, is absent:
the hub then sends all of it.
"""

import os
import re
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sst_models.wire.exchange import Arrays
from sst_models.wire.files import replace_file
from sst_models.wire.payload import digest

KEEP = 24
"""Parts on disk: those of two rounds of the phase with most parts, as sent and as answered."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class Kept:
    """The parts of one run at this site."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, part: str, name: str) -> Arrays | None:
        """Give the part of this digest, or None; `part` is what the hub calls it."""
        if not _DIGEST.fullmatch(name):
            return None
        try:
            found: Arrays = load(self._path(name).read_bytes())
            os.utime(self._path(name))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None
        return found if digest(found) == name else None

    def remember(self, name: str, arrays: Arrays) -> None:
        """Keep a part under its digest, whole or not at all, and drop all but the last few.

        Raises:
            OSError: the folder cannot be written.
        """
        replace_file(self._path(name), save({key: np.asarray(array, order="C") for key, array in arrays.items()}))
        kept = sorted(self._folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in kept[KEEP:]:
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.safetensors"
