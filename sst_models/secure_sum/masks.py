"""Masks: the keys that they come from, and the streams of numbers that hide a site's values.

A site adds to its values a self mask, and for each other participant a pair mask that the other one subtracts
(Bonawitz et al. 2017, figure 4, round 2). In the sum of all, pair masks cancel and self masks remain.
"""

from hashlib import sha256

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sst_models.secure_sum.fixed_point import VALUE_BYTES, unpack
from sst_models.secure_sum.terms import Terms, canonical

SECRET_BYTES = 32
"""Bytes of a seed, of an X25519 key and of everything that is derived from them."""


def public_key(private: str) -> str:
    """Give the public X25519 key of a private one, both hexadecimal."""
    return X25519PrivateKey.from_private_bytes(bytes.fromhex(private)).public_key().public_bytes_raw().hex()


def seed_digest(seed: str) -> str:
    """Give the SHA-256 of a seed, both hexadecimal: it fits one seed and tells nothing of it, as a seed is random."""
    return sha256(canonical("seed", seed)).hexdigest()


def agreed_key(private: str, public: str, *context: object) -> bytes:
    """Give the 32-byte key that the owners of two X25519 keys share for one purpose.

    Args:
        private: one's private key, hexadecimal.
        public: the other's public key.
        context: what the key is for; JSON values.
    """
    ours = X25519PrivateKey.from_private_bytes(bytes.fromhex(private))
    return _derived(ours.exchange(X25519PublicKey.from_public_bytes(bytes.fromhex(public))), *context)


def self_mask(terms: Terms, label: str, site: str, seed: str, size: int) -> np.ndarray:
    """Give what hides a site's values from a hub that has all pair masks: (size,) uint64 below 2^40."""
    return _stream(_derived(bytes.fromhex(seed), "self mask", terms.digest, label, site), size)


def pair_mask(terms: Terms, label: str, pair: tuple[str, str], keys: tuple[str, str], size: int) -> np.ndarray:
    """Give what the first site of a pair adds to its values, and what cancels what the second one adds.

    Args:
        terms: of the sum.
        label: of the sum.
        pair: the two sites.
        keys: private mask key of the first, and public one of the second; hexadecimal.
        size: how many values.

    Returns:
        (size,) uint64, modulo 2^64 and so modulo 2^40; the mask of the pair the other way round is its negative.
    """
    key = agreed_key(*keys, "pair mask", terms.digest, label, *sorted(pair))
    stream = _stream(key, size)
    return stream if pair[0] < pair[1] else np.negative(stream, out=stream)


def _derived(secret: bytes, *context: object) -> bytes:
    return HKDF(SHA256(), SECRET_BYTES, salt=None, info=canonical("sst secure sum", *context)).derive(secret)


def _stream(key: bytes, size: int) -> np.ndarray:
    """Give the ChaCha20 stream of a key that is used once, as values: (size,) uint64 below 2^40."""
    cipher = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return unpack(np.frombuffer(cipher.update(bytes(size * VALUE_BYTES)), np.uint8))
