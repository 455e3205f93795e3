"""`--watch`: the live page of a simulation, in a process of its own that reads what the run writes.

The run knows nothing of it but one file, in a folder for temporary files, that its display writes. A page that fails,
or is slow, changes nothing of the run; when the run ends, however that is, the page ends, too.
"""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from server import events
from server.dashboard import LOOPBACK, Simulated, View, address, listen, serve
from server.facts import facts
from server.status import played
from simulation.progress import read_json

ENDING = 5.0
"""Seconds that the page has to end."""

POLITE = 10
"""By how much the page gives way to the run (`nice`)."""


class RunSource:
    """The folder of a simulation, of which one federation at a time is shown."""

    def __init__(self, out: Path, told: Path) -> None:
        """Read nothing yet.

        Args:
            out: the run's folder.
            told: what its display writes (`simulation.progress.RichProgress`).
        """
        self._out, self._told = out, told
        self._recorded: dict[Path, events.Recorded] = {}

    def look(self, wanted: str) -> View:
        """See `server.dashboard.Source`; a federation is called as its folder, ATLAS/NAME."""
        root = self._out / "federations"
        began = {path.parent: path.stat().st_mtime_ns for path in root.glob(f"*/*/{events.NAME}")}
        hubs = {hub.relative_to(root).as_posix(): hub for hub in sorted(began, key=began.__getitem__)}
        chosen = wanted if wanted in hubs else next(reversed(hubs), "")
        said = read_json(self._told)
        left = said.get("left")
        simulated = Simulated(
            stage=str(said.get("stage", "")),
            share=min(1.0, max(0.0, float(said.get("share", 0.0)))),
            left=(float(left[0]), float(left[1])) if left else None,
            federations=tuple((key, _called(key)) for key in hubs),
            chosen=chosen,
            report=str((self._out / "report.html").resolve()),
        )
        if not chosen:
            return View(None, None, simulated)
        hub = hubs[chosen]
        recorded = self._recorded.setdefault(hub, events.Recorded(hub)).read()
        return View(facts(hub, played(hub, recorded), recorded, _called(chosen)), hub, simulated)


def _called(key: str) -> str:
    atlas, _, name = key.partition("/")
    return f"Atlas of {atlas}, {name}"


@contextmanager
def page(out: Path, port: int | None, say: Callable[[str], None]) -> Iterator[Path | None]:
    """Serve the page while the block runs; gives the file that the display is to write, None where nobody watches.

    Args:
        out: the run's folder.
        port: on loopback, 0 takes any that is free; None serves no page.
        say: told where the page is.

    Raises:
        RunError: the port is taken.
    """
    if port is None:
        yield None
        return
    own = listen(LOOPBACK, port, "--watch-port")
    with TemporaryDirectory(prefix="sst-watch-") as folder:
        told = Path(folder) / "progress.json"
        work = (out, told, own, os.getpid())
        process = multiprocessing.get_context("spawn").Process(target=_serve, args=work, name="page", daemon=True)
        process.start()
        try:
            say(f"watch it at {address(own, LOOPBACK)}")
            own.close()  # the page has its own
            yield told
        finally:
            process.terminate()
            process.join(ENDING)
            if process.is_alive():
                process.kill()


def _serve(out: Path, told: Path, own: socket.socket, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends the page
    os.nice(POLITE)
    serve(RunSource(out, told), own, parent=parent)
