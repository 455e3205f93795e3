"""Noise on networks at the gate: who may train with it, how much of it there is, and what it costs."""

import json
import logging
import math
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp
from safetensors.numpy import load_file

import client.app
from approving import SMALL, approve
from client import pipe, scans
from client.answer import answer
from client.gate import budget, ledger, networks
from client.gate.approval import Approval
from client.gate.policy import Policy
from client.gate.receipts import NAME
from client.gate.release import check, permit
from client.site import Site
from configs.dp_sgd import DpSgd
from configs.errors import DeclinedError, RefusalError, ReleaseError
from configs.phases import phase_of
from configs.schema import Experiment, from_dict
from live import write_brains
from server.atlas import Atlas, load_atlas, published
from server.messages import TYPES, decode_reply, encode_request
from simulation.engines.inprocess import identity
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel, digest

DELTA = 1e-5
PRESET: Mapping[str, Any] = {
    **SMALL,
    "name": "private",
    "federation": {"payload": "full"},
    "phases": {
        "register": {"rounds": 2, "steps": 10, "batch": 8},
        "style": {"rounds": 0},
        "joint": {"rounds": 0},
        "flow_codes": {"rounds": 1, "steps": 10, "batch": 8},
        "segment": {"rounds": 1, "steps": 2},
    },
}
EXPERIMENT = from_dict(dict(PRESET), "private")
PRIVATE = Policy(level="networks", epsilon=4.0, networks_epsilon=4.0, most_epsilon=8.0, min_people_private=10)
WEIGHTS = {"T": {"w": np.zeros(3, np.float32)}}


def rounds(count: int = 40, policy: Policy = PRIVATE, preset: Experiment = EXPERIMENT) -> dict[str, DpSgd]:
    """How the rounds of a run hide people."""
    return networks.rounds_of(preset, policy, count)


def accountant(parts: Mapping[str, DpSgd]) -> rdp.RdpAccountant:
    """What dp-accounting makes of rounds, one by one."""
    found = rdp.RdpAccountant()
    logging.getLogger("absl").setLevel(logging.ERROR)
    for one in parts.values():
        event = dp_accounting.PoissonSampledDpEvent(one.rate, dp_accounting.GaussianDpEvent(one.multiplier))
        found.compose(dp_accounting.SelfComposedDpEvent(event, one.steps))
    return found


@pytest.mark.parametrize("epsilon", [1.0, 4.0, 8.0])
def test_all_rounds_together_have_the_epsilon_that_was_asked_for(epsilon: float) -> None:
    """Those of the phases that the site answers, by dp-accounting: not more, and not much less."""
    parts = rounds(200, replace(PRIVATE, networks_epsilon=epsilon))
    assert {name: (one.rate, one.steps) for name, one in parts.items()} == dict.fromkeys(
        ("register 1", "register 2", "flow_codes 1"), (8 / 200, 10)
    )
    assert len({one.multiplier for one in parts.values()}) == 1
    found = accountant(parts).get_epsilon(DELTA)
    assert 0.99 * epsilon < found <= epsilon
    assert budget.epsilon_of((), DELTA, tuple(parts.values())) == pytest.approx(found, rel=1e-9)


def test_statistics_and_networks_are_added_up_as_the_accountant_does() -> None:
    """More than each of them, and less than the sum."""
    parts = rounds()
    whole = accountant(parts)
    whole.compose(dp_accounting.GaussianDpEvent(1.158))
    both = budget.epsilon_of((1.158,), DELTA, tuple(parts.values()))
    assert both == pytest.approx(whole.get_epsilon(DELTA), rel=1e-9)
    single = budget.epsilon_of((1.158,), DELTA), budget.epsilon_of((), DELTA, tuple(parts.values()))
    assert max(single) < both < sum(single)
    assert math.isinf(budget.epsilon_of((1.158,), DELTA, (DpSgd(0.0, 0.1, 5),)))


