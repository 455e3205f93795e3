"""Logs for programs."""

import json
import logging
from datetime import datetime

from configs import logs


def lines(path):
    """Read a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_words_of_a_line_become_its_fields(tmp_path):
    """A line as our loggers write it is split into event, fields of their own types, and a rest without a name."""
    path, log = tmp_path / "logs" / "hub.jsonl", logging.getLogger("sometimes.module")
    with logs.kept(path, "sometimes"):
        log.info("reply site=%s seconds=%.3f up=%d code=%s", "north", 1.23456, 12, "")
        log.warning("malformed reply site=%s: %s", "north", ValueError("two\nlines"))
        log.error("plain, 100 %")
        log.debug("not kept")
    log.error("after the block")
    first, second, third = lines(path)
    moment = datetime.fromisoformat(first.pop("time"))
    assert moment.utcoffset().total_seconds() == 0
    assert first == {"level": "info", "event": "reply", "site": "north", "seconds": 1.235, "up": 12, "code": ""}
    assert {key: second[key] for key in ("level", "event", "site", "text")} == {
        "level": "warning", "event": "malformed reply", "site": "north", "text": "two\nlines",
    }  # fmt: skip
    assert (third["level"], third["event"]) == ("error", "plain, 100 %")


def test_a_log_does_not_grow_without_bound(tmp_path, monkeypatch):
    """There are five files at most, none over its size, and the last line is in the first."""
    monkeypatch.setattr(logs, "MOST", 1_000)
    for number in range(200):
        logs.note(tmp_path / "log.jsonl", "request started", round=number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log.jsonl", *(f"log.jsonl.{number}" for number in range(1, logs.FILES))]
    assert all(path.stat().st_size <= 1_000 for path in tmp_path.iterdir())
    assert lines(tmp_path / "log.jsonl")[-1]["round"] == 199


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    """Neither a folder in its place, nor one that is missing, nor an odd path raises or prints."""
    (tmp_path / "log.jsonl").mkdir()
    for path in (tmp_path / "log.jsonl", tmp_path / "no" / "such" / "log.jsonl", tmp_path / "odd\0" / "log.jsonl"):
        logs.note(path, "request started")
        with logs.kept(path, "sometimes"):
            logging.getLogger("sometimes").info("round finished")
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "no").exists()
