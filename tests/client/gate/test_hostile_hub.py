"""A hub that is hostile, against a site that runs the approved app with the policy that `sst site approve` writes.

Each attack was carried out on an earlier version and succeeded. A hub may send whatever it likes; the site's answer is
a code, a line in `refused.jsonl`, and no byte of a scan.
"""

import json
import random
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from safetensors.numpy import load_file

import client.app
from approving import SMALL, approve, moved, usual_policy
from client import scans
from client.answer import answer
from client.gate import ledger
from client.gate.gate import REFUSED
from client.messages import decode_request
from configs.phases import at_sites, phase_of
from configs.schema import Experiment, from_dict
from live import write_brains
from server.atlas import Atlas, load_atlas, published
from server.messages import TYPES, decode_reply, encode_request
from simulation.engines.inprocess import identity
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.payload import digest, distance

PRESET: Mapping[str, Any] = {
    **SMALL,
    "name": "small",
    "federation": {"payload": "full", "foreign_negatives": 2},
    "phases": {
        "register": {"rounds": 2, "steps": 20, "batch": 2},
        "style": {"rounds": 2, "steps": 10, "batch": 4},
        "joint": {"rounds": 1, "steps": 20, "batch": 2},
        "flow_codes": {"rounds": 1, "steps": 20, "batch": 2},
        "segment": {"rounds": 1, "steps": 2},
        "adapt": {"rounds": 1, "steps": 20, "batch": 2},
    },
}
EXPERIMENT = from_dict(dict(PRESET), "small")
LEARNING = tuple(phase.name for phase in at_sites())


class Victim:
    """A site, as its SuperNode would start it, and a hub that can send it anything."""

    def __init__(self, root: Path, atlas: Atlas, data: Path) -> None:
        """Set the site up with the usual policy, but for its level: it trains networks with others."""
        self.root, self.atlas, self.data, self.state = root, atlas, data, root / "state"
        root.mkdir(parents=True, exist_ok=True)
        (root / "policy.toml").write_text(usual_policy("networks"))
        self.approve(EXPERIMENT)

    def approve(self, experiment: Experiment, run: str = "run") -> None:
        """Approve a run here; the salt is the site's secret."""
        approve(self.state, experiment, run, self.atlas)
        (self.gate / "salt").write_bytes(b"a secret of thirty-two bytes ....")

    def allow(self, key: str, value: object) -> None:
        """Let IT change a line of the policy."""
        path = self.root / "policy.toml"
        path.write_text(re.sub(rf"^{key} = \S+", f"{key} = {value}", path.read_text(), flags=re.M))

    @property
    def gate(self) -> Path:
        """The folder that the gate alone writes."""
        return self.state / "gate"

    def send(self, request: PhaseRequest) -> SiteReply:
        """Send a request, as it is, and read what comes back."""
        folders = {"data-path": str(self.data), "state-dir": str(self.state)}
        config = {"site-name": "one", **folders, "policy": str(self.root / "policy.toml"), "device": "cpu"}
        with identity():
            message = Message(encode_request(request, {}), 2, TYPES.get(request.phase, "query.join"))
            reply = client.app.respond(message, Context(1, 2, config, RecordDict(), {}), answer)
        return decode_reply(reply.content, request)

    def ask(self, phase: str, number: int = 1, parts: Mapping[str, Arrays] | None = None, **more: Any) -> PhaseRequest:
        """An honest request, but for what is given."""
        arrays: dict[str, Arrays] = {}
        if phase == "join":
            arrays["atlas"] = published(self.atlas)
        else:
            row = phase_of(phase)
            arrays |= {part: self.first("T" if part == "F" else part) for part in (*row.learns, *row.uses)}
            if phase in ("adapt", "deliver"):
                arrays["atlas"] = {"labels": self.atlas.labels.packed()}
        arrays |= parts or {}
        asked = PhaseRequest("run", phase, number, "one", EXPERIMENT.to_json(), arrays, {"atlas": self.atlas.digest})
        return replace(asked, **more)

    def test(self, segmenter: Arrays, announced: str, number: int = 1) -> PhaseRequest:
        """An honest request to test a segmenter, but for what is given."""
        asked = self.ask("evaluate", number, {"segmenter": segmenter})
        return replace(asked, settings={**asked.settings, "segmenters": announced, "style": "other"})

    def first(self, part: str) -> dict[str, np.ndarray]:
        """The weights with which a part begins."""
        return dict(load_file(self.gate / "approved" / "run.first" / f"{part}.safetensors"))

    def refused(self) -> list[str]:
        """What IT reads of refusals."""
        path = self.gate / REFUSED
        return [json.loads(line)["why"] for line in path.read_text().splitlines()] if path.exists() else []

    def left(self) -> list[dict[str, Any]]:
        """What left the site, as its ledger has it."""
        path = self.gate / ledger.NAME
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Victim:
    """A site of twelve people that has joined."""
    root = tmp_path_factory.mktemp("hostile")
    write_brains(root / "scans", 12, people=12)
    case = root / "scans" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    labels = root / "scans" / "derivatives" / "reference" / "sub-01" / "anat" / "sub-01_dseg.nii.gz"
    atlas = load_atlas(case, labels, EXPERIMENT.grid.shape, EXPERIMENT.grid.spacing)
    site = Victim(root / "site", atlas, root / "scans")
    reply = site.send(site.ask("join"))
    assert (reply.error, reply.count >= 5) == ("", True)
    return site


