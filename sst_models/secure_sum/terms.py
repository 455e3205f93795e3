"""What the hub and all sites of a secure sum agree on beforehand: the run, the sites' keys, the labels.

Secure aggregation as in Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning", CCS
2017, with its set-up made once for all rounds of a run. The hub gets the sum of the sites' vectors, and no single one.

    site                                        hub
    announce   public keys, signed          ->  relays them to all
    share      shares of secrets, in boxes  ->  relays each to its recipient
    receive    opens boxes, signs the list  ->  relays what all signed
    agree
    then for each label, one round:
    mask       values + masks               ->  adds up as they come
    reveal     shares of masks that remain  ->  subtracts the masks, has the sum
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from configs.errors import DataError, FederationError
from sst_models.wire.credentials import fingerprint

FEWEST = 3
"""Sites of a secure sum at least: of two, each knows the other's values from the sum."""

_ECDSA = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)


@dataclass(frozen=True)
class Terms:
    """What is bound into every signature and every key of a secure sum.

    Raises:
        FederationError: there are fewer than three sites, or a label or a key stands there twice.
        DataError: a site's key is no ECDSA P-384 key in OpenSSH's form.
    """

    run: str  # its name; a set-up that is begun anew needs another one
    sites: Mapping[str, str]  # by name: long-term public key, as the site's .pub has it
    labels: tuple[str, ...]  # one for each sum, such as "register 1"

    def __post_init__(self) -> None:
        """Refuse terms under which a sum would protect nobody."""
        if len(self.sites) < FEWEST:
            raise FederationError(f"a secure sum needs {FEWEST} sites, here are {len(self.sites)}; let others join")
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise FederationError("the labels of a secure sum must differ, and there must be one")
        if len({fingerprint(public.encode()) for public in self.sites.values()}) < len(self.sites):
            raise FederationError("two sites of a secure sum have the same key; every site has its own")
        for site, public in self.sites.items():
            _key(site, public)

    @property
    def threshold(self) -> int:
        """How many sites must stay to the end of a round: floor(2 n / 3) + 1 of n, and 2 of 3.

        So many shares give back a secret. For each label a site reveals one kind of share of each other site, that of
        its seed or that of its mask key. A hub with c sites on its side needs 2 * threshold <= n + c to get both; below
        that every sum that it gets is of two honest sites at least (`colluding`).
        """
        return 2 if len(self.sites) == 3 else 2 * len(self.sites) // 3 + 1

    @property
    def colluding(self) -> int:
        """How many sites may be on the hub's side without learning one honest site's values: 2 * threshold - n - 1.

        0 of 3, 1 of 4, 2 of 5, 3 of 6, 2 of 7, 3 of 8, 4 of 9, 3 of 10; from 4 sites on, a third of them or more.
        """
        return 2 * self.threshold - len(self.sites) - 1

    @property
    def digest(self) -> str:
        """SHA-256 of all of it, hexadecimal; the order of sites and the comments of their keys do not matter."""
        keys = {site: fingerprint(public.encode()) for site, public in self.sites.items()}
        return sha256(canonical("sst secure sum", self.run, keys, self.labels)).hexdigest()

    def number(self, site: str) -> int:
        """Give a site's number, from 1, in the order of names: where its shares are evaluated."""
        return sorted(self.sites).index(site) + 1

    def verify(self, site: str, statement: bytes, signature: str) -> bool:
        """Say whether a statement was signed by a site of these terms."""
        try:
            _key(site, self.sites[site]).verify(bytes.fromhex(signature), statement, _ECDSA)
        except (InvalidSignature, ValueError):
            return False
        return True

    def is_key_of(self, site: str, key: ec.EllipticCurvePrivateKey) -> bool:
        """Say whether a private key is that of a site of these terms."""
        return site in self.sites and _key(site, self.sites[site]) == key.public_key()

    def to_json(self) -> str:
        """Give the terms as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Terms":
        """Read what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is no such text.
            FederationError, DataError: these are no terms.
        """
        read = json.loads(text)
        return Terms(str(read["run"]), dict(read["sites"]), tuple(read["labels"]))


def canonical(*parts: object) -> bytes:
    """Give what is signed or hashed: JSON, so that no two lists of parts have the same bytes."""
    return json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()


def sign(key: ec.EllipticCurvePrivateKey, statement: bytes) -> str:
    """Sign by a site's long-term key, ECDSA with SHA-384 (RFC 6979: same statement, same bytes); hexadecimal."""
    return key.sign(statement, _ECDSA).hex()


def site_key(public: bytes, what: str) -> ec.EllipticCurvePublicKey:
    """Read the public key of a site.

    Args:
        public: as the site's .pub has it.
        what: it is, in an error.

    Raises:
        DataError: it is no public key, or of another kind than sites have (ECDSA, P-384).
    """
    try:
        key = load_ssh_public_key(public)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(f"{what} is no public key of a site; it must be the .pub that sst site join wrote") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise DataError(f"{what} is a key of another kind than sst site join makes; ask the site for its .pub")
    return key


def _key(site: str, public: str) -> ec.EllipticCurvePublicKey:
    return site_key(public.encode(), f"the key of site '{site}'")
