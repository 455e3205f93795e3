"""Real processes: a hospital comes when the run is finished, and gets a model of its own."""

import sys
from pathlib import Path
from typing import Any

import pytest

from client.gate.ledger import verify
from live import TINY, Live, write_brains
from server import events

PRESET: dict[str, Any] = {
    **TINY,
    "phases": {
        **{name: {"rounds": 0} for name in ("register", "style", "joint", "flow_codes")},
        "statistics": {"rounds": 1},
        "segment": {"rounds": 1, "steps": 2},
        "adapt": {"rounds": 1, "steps": 2},
    },
    "generation": {"pairs": 2, "common_segmenter": True},
}
"""Statistics, and training at the site, in seconds of work each."""

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


def test_a_hospital_comes_when_the_run_is_finished(tmp_path: Path) -> None:
    """It is invited and admitted, the hub is started once more, and only that site is asked."""
    with Live(tmp_path, PRESET, names=("left",)) as live:
        live.start()
        assert live.wait(240) == 0, (tmp_path / "hub.out").read_text()
        had = verify(live.homes["left"].gate / "ledger.jsonl")
        write_brains(tmp_path / "scans" / "later", 7)
        live.homes["later"] = live.join("later")
        live.start_hub()
        live.start_site("later")
        assert live.wait(240) == 0, (tmp_path / "hub.out").read_text()
        assert "opened again for later" in (tmp_path / "hub.out").read_text()
        assert (live.homes["later"].state / "runs" / "tiny" / "model").is_dir()
        told = events.finished(events.read(live.office.folder))
        adapted = next(event for event in told if event["phase"] == "adapt")
        assert sorted(row["site"] for row in adapted["traffic"]) == ["later", "left"]
        assert verify(live.homes["left"].gate / "ledger.jsonl") == had