@pytest.fixture
def victim(joined: Victim, tmp_path: Path) -> Victim:
    """A copy of it for one attack."""
    shutil.copytree(joined.state, tmp_path / "site" / "state")
    splits = tmp_path / "site" / "state" / "runs" / "run" / scans.SPLITS
    splits.write_text(splits.read_text().replace(str(joined.state), str(tmp_path / "site" / "state")))
    site = Victim(tmp_path / "site", joined.atlas, joined.data)
    return site


def altered(**tables: Mapping[str, Any]) -> str:
    """The approved preset with some settings changed, as a request holds it."""
    values = json.loads(EXPERIMENT.to_json())
    for name, table in tables.items():
        values[name] = {**values[name], **table} if isinstance(table, Mapping) else table
    return json.dumps(values, sort_keys=True)


def no_voxel_left(site: Victim, reply: SiteReply, why: str) -> None:
    """The hub got a code, IT a line that says why, and nothing that was learnt left."""
    assert reply == SiteReply(reply.site, reply.phase, reply.round, 0, error="refused")
    assert why in site.refused()[-1]
    assert [entry["phase"] for entry in site.left()] == ["join"]


HYPERPARAMETERS = {
    "one step of one volume": {"phases": {"style": {"rounds": 1, "steps": 1, "batch": 1}}},
    "an absurd temperature": {"style": {**PRESET["style"], "temperature": 1e10}},
    "an absurd rate": {"phases": {**PRESET["phases"], "style": {**PRESET["phases"]["style"], "rate": 1e4}}},
    "a network made to hold voxels": {"style": {**PRESET["style"], "widths": [27, 256, 256]}},
    "another grid, under which a volume is no volume": {"grid": {"shape": [64, 32, 32], "spacing": 6.0}},
    "another seed": {"seed": 2},
    "no queue": {"style": {**PRESET["style"], "queue": 1}},
}


@pytest.mark.parametrize("phase", LEARNING)
@pytest.mark.parametrize("change", HYPERPARAMETERS.values(), ids=HYPERPARAMETERS)
def test_voxels_by_chosen_hyperparameters(change: Mapping[str, Any], phase: str, victim: Victim) -> None:
    """attacks/voxels.py: a single step of a single volume at an extreme rate returns voxels. The preset is pinned."""
    no_voxel_left(victim, victim.send(victim.ask(phase, experiment=altered(**change))), "is not the approved one")


