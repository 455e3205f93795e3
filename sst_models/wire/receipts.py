"""A hub's receipt for the last entry of a site's ledger: what travels, and what is signed."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HEAD = re.compile(r"[0-9a-f]{64}")
"""The hash of an entry."""


@dataclass(frozen=True)
class Receipt:
    """What a request says of the site's ledger; both "" where the hub knows of no entry."""

    head: str  # hash of the last entry that the hub has seen
    signature: str  # Ed25519 over `signed_text`, hexadecimal; "" from a hub without a key

    def as_meta(self) -> dict[str, str]:
        """Give it as a request's record has it."""
        return {"ledger": self.head, "receipt": self.signature}

    @staticmethod
    def of(meta: Mapping[str, Any]) -> "Receipt":
        """Read it from a request's record; what is of another form is none."""
        head, signature = str(meta.get("ledger", "")), str(meta.get("receipt", ""))
        fine = HEAD.fullmatch(head) and (not signature or re.fullmatch(r"[0-9a-f]{128}", signature))
        return Receipt(head, signature) if fine else Receipt("", "")


def signed_text(site: str, head: str) -> bytes:
    """Give what the hub signs."""
    return f"sst ledger receipt\n{site}\n{head}\n".encode()
