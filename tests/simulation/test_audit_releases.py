"""What left, by a site's ledger: each part once, with how often and how much, and what it cost."""

import math
from pathlib import Path

import numpy as np
import pytest

from client.gate import ledger
from client.gate.budget import epsilon_of
from configs.statistics import NEAR, count
from configs.structures import PAPER
from simulation.audit.releases import noise_of, released
from simulation.engines import open_policy
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel

NUMBERS = count(PAPER)

WEIGHTS = {"T": {"weight": np.zeros(8, np.float32)}}


def statistics(multiplier: float, people: int = 12) -> dict[str, dict[str, np.ndarray]]:
    """Statistics with noise of a multiplier."""
    numbers = {"mean": np.zeros(NUMBERS), "noise": [multiplier * NEAR / people], "multiplier": [multiplier]}
    return {"statistics": {name: np.array(values, np.float32) for name, values in numbers.items()}}


def let_out(gate: Path, run: str, phase: str, number: int, reply: SiteReply) -> None:
    """Write a reply into the ledger."""
    ledger.append(gate / ledger.NAME, PhaseRequest(run, phase, number, "north", "{}"), reply, Parcel(reply.arrays))


def test_what_a_run_let_out_is_listed_part_by_part(tmp_path: Path) -> None:
    """Weights of two rounds are one row; curves, figures and counts have theirs; another run is left out."""
    curves = {"total": (1.0, 0.5)}
    let_out(tmp_path, "run", "join", 1, SiteReply("north", "join", 1, 12, settings={"scans": 12}))
    for number in (1, 2):
        reply = SiteReply("north", "register", number, 12, arrays=WEIGHTS, series=curves, metrics={"total": 0.5})
        let_out(tmp_path, "run", "register", number, reply)
    let_out(tmp_path, "run", "evaluate", 1, SiteReply("north", "evaluate", 1, 5, metrics={"CSF": 0.7}))
    let_out(tmp_path, "other", "statistics", 1, SiteReply("north", "statistics", 1, 12, arrays=statistics(1.0)))
    found = [(each.phase, each.part, each.times, each.bytes) for each in released(tmp_path / ledger.NAME, "run")]
    assert found == [
        ("join", "counts", 1, 0),
        ("register", "T", 2, 64),
        ("register", "curves", 2, 0),
        ("evaluate", "figures", 1, 0),
    ]
    assert [each.part for each in released(tmp_path / ledger.NAME, "other")] == ["statistics"]


def test_epsilon_is_that_of_the_run_and_of_all_runs(tmp_path: Path) -> None:
    """Two runs with noise cost more than one; nothing costs nothing, and no noise costs everything."""
    (tmp_path / "policy.toml").write_text(open_policy("statistics", 4.0), encoding="utf-8")
    assert (noise_of(tmp_path, "one").run, noise_of(tmp_path, "one").spent) == (0.0, 0.0)
    for run, multiplier in (("one", 1.5), ("two", 2.5)):
        let_out(tmp_path, run, "statistics", 1, SiteReply("north", "statistics", 1, 12, arrays=statistics(multiplier)))
    found = noise_of(tmp_path, "one")
    assert (found.epsilon, found.delta) == (4.0, 1e-5)
    assert found.run == pytest.approx(epsilon_of((1.5,), 1e-5))
    assert found.spent == pytest.approx(epsilon_of((1.5, 2.5), 1e-5)) and found.spent > found.run
    let_out(tmp_path, "three", "statistics", 1, SiteReply("north", "statistics", 1, 12, arrays=statistics(0.0)))
    assert math.isinf(noise_of(tmp_path, "one").spent) and noise_of(tmp_path, "one").run == found.run
