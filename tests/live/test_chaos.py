"""Real processes, killed at random moments: the run ends with the result of one that nobody disturbed.

SST_CHAOS is the number of kills; `make chaos` does 30. `make test` has three of them among the intruders.
"""

import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

import pytest

from client.gate.ledger import verify
from live import TINY, Live, strike, undisturbed

KILLS = int(os.environ.get("SST_CHAOS", "0"))
SEED = int(os.environ.get("SST_CHAOS_SEED", "1"))

TARGETS = (
    ("hub", "flwr-serverapp"),
    ("hub", "flower-superlink"),
    ("site", "flower-supernode"),
    ("site", "flwr-clientapp"),
    ("site", "client.inside"),
    ("hub", "flower-superexec"),
    ("hub", "sst hub"),
    ("site", "sst site"),
)
"""Who is killed."""

MOST = 1800.0  # seconds for one federation of about three minutes, and its kills

pytestmark = [
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not KILLS, reason="takes a quarter of an hour: make chaos"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


def test_killed_processes_change_nothing(tmp_path: Path) -> None:
    """Bytes of all weights, at the hub and in the models that the sites got, are those of an undisturbed run."""
    rng = random.Random(SEED)
    done, runs, expected = 0, 0, {}
    while done < KILLS:
        runs += 1
        root = tmp_path / f"run-{runs}"
        root.mkdir()
        with Live(root, TINY) as live:
            expected = expected or undisturbed(live, root / "undisturbed")
            live.start()
            began = time.monotonic()
            while done < KILLS and live.running["hub"].poll() is None:
                time.sleep(rng.uniform(2.0, 25.0))
                if struck := strike(live, rng.choice(TARGETS), rng):
                    done += 1
                    print(f"kill {done}: {struck}, {time.monotonic() - began:.0f} s into run {runs}", flush=True)
            assert live.wait(MOST) == 0, (root / "hub.out").read_text()
            print(f"run {runs}: {time.monotonic() - began:.0f} s, {done} kills so far", flush=True)
            assert live.learnt() == expected
            assert live.readable() == []
            for home in live.homes.values():
                assert verify(home.gate / "ledger.jsonl") > 0
                assert (home.state / "runs" / "tiny" / "model").is_dir()
            events = [json.loads(line) for line in (live.office.folder / "events.jsonl").read_text().splitlines()]
            assert events[-1]["event"] == "run.finished"
        shutil.rmtree(root)
