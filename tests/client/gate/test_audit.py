"""A site attacks its own statistics before they leave: a leak that was planted stays, and so does what was found."""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

import client.app
from approving import ATLAS, approve, toy, usual_policy
from client import consent, preflight
from client.audit.membership import LEAST
from client.audit.statistics import membership
from client.gate import audit, budget, ledger
from client.gate.gate import REFUSED
from client.gate.policy import Policy, read_policy
from client.home import Home
from client.site import Site
from configs.errors import RefusalError
from configs.statistics import count as numbers_of
from configs.statistics import shapes
from configs.structures import PAPER
from server.messages import TYPES, decode_reply, encode_request
from simulation.engines import open_policy
from simulation.engines.inprocess import identity
from sst_models.wire.exchange import PhaseRequest, SiteReply

NUMBERS = numbers_of(PAPER)
SHAPES = shapes(PAPER)

EXPERIMENT = toy(phases={"statistics": {"rounds": 1}})
REQUEST = PhaseRequest("run", "statistics", 1, "north", EXPERIMENT.to_json(), settings={"atlas": ATLAS})
WITHOUT_NOISE = {"epsilon": "inf", "most_epsilon": "inf"}


def people(count: int, seed: int = 0) -> np.ndarray:
    """Rows as real ones are: a site 5 units from the atlas, people 1.6 units from their site's mean."""
    rows = np.random.default_rng(seed).normal(0, 1, (count, NUMBERS)) * 1.6 / math.sqrt(NUMBERS)
    rows[:, 0] += 5.0
    return rows.astype(np.float32)


def leak(count: int = 12) -> np.ndarray:
    """Rows of which one is on the other side of the atlas."""
    rows = people(count)
    rows[3] = -rows[3]
    return rows


@dataclass
class North:
    """A site whose app has measured some people, and a hub that asks it for statistics."""

    root: Path
    rows: np.ndarray
    answered: int = 0  # how often the app was asked
    policy: dict[str, str] = field(default_factory=dict)  # what differs from the policy that approve writes

    @property
    def gate(self) -> Path:
        """The folder that the gate alone writes."""
        return self.root / "state" / "gate"

    def answer(self, request: PhaseRequest, site: Site) -> SiteReply:
        """Answer as the app does."""
        self.answered += 1
        return SiteReply("north", request.phase, 1, len(self.rows), {"statistics": {"people": self.rows}})

    def ask(self) -> SiteReply:
        """Send the request, and read what the hub gets."""
        text = usual_policy("statistics")
        for key, value in self.policy.items():
            text, found = re.subn(rf"^{key} = \S+", f"{key} = {value}", text, flags=re.M)
            assert found == 1, key
        (self.root / "policy.toml").write_text(text)
        folders = {"data-path": str(self.root), "state-dir": str(self.root / "state")}
        config: dict[str, Any] = {"site-name": "north", **folders, "policy": str(self.root / "policy.toml")}
        with identity():
            message = Message(encode_request(REQUEST, {}), 2, TYPES["statistics"])
            reply = client.app.respond(message, Context(1, 2, config, RecordDict(), {}), self.answer)
        return decode_reply(reply.content, REQUEST)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Read a file of the gate's folder, line by line."""
        path = self.gate / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def north(tmp_path: Path) -> North:
    """A site of twelve people with a leak in them, that approved a run."""
    approve(tmp_path / "state", EXPERIMENT)
    return North(tmp_path, leak())


REFUSAL = SiteReply("north", "statistics", 1, 0, error="refused")
"""What a hub is told of a refusal, whatever it is for."""


def test_statistics_with_noise_enough_leave_and_what_the_audit_found_stays(north: North) -> None:
    """Its figures are in a file at the site; neither the reply nor the ledger, whose hashes the hub sees, has them."""
    reply = north.ask()
    assert reply.error == "" and {name: array.shape for name, array in reply.arrays["statistics"].items()} == SHAPES
    (found,) = audit.audits(north.gate)
    assert (found["run"], found["people"], found["stopped"], found["most_auc"]) == ("run", 12, False, 0.75)
    assert 0.48 < found["auc"][0] < 0.6 and found["auc"][1] < found["auc"][0] < found["auc"][2]
    assert found["epsilon"] == 1 and found["decisions"] == 4800 > LEAST and 0.03 < found["tpr_5"][0] < 0.1
    assert all(value == round(value, 3) for value in (*found["auc"], *found["tpr_5"]))
    (entry,) = north.lines(ledger.NAME)
    assert not {"audit", "auc", "tpr_5", "decisions"} & set(entry) and not reply.metrics and not reply.settings


def test_a_planted_leak_is_stopped_and_costs_nothing(north: North) -> None:
    """Without noise nothing leaves, nothing is spent, and the hub is told no more than of any other refusal."""
    north.policy = WITHOUT_NOISE
    assert north.ask() == REFUSAL
    assert north.lines(ledger.NAME) == [] and budget.released(north.gate / ledger.NAME) == {}
    (found,), (told,) = north.lines(audit.NAME), north.lines(REFUSED)
    assert found["stopped"] and found["auc"][1] > 0.75 and found["epsilon"] is None
    assert re.search(r"AUC of 1\.00 or more .* the policy allows 0\.75 \(most_auc\)", told["why"])
    north.policy = {"most_runs_with_statistics": "0"}
    assert north.ask() == REFUSAL