@pytest.mark.parametrize(("people", "batch", "steps", "epsilon"), [(200, 8, 400, 4.0), (300, 32, 200, 2.0)])
def test_opacus_comes_to_the_same_epsilon(people: int, batch: int, steps: int, epsilon: float) -> None:
    """Another accountant of Renyi divergences: within a few percent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("opacus")
        from opacus.accountants import RDPAccountant
    multiplier = budget.multiplier_of_rounds(epsilon, DELTA, ((batch / people, steps),))
    other = RDPAccountant()
    other.history = [(multiplier, batch / people, steps)]
    assert other.get_epsilon(DELTA) == pytest.approx(epsilon, rel=0.03)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A simulated site of forty people that joined, with a policy of noise on networks."""
    own = Site("one", (tmp_path,), tmp_path, PRIVATE)
    people_of(own, 40)
    return own


def people_of(site: Site, count: int, run: str = "run") -> None:
    """Write what the app writes when it prepares scans: two of each person, and some who do not train."""
    rows = {f"case{n}{scan}": ["train", "path", f"person{n}"] for n in range(count) for scan in "ab"}
    rows |= {f"other{n}": ["test", "path", f"other{n}"] for n in range(99)}
    path = site.folder(run) / scans.SPLITS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def ask(phase: str = "register", number: int = 1, run: str = "run") -> PhaseRequest:
    """A request to train."""
    sent = dict.fromkeys(phase_of(phase).learns, WEIGHTS["T"])
    return PhaseRequest(run, phase, number, "one", EXPERIMENT.to_json(), sent)


def plan(site: Site, request: PhaseRequest | None = None) -> DpSgd | None:
    """What the gate says of a request."""
    asked = request or ask()
    return networks.plan(asked, site, Approval(asked.run, EXPERIMENT.to_json(), "0" * 64, "0" * 64, "0" * 64))


def leave(site: Site, request: PhaseRequest, dp_sgd: DpSgd | None) -> None:
    """Write into the ledger what the gate writes when weights leave."""
    sent = dict.fromkeys(phase_of(request.phase).learns, WEIGHTS["T"])
    reply = SiteReply("one", request.phase, request.round, 80, arrays=sent)
    ledger.append(site.gate / ledger.NAME, request, reply, Parcel(sent), dp_sgd)


def test_people_are_counted_not_scans(site: Site) -> None:
    """And those who train alone; a site without the policy of noise plans none."""
    assert networks.people(site.folder("run") / scans.SPLITS) == 40
    found = plan(site)
    assert found is not None and replace(found, words="") == rounds()["register 1"]
    assert plan(replace(site, policy=Policy(level="networks"))) is None
    assert plan(site, ask("evaluate")) is None


def test_too_few_people_train_no_network(site: Site) -> None:
    """The policy as it is written asks for a hundred."""
    usual = replace(site, policy=replace(PRIVATE, min_people_private=Policy().min_people_private))
    with pytest.raises(RefusalError, match=r"^40 people train; weights with noise need 100 or more \(min_people_priva"):
        plan(usual)
    people_of(site, 9)
    with pytest.raises(RefusalError, match="9 people train; weights with noise need 10 or more"):
        plan(site)


def test_nobody_knows_how_many_people_a_site_has_that_did_not_join(site: Site) -> None:
    """Nor where the list is none: an app's word is a stranger's."""
    path = site.folder("run") / scans.SPLITS
    for words in ("", "[]", '{"case": 3}', '{"case": ["train"]}', "[" * 100_000):
        path.write_text(words)
        with pytest.raises(RefusalError, match="nobody knows how many people train here"):
            plan(site)
    path.unlink()
    with pytest.raises(RefusalError, match="nobody knows how many people train here"):
        plan(site)


def test_noise_that_drowns_what_is_learnt_is_refused(site: Site) -> None:
    """The more weights a network has, the longer is the noise on all of them."""
    multiplier = rounds()["register 1"].multiplier
    fits = int((networks.MOST_NOISE * 8 / multiplier) ** 2)
    large, small = ({"T": {"w": np.zeros(count, np.float32)}} for count in (fits + 1, fits))
    assert plan(site, replace(ask(), arrays=small)) is not None
    words = (
        f"noise that is {networks.MOST_NOISE:.1f} times as long as what a step of register can learn .*smaller network"
    )
    with pytest.raises(RefusalError, match=words):
        plan(site, replace(ask(), arrays=large))


