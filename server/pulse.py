"""The sign of life of `sst hub start`: a file that is written every few seconds, so that others tell a dead hub.

`server.watch` beats, and writes figures and tells the operator's command with each beat.
"""

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from types import TracebackType

from configs.shown import LINE, shown
from server.office import Office
from sst_models.wire.files import write_json

BEAT = 5.0
"""Seconds between two beats."""

DEAD = 60.0
"""Seconds without a beat after which a hub counts as dead: a busy machine or a slow disk may hold up a few."""

STOPPED = "stopped"
"""Why a hub ended that was asked to."""


@dataclass(frozen=True)
class Heartbeat:
    """What `heartbeat.json` says."""

    pid: int
    began: float  # time.time()
    time: float  # time.time() of the last beat
    ended: str = ""  # why it ended, by its own account; "" while it runs, or if it was killed

    @property
    def alive(self) -> bool:
        """Whether the hub runs, by this machine's clock."""
        return not self.ended and abs(time.time() - self.time) < DEAD


def heartbeat(office: Office) -> Heartbeat | None:
    """Read the sign of life; None if there never was one, or it cannot be read."""
    try:
        found = json.loads(office.heartbeat.read_text(encoding="utf-8"))
        return Heartbeat(int(found["pid"]), float(found["began"]), float(found["time"]), shown(found["ended"], LINE))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Pulse:
    """Beats while the block runs, in a thread of its own; what cannot be written stops nothing."""

    def __init__(self, office: Office, also: Callable[[], object] | None = None, every: float = BEAT) -> None:
        """Begin at `__enter__`, then beat every so many seconds, and do what is to be done `also`."""
        self._office, self._also, self._every = office, also, every
        now = time.time()
        self._own = Heartbeat(os.getpid(), now, now)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def __enter__(self) -> "Pulse":
        """Write the first beat."""
        self.beat()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write the last one, with why it is the last."""
        self._over.set()
        self._thread.join()
        self._own = replace(self._own, ended=reason(error))
        self.beat()

    def beat(self) -> None:
        """Write one."""
        self._own = replace(self._own, time=time.time())
        try:
            write_json(asdict(self._own), self._office.heartbeat)
        except OSError:  # a full disk; the next one may be written
            return

    def _run(self) -> None:
        while not self._over.wait(self._every):
            self.beat()
            if self._also is not None:
                self._also()


def reason(error: BaseException | None) -> str:
    """Say why a hub ended."""
    if error is None:
        return "finished"
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return STOPPED
    return shown(error, LINE) or type(error).__name__
