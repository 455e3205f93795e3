"""The site's record of what left."""

import json
from dataclasses import replace

import numpy as np
import pytest

from client.gate import ledger, replies
from configs.errors import RunError
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel, answer

REQUEST = PhaseRequest("run", "register", 1, "one", "{}", {"T": {"w": np.zeros(3, np.float32)}}, {"steps": 2})
REPLY = SiteReply(
    "one",
    "register",
    1,
    7,
    arrays={"T": {"w": np.arange(3, dtype=np.float32), "b": np.float32(2) * np.ones((), np.float32)}, "empty": {}},
    metrics={"loss": 0.1},
    series={"loss": (0.3, 0.1)},
    settings={"scans": 7, "device": "cpu", "moments": True},
)
WHOLE = Parcel(REPLY.arrays)


def write(path, entries=3):
    """Make a ledger of some entries and give its lines."""
    for _ in range(entries):
        ledger.append(path, REQUEST, REPLY, WHOLE)
    return path.read_bytes().splitlines(keepends=True)


def test_entry_says_what_left_without_values(tmp_path):
    """An entry names phase, parts, shapes, bytes and digests, and holds no value."""
    entry = json.loads(write(tmp_path / "ledger.jsonl", 1)[0])
    assert (entry["run"], entry["phase"], entry["round"], entry["count"]) == ("run", "register", 1, 7)
    assert entry["parts"]["T"]["arrays"] == {"b": [], "w": [3]}
    assert entry["parts"]["T"]["bytes"] == entry["bytes"] == 16
    assert len(entry["parts"]["T"]["sha256"]) == 64
    assert entry["metrics"] == ["loss"] and entry["series"] == {"loss": 2}


def test_entry_of_a_difference_is_of_what_travels(tmp_path):
    """Half the bytes, the digest of the coded values, and the shapes of the weights behind them."""
    request = replace(
        REQUEST, arrays={"T": {name: 0 * array for name, array in REPLY.arrays["T"].items()}}, payload="half"
    )
    parcel, _ = answer(REPLY.arrays, request)
    ledger.append(tmp_path / "ledger.jsonl", request, REPLY, parcel)
    part = json.loads((tmp_path / "ledger.jsonl").read_text())["parts"]["T"]
    assert (part["form"], part["arrays"], part["bytes"]) == ("difference", {"b": [], "w": [3]}, 4 * 2 + 2 * 2)
    assert part["sha256"] != ledger.describe(REQUEST, REPLY, WHOLE)["parts"]["T"]["sha256"]


def test_whole_ledger_verifies(tmp_path):
    """A ledger that nobody touched has as many entries as releases."""
    write(tmp_path / "ledger.jsonl")
    assert ledger.verify(tmp_path / "ledger.jsonl") == 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [lines[0].replace(b"register", b"evaluate"), *lines[1:]],
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [lines[0], lines[0], *lines[1:]],
        lambda lines: [b"nothing\n", *lines[1:]],
    ],
    ids=["changed", "dropped", "moved", "repeated", "replaced"],
)
def test_altered_ledger_is_found_out(tmp_path, spoil):
    """A change anywhere breaks the chain."""
    path = tmp_path / "ledger.jsonl"
    path.write_bytes(b"".join(spoil(write(path))))
    with pytest.raises(RunError, match="altered"):
        ledger.verify(path)


def test_torn_last_line_is_cut(tmp_path):
    """A crash in the middle of an entry leaves a ledger that goes on: that reply was never sent."""
    path = tmp_path / "ledger.jsonl"
    lines = write(path)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    ledger.append(path, REQUEST, REPLY, WHOLE)
    assert ledger.verify(path) == 3


def test_kept_reply_comes_back_whole(tmp_path):
    """The reply cache gives back what was kept, bit for bit."""
    key = replies.key_of(REQUEST)
    replies.remember(tmp_path, key, REPLY)
    kept = replies.recall(tmp_path, key)
    assert kept is not None
    assert (kept.count, kept.metrics, kept.series, kept.settings) == (7, REPLY.metrics, REPLY.series, REPLY.settings)
    assert set(kept.arrays) == {"T", "empty"}
    for name, array in REPLY.arrays["T"].items():
        np.testing.assert_array_equal(kept.arrays["T"][name], array, strict=True)


def test_key_changes_with_every_part_of_a_request():
    """Another weight, round, setting or run is another request; the same content is the same."""
    other = [
        PhaseRequest("run", "register", 1, "one", "{}", {"T": {"w": np.ones(3, np.float32)}}, {"steps": 2}),
        PhaseRequest("run", "register", 2, "one", "{}", REQUEST.arrays, {"steps": 2}),
        PhaseRequest("run", "register", 1, "one", "{}", REQUEST.arrays, {"steps": 3}),
        PhaseRequest("next", "register", 1, "one", "{}", REQUEST.arrays, {"steps": 2}),
    ]
    assert len({replies.key_of(request) for request in [REQUEST, *other]}) == 5
    again = PhaseRequest("run", "register", 1, "one", "{}", {"T": {"w": np.zeros(3, np.float32)}}, {"steps": 2})
    assert replies.key_of(again) == replies.key_of(REQUEST)


def test_damaged_and_old_replies_are_forgotten(tmp_path):
    """A half-written file counts as absent, and only the last few replies stay on disk."""
    (tmp_path / "bad.safetensors").write_bytes(b"\x08")
    assert replies.recall(tmp_path, "bad") is None
    assert replies.recall(tmp_path, "none") is None
    for number in range(7):
        replies.remember(tmp_path, str(number), REPLY)
    assert len(list(tmp_path.glob("*.safetensors"))) == replies.KEEP
    assert replies.recall(tmp_path, "6") is not None
