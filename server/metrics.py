"""A hub's figures for Prometheus, as node_exporter's textfile collector reads them: `metrics.prom`."""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configs.shown import shown
from server.events import finished
from server.office import Office
from server.status import CODES, Status

Series = list[tuple[Mapping[str, str], float]]
"""Labels and value of each sample of one metric."""


def text(office: Office, found: Status, recorded: Sequence[Mapping[str, Any]], now: float | None = None) -> str:
    """Give the figures in Prometheus' text format.

    Args:
        office: the hub's folder.
        found: how its run stands.
        recorded: the hub's events.
        now: time.time().
    """
    lines = []
    for name, kind, about, series in _metrics(office, found, recorded, time.time() if now is None else now):
        lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(labels)} {value:.15g}" for labels, value in series]
    return "\n".join(lines) + "\n"


def _metrics(
    office: Office, found: Status, recorded: Sequence[Mapping[str, Any]], now: float
) -> Iterator[tuple[str, str, str, Series]]:
    seen: Series = [({"site": one.name}, now - one.seen) for one in found.sites if one.seen is not None]
    failed = Counter[str]()
    traffic = sent(recorded)
    for event in recorded:
        failed.update(list(event.get("failed", {})) if event["event"] == "round.finished" else ())
    names = [site.name for site in found.sites]
    days: Series = [({"certificate": one.name}, one.days) for one in found.certificates]
    yield "sst_hub_written_seconds", "gauge", "When this was written, in seconds since 1970.", [({}, now)]
    states: Series = [({"state": state}, float(state == found.state)) for state in CODES]
    yield "sst_hub_state", "gauge", "1 for the state of the run, 0 for all others.", states
    yield "sst_hub_phase", "gauge", "1 for the phase of the run.", [({"phase": found.phase}, 1)] if found.phase else []
    yield "sst_hub_round", "gauge", "Round of the phase.", [({}, found.round)]
    yield (
        "sst_hub_rounds_finished",
        "gauge",
        "Rounds that are finished, of all phases.",
        [({}, len(finished(recorded)))],
    )
    there = sum(site.state == "taking part" for site in found.sites)
    yield "sst_hub_sites", "gauge", "Sites that take part.", [({}, there)]
    yield "sst_hub_site_seen_seconds", "gauge", "Seconds since a reply of the site counted.", seen
    for way, count_of in traffic.items():
        about = f"Bytes of arrays {'to' if way == 'down' else 'from'} the site, all rounds."
        yield f"sst_hub_site_{way}_bytes_total", "counter", about, _of(names, count_of)
    about = "Rounds to which the site gave no reply that counts."
    yield "sst_hub_site_failed_replies_total", "counter", about, _of(names, failed)
    about = "Replies that failed a check of the hub; 3 put a site out."
    yield "sst_hub_site_strikes", "gauge", about, _of(names, _strikes(office))
    free = float(shutil.disk_usage(office.folder).free)
    yield "sst_hub_free_disk_bytes", "gauge", "Free bytes on the disk of the hub's folder.", [({}, free)]
    yield "sst_hub_certificate_days", "gauge", "Days until the certificate ends.", days


def sent(recorded: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Count bytes of arrays by way, `down` to a site and `up` from it, and by site; repeated rounds count again."""
    traffic: dict[str, Counter[str]] = {"down": Counter(), "up": Counter()}
    for event in recorded:
        for row in event.get("traffic", ()):
            for way, count in traffic.items():
                count[str(row["site"])] += int(row[way])
    return traffic


def _of(names: Sequence[str], counts: Mapping[str, int]) -> Series:
    return [({"site": name}, counts.get(name, 0)) for name in names]


def _strikes(office: Office) -> dict[str, int]:
    try:
        found = json.loads((office.folder / "strikes.json").read_text(encoding="utf-8"))
        return {str(site): int(count) for site, count in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _labels(labels: Mapping[str, str]) -> str:
    quoted = [f'{key}="{_quoted(value)}"' for key, value in labels.items()]
    return "{" + ",".join(quoted) + "}" if labels else ""


def _quoted(value: str) -> str:
    return shown(value).replace("\\", "\\\\").replace('"', '\\"')
