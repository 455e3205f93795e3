"""What the hub wrote down of a run: `events.jsonl`, one JSON object for each thing that happened.

Displays, reports and `server.board` read it, so the hub's loop knows none of them. A round that was run again after a
stop is in it twice; `finished` says what counts.
"""

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "events.jsonl"

ODD = frozenset({"site.quarantined", "site.late", "round.waiting", "round.skipped", "reply.late"})
"""Events that a log has as warnings."""

LONG = ("series", "sites", "traffic")
"""What an event holds for displays and reports, too long for a log; `reply` lines have its bytes."""

log = logging.getLogger(__name__)


def tell(hub: Path, event: str, run: str, values: Mapping[str, object]) -> None:
    """Append one event to the hub's file, and log it without its long values."""
    line = json.dumps({"time": time.time(), "event": event, **values})
    with (hub / NAME).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read() == b"\n" else "\n" + line  # a hub that was killed left half a line
        file.write(line.encode() + b"\n")
    shown = {"run": run} | {key: value for key, value in values.items() if key not in LONG}
    if event == "round.finished":
        took = [one["seconds"] for one in finished(read(hub)) if _same(one, values) and "seconds" in one]
        shown |= {"seconds": round(took[-1], 3)} if took else {}
    odd = event in ODD or values.get("failed")
    log.log(logging.WARNING if odd else logging.INFO, event, extra={"fields": shown})


def read(hub: Path) -> list[dict[str, Any]]:
    """Give all events; a line that a hub which was killed left half written is passed over."""
    path = hub / NAME
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found


class Recorded:
    """The events of a hub, read again only if there are new ones: of a long run they are megabytes."""

    def __init__(self, hub: Path) -> None:
        """Read nothing yet."""
        self._hub = hub
        self._read: tuple[object, list[dict[str, Any]]] = (None, [])

    def read(self) -> list[dict[str, Any]]:
        """Give all events, as `read` does."""
        path = self._hub / NAME
        kept = path.stat() if path.exists() else None
        mark = (kept.st_mtime_ns, kept.st_size) if kept else None
        if mark is None or mark != self._read[0]:
            self._read = (mark, read(self._hub))
        return self._read[1]


def finished(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give what each round brought, with its `seconds`.

    One that was run again keeps its place and its time, and takes what it brought last; an event with `more` adds what
    further sites brought, and the time that they took.
    """
    began: dict[tuple[str, int], float] = {}
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for event in events:
        key = (str(event.get("phase")), int(event.get("round", 0)))
        if event["event"] == "round.started":
            began[key] = float(event["time"])
        elif event["event"] == "round.finished":
            took = {"seconds": event["time"] - began[key]} if key in began else {}
            own, before = {**event, **took}, last.get(key)
            if before is not None:
                own = {**(_together(before, own) if event.get("more") else own), "time": before["time"]}
            last[key] = own
    return list(last.values())


def _together(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a round brought from some sites and, later, from others; of a site that is in both, the latter."""
    found = {**before, **more}
    for key in ("series", "failed", "sites", "clipped"):
        if key in before and key in more:
            found[key] = {**before[key], **more[key]}
    if "failed" in found:  # who failed first and answered later did not fail
        done = {*more.get("series", {}), *more.get("sites", {})}
        found["failed"] = {site: code for site, code in found["failed"].items() if site not in done}
    if "traffic" in before and "traffic" in more:
        found["traffic"] = list({row["site"]: row for row in (*before["traffic"], *more["traffic"])}.values())
    if "seconds" in before and "seconds" in more:
        found["seconds"] = before["seconds"] + more["seconds"]
    return found


def served(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Give the sites that have their models; sorted."""
    return tuple(sorted({str(event["site"]) for event in events if event["event"] == "site.delivered"}))


def ended(events: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the run is finished, and was not opened again."""
    return _turn(events).get("event") == "run.finished"


def awaited(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Give the sites for which a run that was finished is open again; none where it is not."""
    return tuple(_turn(events).get("sites", ()))


def _turn(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Give the last event by which the run was finished or opened again; empty where there is none."""
    return next((event for event in reversed(events) if event["event"] in ("run.finished", "run.reopened")), {})


def _same(one: Mapping[str, Any], values: Mapping[str, object]) -> bool:
    return one["event"] == "round.finished" and all(one.get(key) == values.get(key) for key in ("phase", "round"))
