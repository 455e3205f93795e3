"""What each site holds of the parts that went either way, so that a request sends only what is new to it.

The hub counts on what a site showed that it has, by its reply to a request. It keeps this in memory alone: a hub that
was started again sends each part whole once, and a site that lost one says "base" and gets it whole.
"""

from collections.abc import Iterable, MutableMapping

from sst_models.exchange import Arrays, PhaseRequest, Step
from sst_models.payload import Parcel, digest

KEEP = 24
"""Digests per site; no more than a site keeps parts (`client.kept`)."""

LEARNING = ("register", "style", "joint", "flow_codes", "adapt")
"""The phases after which a part comes back, or is changed and sent again: a site keeps what it gets in them."""


class Holdings:
    """The digests of what each site holds; a few words per site, whatever the size of the parts."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], dict[str, None]] = {}  # (run, site) -> digests, the latest last

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
        steps: dict[str, Step] = {}
        named: dict[str, str] = {}
        for part, arrays in request.arrays.items():
            name = digests[id(arrays)] if id(arrays) in digests else digests.setdefault(id(arrays), digest(arrays))
            step = request.steps.get(part)
            if name not in held and step and step.digest == name and step.base in held:
                steps[part] = step
            elif name not in held:
                all_[part] = arrays
            # The moments of other sites ("moments.SITE") are as short as a digest, and not worth a file.
            if name in held or part in steps or (request.phase in LEARNING and "." not in part):
                named[part] = name
        return Parcel(all_, steps, named)

    def note(self, request: PhaseRequest, digests: Iterable[str]) -> None:
        """Remember what a site holds now: the parts of a request that it answered, and those of its reply."""
        held = self._held.setdefault(_key(request), {})
        for name in digests:
            held.pop(name, None)
            held[name] = None
        for name in list(held)[:-KEEP]:
            del held[name]

    def forget(self, request: PhaseRequest) -> None:
        """Count on nothing any more at the site that was asked."""
        self._held.pop(_key(request), None)


def _key(request: PhaseRequest) -> tuple[str, str]:
    return request.run, request.site
