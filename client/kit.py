"""A start-up kit as a site takes it: read whole, and held against its hub's signature."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from configs import kits
from configs.errors import DataError

MOST = 50_000_000
"""Bytes that a kit may unpack to: the app is held to 10 MB by Flower itself."""


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
        DataError: it is damaged, too large, no kit, not signed or changed since, or for a site with an odd name.
    """
    content = _content(path)
    try:
        about = json.loads(content["kit.json"])
        named, site, address = (str(about[key]) for key in ("bundle", "site", "address"))
        kit = Kit(path, content, site, address)
        signed = kit.signed_by(content["ca.crt"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged or no start-up kit; ask the hub's operator for it again") from error
    if not signed:
        raise DataError(f"{path} is not as its hub signed it: do not use it, and tell the hub's operator")
    if hashlib.sha256(content["app.fab"]).hexdigest() != named:
        raise DataError(f"the app in {path} is not the one that the kit names; ask the hub's operator for it again")
    if not site.replace("-", "").replace("_", "").isalnum():
        raise DataError(f"{path} is for a site with an odd name; ask the hub's operator")
    return kit


def _content(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
            if sum(item.file_size for item in archive.infolist()) > MOST:
                raise DataError(f"{path} unpacks to more than {MOST // 1_000_000} MB; it is no start-up kit")
            content = {name: archive.read(name) for name in archive.namelist()}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged or no start-up kit; ask the hub's operator for it again") from error
    if set(content) == set(kits.FILES):
        raise DataError(f"{path} is not signed: it is of an older version; ask the hub's operator for a new one")
    if odd := sorted(set(content) ^ {*kits.FILES, kits.SIGNATURE}):
        raise DataError(f"{path} is damaged or no start-up kit ({odd[0]}); ask the hub's operator for it again")
    return content