def test_voxels_by_crafted_first_weights(victim: Victim) -> None:
    """attacks/voxels.py: an E whose convolutions move voxels about, under the approved hyper-parameters."""
    crafted = {name: np.zeros_like(array) for name, array in victim.first("E").items()}
    crafted["down.0.weight"][0, 0, 1, 1, 1] = 1.0
    reply = victim.send(victim.ask("style", parts={"E": crafted, "T": victim.first("T")}))
    no_voxel_left(victim, reply, "the weights of E are not those with which the preset begins")


@pytest.mark.parametrize("phase", LEARNING)
def test_crafted_weights_in_every_phase(phase: str, victim: Victim) -> None:
    """Whichever part is crafted: too far for the approved rates and steps, however many rounds were missed."""
    victim.allow("most_missed_rounds", 99)
    for part in (*phase_of(phase).learns, *phase_of(phase).uses):
        if part != "segmenter":
            first = victim.first("T" if part == "F" else part)
            crafted = {part: moved(first, 3.0)}
            crafted |= {"F": crafted["T"]} if part == "T" and phase == "joint" else {}  # F begins as T
            no_voxel_left(victim, victim.send(victim.ask(phase, parts=crafted)), f"the weights of {part}")


def test_weights_of_another_network(victim: Victim) -> None:
    """Other names, another shape, another type, or not finite."""
    first = victim.first("T")
    name = min(first)
    for odd in (
        {"w": np.ones(3, np.float32)},
        {**first, name: first[name][..., None]},
        {**first, name: first[name].astype(np.float64)},
        {**first, name: np.full_like(first[name], np.nan)},
    ):
        no_voxel_left(victim, victim.send(victim.ask("register", parts={"T": odd})), "the weights of T")


def test_crafted_weights_after_honest_rounds(victim: Victim) -> None:
    """A later round's weights lie near what the site was sent and learnt, and parts at rest stay as they were."""
    honest = victim.send(victim.ask("register"))
    assert honest.error == ""
    zeros = {name: np.zeros_like(array) for name, array in victim.first("T").items()}
    far = victim.send(victim.ask("register", 2, {"T": zeros}))
    assert (far.error, "T moved further" in victim.refused()[-1]) == ("refused", True)
    assert victim.send(victim.ask("register", 2, {"T": honest.arrays["T"]})).error == ""
    assert victim.send(victim.ask("style", 1, {"T": honest.arrays["T"]})).error == ""
    other = victim.send(victim.ask("style", 2, {"T": moved(honest.arrays["T"], 1e-4)}))
    assert (other.error, "T changed though no round trained" in victim.refused()[-1]) == ("refused", True)


def test_rounds_that_the_site_did_not_see(victim: Victim) -> None:
    """A hub that asks for the last round alone could have chosen its weights, within the reach of the rounds before."""
    late = victim.send(victim.ask("register", 2))
    assert (late.error, "1 round(s) that this site did not answer (register 1)" in victim.refused()[-1]) == (
        "refused",
        True,
    )
    later = victim.send(victim.ask("style"))
    assert (later.error, "2 round(s) that this site did not answer" in victim.refused()[-1]) == ("refused", True)
    victim.allow("most_missed_rounds", 2)
    assert victim.send(victim.ask("style")).error == ""


def test_weights_that_moved_further_than_this_site_moved_them(victim: Victim) -> None:
    """Within the reach of Adam's steps, a mean may lie four times as far as this site went, and no further."""
    first = victim.first("T")
    honest = victim.send(victim.ask("register"))
    seen = victim.gate / "runs" / "run" / "seen" / "seen.json"
    kept = json.loads(seen.read_text())
    own = distance(honest.arrays["T"], first)
    assert kept["moved"]["T"] == pytest.approx(own)
    size = sum(array.size for array in first.values())
    seen.write_text(json.dumps({**kept, "moved": {"T": 0.001 * size**0.5}}))
    reply = victim.send(victim.ask("register", 2, {"T": moved(first, 0.005)}))
    assert (reply.error, "T came back further away" in victim.refused()[-1]) == ("refused", True)
    assert victim.send(victim.ask("register", 2, {"T": moved(first, 0.0039)})).error == ""


