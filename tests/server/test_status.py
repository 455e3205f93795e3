"""What `sst hub status` says: of the time left, and of sites with hostile words."""

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

import sst
from configs.errors import FederationError
from configs.schema import load
from configs.shown import LINE, MOST
from server import events, pulse
from server.office import Office, Settings, write_settings
from server.pulse import DEAD, Pulse, heartbeat
from server.status import CODES, status, time_left

HOSTILE = {
    "markup": "[/boom]",
    "link": "[link=http://evil]all well[/link]",
    "escape": "\x1b[2J\x1b[31mhub compromised",
    "long": "A" * 3_000_000,
    "turned": "\u202ereversed \ud800 half",
    "row": "ok \u2502 1\n\u2502 south \u2502 taking part",
    "emoji": "\x9b2J\x7f\r:skull:",
}


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """A hub's folder with two admitted sites."""
    made = Office(tmp_path / "hub")
    for site in ("north", "south"):
        made.key(site).parent.mkdir(parents=True, exist_ok=True)
        made.key(site).write_text(f"key of {site}")
    (made.folder / "hub.toml").write_text(write_settings(Settings("trial", "hub.example.org", 8443)))
    (made.folder / "experiment.json").write_text(load("tiny").to_json())
    return made


def failed_with(office: Office, word: str) -> None:
    """Write the events of a round in which the site north failed, and of the wait for it, of a hub that is alive."""
    Pulse(office).beat()
    events.tell(office.folder, "round.started", "sst", {"phase": "register", "round": 1})
    brought = {"series": {"south": {"total": (1.0,)}}, "failed": {"north": word}, "traffic": []}
    events.tell(office.folder, "round.finished", "sst", {"phase": "register", "round": 1, **brought})
    events.tell(office.folder, "round.waiting", "sst", {"phase": "register", "round": 2, "missing": {"north": word}})