@pytest.mark.parametrize(("phase", "level"), [("style", "networks"), ("joint", "networks"), ("adapt", "models")])
def test_phases_that_tie_scans_are_declined(phase: str, level: str) -> None:
    """In one sentence; a site that keeps what it learns adapts all the same."""
    policy = replace(PRIVATE, level=level, dice=True)
    with pytest.raises(DeclinedError, match=f"phase '{phase}' ties the scans of several people .*networks_epsilon"):
        permit(ask(phase), policy)
    permit(ask(phase), Policy(level=level))
    permit(ask("adapt"), PRIVATE)
    for open_one in ("register", "flow_codes", "join", "statistics", "evaluate"):
        permit(ask(open_one), policy)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"series": {"total": (1.0, 0.5)}}, "keeps training curves"),
        ({"metrics": {"total": 0.5}}, "keeps training curves"),
        (
            {"arrays": {"moments": {"mean": np.zeros(8, np.float32), "std": np.ones(8, np.float32)}}},
            "keeps the moments",
        ),
    ],
)
def test_what_has_no_noise_stays(more: dict[str, Any], words: str) -> None:
    """Curves and moments, which leave where weights have none, either."""
    reply = SiteReply("one", "flow_codes", 1, 40, **more)
    check(reply, ask("flow_codes"), Policy(level="networks"))
    with pytest.raises(ReleaseError, match=words):
        check(reply, ask("flow_codes"), PRIVATE)


def test_the_budget_is_of_statistics_and_networks_together(site: Site) -> None:
    """Either is refused where the other has used it up; rounds of a run that began are still answered."""
    planned = plan(site)
    leave(site, ask(), planned)
    both = replace(site, policy=replace(PRIVATE, most_epsilon=5.0))
    path = site.gate / ledger.NAME
    assert 0 < budget.spent(path, DELTA) < 4
    assert plan(both, ask(number=2)) == replace(planned, words=plan(both, ask(number=2)).words)
    for name in (ask(number=2), ask("flow_codes")):
        leave(site, name, plan(both, name))
    assert 3.9 < budget.spent(path, DELTA) <= 4
    with pytest.raises(RefusalError, match=r"statistics of epsilon 4 would bring the total from 4\.00 to 5\.\d+"):
        budget.check(site.gate, "run", both.policy)
    budget.check(site.gate, "run", site.policy)
    people_of(site, 40, "next")
    with pytest.raises(RefusalError, match=r"weights of epsilon 4 would bring the total from 4\.00 to 5\.\d+"):
        plan(both, ask(run="next"))
    assert plan(site, ask(run="next")) is not None
    other = replace(site, policy=replace(PRIVATE, networks_epsilon=3.0))
    with pytest.raises(
        RefusalError, match=r"the weights of run run would have epsilon 4\.00 with what left of it alre"
    ):
        plan(other, ask(number=2))


def test_statistics_count_for_networks(site: Site) -> None:
    """The other way round."""
    sent = {"statistics": {"multiplier": np.array([1.158], np.float32)}}
    reply = SiteReply("one", "statistics", 1, 40, arrays=sent)
    ledger.append(site.gate / ledger.NAME, ask("statistics", run="old"), reply, Parcel(sent))
    with pytest.raises(RefusalError, match=r"bring the total from 4\.00 to 5\.\d+ .*allows 5 \(most_epsilon\)"):
        plan(replace(site, policy=replace(PRIVATE, most_epsilon=5.0)))


def test_a_round_that_is_sent_again_costs_once_and_is_not_trained_again(site: Site) -> None:
    """With other noise it would be a release more."""
    asked, dp_sgd = ask(), plan(site)
    leave(site, asked, dp_sgd)
    once = budget.spent(site.gate / ledger.NAME, DELTA)
    leave(site, asked, dp_sgd)
    assert budget.spent(site.gate / ledger.NAME, DELTA) == once
    assert plan(site) == dp_sgd
    with pytest.raises(
        RefusalError, match="the weights of register 1 left once, and the site's copy of that answer is"
    ):
        networks.check_once(asked, replace(site, dp_sgd=dp_sgd))
    networks.check_once(ask(number=2), replace(site, dp_sgd=dp_sgd))


def test_masked_weights_are_counted_as_others_are(site: Site) -> None:
    """In a run of secure sums the ledger has one part, and no name of a network."""
    sent, dp_sgd = {"masked": {"values": np.zeros(15, np.uint8)}}, plan(site)
    assert dp_sgd is not None
    reply = SiteReply("one", "register", 1, 80, arrays=sent)
    ledger.append(site.gate / ledger.NAME, ask(), reply, Parcel(sent), dp_sgd)
    assert budget.trained(site.gate / ledger.NAME) == {("run", "register 1"): replace(dp_sgd, words="")}