def test_the_same_round_asked_again(victim: Victim) -> None:
    """The same content is answered from disk, to the same bytes; other content under the same name is refused."""
    first, again = victim.send(victim.ask("register")), victim.send(victim.ask("register"))
    assert digest(first.arrays["T"]) == digest(again.arrays["T"])
    near = victim.ask("register", parts={"T": moved(victim.first("T"), 1e-7)})
    assert victim.send(near).error == "refused"
    assert "another request for register 1 was taken before" in victim.refused()[-1]
    assert [entry["phase"] for entry in victim.left()] == ["join", "register", "register"]


STRANGE = {
    "a run that nobody approved": {"run": "another"},
    "a round that is not in the schedule": {"number": 3},
    "round 0": {"number": 0},
    "a request for another site": {"site": "two"},
    "another atlas": {"settings": {"atlas": "1" * 64}},
    "more settings": {"settings_more": {"steps": 1}},
    "another way to travel": {"payload": "half"},
    "a part that the phase does not know": {"parts": {"scan": {"w": np.ones(3, np.float32)}}},
    "the atlas's labels, unasked": {"parts": {"atlas": {"labels": np.ones(3, np.uint8)}}},
    "a preset that is none": {"experiment": "{}"},
    "a preset that is no JSON": {"experiment": "["},
}


@pytest.mark.parametrize("odd", STRANGE.values(), ids=STRANGE)
def test_requests_that_nobody_approved(odd: Mapping[str, Any], victim: Victim) -> None:
    """Anything that is not in the approval is refused before a scan is read."""
    words = {key: value for key, value in odd.items() if key != "settings_more"}
    request = victim.ask("register", **words)
    if "settings_more" in odd:
        request = replace(request, settings={**request.settings, **odd["settings_more"]})
    no_voxel_left(victim, victim.send(request), "")


def test_another_atlas_under_the_approved_digest(victim: Victim) -> None:
    """At join and in adapt: what was sent is held against what was approved, not against what the hub calls it."""
    image = {"atlas": {**published(victim.atlas), "image": published(victim.atlas)["image"] * 0.5}}
    no_voxel_left(victim, victim.send(victim.ask("join", parts=image)), "the atlas that was sent")
    labels = {"atlas": {"labels": victim.atlas.labels.packed()[::-1].copy()}}
    no_voxel_left(victim, victim.send(victim.ask("adapt", parts=labels)), "the atlas that was sent")


def test_moments_that_no_site_can_have(victim: Victim) -> None:
    """They become negatives of the contrastive loss: codes are unit vectors, and nothing else gets in."""
    victim.allow("most_missed_rounds", 99)
    good = {"mean": np.full(8, 0.1, np.float32), "std": np.full(8, 0.2, np.float32)}
    for odd in (
        {**good, "mean": np.full(8, 1e6, np.float32)},
        {**good, "mean": np.full(8, np.nan, np.float32)},
        {**good, "std": np.full(8, -0.1, np.float32)},
        {**good, "std": np.full(8, 1e6, np.float32)},
        {**good, "std": np.full(7, 0.1, np.float32)},
        {**good, "more": np.ones(8, np.float32)},
    ):
        no_voxel_left(victim, victim.send(victim.ask("style", parts={"moments.two": odd})), "'moments.two' is no mean")
    assert victim.send(victim.ask("style", parts={"moments.two": good})).error == ""


def test_a_crafted_segmenter_brings_no_weights_back(victim: Victim) -> None:
    """The one part that cannot be bounded: what is learnt on top of it stays here, and is delivered to this site."""
    victim.allow("most_missed_rounds", 99)
    crafted = {name: np.zeros_like(array) for name, array in victim.first("segmenter").items()}
    reply = victim.send(victim.ask("adapt", parts={"segmenter": crafted}))
    assert (reply.error, reply.arrays) == ("", {})
    assert set(reply.series) == {"total"}
    assert victim.left()[-1]["parts"] == {}
    assert list((victim.state / "runs" / "run" / "own").glob("segmenter-adapt-1.safetensors"))


