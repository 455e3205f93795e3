"""What each site holds of the parts that went either way, so that a request sends only what is new to it.

The hub counts on what a site showed that it has, by its reply to a request, and writes it down after each round: a hub
that was started again sends no more than one that was not. A site that lost a part says "base" and gets it whole.
"""

import json
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from pathlib import Path

from configs.phases import at_sites
from sst_models.wire.exchange import Arrays, Delta, PhaseRequest
from sst_models.wire.files import write_json
from sst_models.wire.payload import Parcel, digest

KEEP = 24
"""Digests per site; no more than a site keeps parts (`client.gate.kept`)."""

LEARNING = frozenset(phase.name for phase in at_sites())
"""The phases after which a part comes back, or is changed and sent again: a site keeps what it gets in them."""


class Holdings:
    """The digests of what each site holds; a few words per site, whatever the size of the parts.

    Args:
        path: of the file that they are kept in, or None. A file that cannot be read is as good as none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._held: dict[tuple[str, str], dict[str, None]] = {}  # (run, site) -> digests, the latest last
        if path is not None:
            with suppress(OSError, ValueError, TypeError):
                kept = json.loads(path.read_text(encoding="utf-8"))
                self._held = {(run, site): dict.fromkeys(held) for run, site, held in kept}

    def pack(self, request: PhaseRequest, digests: MutableMapping[int, str], whole: bool = False) -> Parcel:
        """Choose the form in which each part of a request travels.

        Args:
            request: what to ask.
            digests: of parts, by the identity of their arrays, so that shared weights are read once for many sites.
                Keep the requests alive for as long as this mapping.
            whole: send all of every part, whatever the site holds.
        """
        if request.payload == "full":
            return Parcel(request.arrays)
        held = {} if whole else self._held.get(_key(request), {})
        all_: dict[str, Arrays] = {}
        deltas: dict[str, Delta] = {}
        named: dict[str, str] = {}
        for part, arrays in request.arrays.items():
            name = digests[id(arrays)] if id(arrays) in digests else digests.setdefault(id(arrays), digest(arrays))
            delta = request.deltas.get(part)
            if name not in held and delta and delta.digest == name and delta.base in held:
                deltas[part] = delta
            elif name not in held:
                all_[part] = arrays
            # The moments of other sites ("moments.SITE") are as short as a digest, and not worth a file.
            if name in held or part in deltas or (request.phase in LEARNING and "." not in part):
                named[part] = name
        return Parcel(all_, deltas, named)

    def note(self, request: PhaseRequest, digests: Iterable[str]) -> None:
        """Remember what a site holds now: the parts of a request that it answered, and those of its reply."""
        held = self._held.setdefault(_key(request), {})
        for name in digests:
            held.pop(name, None)
            held[name] = None
        for name in list(held)[:-KEEP]:
            del held[name]

    def save(self) -> None:
        """Write down what is known.

        Raises:
            OSError: the disk is full, or may not be written.
        """
        if self._path is not None:
            write_json([[run, site, list(held)] for (run, site), held in sorted(self._held.items())], self._path)

    def forget(self, request: PhaseRequest) -> None:
        """Count on nothing any more at the site that was asked."""
        self._held.pop(_key(request), None)


def _key(request: PhaseRequest) -> tuple[str, str]:
    return request.run, request.site
