"""A secure sum from end to end in one process: sites that start anew for each message, and what the hub is sent."""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sst_models.secure_sum import hub, messages, site, site_setup
from sst_models.secure_sum.fixed_point import decode, encode, pack, unpack
from sst_models.secure_sum.messages import Announcement, Confirmation, Reveal
from sst_models.secure_sum.state import SiteState
from sst_models.secure_sum.terms import Terms
from sst_models.wire.exchange import Arrays

NAMES = ("alba", "bern", "cork", "delft", "essen", "faro", "graz")
KEYS = {name: ec.generate_private_key(ec.SECP384R1()) for name in NAMES}
COUNTS = dict(zip(NAMES, (3, 11, 7, 20, 1, 5, 9), strict=True))
LABEL, NEXT = "register 1", "register 2"
SHAPES = {"b": (3,), "a": (2, 4), "c": ()}

NOBODY: tuple[str, ...] = ()


def terms_of(count: int, run: str = "trial") -> Terms:
    """Give terms of the first so many sites."""
    return Terms(run, {name: public(name) for name in NAMES[:count]}, (LABEL, NEXT))


def public(name: str) -> str:
    """Give a site's long-term public key, as its .pub has it."""
    return KEYS[name].public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


@dataclass
class Run:
    """A hub and its sites, all as they lie on disk, and what the hub was sent."""

    setup: hub.Setup
    states: dict[str, str]  # JSON, by site
    seen: list[bytes] = field(default_factory=list)

    def at(self, name: str) -> SiteState:
        """Read a site's state from its disk."""
        return SiteState.from_json(self.states[name])

    def step(self, name: str, function: Callable[..., Any], *given: Any) -> Any:
        """Let a site take a step: it reads its state, writes the next one, and answers."""
        done = function(self.at(name), *given)
        state, said = done if isinstance(done, tuple) else (done, None)
        self.states[name] = state.to_json()
        self.setup = hub.Setup.from_json(self.setup.to_json())
        return said

    def hear(self, text: str) -> str:
        """Note what the hub was sent, and the bytes that stand in it as digits."""
        self.seen += [text.encode(), *map(bytes.fromhex, re.findall(r"(?:[0-9a-f]{2}){16,}", text))]
        return text

    def copy(self) -> "Run":
        """Give a run that goes on by itself from here."""
        return Run(self.setup, dict(self.states), list(self.seen))


@cache
def announced(count: int, run: str = "trial") -> Run:
    """All sites announced their keys."""
    terms = terms_of(count, run)
    made = Run(hub.Setup(terms), {})
    for name in terms.sites:
        state, said = site_setup.announce(terms, name, COUNTS[name], KEYS[name])
        made.states[name] = state.to_json()
        said = messages.from_json(Announcement, made.hear(messages.to_json(said)))
        made.setup = hub.add_announcement(made.setup, said)
    return made


@cache
def shared(count: int, lost: tuple[str, ...] = NOBODY) -> Run:
    """All sites but those that are lost sent their shares."""
    made = announced(count).copy()
    for name in sorted(set(made.states) - set(lost)):
        boxes = made.step(name, site_setup.share, made.setup.announced.values())
        made.setup = hub.add_boxes(made.setup, name, json.loads(made.hear(json.dumps(boxes))))
    return made


@cache
def agreed(count: int, unshared: tuple[str, ...] = NOBODY, lost: tuple[str, ...] = NOBODY) -> Run:
    """All participants but those that are lost know who the participants are: the set-up is done."""
    made = shared(count, unshared).copy()
    present = sorted(set(made.setup.participants) - set(lost))
    for name in present:
        said = made.step(name, site_setup.receive, made.setup.boxes_for(name), KEYS[name])
        said = messages.from_json(Confirmation, made.hear(messages.to_json(said)))
        made.setup = hub.add_confirmation(made.setup, said)
    for name in present:
        made.step(name, site_setup.agree, made.setup.confirmed.values())
    return made


def masked(run: Run, values: Mapping[str, np.ndarray], label: str = LABEL) -> hub.MaskedSum:
    """Let sites mask their values, and add them up."""
    total = hub.start(label, next(iter(values.values())).size)
    for name, own in values.items():
        packed = pack(run.step(name, site.mask, label, own))
        run.seen.append(packed.tobytes())
        total = hub.add_masked(run.setup, total, name, unpack(packed))
    return total


def revealed(run: Run, total: hub.MaskedSum, lost: Collection[str] = NOBODY) -> list[Reveal]:
    """Let sites reveal what masks a sum, but those that are lost."""
    said = [run.step(name, site.reveal, total.label, total.sites) for name in total.sites if name not in lost]
    return [messages.from_json(Reveal, run.hear(messages.to_json(one))) for one in said]


def mean(run: Run, own: Mapping[str, Arrays], label: str = LABEL, lost: Collection[str] = NOBODY) -> Arrays:
    """Give the weighted mean of sites' arrays by a secure sum; some are lost before they reveal."""
    total = masked(run, {name: encode(arrays, site.weight(run.at(name))) for name, arrays in own.items()}, label)
    return decode(hub.unmask(run.setup, total, revealed(run, total, lost)), SHAPES, run.setup.weight(total.sites))


def arrays_of(count: int, seed: int = 0) -> dict[str, Arrays]:
    """Give each site arrays of numbers up to 4."""
    rng = np.random.default_rng(seed)
    numbers = {name: {key: rng.uniform(-4, 4, shape) for key, shape in SHAPES.items()} for name in NAMES[:count]}
    return {name: {key: np.float32(array) for key, array in own.items()} for name, own in numbers.items()}


def values_of(run: Run, size: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Give each participant that has agreed values of the ring."""
    rng = np.random.default_rng(seed)
    there = [name for name in run.setup.participants if run.at(name).agreed]
    return {name: rng.integers(0, 2**40, size, np.uint64) for name in there}
