"""How people tell keys and certificates apart, at the hub and at a site alike: fingerprints, and days that are left."""

import base64
import binascii
from datetime import UTC, datetime
from hashlib import sha256

from configs.errors import DataError

SOON = 30.0
"""Days before the end of a certificate from which on it is warned of."""


def fingerprint(public: bytes) -> str:
    """Give the fingerprint of a public key of OpenSSH's form, as `ssh-keygen -lf` shows it: SHA256 and base64.

    Raises:
        DataError: it is no such key.
    """
    try:
        blob = base64.b64decode(public.split()[1], validate=True)
    except (IndexError, binascii.Error) as error:
        raise DataError("this is no public key; it must be the .pub that sst site join wrote") from error
    return "SHA256:" + base64.b64encode(sha256(blob).digest()).decode("ascii").rstrip("=")


def days_until(end: float, now: float | None = None) -> float:
    """Give the days from now to an end, both in seconds since 1970; below zero once it is past."""
    return (end - (datetime.now(UTC).timestamp() if now is None else now)) / 86_400


def lasting(end: float, now: float | None = None) -> str:
    """Say until when a certificate holds."""
    days, date = days_until(end, now), datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d")
    return f"expired on {date}" if days < 0 else f"until {date}, {days:.0f} days"
