"""What `sst hub status` says: of the time left, and of sites with hostile words."""

import json
from pathlib import Path

import pytest

import sst
from configs.schema import load
from configs.shown import MOST
from server import events
from server.office import Office, Settings, write_settings
from server.status import time_left

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
    """Write the events of a round in which the site north failed, and of the wait for it."""
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
