"""How a run stands, from what the hub wrote: for `sst hub status`, while the hub runs or after."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median_low
from typing import Any

from configs.phases import learning
from configs.shown import LINE, shown
from server.certificates import Certificate, certificates
from server.events import ended, read
from server.health import health
from server.kit import dismissed
from server.office import Office, works
from server.pulse import Heartbeat, heartbeat

CODES = {"not begun": 0, "running": 0, "waiting": 0, "finished": 0, "failed": 1, "stopped": 3}
"""What a run can be -> exit code of `sst hub status`; 2 is for a folder or a setting that is wrong.

stopped: the run is not finished, and no hub works on it: it was stopped, or killed.
"""

RECENT = 5  # rounds of a phase that tell how long the next ones take


@dataclass(frozen=True)
class SiteStatus:
    """What is known of one site."""

    name: str
    state: str  # invited, admitted, taking part, too late, quarantined, dismissed
    seen: float | None  # time.time() of its last reply
    rounds: int  # in which its reply counted
    last: str  # error code of its last failure, or ""


@dataclass(frozen=True)
class Status:
    """Where a run is, and how long the hub's certificates hold."""

    state: str  # one of `CODES`
    phase: str
    round: int
    since: float | None  # time.time() at which that began
    left: float | None  # seconds to the end, as far as can be told
    sites: tuple[SiteStatus, ...]
    message: str = ""  # why it failed or stopped, or whom it waits for
    certificates: tuple[Certificate, ...] = ()
    superlink: str = ""  # serving, not serving, does not answer; "" where it was not asked

    def json(self) -> str:
        """Give it as one line of JSON."""
        return json.dumps(asdict(self))


def status(office: Office, recorded: list[dict[str, Any]] | None = None) -> Status:
    """Read the hub's folder; words that came from a site are as `configs.shown` leaves them.

    Args:
        office: the folder.
        recorded: its events, where they are read already.

    Raises:
        RunError: the folder is no hub's.
    """
    _ = office.settings
    events = read(office.folder) if recorded is None else recorded
    begun = [event for event in events if event["event"] == "round.started"]
    last = begun[-1] if begun else None
    state, message = _state(office, events)
    names = sorted({*office.admitted, *(path.stem for path in (office.folder / "kits").glob("*.zip"))})
    return Status(
        state=state,
        phase=shown(last["phase"]) if last else "",
        round=int(last["round"]) if last else 0,
        since=float(last["time"]) if last else None,
        left=_left(office, events) if state == "running" else None,
        sites=tuple(_site(name, office, events) for name in names),
        message=shown(message, LINE),
        certificates=certificates(office),
    )


def with_health(office: Office, found: Status) -> Status:
    """Ask the SuperLink how it is, where hub.toml gives a port for that and the hub is alive."""
    life, port = heartbeat(office), office.settings.health
    return replace(found, superlink=health(port)) if port and life is not None and life.alive else found


def _state(office: Office, events: list[dict[str, Any]]) -> tuple[str, str]:
    if ended(events):
        return "finished", ""
    life = heartbeat(office)
    begun = life.began if life is not None and life.alive else 0.0  # what failed before is being mended
    for name in ("failed.json", "failed-last.json"):
        path = office.folder / name
        if path.exists() and path.stat().st_mtime > max(begun, float(events[-1]["time"]) if events else 0.0):
            return "failed", str(json.loads(path.read_text(encoding="utf-8"))["message"])
    if (events or life is not None) and not (life is not None and life.alive) and not works(office.folder):
        return "stopped", _ended(life)
    if not events:
        return "not begun", ""
    if events[-1]["event"] == "round.waiting":
        return "waiting", ", ".join(f"{shown(site)} ({shown(code)})" for site, code in events[-1]["missing"].items())
    return "running", ""


def _ended(life: Heartbeat | None) -> str:
    if life is None:
        return "no sst hub start is at work; it goes on from its last finished round"
    why = life.ended or f"it gave no sign of life any more: killed, or its machine went down (process {life.pid})"
    return f"{ago(life.time)}: {why}; sst hub start goes on from its last finished round"


def _site(name: str, office: Office, events: list[dict[str, Any]]) -> SiteStatus:
    gone = dismissed(office)
    seen, rounds, code, state = None, 0, "", "admitted" if name in office.admitted else "invited"
    for event in events:
        if event["event"] == "site.quarantined" and event["site"] == name:
            state = "quarantined"
        if event["event"] == "site.late" and event["site"] == name:
            state = "too late"
        if event["event"] != "round.finished" or event.get("phase") == "segment":  # the hub's own
            continue
        if name in event.get("series", {}) or name in event.get("sites", {}):
            seen, rounds, code = float(event["time"]), rounds + 1, ""
            state = "taking part" if state == "admitted" else state
        code = shown(event.get("failed", {}).get(name, code))
    return SiteStatus(name, "dismissed" if name in gone else state, seen, rounds, code)


def _left(office: Office, events: list[dict[str, Any]]) -> float | None:
    """Estimate the time left from how long the rounds of each phase took."""
    from configs.schema import from_json

    experiment = from_json((office.folder / "experiment.json").read_text(encoding="utf-8"))
    planned = {phase.name: experiment.phases.rounds(phase.name) for phase in learning()}
    took: dict[str, list[float]] = {}
    began: dict[tuple[str, int], float] = {}
    for event in events:
        key = (str(event.get("phase")), int(event.get("round", 0)))
        if event["event"] == "round.started":
            began[key] = float(event["time"])
        elif event["event"] == "round.finished" and key in began:
            took.setdefault(key[0], []).append(float(event["time"]) - began[key])
    return time_left(planned, took) or None  # after the last of them the hub tests and delivers


def time_left(planned: Mapping[str, int], took: Mapping[str, Sequence[float]]) -> float | None:
    """Tell how long the rounds still to come will take, or None before the first is finished.

    A phase goes on as fast as the median of its last `RECENT` rounds, so that a night in which the hub waited for a
    site does not count; a phase without a finished round takes as long as the others in the mean.

    Args:
        planned: phase -> rounds of it.
        took: phase -> seconds of each round that is finished.
    """
    usual = {phase: median_low(took[phase][-RECENT:]) for phase in planned if took.get(phase)}
    if not usual:
        return None
    others = fmean(usual.values())
    rest = {phase: max(0, rounds - len(took.get(phase, ()))) for phase, rounds in planned.items()}
    return sum(rounds * usual.get(phase, others) for phase, rounds in rest.items())


def ago(moment: float | None) -> str:
    """Say how long ago a time was."""
    if moment is None:
        return "never"
    return lasting(time.time() - moment) + " ago"


def lasting(seconds: float) -> str:
    """Say a time in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
