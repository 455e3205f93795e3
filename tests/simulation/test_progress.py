"""The display: what it estimates, what it says, and what it reads from the files of hub and sites."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from simulation.progress import PlannedPhase, RichProgress, Silent, Watcher, describe, duration, watch

PLAN = (PlannedPhase("style", 2, 10.0, "style (with)"), PlannedPhase("joint", 4, 40.0, "joint (with)"))


class Recorder:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        """Start empty."""
        self.stages: list[tuple[str, float]] = []
        self.done: list[float] = []
        self.shown: dict[str, object] = {}

    def plan(self, stages: object) -> None:
        """Not used."""

    def stage(self, name: str, total: float) -> None:
        """Keep it."""
        self.stages.append((name, total))

    def advance(self, done: float, **shown: object) -> None:
        """Keep it."""
        self.done.append(done)
        self.shown |= shown

    def note(self, text: str) -> None:
        """Not used."""


def write_event(hub: Path, **event: object) -> None:
    """Append an event to a hub's file."""
    with (hub / "events.jsonl").open("a") as file:
        file.write(json.dumps({"time": 0.0, **event}) + "\n")


def events(hub: Path, *lines: tuple[str, str, int]) -> None:
    """Append events of rounds to a hub's file."""
    for event, phase, number in lines:
        write_event(hub, event=event, phase=phase, round=number)


def site(folder: Path, **said: object) -> Path:
    """Write what a site says of itself."""
    folder.mkdir(exist_ok=True)
    (folder / "progress.json").write_text(json.dumps(said))
    return folder


def ticking(step: float) -> Callable[[], float]:
    """Give a clock that moves by `step` seconds at each look."""
    now = [0.0]

    def clock() -> float:
        now[0] += step
        return now[0]

    return clock


def test_without_a_terminal_there_are_plain_lines() -> None:
    """A pipe gets a line for each finished stage and for each note, without any control characters."""
    out = io.StringIO()
    with RichProgress(Console(file=out), clock=ticking(40.0)) as progress:
        progress.plan({"a": 1.0, "b": 3.0})
        progress.stage("a", 1.0)
        progress.advance(0.5, round="1/2", site="oasis", loss=0.25)
        progress.note("a scan was set aside [sub-1]")
        progress.stage("b", 3.0)
    text = out.getvalue()
    assert "a  round 1/2  site oasis  loss 0.25" in text
    assert "a scan was set aside [sub-1]\n" in text
    assert " 25%  a done  in " in text and "100%  b done  in " in text
    assert "\x1b" not in text and "\n\n" not in text


def test_stdout_is_not_for_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on stderr, without a line that moves where FORCE_COLOR says that a log is a terminal; quiet has notes."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    for quiet in (False, True):
        with RichProgress(quiet=quiet, clock=ticking(40.0)) as progress:
            progress.stage("a", 1.0)
            progress.advance(0.5)
            progress.note("set aside")
        out, err = capsys.readouterr()
        assert not out and "set aside\n" in err and "\r" not in err and "\x1b" not in err
        assert ("a done" in err) is not quiet and (err == "set aside\n") is quiet


def test_on_a_terminal_the_finished_stages_stay_above_the_live_line() -> None:
    """A terminal gets one live line, and each finished stage once."""
    out = io.StringIO()
    with RichProgress(Console(file=out, force_terminal=True, width=120)) as progress:
        progress.stage("affine", 1.0)
        progress.advance(1.0, site="candi")
        progress.stage("register", 1.0)
    assert out.getvalue().count("affine done") == 1
    assert out.getvalue().count("register done") == 1


def test_a_stage_that_fails_is_not_reported_as_done() -> None:
    """Ctrl-C ends the display without a word of success."""
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), RichProgress(Console(file=out)) as progress:
        progress.stage("register", 1.0)
        raise KeyboardInterrupt
    assert "done" not in out.getvalue()


def test_a_watcher_turns_events_into_stages(tmp_path: Path) -> None:
    """Rounds that are finished count as their share of the phase's units; phases outside of the plan do not."""
    recorder = Recorder()
    watcher = Watcher(tmp_path, {}, recorder, PLAN)
    watcher.look()
    assert recorder.stages == []
    events(tmp_path, ("round.finished", "join", 1), ("round.started", "style", 1), ("round.finished", "style", 1))
    watcher.look()
    assert recorder.stages == [("style (with)", 10.0)]
    assert recorder.done[-1] == pytest.approx(5.0)
    events(tmp_path, ("round.finished", "style", 2), ("round.started", "joint", 1), ("round.finished", "joint", 1))
    watcher.look()
    assert recorder.stages[1:] == [("joint (with)", 40.0)]
    assert recorder.done[-1] == pytest.approx(10.0)
    assert recorder.shown["round"] == "1/4"