def test_weights_that_left_without_noise_use_the_budget_up(site: Site) -> None:
    """Also in ledgers of versions that knew none, which are read; where none is asked for they count for nothing."""
    leave(site, ask(run="bare"), None)
    assert '"training"' not in (site.gate / ledger.NAME).read_text()
    with pytest.raises(RefusalError, match="from inf to inf .*weights left without noise in bare"):
        plan(site)
    with pytest.raises(RefusalError, match="without noise in bare"):
        budget.check(site.gate, "run", PRIVATE)
    budget.check(site.gate, "run", Policy(level="networks"))
    assert budget.spent(site.gate / ledger.NAME, DELTA) == 0
    endless = replace(PRIVATE, most_epsilon=math.inf)
    assert plan(replace(site, policy=endless)) is not None


def test_a_ledger_that_was_cut_trains_nothing(site: Site) -> None:
    """The hub has seen an entry that is not there."""
    (site.gate).mkdir()
    (site.gate / NAME).write_text(json.dumps([["0" * 64, ""]]))
    with pytest.raises(RefusalError, match="lacks 1 entries that the hub has seen"):
        plan(site)


def test_weights_leave_with_no_less_noise_than_the_policy_asks_for(site: Site) -> None:
    """What was trained before the policy changed stays; what the gate noted is what the ledger gets."""
    asked, dp_sgd = ask(), plan(site)
    folder, reply = site.gate / "runs" / "run", SiteReply("one", "register", 1, 80, arrays=WEIGHTS)
    assert dp_sgd is not None
    networks.remember(folder, asked, replace(dp_sgd, multiplier=dp_sgd.multiplier - 0.001))
    for noted in (None, dp_sgd):
        with pytest.raises(ReleaseError, match="the weights of register 1 were trained with less noise"):
            networks.of_reply(reply, asked, replace(site, dp_sgd=dp_sgd))
        networks.remember(folder, asked, noted)
    assert networks.of_reply(reply, asked, replace(site, dp_sgd=dp_sgd)) == dp_sgd
    assert networks.of_reply(reply, asked, site) == dp_sgd
    networks.remember(folder, asked, None)
    assert networks.of_reply(reply, asked, site) is None
    assert networks.of_reply(replace(reply, error="memory"), asked, replace(site, dp_sgd=dp_sgd)) is None


def test_a_hospitals_noise_is_never_drawn_from_words(site: Site) -> None:
    """A simulated site's is, of each round its own; the app is told which."""
    assert plan(site).words and plan(site).words != plan(site, ask(number=2)).words
    for hospital in (replace(site, gate_folder=site.gate), replace(site, salt=b"secret")):
        found = plan(hospital)
        assert found is not None and found.words == ""
        _, told = pipe.read_request(pipe.write_request(ask(), replace(hospital, dp_sgd=found)))
        assert told.dp_sgd == found
    assert pipe.read_request(pipe.write_request(ask(), site))[1].dp_sgd is None
    assert pipe.read_request(pipe.write_request(ask(), site))[1].preparation == site.preparation


