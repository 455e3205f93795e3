"""Secrets in shares, of which a threshold gives them back, and the boxes in which shares go from site to site."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from sst_models.secure_sum.masks import agreed_key
from sst_models.secure_sum.messages import is_hex
from sst_models.secure_sum.terms import Terms, canonical

HALF = 16
"""Bytes that Shamir's scheme over GF(2^128) splits at once (PyCryptodome); a secret has two halves."""

_NONCE_BYTES = 12


@dataclass(frozen=True)
class Secrets:
    """What hides a site's values under one label, or a share of each; hexadecimal, 32 bytes."""

    mask_key: str = field(repr=False)  # X25519, private
    seed: str = field(repr=False)  # of the self mask


class BadBox(Exception):
    """A box was not made by its sender for its recipient under these terms."""


def split(terms: Terms, secret: str) -> dict[str, str]:
    """Split a secret among all sites of the terms; `terms.threshold` shares give it back, fewer say nothing."""
    whole, count = bytes.fromhex(secret), len(terms.sites)
    halves = [Shamir.split(terms.threshold, count, part, ssss=False) for part in (whole[:HALF], whole[HALF:])]
    shares = [(low[1] + high[1]).hex() for low, high in zip(*halves, strict=True)]
    return dict(zip(sorted(terms.sites), shares, strict=True))


def combine(terms: Terms, shares: Mapping[str, str]) -> str:
    """Give back a secret from the shares of so many sites as the threshold, or of more, by the holder's name."""
    used = sorted(shares.items())[: terms.threshold]
    parts = [(terms.number(site), bytes.fromhex(share)) for site, share in used]
    low = Shamir.combine([(number, share[:HALF]) for number, share in parts], ssss=False)
    high = Shamir.combine([(number, share[HALF:]) for number, share in parts], ssss=False)
    return (low + high).hex()


def seal(terms: Terms, pair: tuple[str, str], private: str, public: str, shares: Mapping[str, Secrets]) -> str:
    """Put shares into a box that only its recipient can open (ChaCha20-Poly1305, RFC 8439); hexadecimal.

    Args:
        terms: of the sum.
        pair: sender and recipient.
        private: the sender's box key.
        public: the recipient's box key.
        shares: by label.
    """
    content = json.dumps({label: asdict(share) for label, share in shares.items()}).encode()
    nonce, context = secrets.token_bytes(_NONCE_BYTES), ("box", terms.digest, *pair)
    sealed = ChaCha20Poly1305(agreed_key(private, public, *context)).encrypt(nonce, content, canonical(*context))
    return (nonce + sealed).hex()


def unseal(terms: Terms, pair: tuple[str, str], private: str, public: str, box: str) -> dict[str, Secrets]:
    """Open a box.

    Args:
        terms: of the sum.
        pair: sender and recipient.
        private: the recipient's box key.
        public: the sender's box key.
        box: what `seal` gave.

    Returns:
        Shares, one for each label of the terms.

    Raises:
        BadBox: it was changed, is for somebody else, or does not hold what it should.
    """
    context = ("box", terms.digest, *pair)
    try:
        whole = bytes.fromhex(box)
        cipher = ChaCha20Poly1305(agreed_key(private, public, *context))
        read = json.loads(cipher.decrypt(whole[:_NONCE_BYTES], whole[_NONCE_BYTES:], canonical(*context)))
        shares = {label: Secrets(**share) for label, share in read.items()}
    except (InvalidTag, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadBox(f"the box from site '{pair[0]}' to site '{pair[1]}' is not what its sender made") from error
    if set(shares) != set(terms.labels) or not all(is_hex(one.mask_key, one.seed) for one in shares.values()):
        raise BadBox(f"the box from site '{pair[0]}' to site '{pair[1]}' lacks shares")
    return shares
