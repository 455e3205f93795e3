"""The operator's own command, run when a run waits, fails or is finished: a mail, a message, a page.

Nothing that happens to it reaches the run: it has a process and a time of its own, and what goes wrong is in
`logs/notify.log`.
"""

import os
import shlex
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError
from configs.shown import LINE, shown
from server.office import Office

MOST = 60.0
"""Seconds that the command may take before it is killed."""


@dataclass(frozen=True)
class News:
    """What happened; the words may be a site's, and are as `configs.shown` leaves them."""

    event: str  # waiting, failed, finished
    message: str = ""  # for whom, or why
    phase: str = ""
    round: int = 0

    def variables(self, office: Office) -> dict[str, str]:
        """Give what the command finds in its environment."""
        return {
            "SST_EVENT": self.event,
            "SST_MESSAGE": shown(self.message, LINE),
            "SST_PHASE": shown(self.phase),
            "SST_ROUND": str(self.round),
            "SST_HUB": str(office.folder.resolve()),
        }


def command(notify: str) -> list[str]:
    """Split what hub.toml says into words; no shell reads it.

    Raises:
        ConfigError: a quotation mark is missing.
    """
    try:
        return shlex.split(notify)
    except ValueError as error:
        raise ConfigError(f"hub.toml: 'notify' is {notify!r}, which is no command: {error}") from error


def tell(office: Office, words: list[str], news: News) -> threading.Thread:
    """Run the command with the event and the message behind its own words; it goes on by itself.

    Returns:
        The thread that waits for it.
    """
    given = news.variables(office)
    call = [*words, news.event, given["SST_MESSAGE"]]
    thread = threading.Thread(
        target=_run, args=(call, {**os.environ, **given}, office.logs / "notify.log"), daemon=True
    )
    thread.start()
    return thread


def _run(call: list[str], environment: dict[str, str], log: Path) -> None:
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {shlex.join(call)}\n".encode())
            file.flush()
            try:
                done = subprocess.run(
                    call, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=MOST, check=False
                )
                told = f"ended with {done.returncode}"
            except (OSError, ValueError, subprocess.TimeoutExpired) as error:
                told = f"did not work: {error}"
            file.write(f"{told}\n".encode())
    except OSError:  # the log cannot be written
        return
