"""What sites say in a secure sum, and what is wrong with what somebody else said.

All bytes are hexadecimal text, so that a message is plain JSON. The two that other sites rely on are signed by the
site's long-term key: the hub, which relays them, can leave one out but not make one up.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from sst_models.secure_sum.terms import Terms, canonical
from sst_models.wire.grammar import is_count

_KEY = re.compile(r"[0-9a-f]{64}")  # 32 bytes: a key, a seed, a digest, a share of one of the first two

_PROBE = X25519PrivateKey.from_private_bytes(bytes(32))
"""Stands for any private key, as a point of low order gives zero with each (RFC 7748, section 6.1)."""


@dataclass(frozen=True)
class Announcement:
    """A site's public keys for all labels, and the number of scans that its weight in every mean comes from.

    The count is signed, as a hub that could choose the weights would give one site all of it and have its values.
    """

    site: str
    count: int
    box_key: str  # X25519, for boxes to this site
    mask_keys: Mapping[str, str]  # label -> X25519
    seed_digests: Mapping[str, str]  # label -> SHA-256 of the seed of the self mask
    signature: str = ""

    def statement(self, terms: Terms) -> bytes:
        """Give what is signed."""
        keys = [self.box_key, dict(self.mask_keys), dict(self.seed_digests)]
        return canonical("announcement", terms.digest, self.site, self.count, keys)


@dataclass(frozen=True)
class Confirmation:
    """A site's word for whose boxes it holds, which each site says once."""

    site: str
    roster: str  # SHA-256, hexadecimal: `roster`
    signature: str = ""

    def statement(self, terms: Terms) -> bytes:
        """Give what is signed."""
        return canonical("confirmation", terms.digest, self.site, self.roster)


@dataclass(frozen=True)
class Reveal:
    """A site's shares of what is needed to take the masks off the sum of one label."""

    site: str
    label: str
    seeds: Mapping[str, str]  # survivor -> share of its seed
    mask_keys: Mapping[str, str]  # dropout -> share of its private mask key


M = TypeVar("M", Announcement, Confirmation, Reveal)

_TYPES = {"count": int, **dict.fromkeys(("mask_keys", "seed_digests", "seeds"), dict)}
"""Of the fields that are not text."""


def to_json(message: Announcement | Confirmation | Reveal) -> str:
    """Give a message as text."""
    return json.dumps(asdict(message), sort_keys=True)


def from_json(kind: type[M], text: str) -> M:
    """Read what `to_json` gave; what it says is checked where it is used.

    Raises:
        ValueError, TypeError, RecursionError: it is no such text.
    """
    said = kind(**json.loads(text))
    for name, value in asdict(said).items():
        fine = type(value) is _TYPES.get(name, str)
        if not fine or (isinstance(value, dict) and not all(isinstance(one, str) for one in value.values())):
            raise ValueError(f"'{name}' of a message is {value!r}")
    return said


def roster(terms: Terms, announcements: Mapping[str, Announcement]) -> str:
    """Give the digest of the participants and all that they announced."""
    said = {site: sha256(own.statement(terms)).hexdigest() for site, own in announcements.items()}
    return sha256(canonical("roster", terms.digest, said)).hexdigest()


def announcement_fault(terms: Terms, said: Announcement) -> str:
    """Say what is wrong with an announcement; "" if nothing is."""
    if said.site not in terms.sites:
        return f"'{said.site}' announced itself, which is no site of this run"
    if not _is_form(terms, said):
        return f"the announcement of site '{said.site}' is not of its form, or not for the labels of this run"
    if not terms.verify(said.site, said.statement(terms), said.signature):
        return (
            f"the announcement of site '{said.site}' is not signed by its key for this run: a key was swapped on the "
            "way, or it is another run's"
        )
    if not all(map(_is_point, (said.box_key, *said.mask_keys.values()))):
        return f"site '{said.site}' announced a key that gives everybody the same secret"
    return ""


def clash(announcements: Mapping[str, Announcement]) -> str:
    """Say which site announced a key or a seed that stands somewhere else, too; "" if none did."""
    known: set[str] = set()
    for site, said in sorted(announcements.items()):
        own = [said.box_key, *said.mask_keys.values(), *said.seed_digests.values()]
        if len(set(own) - known) < len(own):
            return f"site '{site}' announced a key twice, or that of another site"
        known |= set(own)
    return ""


def confirmation_fault(terms: Terms, said: Confirmation, wanted: str) -> str:
    """Say what is wrong with a confirmation, which should be of the roster `wanted`; "" if nothing is."""
    if said.site not in terms.sites or not terms.verify(said.site, said.statement(terms), said.signature):
        return f"the confirmation of site '{said.site}' is not signed by its key for this run"
    if said.roster != wanted:
        return f"site '{said.site}' holds the boxes of other sites, or other keys: not all were given the same"
    return ""


def _is_form(terms: Terms, said: Announcement) -> bool:
    labelled = (said.mask_keys, said.seed_digests)
    if not all(set(named) == set(terms.labels) for named in labelled):
        return False
    texts = (said.box_key, *said.mask_keys.values(), *said.seed_digests.values())
    return is_hex(*texts) and is_count(said.count) and said.count > 0


def is_hex(*texts: object) -> bool:
    """Say whether all of these are 32 bytes in hexadecimal, as keys, seeds, digests and shares are."""
    return all(isinstance(text, str) and _KEY.fullmatch(text) for text in texts)


def _is_point(public: str) -> bool:
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    except ValueError:
        return False
    return True
