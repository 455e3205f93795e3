"""Sites behind bad lines: 10 Mbit/s, 200 ms there and back, 1 % loss, one of them cut for a minute in mid-round.

It takes minutes, so that `make test` leaves it out; `make link` sets SST_LINK and runs it.
"""

import os
import sys
import time
from pathlib import Path

import pytest

from link import Link
from live import SITES, TINY, Live, undisturbed

pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not os.environ.get("SST_LINK"), reason="takes minutes: make link"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

PRESET = {**TINY, "registration": {"widths": [16, 32, 64]}}
"""T and F of 0.8 MB each, so that a round takes its time on the line."""

CUT = 60.0  # seconds


def test_bad_lines_change_nothing(tmp_path: Path) -> None:
    """The run ends with the result of one on good lines."""
    with Live(tmp_path, PRESET) as live:
        expected = undisturbed(live, tmp_path / "undisturbed")
        to = live.office.settings.port
        with Link(to) as left, Link(to, seed=2) as right:
            for name, link in zip(SITES, (left, right), strict=True):
                path = live.homes[name].folder / "site.toml"
                path.write_text(path.read_text().replace(f":{to}", f":{link.port}"))
            began = time.monotonic()
            live.start()
            events = live.office.folder / "events.jsonl"
            while not (events.exists() and '"joint"' in events.read_text()):
                assert live.running["hub"].poll() is None, (tmp_path / "hub.out").read_text()
                time.sleep(0.2)
            time.sleep(2.0)
            left.cut(CUT)
            print(f"cut after {time.monotonic() - began:.0f} s", flush=True)
            assert live.wait(1200) == 0, (tmp_path / "hub.out").read_text()
            took = time.monotonic() - began
            print(f"{took:.0f} s, {left.carried / 1e6:.1f} and {right.carried / 1e6:.1f} MB over the lines", flush=True)
            assert took > CUT
            assert min(left.carried, right.carried) > 3_000_000
        assert live.learnt() == expected
