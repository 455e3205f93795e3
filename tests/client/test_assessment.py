"""The draft of an impact assessment: what a site wrote down, in words that a data protection officer can file."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

import sst
from client.assessment import draft
from client.consent import policy_text
from client.gate import audit, budget, ledger
from client.gate.approval import Approval
from client.gate.approve import write_approval
from client.gate.gate import REFUSED
from client.gate.policy import Policy
from client.home import Home
from configs.dp_sgd import DpSgd
from configs.errors import RefusalError, RunError
from configs.phases import at_sites
from configs.schema import load
from configs.statistics import count as numbers_of
from configs.structures import PAPER
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel

NUMBERS = numbers_of(PAPER)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A site's folder with a policy and no approval."""
    (tmp_path / "site.toml").write_text('name = "north"\naddress = "hub.example.org:8443"\ndata = "scans"\n')
    (tmp_path / "kit.json").write_text(json.dumps({"federation": "trial"}))
    (tmp_path / "policy.toml").write_text(policy_text())
    return Home(tmp_path)


def leave(home: Home, phase: str, run: str = "winter", parts: dict[str, Arrays] | None = None, count: int = 23) -> None:
    """Write into the ledger that a reply left."""
    arrays = parts or {}
    reply = SiteReply("north", phase, 1, count, arrays)
    ledger.append(home.gate / ledger.NAME, PhaseRequest(run, phase, 1, "north", "{}"), reply, Parcel(arrays))


def statistics(multiplier: float = budget.multiplier_of(4.0, 1e-5)) -> dict[str, Arrays]:
    """Statistics with noise."""
    own = {"mean": np.zeros(NUMBERS, np.float32), "noise": np.ones(1, np.float32)}
    return {"statistics": {**own, "multiplier": np.array([multiplier], np.float32)}}


def test_a_site_that_sent_nothing_says_so(home: Home) -> None:
    """All sections are there, and no promise that nobody needs."""
    text = draft(home)
    assert "north in the federation trial" in text and "Nothing is approved." in text and "0 replies left" in text
    assert text.count("none left.") == 2 and "Level of sharing: **statistics**" in text


def test_it_says_what_left_and_what_it_cost(home: Home) -> None:
    """By run and phase; epsilon of all releases together; requests that were refused."""
    leave(home, "join")
    leave(home, "statistics", parts=statistics())
    leave(home, "statistics", "spring", statistics())
    leave(home, "deliver", count=0)
    (home.gate / REFUSED).write_text("{}\n{}\n")
    text = draft(home)
    assert "23 scans train" in text and "2 requests were refused" in text
    assert "| winter | statistics | 1 | 76 | statistics, counts |" in text
    assert "| winter | join | 1 | 0 | counts |" in text and "| winter | deliver | 1 | 0 | nothing but" in text
    spent = budget.epsilon_of((1.158, 1.158), 1e-5)
    assert f"epsilon {spent:.2f} and delta 1e-05" in text and "the policy allows 2" in text


def test_it_says_what_the_sites_own_audits_found(home: Home) -> None:
    """Of each release, and of statistics that were stopped; that there was none where there was none."""
    assert "above an AUC of 0.75. These figures have no noise, and are not for the hub. None was made." in draft(home)
    rows = np.random.default_rng(0).normal(0.8, 0.4, (23, NUMBERS))
    audit.check(rows, "winter", home.gate, Policy())
    audit.check(rows, "winter", home.gate, Policy())  # asked again, after a crash, before the reply was kept
    with pytest.raises(RefusalError):
        audit.check(rows, "a | b", home.gate, Policy(epsilon=math.inf))
    audit.check(rows[:1], "one", home.gate, Policy(most_auc=1.0))
    passed, stopped, one = (line.strip() for line in draft(home).splitlines() if line.startswith("    - "))
    figures = (
        r"AUC [01]\.\d\d \([01]\.\d\d to [01]\.\d\d\), \d+ % of members found at 5 % false positives, 9,200 decisions"
    )
    assert re.fullmatch(rf"- winter, 23 people, epsilon 1: {figures}; passed", passed)
    assert re.fullmatch(rf"- a / b, 23 people, without noise: {figures}; stopped: the policy had 0\.75", stopped)
    assert one == "- one, 1 people, epsilon 1: too few people to tell; passed"


def test_an_altered_file_of_audits_is_no_ground_for_a_report(home: Home) -> None:
    """It is said where."""
    audit.check(np.zeros((6, NUMBERS)), "winter", home.gate, Policy())
    path = home.gate / audit.NAME
    path.write_text(path.read_text().replace('"people":6', '"people":60'))
    with pytest.raises(RunError, match=r"audits\.jsonl line 1 .* altered"):
        draft(home)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (statistics(0.0), "there is no promise in numbers"),
        ({"masked": {"values": np.zeros(5, np.uint8)}}, "they left masked"),
        ({"T": {"w": np.zeros(2, np.float32)}}, "they left in the clear (T)"),
    ],
)
def test_it_promises_nothing_that_does_not_hold(home: Home, parts: dict[str, Arrays], words: str) -> None:
    """Statistics without noise, weights that the hub has seen."""
    leave(home, "register", parts=parts)
    assert words in draft(home)


def test_it_says_what_weights_with_noise_cost(home: Home) -> None:
    """Together with statistics; one round without noise, and nothing is promised."""
    leave(home, "statistics", parts=statistics())
    weights, dp_sgd = {"T": {"w": np.zeros(2, np.float32)}}, DpSgd(1.5, 0.1, 20)
    reply, request = SiteReply("north", "register", 1, 200, weights), PhaseRequest("w", "register", 1, "north", "{}")
    ledger.append(home.gate / ledger.NAME, request, reply, Parcel(weights), dp_sgd)
    spent = budget.epsilon_of((1.158,), 1e-5, (dp_sgd,))
    assert draft(home).count(f"epsilon {spent:.2f} and") == 2 and "trained them with noise, 1 round(s)" in draft(home)
    leave(home, "register", parts=weights)
    assert "they left in the clear (T)" in draft(home)


def test_words_of_a_hub_do_not_break_the_page(home: Home) -> None:
    """The name of a run is the hub's."""
    leave(home, "join", "a | b <script>\n# c")
    text = draft(home)
    assert "| a / b (script) # c | join |" in text and "<script>" not in text


def test_an_altered_ledger_is_no_ground_for_a_report(home: Home) -> None:
    """It is said where."""
    leave(home, "join")
    path = home.gate / ledger.NAME
    path.write_text(path.read_text().replace('"count":23', '"count":99'))
    with pytest.raises(RunError, match="altered"):
        draft(home)


def test_the_command_writes_a_file_and_overwrites_none(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody may have filled it in."""
    out = home.folder / "dpia.md"
    assert sst.run(["site", "report", str(home.folder), "-o", str(out)]) == 0
    assert out.read_text() == draft(home)
    assert sst.run(["site", "report", str(home.folder), "-o", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_it_says_what_was_approved(home: Home) -> None:
    """Each run with its preset, and what is segmented in which scans."""
    write_approval(Approval("winter", load("tiny").to_json(), "ab" * 32, "", ""), home.gate)
    text = draft(home)
    rounds = sum(load("tiny").phases.rounds(phase.name) for phase in at_sites())
    assert f"- Run `winter`: preset tiny, seed 1, {rounds} rounds at the sites;" in text
    assert "T1w scans, 28 structures; atlas `abababababab`, preset's digest" in text
