"""Receipts for what sites sent: the hub signs the last entry of each site's ledger, and sends it with the next request.

A site can then not cut entries off its ledger's end, or replace it, without its own IT and the hub seeing it.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from server.authority import write_private
from sst_models.wire import receipts
from sst_models.wire.files import write_json

KEY, HEADS = Path("private") / "receipts.key", "ledgers.json"
"""In the hub's folder: the key, and the last entry of each site's ledger."""


def make_key(hub: Path) -> Ed25519PrivateKey:
    """Give the hub's key for receipts; it is made where there is none yet."""
    path = hub / KEY
    if not path.exists():
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_private(path, pem)
    found = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(found, Ed25519PrivateKey)
    return found


def public(hub: Path) -> str:
    """Give the public half, as kits have it: 64 hexadecimal digits."""
    raw = make_key(hub).public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw.hex()


@dataclass
class Receipts:
    """The last entry of each site's ledger, as its replies said.

    Args:
        hub: the hub's folder. Without a key there, as in a simulation, receipts are not signed.
    """

    hub: Path
    heads: dict[str, str] = field(default_factory=dict)  # site -> hash of the entry

    def __post_init__(self) -> None:
        """Read what is known; a file that cannot be read is as good as none."""
        try:
            kept = json.loads((self.hub / HEADS).read_text(encoding="utf-8"))
            self.heads |= {str(site): str(head) for site, head in kept.items() if receipts.HEAD.fullmatch(str(head))}
        except (OSError, ValueError, AttributeError):
            return

    def take(self, site: str, head: str) -> None:
        """Remember the entry that a reply named."""
        if receipts.HEAD.fullmatch(head) and self.heads.get(site) != head:
            self.heads[site] = head
            write_json(dict(sorted(self.heads.items())), self.hub / HEADS)

    def of(self, site: str) -> receipts.Receipt:
        """Give the receipt for a site's last entry."""
        head = self.heads.get(site, "")
        signed = bool(head) and (self.hub / KEY).exists()
        signature = make_key(self.hub).sign(receipts.signed_text(site, head)).hex() if signed else ""
        return receipts.Receipt(head, signature)
