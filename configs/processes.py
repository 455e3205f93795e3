"""Processes of Flower's that hub, site and simulation start, watch and end: each in its own group, with its own log."""

import ctypes
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType

from configs import guard
from configs.errors import FederationError
from configs.shown import LINE, shown

QUIET: Mapping[str, str] = MappingProxyType(
    {
        "FLWR_TELEMETRY_ENABLED": "0",  # read when flwr is first imported
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
)
"""Environment under which Flower leaves the network alone (docs/flower.md, finding 4)."""

PRIVATE = 0o077
"""The umask of a site's and a hub's commands, which all that they start inherits: nobody else reads what they write."""

LIVES = 60.0
"""Seconds; a process that ends sooner after its start has not worked."""

STARTS = 5
"""Starts in a row that did not work, after which a process is not started again where somebody should mend it."""

STOP = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def guarded(tools: Path) -> str:
    """Give a PATH with a folder of guarded commands first, and without any other that has commands of Flower's."""
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    others = [place for place in places if not any((place / name).exists() for name in (*guard.GUARDED, *guard.OTHERS))]
    return os.pathsep.join(map(str, (tools, *others)))


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, by which service managers stop what they started, end the block like Ctrl-C, with exit code 0."""
    if threading.current_thread() is not threading.main_thread():  # Python takes signals there alone
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the second one must not cut the clean end off
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass
class _Kept:
    command: Sequence[str]
    process: subprocess.Popen[bytes]
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None  # time.monotonic() at which it was seen to have ended
    failed: int = 0  # starts in a row that did not work


@dataclass
class Processes:
    """Processes that end with the block, each with a log of its own in `logs`.

    Args:
        variables: the environment of all of them.
        logs: folder for `NAME.log`.
        folder: where they start: empty, because Flower's simulation imports from there first.
    """

    variables: Mapping[str, str]
    logs: Path
    folder: Path
    running: dict[str, _Kept] = field(default_factory=dict)

    def __enter__(self) -> "Processes":
        """Make the folders."""
        self.logs.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End all, the last started first."""
        for kept in reversed(self.running.values()):
            _signal(kept.process, signal.SIGTERM)
        end = time.monotonic() + STOP
        for kept in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                kept.process.wait(max(0.0, end - time.monotonic()))
            _signal(kept.process, signal.SIGKILL)  # also for what the process left behind in its group
            kept.process.wait()

    def start(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a command, Flower's own ones from this Python's installation; its output goes on in `NAME.log`."""
        process = self._open(name, command)
        self.running[name] = _Kept(command, process)
        return process

    def check(self, *but: str) -> None:
        """See that all still run, except those in `but`.

        Raises:
            FederationError: one ended; the message names its log.
        """
        for name, kept in self.running.items():
            if name not in but and kept.process.poll() is not None:
                raise FederationError(f"{name} ended with code {kept.process.returncode}: see {self.logs / name}.log")

    def mend(self, pause: float, most: float = math.inf) -> list[str]:
        """Start again what ended at least `pause` seconds ago; give the names of those that were started.

        Raises:
            FederationError: one ended within `LIVES` of its start, `most` times in a row; the message has the last line
                of its log.
        """
        started = []
        for name, kept in self.running.items():
            if kept.process.poll() is None:
                continue
            now = time.monotonic()
            if kept.ended is None:
                kept.ended, kept.failed = now, kept.failed + 1 if now - kept.begun < LIVES else 0
                if kept.failed >= most:
                    raise FederationError(
                        f"{name} ended {kept.failed} times in a row, with code {kept.process.returncode}"
                        f"{_last_words(self.logs / f'{name}.log')}: see {self.logs / name}.log"
                    )
            if now - kept.ended >= pause:
                _signal(kept.process, signal.SIGKILL)  # what it left behind in its group
                self.running[name] = _Kept(kept.command, self._open(name, kept.command), failed=kept.failed)
                started.append(name)
        return started

    def ended(self, name: str) -> int | None:
        """Give the exit code of a process that has ended, or None while it runs."""
        return self.running[name].process.poll()

    def reload(self, name: str) -> bool:
        """Tell a process, not what it started, to read its files anew (SIGHUP); False where it does not run."""
        kept = self.running.get(name)
        if kept is None or kept.process.poll() is not None:
            return False
        kept.process.send_signal(signal.SIGHUP)
        return True

    def _open(self, name: str, command: Sequence[str]) -> subprocess.Popen[bytes]:
        own = Path(sys.executable).parent / command[0]
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [str(own) if own.exists() else command[0], *command[1:]],
                cwd=self.folder,
                env=self.variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )


def _last_words(log: Path) -> str:
    """Give the last line of a log that says something, in brackets; "" where none does."""
    lines = log.read_bytes()[-LINE:].decode(errors="replace").splitlines()
    said = [line.strip() for line in lines if any(map(str.isalnum, line))]
    return f" ({shown(said[-1], LINE)})" if said else ""


def _end_with_parent() -> None:
    """Let a process end when the one that started it is killed, which then cannot end it; on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)  # its own group: the process leads a session
