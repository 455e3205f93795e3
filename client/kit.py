"""A start-up kit as a site takes it: read whole, and held against its hub's signature."""

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from client import archive
from configs import kits
from configs.errors import DataError


@dataclass(frozen=True)
class Kit:
    """A kit whose files are all there and fit together."""

    path: Path
    content: Mapping[str, bytes]  # name -> bytes, the signature among them
    site: str
    address: str  # of the hub, HOST:PORT

    @property
    def digest(self) -> str:
        """The digest that is compared by telephone; it covers every file."""
        return kits.digest(self.content)

    def signed_by(self, authority: bytes) -> bool:
        """Whether the authority of this certificate (PEM) signed the kit as it is."""
        key = x509.load_pem_x509_certificate(authority).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        try:
            key.verify(self.content[kits.SIGNATURE], kits.listing(self.content), ec.ECDSA(hashes.SHA384()))
        except InvalidSignature:
            return False
        return True


def read_kit(path: Path) -> Kit:
    """Read a kit, and hold it against the signature of the authority that is in it.

    That shows a kit which was damaged or changed, not one that somebody else made and signed: whose it is shows its
    digest, or the certificate that a site has already.

    Raises:
        DataError: it is damaged, no kit, not signed or changed since, for a site with an odd name, or it or its app
            holds more than it may (`client.archive`).
    """
    content = _content(path)
    try:
        about = json.loads(content["kit.json"])
        named, site, address = (str(about[key]) for key in ("bundle", "site", "address"))
        kit = Kit(path, content, site, address)
        signed = kit.signed_by(content["ca.crt"])
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is damaged or no start-up kit; ask the hub's operator for it again") from error
    if not signed:
        raise DataError(f"{path} is not as its hub signed it: do not use it, and tell the hub's operator")
    if hashlib.sha256(content["app.fab"]).hexdigest() != named:
        raise DataError(f"the app in {path} is not the one that the kit names; ask the hub's operator for it again")
    if not site.replace("-", "").replace("_", "").isalnum():
        raise DataError(f"{path} is for a site with an odd name; ask the hub's operator")
    archive.check(io.BytesIO(content["app.fab"]), archive.APP, f"the app in {path}")
    return kit


def _content(path: Path) -> dict[str, bytes]:
    try:
        with path.open("rb") as file:
            content = {name: b"".join(pieces) for name, pieces in archive.read(file, archive.KIT, str(path))}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if set(content) == set(kits.FILES):
        raise DataError(f"{path} is not signed: it is of an older version; ask the hub's operator for a new one")
    if odd := sorted(set(content) ^ {*kits.FILES, kits.SIGNATURE}):
        raise DataError(f"{path} is damaged or no start-up kit ({odd[0]}); ask the hub's operator for it again")
    return content