def test_style_codes_of_single_patients_by_the_split(victim: Victim) -> None:
    """attacks/oracle.py: the hub's seed drew the split. It is the site's own now, the same in every run."""
    rows = []
    for seed in (1, 2, 3):
        run = f"run-{seed}"
        experiment = from_dict({**PRESET, "seed": seed}, "small")
        victim.approve(experiment, run)
        assert victim.send(victim.ask("join", run=run, experiment=experiment.to_json())).error == ""
        table = json.loads((victim.state / "runs" / run / scans.SPLITS).read_text())
        rows.append({case: split for case, (split, _, _) in table.items()})
    assert rows[0] == rows[1] == rows[2]
    assert set(rows[0].values()) == {"train", "val", "test"}


def test_a_person_keeps_its_split_when_others_come(victim: Victim) -> None:
    """Moments before and after somebody came differ by whoever came, and by nobody who was moved."""
    from client.split import split_for_good

    people = {f"case-{n}": f"person-{n}" for n in range(12)}
    before = split_for_good(people, b"salt", {}, people.values())
    more = people | {f"case-{n}": f"person-{n}" for n in range(12, 20)}
    after = split_for_good(more, b"salt", {people[case]: split for case, split in before.items()}, more.values())
    assert {case: after[case] for case in before} == before
    assert list(after.values()).count("test") == 4
    assert split_for_good(people, b"other salt", {}, people.values()) != before


def test_moments_leave_once_for_each_phase_of_a_run(victim: Victim) -> None:
    """After the last round of a phase, and in no more runs than the policy says."""
    victim.allow("most_missed_rounds", 99)
    first = victim.send(victim.ask("style"))
    last = victim.send(victim.ask("style", 2, {part: first.arrays[part] for part in ("E", "D_style")}))
    assert ("moments" in first.arrays, "moments" in last.arrays) == (False, True)
    victim.allow("most_runs_with_moments", 1)
    run = EXPERIMENT.to_json()
    victim.approve(EXPERIMENT, "later")
    assert victim.send(victim.ask("join", run="later", experiment=run)).error == ""
    parts = {part: first.arrays[part] for part in ("E", "D_style")}
    assert victim.send(victim.ask("style", run="later")).error == ""
    later = victim.send(victim.ask("style", 2, parts, run="later"))
    assert (later.error, set(later.arrays)) == ("", {"E", "D_style"})


def test_statistics_leave_once_in_a_run_and_in_so_many_runs(victim: Victim) -> None:
    """Asked again they come from disk; with other labels, in one run too many, or unasked for, they do not come."""
    measuring = from_dict({**PRESET, "phases": {**PRESET["phases"], "statistics": {"rounds": 1}}}, "small")
    assert victim.send(victim.ask("statistics")).error == "refused"
    assert "has no round 1 of phase statistics" in victim.refused()[-1]
    labels = {"atlas": {"labels": victim.atlas.labels.packed()}}
    replies = []
    victim.allow("most_runs_with_statistics", 1)
    for run in ("first", "second"):
        victim.approve(measuring, run)
        about = {"run": run, "experiment": measuring.to_json()}
        assert victim.send(victim.ask("join", **about)).error == ""
        replies += [victim.send(victim.ask("statistics", parts=labels, **about)) for _ in range(2)]
    assert [reply.error for reply in replies] == ["", "", "refused", "refused"]
    assert digest(replies[0].arrays["statistics"]) == digest(replies[1].arrays["statistics"])
    assert "statistics have left in 1 run(s)" in victim.refused()[-1]
    crafted = {"atlas": {"labels": np.roll(victim.atlas.labels.packed(), 1)}}
    about = {"run": "first", "experiment": measuring.to_json()}
    assert victim.send(victim.ask("statistics", parts=crafted, **about)).error == "refused"