class Hospital:
    """A site of people with salt, as its SuperNode would start it, whose policy lets networks out with noise alone."""

    def __init__(self, root: Path, people: int) -> None:
        """Make scans, approve, join."""
        self.root, self.state, self.gate = root, root / "state", root / "state" / "gate"
        write_brains(root / "scans", 12, people=people)
        case = root / "scans" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
        labels = root / "scans" / "derivatives" / "reference" / "sub-01" / "anat" / "sub-01_dseg.nii.gz"
        self.atlas: Atlas = load_atlas(case, labels, EXPERIMENT.grid.shape, EXPERIMENT.grid.spacing)
        approve(self.state, EXPERIMENT, "run", self.atlas)
        (self.gate / "salt").write_bytes(b"a secret of thirty-two bytes ....")
        (root / "policy.toml").write_text(
            'level = "networks"\nnetworks_epsilon = 8\nmost_epsilon = 8\nmin_people_private = 5\n'
        )
        assert self.send("join").error == ""

    def send(self, phase: str, number: int = 1, **parts: Any) -> SiteReply:
        """Send an honest request, but for what is given."""
        row = phase_of(phase)
        if phase == "join":
            arrays: dict[str, Any] = {"atlas": published(self.atlas)}
        else:
            arrays = {part: self.first("T" if part == "F" else part) for part in (*row.learns, *row.uses)} | parts
        settings = {"atlas": self.atlas.digest}
        request = PhaseRequest("run", phase, number, "one", EXPERIMENT.to_json(), arrays, settings)
        folders = {"data-path": str(self.root / "scans"), "state-dir": str(self.state)}
        config = {"site-name": "one", **folders, "policy": str(self.root / "policy.toml"), "device": "cpu"}
        from flwr.app import Context, Message, RecordDict

        with identity():
            message = Message(encode_request(request, {}), 2, TYPES[phase])
            reply = client.app.respond(message, Context(1, 2, config, RecordDict(), {}), answer)
        return decode_reply(reply.content, request)

    def first(self, part: str) -> dict[str, np.ndarray]:
        """The weights with which a part begins."""
        return dict(load_file(self.gate / "approved" / "run.first" / f"{part}.safetensors"))

    def left(self) -> list[dict[str, Any]]:
        """What left the site, as its ledger has it."""
        return ledger.verified(self.gate / ledger.NAME)


@pytest.fixture
def hospital(joined: Hospital, monkeypatch: pytest.MonkeyPatch) -> Hospital:
    """The site, which trains however little it learns: its people are too few for more."""
    monkeypatch.setattr(networks, "MOST_NOISE", math.inf)
    return joined


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """A site that joined."""
    return Hospital(tmp_path_factory.mktemp("private"), 14)


def test_a_site_trains_with_noise_from_request_to_ledger(hospital: Hospital) -> None:
    """Weights leave, curves and moments do not; each round is counted once; a copy that is gone is not made anew."""
    found = hospital.send("register")
    assert (found.error, dict(found.series), dict(found.metrics), set(found.arrays)) == ("", {}, {}, {"T"})
    assert digest(found.arrays["T"]) != digest(hospital.first("T"))
    count = networks.people(hospital.state / "runs" / "run" / scans.SPLITS)
    entry = hospital.left()[-1]
    assert entry["training"]["rate"] == pytest.approx(8 / count) and entry["training"]["steps"] == 10
    again = hospital.send("register")
    assert digest(again.arrays["T"]) == digest(found.arrays["T"])
    assert list((hospital.state / "runs" / "run" / "own").glob("register*")) == [
        hospital.state / "runs" / "run" / "own" / "register-private-1.safetensors"
    ]
    assert hospital.send("style").error == "declined"
    second = hospital.send("register", 2, T=found.arrays["T"])
    codes = hospital.send("flow_codes", F=second.arrays["T"])
    assert (second.error, codes.error, dict(codes.series)) == ("", "", {})
    assert set(codes.arrays) == {"encoder", "decoder", "D_flow"}  # and no moments
    assert [name for _, name in budget.trained(hospital.gate / ledger.NAME)] == [
        "register 1",
        "register 2",
        "flow_codes 1",
    ]
    assert 7.9 < budget.spent(hospital.gate / ledger.NAME, DELTA) <= 8
    shutil.rmtree(hospital.gate / "runs" / "run" / "replies")
    gone = hospital.send("register", 2, T=found.arrays["T"])
    assert (gone.error, dict(gone.arrays)) == ("refused", {})


def test_a_round_whose_answer_never_left_is_trained_again(hospital: Hospital, tmp_path: Path) -> None:
    """A site that was stopped in the middle: other noise, and nothing of it was seen. It is counted once."""
    shutil.copytree(hospital.state, tmp_path / "state")
    other = object.__new__(Hospital)
    other.__dict__ |= {**hospital.__dict__, "state": tmp_path / "state", "gate": tmp_path / "state" / "gate"}
    for path in (other.gate / ledger.NAME, other.gate / "runs" / "run", other.gate / NAME):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    first = other.send("register")
    (other.gate / ledger.NAME).unlink()  # as if it had been stopped before the entry was written
    shutil.rmtree(other.gate / "runs" / "run" / "replies")
    second = other.send("register")
    assert (first.error, second.error) == ("", "")
    assert digest(first.arrays["T"]) != digest(second.arrays["T"])
    assert len(budget.trained(other.gate / ledger.NAME)) == 1