def test_a_watcher_adds_what_the_sites_have_done_of_the_round(tmp_path: Path) -> None:
    """Half of the steps at one of two sites are a quarter of the round; a site in another round does not count."""
    states = {
        "candi": site(tmp_path / "candi", phase="style", round=1, site="candi", step=5, steps=10, loss=0.5),
        "oasis": site(tmp_path / "oasis", phase="register", round=4, site="oasis", step=7, steps=10, loss=0.1),
    }
    events(tmp_path, ("round.started", "style", 1))
    recorder = Recorder()
    Watcher(tmp_path, states, recorder, PLAN).look()
    assert recorder.done[-1] == pytest.approx(10.0 / 2 / 4)
    assert recorder.shown == {"round": "1/2", "site": "candi", "loss": 0.5}


def test_a_watcher_looks_at_the_hub_where_the_hub_trains(tmp_path: Path) -> None:
    """The hub trains a segmenter for each site, and says itself how far it is with all of them."""
    plan = [PlannedPhase("segment", 2, 8.0, "segment", at_hub=True)]
    site(tmp_path, phase="segment", round=1, site="candi", step=20, steps=40, loss=0.5)
    events(tmp_path, ("round.started", "segment", 1))
    recorder = Recorder()
    watcher = Watcher(tmp_path, {"candi": tmp_path / "candi", "oasis": tmp_path / "oasis"}, recorder, plan)
    watcher.look()
    assert recorder.done[-1] == pytest.approx(2.0)
    assert recorder.shown == {"round": "1/2", "site": "candi", "loss": 0.5}
    events(tmp_path, ("round.finished", "segment", 1), ("round.started", "segment", 2))
    watcher.look()
    assert recorder.done[-1] == pytest.approx(4.0)
    site(tmp_path, phase="segment", round=2, site="oasis", step=10, steps=40, loss=0.7)
    watcher.look()
    assert recorder.done[-1] == pytest.approx(5.0)
    assert recorder.shown == {"round": "2/2", "site": "oasis", "loss": 0.7}


def test_a_watcher_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    """A line that is half written is read when it is whole, and files that make no sense are left out."""
    (tmp_path / "events.jsonl").write_text('not json\n{"event": "round.finished", "phase": "sty')
    (tmp_path / "progress.json").write_text('{"phase": "style", "rou')
    recorder = Recorder()
    watcher = Watcher(tmp_path, {"candi": tmp_path}, recorder, PLAN)
    watcher.look()
    assert recorder.stages == []
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('le", "round": 2}\n')
    watcher.look()
    assert recorder.done[-1] == pytest.approx(5.0)


def test_watch_reports_from_its_own_thread_and_once_more_at_its_end(tmp_path: Path) -> None:
    """What is written while the body runs is shown, also what comes after the last look of the thread."""
    recorder = Recorder()
    with watch(tmp_path, {}, recorder, PLAN):
        events(tmp_path, ("round.started", "style", 1))
        deadline = time.monotonic() + 10
        while not recorder.stages and time.monotonic() < deadline:
            time.sleep(0.01)
        assert recorder.stages == [("style (with)", 10.0)]
        events(tmp_path, ("round.finished", "style", 1))
    assert recorder.done[-1] == pytest.approx(5.0)


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The display for tests leaves no trace."""
    silent = Silent()
    silent.plan({"a": 1.0})
    silent.stage("a", 1.0)
    silent.advance(1.0, loss=0.1)
    silent.note("b")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (42.0, "42 s"), (200.0, "3 min 20 s"), (3900.0, "1 h 05 min")]
)
def test_durations_are_worded(seconds: float, words: str) -> None:
    """A duration is as coarse as it is long."""
    assert duration(seconds) == words


def test_shown_values_are_worded() -> None:
    """Numbers are short and empty values are left out."""
    assert describe({"round": "1/4", "site": "", "loss": 0.123456}) == ["round 1/4", "loss 0.1235"]