def test_who_asks_again_learns_no_more_and_gets_statistics_once_they_have_noise(north: North) -> None:
    """The same people give the same figures, so that no number of requests brings another answer; IT's policy does."""
    north.rows, north.policy = people(30), WITHOUT_NOISE
    assert [north.ask(), north.ask()] == [REFUSAL, REFUSAL]
    first, again = ({**one, "time": 0, "previous": 0, "hash": 0} for one in north.lines(audit.NAME))
    assert first == again and 0.75 < first["auc"][1] < first["auc"][0] < 1
    north.policy = {}
    assert north.ask().error == ""
    assert [one["stopped"] for one in audit.audits(north.gate)] == [True, True, False]


def test_a_threshold_of_one_stops_nothing(north: North) -> None:
    """For those who want no noise, and say so twice; what was found is written down all the same."""
    north.policy = {**WITHOUT_NOISE, "most_auc": "1"}
    assert north.ask().error == ""
    (found,) = audit.audits(north.gate)
    assert not found["stopped"] and found["auc"][0] > 0.9


def test_a_simulated_site_is_never_stopped(tmp_path: Path) -> None:
    """Its policy is open, and without noise if nobody asks for some."""
    path = tmp_path / "policy.toml"
    path.write_text(open_policy("statistics"))
    audit.check(leak(), "run", tmp_path, read_policy(path))
    assert [one["stopped"] for one in audit.audits(tmp_path)] == [False]


def test_the_same_request_gets_the_same_bytes_and_no_other_audit(north: North) -> None:
    """From disk: the app is asked once."""
    first, again = north.ask(), north.ask()
    assert [array.tobytes() for array in first.arrays["statistics"].values()] == [
        array.tobytes() for array in again.arrays["statistics"].values()
    ]
    assert north.answered == 1 and len(north.lines(audit.NAME)) == 1


def test_statistics_of_too_few_people_are_not_attacked(north: North) -> None:
    """They do not leave anyway."""
    north.rows = people(4)
    assert north.ask().error == "release"
    assert audit.audits(north.gate) == []


def test_a_single_persons_numbers_are_as_good_as_found(tmp_path: Path) -> None:
    """There is nobody to leave out, and an audit does not let that pass; of two there is."""
    with pytest.raises(RefusalError, match="an AUC of 1.00 or more"):
        audit.check(people(1), "run", tmp_path, Policy())
    audit.check(people(1), "again", tmp_path, Policy(most_auc=1.0))
    assert [(one["auc"], one["decisions"], one["stopped"]) for one in audit.audits(tmp_path)] == [
        (None, 0, True),
        (None, 0, False),
    ]
    audit.check(people(2), "two", tmp_path, Policy())
    assert audit.audits(tmp_path)[-1]["decisions"] == 800


@pytest.mark.parametrize(
    "rows", [np.full((5, NUMBERS), 3e38, np.float32), leak() * np.float32(1e30), np.zeros((6, 17))]
)
def test_rows_of_any_size_can_be_attacked(rows: np.ndarray, tmp_path: Path) -> None:
    """An app can answer any finite numbers."""
    audit.check(rows, "run", tmp_path, Policy())
    assert len(audit.audits(tmp_path)) == 1


def test_no_site_of_the_usual_policy_is_stopped_by_accident(tmp_path: Path) -> None:
    """Rows like real ones stay far below the threshold, those found most easily stay below it; also at epsilon 4."""
    apart = np.eye(NUMBERS)[:12] * 7  # as long as may be, and each unlike all others
    for epsilon in (Policy().epsilon, 4.0):
        for number, rows in enumerate([people(5), leak(5), people(25), leak(25), apart[:5], apart]):
            audit.check(rows, f"{epsilon:g} {number}", tmp_path, Policy(epsilon=epsilon))
    lows = [one["auc"][1] for one in audit.audits(tmp_path)]
    assert max(*lows[:4], *lows[6:10]) < 0.65 and max(lows) < 0.73


def test_what_stops_statistics_is_shown_to_it(tmp_path: Path) -> None:
    """In the line on noise that `sst site approve` shows, and in that on the budget of `sst site check`."""
    home = Home(tmp_path)
    home.policy.write_text(usual_policy("statistics"))
    words = "an audit stops them above an AUC of 0.75"
    assert consent._noise(home, Policy()).endswith(f"0.00 of 2 is spent so far; {words}")
    assert preflight._budget(home).found.endswith(f"is spent, at delta 1e-05; {words}")
    without = Policy(epsilon=math.inf, most_auc=1.0)
    assert consent._noise(home, without) == "NO NOISE, as the policy says; no audit stops them"


def test_an_audit_finds_about_as_much_as_an_attack_on_the_release_itself() -> None:
    """Of which somebody has everybody's rows, and those of as many who were not in; with half of the people less."""
    multiplier, short, halved = budget.multiplier_of(8.0, 1e-5), [], []
    for seed in range(4):
        rows = people(24, seed).astype(np.float64)
        found = audit._attacked(rows[:12], multiplier)
        assert found is not None
        whole = membership(rows, 12, multiplier).auc.value
        short.append(whole - found.auc.value)
        halved.append(whole - membership(rows[:12], 6, multiplier).auc.value)
    assert abs(np.mean(short)) < 0.025 < np.mean(halved)
