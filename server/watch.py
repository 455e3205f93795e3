"""What `sst hub start` does with each beat of its pulse: writes figures, and tells the operator's command the news."""

import logging
import threading
import time
from types import TracebackType

from server import events
from server.metrics import text
from server.notify import News, command, tell
from server.office import Office
from server.status import Status, status
from sst_models.wire.files import replace_file

PARTING = 10.0
"""Seconds that the command has for the last news, before the hub ends."""

log = logging.getLogger(__name__)


class Watch:
    """Looks at the hub's folder; nothing that goes wrong here reaches the run."""

    def __init__(self, office: Office) -> None:
        """Read which command is to be told.

        Raises:
            ConfigError: it is none.
        """
        self._office, self._words = office, command(office.settings.notify)
        self._recorded = events.Recorded(office.folder)
        self._began = time.time()
        self._told: tuple[str, int] | None = None  # phase and round of the last wait that was told
        self._silent = False
        self._telling: list[threading.Thread] = []

    def __enter__(self) -> "Watch":
        """Write the first figures."""
        self.look()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Write the last figures, and tell how it ended; a hub that was asked to stop has no news."""
        found = self.look()
        if error is None:
            self._tell(News("finished"))
        elif isinstance(error, Exception):
            place = (found.phase, found.round) if found else ("", 0)
            self._tell(News("failed", str(error), *place))
        end = time.monotonic() + PARTING
        for thread in self._telling:
            thread.join(max(0.0, end - time.monotonic()))

    def look(self) -> Status | None:
        """Write the figures, and tell of a wait that is new; give the status, or None if something went wrong."""
        try:
            recorded = self._recorded.read()
            found = status(self._office, recorded)
            replace_file(self._office.metrics, text(self._office, found, recorded))
        except Exception as error:  # a sign of life matters more than figures, whatever stands in the way of these
            if not self._silent:
                log.warning("no figures are written: %s", error)
            self._silent = True
            return None
        self._silent = False
        place = (found.phase, found.round)
        if found.state == "waiting" and place != self._told and float(recorded[-1]["time"]) >= self._began:
            self._told = place
            self._tell(News("waiting", found.message, *place))
        return found

    def _tell(self, news: News) -> None:
        if self._words:
            self._telling = [thread for thread in self._telling if thread.is_alive()]
            self._telling.append(tell(self._office, self._words, news))
