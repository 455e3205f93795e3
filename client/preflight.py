"""What can be wrong at a site before anything runs, looked at line by line: `sst site check`."""

import json
import os
import platform
import shlex
import shutil
import ssl
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPSConnection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cryptography import x509

from client.consent import fault
from client.gate import audit, budget, receipts
from client.gate.confine import landlock_version, missing
from client.gate.gate import REFUSED
from client.gate.ledger import NAME, verify
from client.gate.policy import read_policy
from client.home import Home
from client.layouts import find_scans
from client.preparation import Preparation
from configs.errors import RefusalError, SstError
from sst_models.wire.credentials import SOON, days_until, lasting

DISK_GB, MEMORY_GB = 5.0, 4.0
"""Least free disk and memory: prepared scans and weights of a small site; a training step at 64 x 80 x 80."""

COMPARED = ("flwr", "python", "sst-federation", "torch")
"""What a kit gives the hub's version of."""

TOLERATED = ("version of python", "version of torch")
"""Lines that a site says at its start; with another version of the rest, hub and site do not understand each other."""

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
    yield from versions(home)
    yield _approved(home)
    yield _sandbox(settings.sandbox)
    yield _policy(home)
    yield _budget(home)
    yield _refusals(home)
    yield _ledger(home)
    yield _private(home)
    yield _authority(home)
    yield from _hub(home, settings.address)
    yield _disk(home)
    yield _memory()
    yield _device(settings.device)
    yield _data(settings.data)


def versions(home: Home) -> Iterator[Line]:
    """Compare what is installed here with what the hub had when it made the kit; Flower itself says nothing.

    The wire moves with every minor version of Flower, and this project goes with it; the last number may differ.
    """
    wanted = home.kit.get("versions")
    if not isinstance(wanted, dict) or not wanted.keys() >= set(COMPARED):
        yield Line("versions", False, "the kit does not say which the hub has", "ask the hub's operator for a new kit")
        return
    for name, number in sorted(wanted.items()):
        here = _installed(name)
        same = here.split(".")[:2] == str(number).split(".")[:2]
        yield Line(f"version of {name}", same, f"{here}, the hub has {number}", f"install {name} {number} here")


def _installed(name: str) -> str:
    if name == "python":
        return platform.python_version()
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return "not installed"


def _approved(home: Home) -> Line:
    why = fault(home)
    return Line("approved app and run", not why, why or "unchanged since their approval", "sst site approve")


def _refusals(home: Home) -> Line:
    """Count what the gate refused since the app was approved last."""
    path = home.gate / REFUSED
    since = home.approved.stat().st_mtime if home.approved.exists() else 0.0
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    rows = [row for row in rows if datetime.fromisoformat(row["time"]).timestamp() > since]
    found = f"{len(rows)} since the approval; the last: {rows[-1]['phase']}: {rows[-1]['why']}" if rows else "none"
    return Line("refused requests", not rows, found, f"read {path}, and ask the hub's operator what they were")


def _ledger(home: Home) -> Line:
    """Hold the ledger against the hub's receipts."""
    try:
        count, cut = verify(home.gate / NAME), receipts.missing(home.gate)
    except SstError as error:
        return Line("ledger", False, str(error), "find out who changed it, and look for a copy")
    found = f"{len(cut)} entries that the hub has seen are not there" if cut else f"{count} entries, none is missing"
    return Line("ledger", not cut, found, "find out who cut them off, and look for a copy")


def _sandbox(asked: str) -> Line:
    if asked == "off":
        return Line("confined app", True, "NOT confined: site.toml says off, so the app can do all that this user can")
    lack = missing()
    found = lack or f"no network, scans to read alone (Landlock {landlock_version()}, seccomp)"
    return Line("confined app", not lack, found, 'use another machine, or set sandbox = "off" if you trust the app')


def _policy(home: Home) -> Line:
    if not home.policy.exists():
        return Line(
            "release policy", False, f"no {home.policy}", "sst site approve writes one that you can then narrow"
        )
    try:
        policy = read_policy(home.policy)
    except SstError as error:
        return Line("release policy", False, str(error), "mend the file")
    said = f"level {policy.level}: {', '.join(policy.answered) or 'no phase is answered'}"
    return Line("release policy", bool(policy.answered), said, "name phases")


def _budget(home: Home) -> Line:
    """Say what of the budget of differential privacy is spent, and whether one run more is within it."""
    try:
        policy = read_policy(home.policy if home.policy.exists() else None)
        spent = budget.spent(home.gate / NAME, policy.delta)
        found = f"epsilon {spent:.2f} of {policy.most_epsilon:g} is spent, at delta {policy.delta:g}"
        budget.check(home.gate, "", policy)
    except RefusalError:
        return Line("privacy budget", True, f"{found}: not enough for one run more")
    except SstError as error:
        return Line("privacy budget", False, str(error), "see the lines on policy and ledger")
    return Line("privacy budget", True, f"{found}; {audit.rule(policy)}")


def _private(home: Home) -> Line:
    """Look for what others on this machine can read; the approved app is no secret."""
    code = {home.approved, home.flower / "apps"}
    paths = (path for path in (home.folder, *home.folder.rglob("*")) if not code & {path, *path.parents})
    found = [path for path in paths if _for_others(path)]
    said = f"{len(found)} files and folders can be read by others, {found[0]} for one" if found else "nobody else's"
    return Line("files", not found, said, f"chmod -R go= {shlex.quote(str(home.folder))}")


def _for_others(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:  # gone meanwhile: the site may be running
        return False
    return not stat.S_ISLNK(mode) and bool(mode & 0o077)


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
        other = f"shows another certificate: {error.verify_message}", _TLS
        found, what = _FAULTS.get(error.verify_code, other)
        yield Line("hub, TLS", False, f"{address}: {found}", what)
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
_OLD = "its certificate is of a version before 0.4", "use Python 3.12 here, or ask for a hub that is made anew"
_FAULTS = {10: ("its certificate has expired", _RENEW), 85: _OLD, 86: _OLD}
"""Code of OpenSSL's -> what is found, and what to do: has expired; without identifiers, which Python 3.13 wants."""

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
    how = Preparation()
    try:
        count = len(find_scans(folders, how.contrast, how.table))
    except SstError as error:
        return Line("scans", False, str(error), "see docs/own-data.md")
    enough = count >= 3
    return Line("scans", enough, f"{count} found; sst prepare shows each one", "at least 3 are needed")
