"""What can be wrong at a site before anything runs, looked at line by line: `sst site check`."""

import os
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPSConnection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cryptography import x509

from client.bundle import fault
from client.gate.policy import read_policy
from client.home import Home
from client.layouts import find_scans
from configs.errors import SstError
from sst_models.wire.credentials import SOON, days_until, lasting

DISK_GB, MEMORY_GB = 5.0, 4.0
"""Least free disk and memory: prepared scans and weights of a small site; a training step at 64 x 80 x 80."""

CLOCK = 30.0
"""Seconds by which the site's clock may differ from the hub's: each request carries a signed time."""


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    name: str
    fine: bool
    found: str
    do: str = ""  # what to do, where it is not fine


def check(home: Home) -> Iterator[Line]:
    """Look at everything; each line comes as it is known.

    Raises:
        RunError: the folder is no site's.
        ConfigError: site.toml is not as it should be.
    """
    settings = home.settings
    yield from _versions(home)
    yield _approved(home)
    yield _policy(home)
    yield _authority(home)
    yield from _hub(home, settings.address)
    yield _disk(home)
    yield _memory()
    yield _device(settings.device)
    yield _data(settings.data)


def _versions(home: Home) -> Iterator[Line]:
    wanted = home.kit.get("versions", {})
    assert isinstance(wanted, dict)
    for name, number in sorted(wanted.items()):
        if name == "python":
            import platform

            here = platform.python_version()
            same = here.split(".")[:2] == str(number).split(".")[:2]
        else:
            try:
                here = version(name).split("+")[0]
            except PackageNotFoundError:
                here = "not installed"
            # Flower's wire moves with every minor version; all else may differ in its last number.
            same = here.split(".")[:2] == str(number).split(".")[:2]
        yield Line(f"version of {name}", same, f"{here}, the hub has {number}", f"install {name} {number} here")


def _approved(home: Home) -> Line:
    why = fault(home)
    return Line("approved app", not why, why or "unchanged since its approval", "sst site approve")


def _policy(home: Home) -> Line:
    if not home.policy.exists():
        return Line(
            "release policy", False, f"no {home.policy}", "sst site approve writes one that you can then narrow"
        )
    try:
        policy = read_policy(home.policy)
    except SstError as error:
        return Line("release policy", False, str(error), "mend the file")
    return Line("release policy", bool(policy.phases), ", ".join(policy.phases) or "nothing may leave", "name phases")


def _authority(home: Home) -> Line:
    until = x509.load_pem_x509_certificate(home.authority.read_bytes()).not_valid_after_utc.timestamp()
    fine = days_until(until) > 0
    return Line("kit's certificate", fine, _told(until), "ask the hub's operator for a new kit")


def _told(until: float) -> str:
    soon = ": tell the hub's operator" if 0 < days_until(until) < SOON else ""
    return lasting(until) + soon


def _hub(home: Home, address: str) -> Iterator[Line]:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cafile=str(home.authority))
    connection = HTTPSConnection(host.strip("[]"), int(port), timeout=10, context=context)
    try:
        connection.connect()
        shown = connection.sock.getpeercert() or {}
        began = time.time()
        connection.request("POST", "/v1/fleet/")
        answer = connection.getresponse()
        answer.read()
    except ssl.SSLCertVerificationError as error:
        expired = error.verify_code == _EXPIRED
        found = "its certificate has expired" if expired else f"shows another certificate: {error.verify_message}"
        yield Line("hub, TLS", False, f"{address}: {found}", _RENEW if expired else _TLS)
        return
    except (OSError, ValueError) as error:
        yield Line(
            "hub, reachable", False, f"{address}: {error}", "ask for the firewall to let this one connection out"
        )
        return
    finally:
        connection.close()
    yield Line("hub, reachable", True, address)
    until = _told(float(ssl.cert_time_to_seconds(str(shown["notAfter"]))))
    yield Line("hub, TLS", True, f"its certificate is one that the kit's authority signed; {until}")
    closed = _status(home, host, int(port), "/v1/control/") in (403, 404)
    yield Line(
        "hub, only the sites' path is open", closed, "as it should be" if closed else "the control path answers", _OPEN
    )
    answered = answer.getheader("Date")
    if answered:
        apart = abs(parsedate_to_datetime(answered).timestamp() - began)
        yield Line("clock", apart < CLOCK, f"{apart:.0f} s apart from the hub's", "set this machine's clock (NTP)")


_TLS = "do not start: ask the hub's operator, by a way that you trust, for the SHA-256 of its certificate"
_RENEW = "tell the hub's operator, for whom it is one command: sst hub renew-certificates; or is this clock wrong?"
_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_OPEN = "tell the hub's operator: whoever reaches that path can send code to every site"


def _status(home: Home, host: str, port: int, path: str) -> int:
    connection = HTTPSConnection(
        host.strip("[]"), port, timeout=10, context=ssl.create_default_context(cafile=str(home.authority))
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def _disk(home: Home) -> Line:
    free = shutil.disk_usage(home.folder).free / 1e9
    return Line("disk", free >= DISK_GB, f"{free:.0f} GB free", f"make room: {DISK_GB:.0f} GB are wanted")


def _memory() -> Line:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        available = [int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable:")]
        free = available[0] / 1e6 if available else free
    except (OSError, ValueError):
        return Line("memory", True, "cannot be measured on this system")
    return Line("memory", free >= MEMORY_GB, f"{free:.0f} GB free", f"{MEMORY_GB:.0f} GB are wanted")


def _device(asked: str) -> Line:
    import torch

    there = torch.cuda.is_available()
    found = torch.cuda.get_device_name() if there else f"CPU, {torch.get_num_threads()} threads"
    return Line("device", asked != "cuda" or there, found, 'no GPU answers: set device = "auto" in site.toml')


def _data(where: str) -> Line:
    folders = [Path(place) for place in where.split(os.pathsep)]
    look: Callable[[], int] = lambda: len(find_scans(folders))  # noqa: E731
    try:
        count = look()
    except SstError as error:
        return Line("scans", False, str(error), "see docs/own-data.md")
    enough = count >= 3
    return Line("scans", enough, f"{count} found; sst prepare shows each one", "at least 3 are needed")
