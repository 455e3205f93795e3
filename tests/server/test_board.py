"""The curves for TensorBoard: what the files hold is what the hub's events say, however often the hub was killed."""

import json
import logging
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from configs.schema import from_dict
from server import board, events

EXPERIMENT = from_dict({"name": "toy", "phases": {"register": {"rounds": 3, "steps": 10}}}, "toy")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub's folder, and a clock that goes on by a second with each event."""
    clock = iter(range(1_000, 2_000))
    monkeypatch.setattr(events, "time", SimpleNamespace(time=lambda: float(next(clock))))
    (tmp_path / "experiment.json").write_text(EXPERIMENT.to_json())
    return tmp_path


def play_round(hub, number, phase="register", losses=(3.0, 2.0), failed=None):
    """One round as the hub's loop tells it: "one" answers, "two" as well if it is not in `failed`."""
    failed = failed or {}
    sites = [site for site in ("one", "two") if site not in failed]
    events.tell(hub, "round.started", "run", {"phase": phase, "round": number})
    series = {site: {"image": [value + number / 10 for value in losses]} for site in sites}
    traffic = [{"site": site, "down": 400, "up": 300 + number} for site in sites]
    told = {"phase": phase, "round": number, "series": series, "failed": failed, "traffic": traffic}
    events.tell(hub, "round.finished", "run", told)


def read(hub):
    """Read all files as a program other than ours would: curve -> [(step, value)]; checksums are checked."""
    curves = {}
    for path in sorted((hub / "tensorboard").rglob("*tfevents*")):
        data, found = path.read_bytes(), []
        while data:
            length, check = struct.unpack("<QI", data[:12])
            body, (sum_,) = data[12 : 12 + length], struct.unpack("<I", data[12 + length : 16 + length])
            assert (check, sum_) == (masked_crc32c(data[:8]), masked_crc32c(body))
            found.append(Event.FromString(body))
            data = data[16 + length :]
        assert found.pop(0).file_version == "brain.Event:2"
        for event in found:
            (value,) = event.summary.value
            name = f"{path.parent.relative_to(hub / 'tensorboard')}: {value.tag}"
            curves.setdefault(name, []).append((event.step, round(value.simple_value, 5)))
    return curves


def contents(hub):
    """Give all files, by path."""
    return {path.relative_to(hub): path.read_bytes() for path in (hub / "tensorboard").rglob("*tfevents*")}


def test_the_files_hold_what_the_events_say(hub):
    """Losses at their steps over all rounds, bytes, seconds, sites that answered, and Dice at the end."""
    play_round(hub, 1)
    board.update(hub)
    play_round(hub, 2, failed={"two": "data"})
    learnt = {"phase": "segment", "round": 1, "series": {"one": {"total": [0.5]}}}
    events.tell(hub, "round.finished", "run", learnt)
    rows = [
        {"style": "one", "site": "two", "scans": 2, "dice": {"a": 0.5, "b": 0.75}, "error": ""},
        {"style": "one", "site": "one", "scans": 0, "dice": {}, "error": "policy"},
    ]
    (hub / "cross-site.json").write_text(json.dumps(rows))
    board.update(hub)
    assert read(hub) == {
        "hub: answered/register": [(1, 2.0), (2, 1.0)],
        "hub: failed/register": [(1, 0.0), (2, 1.0)],
        "hub: seconds/register": [(1, 1.0), (2, 1.0)],
        "sites/one: bytes_down/register": [(1, 400.0), (2, 400.0)],
        "sites/one: bytes_up/register": [(1, 301.0), (2, 302.0)],
        "sites/one: register/image": [(5, 3.1), (10, 2.1), (15, 3.2), (20, 2.2)],
        "sites/one: segment/total": [(EXPERIMENT.phases.segment.steps, 0.5)],
        "sites/two: bytes_down/register": [(1, 400.0)],
        "sites/two: bytes_up/register": [(1, 301.0)],
        "sites/two: dice/model_of_one": [(1, 0.625)],
        "sites/two: register/image": [(5, 3.1), (10, 2.1)],
    }


def test_a_round_that_was_run_again_counts_once(hub):
    """The hub died after it told of round 2 and before it saved it: what it brought the second time counts."""
    play_round(hub, 1)
    play_round(hub, 2)
    board.update(hub)
    play_round(hub, 2, losses=(7.0, 6.0))
    play_round(hub, 3)
    board.update(hub)
    image = read(hub)["sites/one: register/image"]
    assert image == [(5, 3.1), (10, 2.1), (15, 7.2), (20, 6.2), (25, 3.3), (30, 2.3)]


def test_a_hub_killed_anywhere_leaves_files_that_the_next_round_mends(hub):
    """A file cut at any byte, or gone, is whole after the next round: as if nobody had killed the hub."""
    play_round(hub, 1)
    board.update(hub)
    first = contents(hub)
    play_round(hub, 2)
    board.update(hub)
    whole = contents(hub)
    for path, content in whole.items():
        assert content.startswith(first[path])  # appended: a TensorBoard that is open goes on reading
    rng = np.random.default_rng(0)
    for path, content in whole.items():
        for cut in rng.integers(0, len(content), 20):
            (hub / path).write_bytes(content[:cut])
            board.update(hub)
            assert contents(hub) == whole
        (hub / path).unlink()
        board.update(hub)
        assert contents(hub) == whole


def test_a_run_goes_on_without_its_curves(hub, caplog):
    """Where the files cannot be written, one line in the log says so."""
    play_round(hub, 1)
    (hub / "tensorboard").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        board.update(hub)
    assert [record.name for record in caplog.records] == ["server.board"]


def test_half_a_line_of_a_killed_hub_is_passed_over(hub):
    """Events before and after it count."""
    play_round(hub, 1)
    with (hub / events.NAME).open("a") as file:
        file.write('{"time": 5, "event": "round.fin\n')
    play_round(hub, 2)
    assert [(one["round"], one["seconds"]) for one in events.finished(events.read(hub))] == [(1, 1.0), (2, 1.0)]
