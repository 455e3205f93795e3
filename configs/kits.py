"""A start-up kit: the files that it has, what its hub signs, and the digest that hub and site compare by telephone."""

import hashlib
from collections.abc import Mapping

FILES = ("README.txt", "app.fab", "ca.crt", "experiment.json", "kit.json")
"""All that the digest and the signature cover, in the order in which they are listed."""

SIGNATURE = "signature"
"""ECDSA with SHA-384 over `listing`, by the key of the hub's authority; DER."""

SPOKEN = 32
"""Hexadecimal digits of the digest that people compare: 128 bits, which nobody can hit with another kit."""


def listing(content: Mapping[str, bytes]) -> bytes:
    """Give what the hub signs: SHA-256 and name of each file, as `sha256sum` prints them.

    So a kit can be checked without this project, in its unpacked folder:

        sha256sum README.txt app.fab ca.crt experiment.json kit.json > list
        openssl x509 -in ca.crt -noout -pubkey > key
        openssl dgst -sha384 -verify key -signature signature list; sha256sum list
    """
    return "".join(f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in FILES).encode()


def digest(content: Mapping[str, bytes]) -> str:
    """Give the digest of a whole kit in groups of four digits, to be read aloud."""
    digits = hashlib.sha256(listing(content)).hexdigest()[:SPOKEN]
    return " ".join(digits[start : start + 4] for start in range(0, SPOKEN, 4))
