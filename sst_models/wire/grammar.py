"""What a reply may say beside its weights: a site holds its reply to this grammar, and the hub holds it to it again.

`configs.phases` declares by phase what may be in a reply; here is what each of these things must look like. A site that
would break it sends an error code instead (`client.gate.release`); at the hub, such a reply does not count
(`server.vet`), and nothing of it is shown or kept. Parts are compared with those of the request, at either side.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType

from configs.levels import LEVELS
from configs.phases import Phase
from sst_models.wire.exchange import SiteReply

MOST_VALUES = 4096
"""Most numbers in all metrics and series of a reply, far below a volume: loss curves, not scans."""

MOST_COUNT = 1_000_000
"""Most scans that a site can say it has; the largest collections of brain MRI have a tenth of it (UK Biobank)."""

MOST_RECORDS = 64
"""Most records in a message, and most entries in one that holds no arrays or numbers: phases declare up to 16."""

MOST_LETTERS = 256
"""Longest text in a reply; a digest has 64 letters."""

CODE = re.compile(r"[a-z][a-z-]{0,31}")
"""An error code."""

REASONS = frozenset(
    {"config", "data", "too-few", "refused", "declined", "release", "base", "digest", "mismatch", "state", "site"}
    | {"memory", "disk", "internal"}
)
"""The error codes that a site may give; docs/problems.md says what each means, `client.app` when it is given.

No other word is a site's: the hub's own, such as "deadline", would hide what happened. None of these is held against a
site, however often it comes, as a full disk or a scan that is being mended says the same word for days."""

_HEX = re.compile(r"[0-9a-f]{8,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}([.+-]?[a-z]{1,5}[0-9]{0,4})?")

FORMS: Mapping[str, re.Pattern[str] | None] = MappingProxyType(
    {
        "name": _NAME,
        "code": _HEX,
        "flwr": _VERSION,
        "torch": _VERSION,
        "python": _VERSION,
        "level": re.compile("|".join(LEVELS)),
        "atlas": _HEX,
        **dict.fromkeys(("scans", "labelled", "set_aside"), None),
    }
)
"""What each single value that a phase declares must look like: the pattern of a text, or None for a count."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a reply."""

    code: str  # for the hub: "count", "undeclared", "numbers", "not-finite", "range" or "value"
    text: str  # for the site: the whole line; it may quote the reply, so the hub does not show it


def fault(reply: SiteReply, phase: Phase, groups: Collection[str] = ()) -> Fault | None:
    """Give the first thing in a reply that its phase does not declare, or that is not of its declared form.

    Args:
        reply: of a site.
        phase: what it may hold.
        groups: of the run's label table, each of which a phase with `figures` has a Dice of.
    """
    if found := _count_fault(reply, phase) or _part_fault(reply, phase):
        return found
    return _number_fault(reply, phase, groups if phase.figures else ()) or _value_fault(reply, phase)


def is_count(value: object) -> bool:
    """Say whether a value can be a number of scans."""
    return type(value) is int and 0 <= value <= MOST_COUNT


def _count_fault(reply: SiteReply, phase: Phase) -> Fault | None:
    if not is_count(reply.count):
        return Fault("count", f"the count of a reply is a number from 0 to {MOST_COUNT}, not {reply.count!r}")
    if reply.count and not phase.count:
        return Fault("count", f"phase {phase.name} declares no count, but its reply has {reply.count}")
    return None


def _part_fault(reply: SiteReply, phase: Phase) -> Fault | None:
    odd = sorted(set(reply.arrays) - phase.parts)
    return Fault("undeclared", f"phase {phase.name} does not declare the part '{odd[0]}'") if odd else None


def _number_fault(reply: SiteReply, phase: Phase, groups: Collection[str]) -> Fault | None:
    if len(reply.metrics) + sum(len(values) for values in reply.series.values()) > MOST_VALUES:
        return Fault("numbers", f"more than {MOST_VALUES} numbers in the metrics and series of one reply")
    for key, values in (*((key, (value,)) for key, value in reply.metrics.items()), *reply.series.items()):
        if key not in (*phase.losses, *groups):
            return Fault("undeclared", f"phase {phase.name} does not declare a figure '{key}': see configs/phases.py")
        if not all(type(value) is float and isfinite(value) for value in values):
            return Fault("not-finite", f"metric '{key}' is not a finite float")
        if key in groups and not all(0 <= value <= 1 for value in values):
            return Fault("range", f"metric '{key}' is a Dice outside of 0 to 1")
    return None


def _value_fault(reply: SiteReply, phase: Phase) -> Fault | None:
    for key, value in reply.settings.items():
        if key not in phase.values:
            return Fault("undeclared", f"phase {phase.name} does not declare the value '{key}': see configs/phases.py")
        form = FORMS.get(key, _HEX)  # a value without a form of its own can only be a digest
        if not (is_count(value) if form is None else isinstance(value, str) and form.fullmatch(value)):
            return Fault("value", f"value '{key}' is not of its declared form")
    return None
