"""Curves of a run for TensorBoard, in `HUB/tensorboard`: one run for each site, and one for the hub.

All is derived from `events.jsonl` after each round, and the same events give the same bytes. So a file on disk either
is the beginning of the new one, if only to the middle of a record, and the rest is appended; or a round was run again
and came out otherwise, and the file is replaced. A hub that is killed loses and doubles nothing, and a TensorBoard that
is open follows: it would not see a new file in the place of the old one after each round.
"""

import json
import logging
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from configs.schema import Experiment, from_json
from server import events
from sst_models.wire.files import replace_file

FILE = "events.out.tfevents.sst"
VERSION = "brain.Event:2"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """One point of one curve."""

    run: str  # "hub" or "sites/NAME"
    tag: str
    step: int
    value: float
    time: float  # time.time()


def update(hub: Path) -> None:
    """Bring the hub's files for TensorBoard up to its events; a run goes on without them if that fails."""
    try:
        experiment = from_json((hub / "experiment.json").read_text(encoding="utf-8"))
        table = hub / "cross-site.json"
        tested = json.loads(table.read_text(encoding="utf-8")) if table.exists() else []
        written: dict[str, bytearray] = {}
        for point in points(events.read(hub), tested, experiment):
            if point.run not in written:
                written[point.run] = bytearray(_version(point.time))
            written[point.run] += _scalar(point.tag, point.step, point.value, point.time)
        for run, content in written.items():
            _bring(hub / "tensorboard" / run / FILE, bytes(content))
    except (OSError, ValueError, LookupError, ImportError) as error:
        log.warning("no curves for TensorBoard: %s", error)


def points(
    recorded: Sequence[Mapping[str, Any]], tested: Sequence[Mapping[str, Any]], experiment: Experiment
) -> Iterator[Point]:
    """Give the points of all curves.

    Args:
        recorded: the hub's events.
        tested: the rows of `cross-site.json`, or none.
        experiment: says how many steps a round has.
    """
    time = 0.0
    for event in events.finished(recorded):
        phase, number, time = str(event["phase"]), int(event["round"]), float(event["time"])
        for site, name, at, values in losses(event, experiment):
            for step, value in zip(at, values, strict=True):
                yield Point(f"sites/{site}", f"{phase}/{name}", step, value, time)
        for row in event.get("traffic", []):
            for way in ("down", "up"):
                yield Point(f"sites/{row['site']}", f"bytes_{way}/{phase}", number, row[way], time)
        if {"series", "failed"} <= set(event):  # a round that trains
            counts = {"answered": len(event["series"]), "failed": len(event["failed"])}
            for name, value in {"seconds": event.get("seconds", 0.0), **counts}.items():
                yield Point("hub", f"{name}/{phase}", number, value, time)
    for row in tested:
        if row["dice"]:
            yield Point(f"sites/{row['site']}", f"dice/model_of_{row['style']}", 1, mean_of_groups(row), time)


def losses(event: Mapping[str, Any], experiment: Experiment) -> Iterator[tuple[str, str, list[int], list[float]]]:
    """Give the curves of one finished round: site, name of the loss, steps, values."""
    for site, curves in event.get("series", {}).items():
        for name, values in curves.items():
            each = experiment.phases.of(str(event["phase"])).steps
            yield site, name, steps(int(event["round"]), each, len(values)), values


def mean_of_groups(row: Mapping[str, Any]) -> float:
    """Give the mean over structure groups of a row of `cross-site.json` that has figures, 0 to 1."""
    return float(sum(row["dice"].values()) / len(row["dice"]))


def steps(number: int, each: int, points: int) -> list[int]:
    """Give the step, over all rounds of `each` steps, at which each point of the `number`-th round's curve lies."""
    return [(number - 1) * each + round((point + 1) * each / points) for point in range(points)]


def _version(time: float) -> bytes:
    from tensorboardX.proto.event_pb2 import Event

    return _record(Event(wall_time=time, file_version=VERSION).SerializeToString())


@lru_cache(maxsize=1 << 17)
def _scalar(tag: str, step: int, value: float, time: float) -> bytes:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.summary import scalar

    return _record(Event(wall_time=time, step=step, summary=scalar(tag, value)).SerializeToString())


def _record(data: bytes) -> bytes:
    """Frame one record as a TFRecord: length, its checksum, the data, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


def _bring(path: Path, content: bytes) -> None:
    """Append what a file lacks of `content`, or replace it where it holds something else."""
    kept = path.read_bytes() if path.exists() else None
    if kept is None or not content.startswith(kept):
        replace_file(path, content)
    elif len(kept) < len(content):
        with path.open("ab") as file:
            file.write(content[len(kept) :])
