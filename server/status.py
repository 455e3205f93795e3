"""How a run stands, from what the hub wrote: for `sst hub status`, while the hub runs or after."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median_low
from typing import Any

from configs.phases import learning
from configs.shown import LINE, shown
from server.certificates import Certificate, certificates
from server.events import ended, read
from server.health import health
from server.office import Office, dismissed, works
from server.pulse import Heartbeat, heartbeat

CODES = {"not begun": 0, "running": 0, "waiting": 0, "finished": 0, "failed": 1, "stopped": 3}
"""What a run can be -> exit code of `sst hub status`; 2 is for a folder or a setting that is wrong.

stopped: the run is not finished, and no hub works on it: it was stopped, or killed.
"""

ADMITTED, DISMISSED = "admitted", "dismissed"
"""States of a site that may take part and has not answered yet, and of one that the operator let out."""

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
    between: tuple[float, float] | None = None  # least and most seconds to the end, as rounds of late went

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
    state, message = _state(office, events)
    begin = dict.fromkeys((path.stem for path in (office.folder / "kits").glob("*.zip")), "invited")
    begin |= dict.fromkeys(office.admitted, ADMITTED)
    begin |= dict.fromkeys(dismissed(office) & begin.keys(), DISMISSED)
    return _status(office.folder, events, state, message, begin, certificates(office))


def played(folder: Path, events: list[dict[str, Any]]) -> Status:
    """Give the status of a simulated hub that is at work: it has no settings, no keys and no sign of life.

    Args:
        folder: the hub's.
        events: what it wrote.
    """
    state, message = _last(events)
    path = folder / "failed.json"  # which a hub that begins takes away
    if state != "finished" and path.exists():
        state, message = "failed", str(json.loads(path.read_text(encoding="utf-8"))["message"])
    names = {name for event in events if event.get("phase") == "join" for name in event.get("sites", {})}
    return _status(folder, events, state, message, dict.fromkeys(names, ADMITTED), ())


def _status(
    folder: Path,
    events: list[dict[str, Any]],
    state: str,
    message: str,
    sites: Mapping[str, str],
    certificates: tuple[Certificate, ...],
) -> Status:
    """Put together what is known; `sites` has the state of each before the first event."""
    begun = [event for event in events if event["event"] == "round.started"]
    last = begun[-1] if begun else None
    planned, took = _rounds(folder, events) if state == "running" else ({}, {})
    return Status(
        state=state,
        phase=shown(last["phase"]) if last else "",
        round=int(last["round"]) if last else 0,
        since=float(last["time"]) if last else None,
        left=time_left(planned, took) or None,  # after the last of them the hub tests and delivers
        sites=tuple(_site(name, sites[name], events) for name in sorted(sites)),
        message=shown(message, LINE),
        certificates=certificates,
        between=time_between(planned, took),
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
    return _last(events)


def _last(events: list[dict[str, Any]]) -> tuple[str, str]:
    """Give the state that events of a hub which is alive tell, and whom it waits for."""
    if not events:
        return "not begun", ""
    if ended(events):
        return "finished", ""
    if events[-1]["event"] == "round.waiting":
        return "waiting", ", ".join(f"{shown(site)} ({shown(code)})" for site, code in events[-1]["missing"].items())
    return "running", ""


def _ended(life: Heartbeat | None) -> str:
    if life is None:
        return "no sst hub start is at work; it goes on from its last finished round"
    why = life.ended or f"it gave no sign of life any more: killed, or its machine went down (process {life.pid})"
    return f"{ago(life.time)}: {why}; sst hub start goes on from its last finished round"


def _site(name: str, begin: str, events: list[dict[str, Any]]) -> SiteStatus:
    seen, rounds, code, state = None, 0, "", begin
    for event in events:
        if event["event"] == "site.quarantined" and event["site"] == name:
            state = "quarantined"
        if event["event"] == "site.late" and event["site"] == name:
            state = "too late"
        if event["event"] != "round.finished" or event.get("phase") == "segment":  # the hub's own
            continue
        if name in event.get("series", {}) or name in event.get("sites", {}):
            seen, rounds, code = float(event["time"]), rounds + 1, ""
            state = "taking part" if state == ADMITTED else state
        code = shown(event.get("failed", {}).get(name, code))
    return SiteStatus(name, DISMISSED if begin == DISMISSED else state, seen, rounds, code)


def _rounds(folder: Path, events: list[dict[str, Any]]) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Give the rounds that each phase will have, and how many seconds each finished one took."""
    from configs.schema import from_json

    experiment = from_json((folder / "experiment.json").read_text(encoding="utf-8"))
    planned = {phase.name: experiment.phases.rounds(phase.name) for phase in learning()}
    took: dict[str, list[float]] = {}
    began: dict[tuple[str, int], float] = {}
    for event in events:
        key = (str(event.get("phase")), int(event.get("round", 0)))
        if event["event"] == "round.started":
            began[key] = float(event["time"])
        elif event["event"] == "round.finished" and key in began:
            took.setdefault(key[0], []).append(float(event["time"]) - began[key])
    return planned, took


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


def time_between(planned: Mapping[str, int], took: Mapping[str, Sequence[float]]) -> tuple[float, float] | None:
    """Tell the least and the most that the rounds still to come will take, as long as they go on as of late.

    A phase goes on between the quicker and the slower of its last `RECENT` rounds: from three on, between their lower
    and upper quartile, so that one night of waiting does not count. A phase without a finished round takes as long as
    the quickest of the others at least, and as long as the slowest at most. None where `time_left` tells nothing.

    Args:
        planned: phase -> rounds of it.
        took: phase -> seconds of each round that is finished.
    """
    ends = {phase: _quartiles(took[phase][-RECENT:]) for phase in planned if took.get(phase)}
    rest = {phase: max(0, rounds - len(took.get(phase, ()))) for phase, rounds in planned.items()}
    if not ends or not any(rest.values()):
        return None
    others = min(low for low, _ in ends.values()), max(high for _, high in ends.values())
    least, most = (sum(n * ends.get(phase, others)[end] for phase, n in rest.items()) for end in (0, 1))
    return least, most


def _quartiles(seconds: Sequence[float]) -> tuple[float, float]:
    ordered, last = sorted(seconds), len(seconds) - 1
    return (ordered[last // 4], ordered[3 * last // 4]) if last > 1 else (ordered[0], ordered[-1])


def ago(moment: float | None) -> str:
    """Say how long ago a time was."""
    if moment is None:
        return "never"
    return lasting(time.time() - moment) + " ago"


def span(between: tuple[float, float]) -> str:
    """Say a time of which the least and the most are known: "5 to 8 min", "40 s to 2 min", "about 5 min"."""
    least, most = map(lasting, between)
    if least == most:
        return f"about {least}"
    number, unit = least.split(" ", 1)
    return f"{number} to {most}" if most.endswith(f" {unit}") else f"{least} to {most}"


def lasting(seconds: float) -> str:
    """Say a time in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