def test_statistics_are_not_drawn_again_with_other_noise(victim: Victim) -> None:
    """The mean of many draws has no noise. What is kept on disk comes again; where it is gone, nothing does."""
    measuring = from_dict({**PRESET, "phases": {**PRESET["phases"], "statistics": {"rounds": 1}}}, "small")
    victim.approve(measuring, "noise")
    about = {"run": "noise", "experiment": measuring.to_json()}
    labels = {"atlas": {"labels": victim.atlas.labels.packed()}}
    assert victim.send(victim.ask("join", **about)).error == ""
    first = victim.send(victim.ask("statistics", parts=labels, **about))
    assert (
        set(first.arrays["statistics"]) == {"mean", "noise", "multiplier"}
        and first.arrays["statistics"]["noise"][0] > 0
    )
    shutil.rmtree(victim.gate / "runs" / "noise" / "replies")
    again = victim.send(victim.ask("statistics", parts=labels, **about))
    assert (again.error, dict(again.arrays)) == ("refused", {})
    assert "left once" in victim.refused()[-1]
    entry = json.loads((victim.gate / ledger.NAME).read_text().splitlines()[-1])
    assert entry["phase"] != "statistics" or entry["error"] or entry["noise"] >= 1


def test_a_budget_that_is_spent_is_spent(victim: Victim) -> None:
    """A request that would pass it is refused before a scan is read; a lower epsilon still fits."""
    measuring = from_dict({**PRESET, "phases": {**PRESET["phases"], "statistics": {"rounds": 1}}}, "small")
    labels = {"atlas": {"labels": victim.atlas.labels.packed()}}
    errors = []
    for number in range(4):
        victim.approve(measuring, f"run{number}")
        about = {"run": f"run{number}", "experiment": measuring.to_json()}
        assert victim.send(victim.ask("join", **about)).error == ""
        errors.append(victim.send(victim.ask("statistics", parts=labels, **about)).error)
    assert errors == ["", "", "", "refused"]
    assert "the policy allows 2 (most_epsilon)" in victim.refused()[-1]


def test_labels_by_crafted_segmenters(victim: Victim) -> None:
    """attacks/dice.py: a test set of few people tells which structure lies where. It answers with a code alone."""
    victim.allow("dice", "true")
    crafted = moved(victim.first("segmenter"), 1.0)
    assert victim.send(victim.test(crafted, "0" * 64)).error == "refused"
    assert "was not announced" in victim.refused()[-1]
    reply = victim.send(victim.test(crafted, digest(crafted)))
    assert (reply.error, reply.count, dict(reply.metrics)) == ("too-few", 0, {})


def test_many_scans_of_few_people_are_few_people(victim: Victim) -> None:
    """Six scans of one person are that person's figures."""
    victim.allow("dice", "true")
    path = victim.state / "runs" / "run" / scans.SPLITS
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({case: ["test", row[1], "one person"] for case, row in list(rows.items())[:6]}))
    segmenter = victim.first("segmenter")
    reply = victim.send(victim.test(segmenter, digest(segmenter)))
    assert (reply.error, dict(reply.metrics)) == ("too-few", {})


def test_each_announced_segmenter_is_tested_once(victim: Victim) -> None:
    """With enough people: not twice, no other ones later, not more than the policy says; figures have three digits."""
    victim.allow("dice", "true")
    victim.allow("min_test_people", 2)
    one, two, three = (moved(victim.first("segmenter"), by) for by in (0.0, 0.1, 0.2))
    both = f"{digest(one)} {digest(two)}"
    reply = victim.send(victim.test(one, both))
    assert (reply.error, reply.count >= 2) == ("", True)
    assert all(value == round(value, 3) for value in reply.metrics.values())
    assert victim.send(victim.test(one, both, 2)).error == "refused"
    assert "tested already" in victim.refused()[-1]
    assert victim.send(victim.test(three, f"{both} {digest(three)}", 2)).error == "refused"
    assert "announces other segmenters" in victim.refused()[-1]
    assert victim.send(victim.test(two, both, 2)).error == ""
    many = " ".join(f"{n:064d}" for n in range(17))
    assert victim.send(victim.test(two, many, 3)).error == "refused"
    assert "the policy allows 16" in victim.refused()[-1]