@pytest.mark.parametrize("word", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_error_word_does_nothing_to_the_status(
    word: str, office: Office, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to the table nor to the JSON: nothing that steers a terminal, no row of its own, no megabytes."""
    failed_with(office, word)
    monkeypatch.setenv("COLUMNS", "300")
    assert sst.run(["hub", "status", str(office.folder)]) == 0
    table = capsys.readouterr().out
    assert all(line.isprintable() for line in table.splitlines()) and len(table) < 20 * 300
    assert [line.split("\u2502")[1].split()[0] for line in table.splitlines() if line.count("\u2502") > 3] == [
        "north",
        "south",
    ]
    assert ":skull:" in table or "skull" not in word
    assert "[/boom]" in table or "boom" not in word
    assert "[link=http://evil]all well[/link]" in table or "link" not in word
    assert sst.run(["hub", "status", str(office.folder), "--json"]) == 0
    line = capsys.readouterr().out
    assert line.rstrip("\n").isprintable() and line.isascii() and len(line) < 3000
    assert len(json.loads(line)["sites"][0]["last"]) <= MOST


def test_a_hostile_word_in_an_error_does_nothing_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever ends a command is one line that steers nothing."""
    assert sst._fail("site north: \x1b[2J" + "A" * 10_000, 2) == 2
    line = capsys.readouterr().err
    assert line.rstrip("\n").isprintable() and len(line) < 2100


def beat_at(office: Office, moment: float, ended: str = "") -> None:
    """Write the sign of life of a hub that last showed one at a time."""
    office.heartbeat.write_text(json.dumps({"pid": 7, "began": 1.0, "time": moment, "ended": ended}))


def test_a_dead_hub_is_told_from_a_waiting_one(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last event is the same; its sign of life is old, or says that it was stopped, or there never was one."""
    failed_with(office, "lost")
    assert status(office).state == "waiting"
    for write, why in (
        (lambda: beat_at(office, time.time() - DEAD - 5), "no sign of life any more: killed"),
        (lambda: beat_at(office, time.time(), "stopped"), "0 s ago: stopped; sst hub start goes on"),
        (lambda: office.heartbeat.unlink(), "no sst hub start is at work"),
        (lambda: office.heartbeat.write_text("torn"), "no sst hub start is at work"),
    ):
        write()
        found = status(office)
        assert found.state == "stopped" and why in found.message
        assert sst.run(["hub", "status", str(office.folder)]) == 3
        assert capsys.readouterr().out.startswith("stopped, phase register")
    beat_at(office, time.time() - DEAD + 20)
    assert status(office).state == "waiting"


def test_a_hub_that_somebody_else_keeps_going_is_not_dead(office: Office) -> None:
    """With `--print-command` nobody beats; its app holds the folder's lock."""
    failed_with(office, "lost")
    office.heartbeat.unlink()
    held = os.open(office.folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert status(office).state == "waiting"
    os.close(held)
    assert status(office).state == "stopped"


def test_each_state_has_its_exit_code(office: Office, capsys: pytest.CaptureFixture[str]) -> None:
    """0 while all is well, 1 for a run that failed, 3 for a hub that is not there; help and page say so."""
    seen = {}

    def look() -> None:
        code = sst.run(["hub", "status", str(office.folder), "--json"])
        seen[json.loads(capsys.readouterr().out)["state"]] = code

    look()
    beat_at(office, time.time() - 2 * DEAD)
    look()
    Pulse(office).beat()
    events.tell(office.folder, "round.started", "sst", {"phase": "register", "round": 1})
    look()
    events.tell(office.folder, "round.waiting", "sst", {"phase": "register", "round": 1, "missing": {}})
    look()
    (office.folder / "failed.json").write_text(json.dumps({"code": "x", "message": "no quorum"}))
    look()
    events.tell(office.folder, "run.finished", "sst", {})
    look()
    assert seen == CODES
    assert (CODES["waiting"], CODES["failed"], CODES["stopped"]) == (0, 1, 3)
    assert sst.run(["hub", "status", str(office.folder / "nothing")]) == 2


def test_what_failed_before_this_start_is_past(office: Office) -> None:
    """A hub that was started again works, and does not count as failed until it does fail."""
    events.tell(office.folder, "round.started", "sst", {"phase": "register", "round": 1})
    past = office.folder / "failed-last.json"
    past.write_text(json.dumps({"code": "internal", "message": "gone"}))
    assert status(office).state == "failed"
    now = time.time()
    os.utime(past, (now + 5, now + 5))
    office.heartbeat.write_text(json.dumps({"pid": 7, "began": now + 10, "time": now + 10, "ended": ""}))
    assert status(office).state == "running"
    os.utime(past, (now + 15, now + 15))
    assert status(office).state == "failed"


def test_a_hub_beats_until_it_ends_and_says_why(office: Office) -> None:
    """Its process, since when, and how it ended: asked to, finished, or by an error with somebody's words in it."""
    with Pulse(office, every=0.01):
        first = heartbeat(office)
        assert first is not None and first.alive and first.pid == os.getpid()
        end = time.monotonic() + 20
        while heartbeat(office) == first:
            assert time.monotonic() < end
    for error, why in ((None, "finished"), (KeyboardInterrupt(), "stopped"), (SystemExit(0), "stopped")):
        with suppress(BaseException), Pulse(office):
            if error is not None:
                raise error
        last = heartbeat(office)
        assert last is not None and (last.ended, last.alive) == (why, False)
    with suppress(FederationError), Pulse(office):
        raise FederationError("north: \x1b[2J" + "A" * 10_000)
    last = heartbeat(office)
    assert last is not None and last.ended.startswith("north: \\x1b[2J") and len(last.ended) == LINE


def test_a_disk_that_is_full_stops_no_hub(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat that cannot be written is left out."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(pulse, "write_json", full)
    with Pulse(office, every=0.01):
        pass
    assert heartbeat(office) is None


def test_nothing_is_said_before_a_round_is_finished() -> None:
    """Without a round there is no speed; when all are done, no time is left."""
    assert time_left({"register": 2}, {}) is None
    assert time_left({"register": 2}, {"join": [1.0]}) is None
    assert time_left({"register": 2}, {"register": [10.0, 10.0]}) == 0.0


def test_rounds_to_come_take_as_long_as_those_of_their_phase_did() -> None:
    """Two rounds of 10 s and three of 60 s; a phase that has not begun takes the mean of both."""
    took = {"register": [10.0, 10.0], "style": [60.0]}
    assert time_left({"register": 4, "style": 4, "joint": 2}, took) == pytest.approx(2 * 10.0 + 3 * 60.0 + 2 * 35.0)


def test_a_night_of_waiting_does_not_count() -> None:
    """One round that took eight hours changes nothing, wherever it comes after the first."""
    for rounds in ([60.0, 28800.0], [60.0, 60.0, 28800.0], [60.0, 28800.0, 60.0, 60.0, 60.0, 60.0]):
        assert time_left({"register": 10}, {"register": rounds}) == pytest.approx((10 - len(rounds)) * 60.0)


def test_rounds_of_long_ago_do_not_count() -> None:
    """A machine that has become three times slower is believed after three rounds."""
    assert time_left({"register": 20}, {"register": [20.0] * 9 + [60.0] * 3}) == pytest.approx(8 * 60.0)
