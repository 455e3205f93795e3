"""Whether a site is let in, from how its SuperNode ends."""

from pathlib import Path

import pytest

from client.launch import PATIENCE, TURNED_AWAY, Door

STARTS = "INFO :      Starting Flower SuperNode\n"
REFUSED = STARTS + "ERROR :     Exit Code: 305\n[code: 2004] Failed to activate SuperNode.\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The SuperNode's output."""
    return tmp_path / "supernode.log"


def test_a_site_that_is_dismissed_while_it_runs_is_told_at_once(log: Path) -> None:
    """The SuperNode ends by itself with 0, which it does for no other reason; the line comes once."""
    log.write_text(STARTS + "INFO :      SuperNode terminated gracefully.\n")
    door = Door()
    assert door.look(None, log, 0.0) == ""
    assert door.look(0, log, 5.0) == TURNED_AWAY
    assert door.look(0, log, 7.0) == ""
    log.write_text(log.read_text() + REFUSED)
    assert [door.look(1, log, now) for now in (20.0, 40.0, 400.0)] == ["", "", ""]


def test_a_site_that_is_not_let_in_is_told_when_it_can_be_no_crash(log: Path) -> None:
    """Flower lets a crashed one back in after up to a minute."""
    log.write_text(REFUSED)
    door, told = Door(), []
    for now in range(0, 200, 20):
        told.append(door.look(1, log, float(now)))
        door.look(None, log, now + 15.0)  # started again
    assert told == [""] * 5 + [TURNED_AWAY] + [""] * 4
    assert 80.0 < PATIENCE <= 100.0


def test_any_other_end_says_nothing(log: Path) -> None:
    """Neither a network that is down, nor a refusal of an earlier start."""
    log.write_text(REFUSED + STARTS + "ERROR :     Connection refused\n")
    door = Door()
    assert [door.look(1, log, now) for now in (0.0, 200.0)] == ["", ""]
    assert door.look(-9, log, 300.0) == ""
    assert Door().look(1, log.with_name("nothing"), 0.0) == ""


def test_a_site_that_was_let_in_again_can_be_told_again(log: Path) -> None:
    """After it ran for a while."""
    log.write_text(STARTS)
    door = Door()
    assert door.look(0, log, 0.0) == TURNED_AWAY
    assert [door.look(None, log, now) for now in (20.0, 200.0)] == ["", ""]
    assert door.look(0, log, 210.0) == TURNED_AWAY
