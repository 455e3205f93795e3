"""The hub's receipts at a site: entries of the ledger that the hub has seen, signed, so that none can be cut off later.

Each request brings a receipt for the last entry. It is kept beside the ledger; `missing` says which entries that the
hub has seen are not in the ledger any more. Who cuts the receipts off, too, meets the last one again at the next
request.
"""

import json
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.gate import ledger
from configs.errors import RefusalError
from sst_models.wire import chain
from sst_models.wire.files import write_json
from sst_models.wire.receipts import Receipt, signed_text

NAME = "receipts.json"
"""In the gate's folder: the receipts, the last one last."""

MOST = 10_000
"""Receipts that are kept: the chain between two of them holds by itself."""


def take(receipt: Receipt, site: str, signer: str, gate: Path) -> None:
    """Keep a receipt.

    Args:
        receipt: as it came with a request.
        site: this site's name.
        signer: the hub's public key, as the approved kit has it; "" for a hub that signs none.
        gate: the gate's folder.

    Raises:
        RefusalError: it is not signed by the hub that was approved.
    """
    if not receipt.head:
        return
    if signer:
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signer))
            key.verify(bytes.fromhex(receipt.signature), signed_text(site, receipt.head))
        except (InvalidSignature, ValueError) as error:
            raise RefusalError(
                "the receipt for this site's ledger is not signed by the hub that was approved"
            ) from error
    kept = read(gate)
    if not kept or kept[-1].head != receipt.head:
        rows = [[one.head, one.signature] for one in (*kept, receipt)][-MOST:]
        write_json(rows, gate / NAME)


def read(gate: Path) -> list[Receipt]:
    """Give the receipts that are kept, the last one last; none where the file cannot be read."""
    try:
        return [Receipt(str(head), str(signature)) for head, signature in json.loads((gate / NAME).read_text())]
    except (OSError, ValueError, TypeError):
        return []


def missing(gate: Path) -> list[str]:
    """Give the hashes of entries that the hub has seen and that the ledger does not have.

    Raises:
        RunError: the ledger cannot be read.
    """
    there = {str(entry.get("hash")) for entry in chain.entries(gate / ledger.NAME, ledger.WHAT)}
    return [receipt.head for receipt in read(gate) if receipt.head not in there]
