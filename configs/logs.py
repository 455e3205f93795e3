"""Logs for programs: one JSON object a line, five files of 5 MB at most, and never a reason for a round to stop.

Hub and site log the same way. `kept` sends what a package logs to a file, `note` writes one line:

    {"time": "2026-03-01T12:00:00.000Z", "level": "info", "event": "reply", "run": "brains", "site": "north", ...}
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

MOST = 5_000_000
"""Bytes of one file."""

FILES = 5
"""How many are kept: the one being written, and NAME.1 to NAME.4."""

_WORD = re.compile(r"[ :]*(?:(\w+)=)?%(?:\.\d+)?[sdifgr]")


class Lines(RotatingFileHandler):
    """A log file of JSON lines; what cannot be written is dropped."""

    def __init__(self, path: Path) -> None:
        """Open `path` with the first line; its folder, not those above, is made if need be."""
        with suppress(OSError, ValueError):
            path.parent.mkdir(exist_ok=True)
        super().__init__(path, maxBytes=MOST, backupCount=FILES - 1, encoding="utf-8", delay=True)

    def format(self, record: logging.LogRecord) -> str:
        """Give a record as one line."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event, fields = _lifted(record)
        fields |= getattr(record, "fields", {})
        return json.dumps({"time": time, "level": record.levelname.lower(), "event": event, **fields}, default=str)

    def handleError(self, record: logging.LogRecord) -> None:
        """Let it go: a full disk stops a round where weights are kept, not here."""


@contextmanager
def kept(path: Path, package: str) -> Iterator[None]:
    """Keep what the loggers of a package say, from level info up, in `path` while the block runs."""
    log, lines = logging.getLogger(package), Lines(path)
    before = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.setLevel(before)
        lines.close()


def note(path: Path, event: str, level: int = logging.INFO, **fields: object) -> None:
    """Write one line; for processes that write few."""
    values = {"msg": event, "levelno": level, "levelname": logging.getLevelName(level), "fields": fields}
    lines = Lines(path)
    lines.handle(logging.makeLogRecord(values))
    lines.close()


def _lifted(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Split "round started phase=%s round=%d" and its arguments into event and fields; one without a key is `text`."""
    template, given = str(record.msg), record.args
    found = list(_WORD.finditer(template))
    if not isinstance(given, tuple) or len(found) != len(given):
        return record.getMessage(), {}
    values = [round(value, 3) if isinstance(value, float) else value for value in given]
    return _WORD.sub("", template).strip(), {
        match[1] or "text": value for match, value in zip(found, values, strict=True)
    }