def test_a_site_that_trains_by_itself_says_nothing(victim: Victim) -> None:
    """Level "nothing": phases above it are declined, networks that others trained are refused, and no byte leaves."""
    (victim.root / "policy.toml").write_text(usual_policy("nothing"))
    sent = {"segmenter": victim.first("segmenter"), "atlas": {"labels": victim.atlas.labels.packed()}}
    honest = replace(victim.ask("adapt"), arrays=sent)
    for phase in ("register", "style", "joint", "flow_codes", "evaluate"):
        assert victim.send(victim.ask(phase)).error == "declined"
    crafted = moved(victim.first("E"), 1e-3)
    assert victim.send(victim.ask("adapt", parts={"E": crafted})).error == "refused"
    assert "did not answer" in victim.refused()[-1]
    assert victim.send(replace(honest, arrays=sent | {"F": victim.first("T")})).error == "refused"
    assert "was not sent" in victim.refused()[-1]
    reply = victim.send(honest)
    assert (reply.error, reply.arrays, dict(reply.series), dict(reply.metrics)) == ("", {}, {}, {})
    assert list((victim.state / "runs" / "run" / "own").glob("segmenter-adapt-1.safetensors"))
    assert [entry["parts"] for entry in victim.left() if not entry["error"]] == [{}] * 2  # join, adapt


def test_only_a_phase_of_the_lowest_level_goes_without_networks(victim: Victim) -> None:
    """Else a hub could have E trained beside a T that it left out."""
    style = victim.ask("style")
    without = {part: arrays for part, arrays in style.arrays.items() if part != "T"}
    assert victim.send(replace(style, arrays=without)).error == "refused"
    assert "needs the part 'T'" in victim.refused()[-1]


def test_more_work_than_a_day_allows(victim: Victim) -> None:
    """What is answered from disk costs nothing; what is refused counts for nothing."""
    victim.allow("most_requests", 2)
    honest = victim.send(victim.ask("register"))
    assert honest.error == "" and victim.send(victim.ask("register")).error == ""
    reply = victim.send(victim.ask("register", 2, {"T": honest.arrays["T"]}))
    assert (reply.error, "requests in a day" in victim.refused()[-1]) == ("refused", True)


def test_a_hundred_hostile_requests_change_nothing(joined: Victim, victim: Victim, tmp_path: Path) -> None:
    """None wedges the site, and the honest round after them gives the same bytes as at a site that saw none."""
    rng = random.Random(1)
    tables = list(HYPERPARAMETERS.values())
    for _ in range(100):
        phase = rng.choice(LEARNING)
        honest = victim.ask(phase, rng.choice((0, 1, 2, 7)))
        kind = rng.randrange(5)
        if kind == 0:
            hostile = replace(honest, experiment=altered(**rng.choice(tables)))
        elif kind == 1:
            hostile = replace(honest, arrays={part: moved(arrays, 9.0) for part, arrays in honest.arrays.items()})
        elif kind == 2:
            hostile = replace(honest, run=rng.choice(("..", "x" * 99, "", "other")))
        elif kind == 3:
            hostile = replace(honest, settings={"atlas": "../../etc/passwd"})
        else:
            hostile = replace(honest, site="\x1b[2J[/boom]", phase=phase)
        assert victim.send(hostile).error in ("refused", "release")
    assert len(victim.refused()) == 100
    after = victim.send(victim.ask("register"))
    (tmp_path / "other").mkdir()
    shutil.copytree(joined.state, tmp_path / "other" / "state")
    splits = tmp_path / "other" / "state" / "runs" / "run" / scans.SPLITS
    splits.write_text(splits.read_text().replace(str(joined.state), str(tmp_path / "other" / "state")))
    quiet = Victim(tmp_path / "other", joined.atlas, joined.data)
    assert digest(after.arrays["T"]) == digest(quiet.send(quiet.ask("register")).arrays["T"])


def test_a_request_is_read_as_it_was_written(victim: Victim) -> None:
    """The tests above send what they say that they send."""
    asked = victim.ask("register", 2)
    read = decode_request(encode_request(asked, {}))
    assert (read.run, read.phase, read.round, read.site) == ("run", "register", 2, "one")
    assert read.experiment == EXPERIMENT.to_json()
