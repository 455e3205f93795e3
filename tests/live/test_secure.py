"""Real processes, confined apps: three sites whose weights leave masked, and the hub gets their mean.

It takes minutes, so that `make test` leaves it out; `make secure` sets SST_SECURE and runs it.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.gate.ledger import verified
from client.gate.sums import add_peer
from live import TINY, Live, undisturbed

NAMES = ("left", "right", "third")
PRESET: dict[str, Any] = {
    **TINY,
    "federation": {"deadline": 300.0, "aggregation": "secure", "foreign_negatives": 0},
    "phases": {
        "register": {"rounds": 1, "steps": 2},
        **{name: {"rounds": 0} for name in ("style", "joint", "flow_codes", "adapt")},
        "statistics": {"rounds": 1},
        "segment": {"rounds": 1, "steps": 2},
    },
}
"""One round of weights that are averaged."""

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(not os.environ.get("SST_SECURE"), reason="takes minutes: make secure"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


def test_confined_apps_answer_masked_and_the_hub_gets_their_mean(tmp_path: Path) -> None:
    """Keys are exchanged as `sst site peer` does; the mean is that of a run in the clear, and no weights leave so."""
    with Live(tmp_path, PRESET, names=NAMES) as live:
        for name, own in live.homes.items():
            for other in NAMES:
                if other != name:
                    add_peer(own.gate, live.homes[other].folder / f"{other}.pub")
        live.start()
        assert live.wait(300) == 0, (tmp_path / "hub.out").read_text()
        found = live.learnt()
        for own in live.homes.values():
            left = [entry for entry in verified(own.gate / "ledger.jsonl") if entry["phase"] == "register"]
            assert [sorted(entry["parts"]) for entry in left] == [["masked"]]
        path = live.office.folder / "experiment.json"
        clear = json.loads(path.read_text())
        clear["federation"]["aggregation"] = "mean"
        expected = undisturbed(live, tmp_path / "clear", NAMES, json.dumps(clear))
    weights = [name for name in expected if "/T/" in name]
    assert weights
    for name in weights:
        masked, plain = (np.frombuffer(one[name], np.float32) for one in (found, expected))
        np.testing.assert_allclose(masked, plain, atol=1e-6, rtol=0)
