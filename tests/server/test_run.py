"""The hub's run: which sites may join, and which may not."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.gate.policy import Policy
from configs.errors import FederationError
from configs.phases import phase_of
from configs.schema import load
from server import events, joining, run, segmenters
from server.atlas import Atlas, _digest, read_atlas, save_atlas
from server.federation import Late, Traffic
from server.generators import style_source
from server.hub import Hub, Plan
from server.joining import cannot_join
from server.office import LEFT
from server.run import joining_of
from server.state import RunState, schedule
from server.vet import MOST
from sst_models.volume.labels import AtlasLabels
from sst_models.wire.exchange import PhaseRequest, SiteReply

DIGEST, OTHER = "a" * 64, "b" * 64


class Hospitals:
    """A federation whose sites say which atlas they hold, None for a site that fails; some take their time to join."""

    def __init__(self, atlases: dict[str, str | None], slow: dict[str, int] | None = None) -> None:
        """Take the digest by site, and for how many looks the answer of a slow one is not there."""
        self.atlases, self.slow = atlases, slow or {}
        self.traffic: list[Traffic] = []
        self.late: list[Late] = []
        self.asked: list[PhaseRequest] = []
        self.deadlines: dict[str, float] = {}
        self.begun: list[PhaseRequest] = []
        self.keeps_figures: set[str] = set()  # sites whose policy lets no Dice out

    def sites(self) -> tuple[str, ...]:
        """Who is there."""
        return tuple(sorted(self.atlases))

    def ask(self, requests: Sequence[PhaseRequest]) -> Iterator[SiteReply]:
        """Bring back what a round sent."""
        for request in requests:
            self.asked.append(request)
            parts = {part: request.arrays[part] for part in phase_of(request.phase).learns}
            error = "data" if self.atlases[request.site] is None else ""
            if request.phase == "evaluate" and request.site in self.keeps_figures:
                error = "declined"
            count = 9 if phase_of(request.phase).count else 0
            yield SiteReply(request.site, request.phase, request.round, count, parts, error=error)

    def begin(self, requests: Sequence[PhaseRequest], deadline: float) -> None:
        """Take requests to join."""
        self.begun += requests
        self.asked += requests
        self.deadlines |= {request.site: deadline for request in requests}

    def answered(self) -> list[SiteReply]:
        """Answer with counts and the digest, or with a code."""
        self.slow = {site: looks - 1 for site, looks in self.slow.items()}
        ready = [request for request in self.begun if self.slow.get(request.site, 0) <= 0]
        self.begun = [request for request in self.begun if request not in ready]
        return [self._join(request) for request in ready]

    def _join(self, request: PhaseRequest) -> SiteReply:
        atlas = self.atlases[request.site]
        settings: dict[str, int | float | str | bool] = {"atlas": atlas, "scans": 9} if atlas else {}
        error = "data" if atlas is None else ""
        return SiteReply(request.site, request.phase, request.round, 9, settings=settings, error=error)


def hub_of(folder: Path, federation: Hospitals, patience: float = 0.0) -> Hub:
    """A hub with an atlas of one cube."""
    image = torch.ones(1, 4, 4, 4)
    affine = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))
    atlas = Atlas(image, AtlasLabels(image[0].long()), affine, 1.0, DIGEST, "atlas.nii.gz")  # type: ignore[arg-type]
    return Hub(folder, Plan("run"), load("tiny"), atlas, federation, patience)


def told(folder: Path, name: str) -> list[dict[str, Any]]:
    """The hub's events of one kind."""
    return [event for event in events.read(folder) if event["event"] == name]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that goes on only where somebody sleeps."""
    now = [0.0]
    monkeypatch.setattr(joining.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(joining.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_a_site_that_holds_another_atlas_does_not_take_part(tmp_path: Path) -> None:
    """Nor one that holds none or fails; each is named, with the reason, and the others join."""
    hub = hub_of(tmp_path, Hospitals({"good": DIGEST, "other": OTHER, "none": "", "broken": None}))
    came = joining_of(hub)
    came.gather(1)
    assert hub.sites == ("good",) and hub.members.counts == {"good": 9}
    assert came.failed == {"other": "mismatch", "none": "mismatch", "broken": "data"}
    assert "another atlas" in cannot_join("other", "mismatch") and "(data)" in cannot_join("broken", "data")
    (event,) = told(tmp_path, "round.finished")
    assert event["failed"] == came.failed and set(event["sites"]) == {"good"}


def test_every_site_is_sent_the_atlas_and_its_digest(tmp_path: Path) -> None:
    """The image and where it lies; its labels stay at the hub until a phase needs them."""
    federation = Hospitals({"one": DIGEST, "two": DIGEST})
    joining_of(hub_of(tmp_path, federation)).gather(2)
    assert [request.site for request in federation.asked] == ["one", "two"]
    for request in federation.asked:
        assert request.settings == {"atlas": DIGEST}
        assert set(request.arrays) == {"atlas"} and set(request.arrays["atlas"]) == {"image", "affine"}


def test_a_run_does_not_begin_with_sites_of_another_atlas(tmp_path: Path) -> None:
    """Two are wanted and one fits: the line names the other and says what to do."""
    with pytest.raises(FederationError, match="site other holds another atlas.*start it with a fresh state folder"):
        joining_of(hub_of(tmp_path, Hospitals({"good": DIGEST, "other": OTHER}))).gather(2)


def test_a_site_that_cannot_join_is_asked_again_until_it_is_mended(tmp_path: Path, clock: list[float]) -> None:
    """The first round waits, and says for whom and why; while another still prepares its scans, too."""
    federation = Hospitals({"good": DIGEST, "broken": None, "slow": DIGEST}, {"slow": 100})
    hub = hub_of(tmp_path, federation, patience=600.0)
    waited = hub.tell

    def mend(event: str, **values: object) -> None:
        waited(event, **values)
        if event == "round.waiting":
            federation.atlases["broken"] = DIGEST

    came = joining_of(hub)
    came.members = replace(came.members, tell=mend)
    came.gather(2)
    assert hub.sites == ("broken", "good") and came.under_way == {"slow"} and clock[0] < 60
    assert [event["missing"] for event in told(tmp_path, "round.waiting")] == [{"broken": "data"}]


def test_no_round_waits_for_a_newcomer(tmp_path: Path, clock: list[float]) -> None:
    """It is asked once, has its own deadline, and takes part from the first round after its answer."""
    federation = Hospitals({"early": DIGEST}, {"slow": 6})
    hub = hub_of(tmp_path, federation)
    came = joining_of(hub)
    came.gather(1)
    federation.atlases["slow"] = DIGEST
    took_part = []
    state = RunState()
    for number in range(1, 6):
        came.welcome(hub.late(state))
        state = run.run_round(hub, state, phase_of("register"), number)
        took_part.append(hub.sites)
    assert took_part == [("early",)] * 3 + [("early", "slow")] * 2
    assert clock[0] == 0.0
    own = hub.experiment.federation
    assert federation.deadlines == {"early": own.join_deadline, "slow": own.join_deadline}
    assert [request.site for request in federation.asked if request.phase == "join"] == ["early", "slow"]
    assert [list(event["sites"]) for event in told(tmp_path, "round.finished") if event["phase"] == "join"] == [
        ["early"],
        ["slow"],
    ]


def test_a_hub_that_is_started_again_waits_for_its_members_and_for_nobody_new(
    tmp_path: Path, clock: list[float]
) -> None:
    """They have their scans prepared, so a round's deadline is enough."""
    joining_of(hub_of(tmp_path, Hospitals({"north": DIGEST}))).gather(1)
    federation = Hospitals({"north": DIGEST, "new": DIGEST}, {"north": 4, "new": 9})
    hub = hub_of(tmp_path, federation)
    came = joining_of(hub)
    came.gather(1)
    own = hub.experiment.federation
    assert 0 < clock[0] < 5 and came.under_way == {"new"}
    assert federation.deadlines == {"north": own.deadline, "new": own.join_deadline}


def test_a_run_goes_on_without_sites_that_are_out(tmp_path: Path) -> None:
    """All had joined: a hub that was killed does not wait for those in quarantine, or dismissed, to join again."""
    federation = Hospitals(dict.fromkeys("abcd", DIGEST))
    joining_of(hub_of(tmp_path, federation)).gather(4)
    (tmp_path / "strikes.json").write_text(json.dumps({"b": MOST}))
    (tmp_path / LEFT).write_text('["d"]')
    federation.asked.clear()
    joining_of(hub_of(tmp_path, federation)).gather(4)
    assert [request.site for request in federation.asked] == ["a", "c"]
    with pytest.raises(FederationError, match="4 of 5 sites joined"):
        joining_of(hub_of(tmp_path, federation)).gather(5)


def test_a_run_does_not_begin_with_too_few_sites_for_its_mean(tmp_path: Path) -> None:
    """Four sites joined, and a trimmed mean needs five: no round is asked for, and none goes on with four of five."""
    federation = Hospitals(dict.fromkeys("abcd", DIGEST))
    trimmed = load("tiny", ["federation.aggregation=trimmed", "federation.quorum=0.5"])
    hub = replace(hub_of(tmp_path, federation), experiment=trimmed)
    atlas = hub.atlas
    save_atlas(replace(atlas, digest=_digest(atlas.image[0], atlas.labels, atlas.affine)), tmp_path)
    (tmp_path / "experiment.json").write_text(trimmed.to_json())
    (tmp_path / "plan.json").write_text('{"run": "run"}')
    federation.atlases = dict.fromkeys("abcd", read_atlas(tmp_path).digest)
    with pytest.raises(FederationError, match='"trimmed" needs 5 sites that answer, but there are 4: invite more'):
        run.run(tmp_path, federation, least=4)
    assert {request.phase for request in federation.asked} == {"join"}
    with pytest.raises(FederationError, match="but there are 4: invite more"):
        run.run_round(hub, RunState(), phase_of("register"), 1)
    hub.members.add("e", 9)
    federation.atlases["e"] = None
    with pytest.raises(FederationError, match=r"4 of 5 sites answered \(e: data\)"):
        run.run_round(hub, RunState(), phase_of("register"), 1)


def after(name: str) -> RunState:
    """A state in which all rounds up to the last of a phase are done."""
    rounds = [phase.name for phase, _ in schedule(load("tiny"))]
    return RunState(done=len(rounds) - rounds[::-1].index(name))


def test_a_site_that_comes_too_late_is_told_and_does_not_take_part(tmp_path: Path) -> None:
    """Once, at both sides, after the last round of `joint`; whoever began in time and answers then is late, too."""
    federation = Hospitals({"early": DIGEST, "slow": DIGEST}, {"slow": 3})
    hub = hub_of(tmp_path, federation)
    assert [hub.late(after(name)) for name in ("style", "joint", "adapt")] == [False, True, True]
    assert not hub.late(replace(after("joint"), done=after("joint").done - 1))
    came = joining_of(hub)
    came.gather(1)
    federation.atlases["new"] = DIGEST
    for _ in range(3):
        came.welcome(hub.late(after("joint")))
    assert hub.sites == ("early",)
    assert sorted(event["site"] for event in told(tmp_path, "site.late")) == ["new", "slow"]
    asked = [(request.site, request.settings.get("late", False)) for request in federation.asked]
    assert asked == [("early", False), ("slow", False), ("new", True), ("slow", True)]
    assert not any(request.arrays for request in federation.asked if request.settings.get("late"))
    joining_of(hub).gather(1, late=True)  # a hub that was started again: the member is welcome
    assert hub.sites == ("early",) and told(tmp_path, "site.late")[-1]["site"] == "slow"


def test_a_site_that_joins_while_segmenters_are_trained_gets_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first round decides who gets one: a training that lacks its first round would be no fair one."""
    hub = hub_of(tmp_path, Hospitals({"early": DIGEST, "late": DIGEST}))
    asked: list[tuple[str, tuple[int, int]]] = []

    def train(hub: Hub, state: RunState, site: str, number: int, of: tuple[int, int]) -> segmenters.Trained:
        asked.append((site, of))
        return segmenters.Trained({"w": np.full(2, number, np.float32)}, {"m": np.zeros(1, np.float32)}, {})

    monkeypatch.setattr(run, "_train", train)
    hub.members.add("early", 9)
    learnt = RunState(parts={"decoder": {"w": np.zeros(2, np.float32)}})  # pairs are made by networks
    first = run.run_round(hub, learnt, phase_of("segment"), 1)
    hub.members.add("late", 9)
    second = run.run_round(hub, first, phase_of("segment"), 2)
    assert asked == [("early", (0, 1)), ("early", (0, 1))]
    assert second.done == 2 and set(second.parts) == {"decoder", "segmenter.early"}
    assert [float(arrays["w"][0]) for arrays in second.trained["early"]] == [1.0, 2.0]
    assert second.memory == {}  # tiny has two rounds: nothing goes on from here


def test_a_site_that_comes_after_the_statistics_gets_the_common_segmenter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    """The hub trains one in all sites' styles beside each site's own, and waits for who is joining.

    What that site makes of it is tested at that site alone, and its figures are those of no other.
    """
    federation = Hospitals({"early": DIGEST}, {"late": 5, "later": 9})
    common = load("tiny", ("phases.statistics.rounds=1", "generation.common_segmenter=true"))
    hub = replace(hub_of(tmp_path, federation), experiment=common)
    trained: list[str] = []

    def train(hub: Hub, state: RunState, site: str, number: int, of: tuple[int, int]) -> segmenters.Trained:
        trained.append(site)
        return segmenters.Trained({"w": np.full(2, len(site), np.float32)}, {"m": np.zeros(1, np.float32)}, {})

    monkeypatch.setattr(run, "_train", train)
    came = joining_of(hub)
    came.gather(1)
    state = RunState(parts={"statistics.early": {"mean": np.zeros(1, np.float32)}})
    for number in (1, 2):
        state = run.run_round(hub, state, phase_of("segment"), number)
    assert trained == ["early", "all sites"] * 2 and {"segmenter", "segmenter.early"} < set(state.parts)
    federation.atlases |= dict.fromkeys(("late", "later"), DIGEST)
    assert not hub.late(replace(state, done=len(schedule(common))))
    came.welcome(hub.late(state))
    came.wait()
    assert hub.sites == ("early", "late", "later") and clock[0] > 0
    federation.asked.clear()
    run.evaluate(hub, state)
    styles = ("late", "all sites")
    rows = [{"style": one, "site": "late", "scans": 5, "dice": {"CSF": 0.8}, "error": ""} for one in styles]
    (tmp_path / "cross-site.json").write_text(json.dumps(rows))  # nobody could test the other one
    run.deliver(hub, state)
    tested = [(one.settings["style"], one.site) for one in federation.asked if one.phase == "evaluate"]
    everywhere = [("early", site) for site in ("early", "late", "later")]
    assert tested == [("all sites", "early"), *everywhere, ("late", "late"), ("later", "later")]
    sent = {one.site: one.arrays["segmenter"]["w"][0] for one in federation.asked if one.phase == "deliver"}
    assert sent == {"early": len("early"), "late": len("all sites"), "later": len("all sites")}
    figures = {one.site: one.settings["figures"] for one in federation.asked if one.phase == "deliver"}
    assert figures == {"early": "{}", "late": '{"late": {"dice": 80.0, "scans": 5}}', "later": "{}"}


def test_a_site_that_comes_after_a_phase_of_its_own_began_catches_up_with_it(tmp_path: Path) -> None:
    """Not in the middle, where it lacks what the rounds before left at the others; then with all of its rounds."""
    federation = Hospitals({"early": DIGEST})
    two = load("tiny", ("phases.adapt.rounds=2", "phases.statistics.rounds=1", "generation.common_segmenter=true"))
    hub = replace(hub_of(tmp_path, federation), experiment=two)
    begin = schedule(two).index((phase_of("adapt"), 1))
    start = {"w": np.zeros(2, np.float32)}
    state = RunState(done=begin, parts={"segmenter": start, "segmenter.early": start})
    came = joining_of(hub, state.done)
    came.gather(1)
    state = run.run_round(hub, state, phase_of("adapt"), 1)
    federation.atlases |= {"late": DIGEST}
    came.done = state.done
    came.welcome()
    state = run.run_round(hub, state, phase_of("adapt"), 2)
    asked = [(one.site, one.round) for one in federation.asked if one.phase == "adapt"]
    assert hub.sites == ("early", "late") and asked == [("early", 1), ("early", 2)]
    federation.asked.clear()
    caught = run.catch_up(hub, state)
    asked = [(one.site, one.round) for one in federation.asked if one.phase == "adapt"]
    assert asked == [("late", 1), ("late", 2)] and len(federation.asked) == 2
    assert caught.done == state.done == len(schedule(two)) and "segmenter.late" in caught.parts
    adapted = [event for event in events.finished(events.read(tmp_path)) if event["phase"] == "adapt"]
    assert [sorted(event["series"]) for event in adapted] == [["early", "late"]] * 2
    federation.asked.clear()
    assert run.catch_up(hub, caught).parts == caught.parts and not federation.asked
    joining_of(hub, caught.done).gather(2)  # the hub was started again
    assert hub.members.since == {"early": begin, "late": begin + 1}


def opened_again(folder: Path, federation: Hospitals, sites: Sequence[str]) -> Hub:
    """A hub whose run is finished, with one site that has its model, and open again for others."""
    common = load("tiny", ("phases.statistics.rounds=1", "generation.common_segmenter=true"))
    hub = replace(hub_of(folder, federation, patience=600.0), experiment=common)
    save_atlas(replace(hub.atlas, digest=_digest(hub.atlas.image[0], hub.atlas.labels, hub.atlas.affine)), folder)
    federation.atlases = dict.fromkeys(federation.atlases, read_atlas(folder).digest)
    (folder / "experiment.json").write_text(common.to_json())
    (folder / "plan.json").write_text('{"run": "run"}')
    (folder / "cross-site.json").write_text(json.dumps([ROW]))
    start = {"w": np.zeros(2, np.float32)}
    done = RunState(done=len(schedule(common)), parts={"segmenter": start, "segmenter.early": start})
    run.Store(folder / "state", common).save(done)
    hub.members.add("early", 9)
    hub.tell("site.delivered", site="early")
    hub.tell("run.finished")
    hub.tell("run.reopened", sites=list(sites))
    return hub


ROW = {"style": "early", "site": "early", "scans": 5, "dice": {"CSF": 0.8}, "error": ""}


def test_a_site_that_keeps_its_figures_is_asked_once(tmp_path: Path) -> None:
    """As policies are written; the table says so of each segmenter, and who lets them out is asked for each."""
    federation = Hospitals({"open": DIGEST, "usual": DIGEST})
    federation.keeps_figures = {"usual"}
    hub = hub_of(tmp_path, federation)
    for site in federation.sites():
        hub.members.add(site, 9)
    run.evaluate(hub, RunState(parts={f"segmenter.{site}": {"w": np.zeros(2, np.float32)} for site in hub.sites}))
    asked = [(one.settings["style"], one.site) for one in federation.asked]
    assert asked == [("open", "open"), ("open", "usual"), ("usual", "open")]
    rows = json.loads((tmp_path / "cross-site.json").read_text())
    assert {(row["style"], row["site"]): row["error"] for row in rows} == {
        (style, site): "declined" if site == "usual" else "" for style in ("open", "usual") for site in hub.sites
    }


def test_of_many_segmenters_each_is_tested_where_it_belongs(tmp_path: Path) -> None:
    """A site's policy lets a run test sixteen there: of more sites each is announced, and sent, its own alone."""
    usual = Policy().most_segmenters
    for count in (usual, usual + 1):
        names = [f"site-{number:02d}" for number in range(count)]
        federation = Hospitals(dict.fromkeys(names, DIGEST))
        (tmp_path / str(count)).mkdir()
        hub = hub_of(tmp_path / str(count), federation)
        joining_of(hub).gather(count)
        federation.asked.clear()
        parts = {f"segmenter.{site}": {"w": np.full(2, number, np.float32)} for number, site in enumerate(names)}
        run.evaluate(hub, RunState(parts=parts))
        pairs = [(one.settings["style"], one.site) for one in federation.asked]
        assert len(pairs) == (count**2 if count == usual else count)
        announced = {one.site: str(one.settings["segmenters"]).split() for one in federation.asked}
        assert {len(digests) for digests in announced.values()} == {usual if count == usual else 1}
    assert all(style == site for style, site in pairs)


def asked_of(federation: Hospitals) -> list[tuple[str, str]]:
    """Which site was asked for which phase, but to join."""
    return [(one.site, one.phase) for one in federation.asked if one.phase != "join"]


def test_a_finished_run_serves_a_site_that_comes_later_and_asks_nothing_of_the_others(
    tmp_path: Path, clock: list[float]
) -> None:
    """It waits for it, lets it adapt the common segmenter, test it, and keep it; the others' rows stay as they are."""
    federation = Hospitals({"early": DIGEST}, {"early": 10**6})
    opened_again(tmp_path, federation, ["later"])
    come = federation.sites

    def sites() -> tuple[str, ...]:
        if clock[0] > 60:
            federation.atlases["later"] = federation.atlases["early"]
        return come()

    federation.sites = sites  # type: ignore[method-assign]
    run.run(tmp_path, federation, patience=600.0)
    assert clock[0] > 60
    assert asked_of(federation) == [("later", phase) for phase in ("adapt", "adapt", "evaluate", "deliver")]
    assert {one.site for one in federation.asked} == {"later"}
    table = json.loads((tmp_path / "cross-site.json").read_text())
    assert table[0] == ROW and [(one["style"], one["site"]) for one in table[1:]] == [("later", "later")]
    assert events.ended(events.read(tmp_path)) and events.served(events.read(tmp_path)) == ("early", "later")
    assert told(tmp_path, "round.waiting")[0]["missing"] == {"later": "unavailable"}


def test_a_site_that_does_not_come_can_be_given_up(tmp_path: Path, clock: list[float]) -> None:
    """The operator dismisses it while the run, which is open again, waits: then that is finished as it was."""
    federation = Hospitals({"early": DIGEST})
    opened_again(tmp_path, federation, ["later"])
    come = federation.sites

    def sites() -> tuple[str, ...]:
        if clock[0] > 60:
            (tmp_path / LEFT).write_text('["later"]')
        return come()

    federation.sites = sites  # type: ignore[method-assign]
    run.run(tmp_path, federation, patience=600.0)
    assert 60 < clock[0] < 300 and not asked_of(federation)
    assert json.loads((tmp_path / "cross-site.json").read_text()) == [ROW]
    assert events.ended(events.read(tmp_path))


def test_the_end_of_a_run_is_the_same_after_a_restart(tmp_path: Path, clock: list[float]) -> None:
    """A site answers no other request than the one that it took: who left or came meanwhile is in none of them."""
    federation = Hospitals(dict.fromkeys(("early", "one", "two"), DIGEST))
    hub = opened_again(tmp_path, federation, ["one", "two"])
    atlas, ask = federation.atlases["early"], federation.ask

    def none_of_two(requests: Sequence[PhaseRequest]) -> Iterator[SiteReply]:
        for reply in ask(requests):
            away = reply.phase == "deliver" and reply.site == "two"
            yield replace(reply, error="lost") if away else reply

    federation.ask = none_of_two  # type: ignore[method-assign]
    with pytest.raises(FederationError, match="two: lost"):
        run.run(tmp_path, federation, patience=600.0)
    before = {(one.site, one.phase, one.round): one for one in federation.asked if one.phase in ("evaluate", "deliver")}
    assert hub.served == ("early", "one")
    federation.asked.clear()
    federation.ask = ask  # type: ignore[method-assign]
    federation.atlases["three"] = atlas
    (tmp_path / LEFT).write_text('["one"]')
    run.run(tmp_path, federation, patience=600.0)
    assert asked_of(federation)[-1] == ("two", "deliver") and ("three", "deliver") not in asked_of(federation)
    for one in federation.asked:
        if (one.site, one.phase, one.round) in before:
            assert one.settings == before[one.site, one.phase, one.round].settings
    assert hub.served == ("early", "one", "two") and not (tmp_path / "closing.json").exists()


def test_who_left_holds_up_nobody_at_the_end(tmp_path: Path, clock: list[float]) -> None:
    """A site that came late is away when it should catch up, and is dismissed: the run goes on at once."""
    federation = Hospitals(dict.fromkeys(("early", "later"), DIGEST))
    opened_again(tmp_path, federation, ["later"])
    ask = federation.ask

    def leaves(requests: Sequence[PhaseRequest]) -> Iterator[SiteReply]:
        (tmp_path / LEFT).write_text('["later"]')
        return (replace(reply, error="lost") for reply in ask(requests))

    federation.ask = leaves  # type: ignore[method-assign]
    run.run(tmp_path, federation, patience=600.0)
    assert clock[0] < 300 and events.ended(events.read(tmp_path))


def test_a_late_site_gets_no_networks_that_it_did_not_see_grow(tmp_path: Path) -> None:
    """Its gate refuses them; it adapts with those that every site can make."""
    hub = hub_of(tmp_path, Hospitals({}))
    part = {"w": np.zeros(2, np.float32)}
    state = RunState(parts={part_: part for part_ in ("E", "A", "F", "segmenter")})
    hub.members.add("early", 9)
    hub.members.add("late", 9, done=len(schedule(hub.experiment)))
    sent = {site: set(run._arrays(hub, state, phase_of("adapt"), site)) for site in ("early", "late")}
    assert sent == {"early": {"E", "A", "F", "segmenter", "atlas"}, "late": {"segmenter", "atlas"}}


def test_a_phase_that_no_sites_level_has_is_skipped_and_said(tmp_path: Path) -> None:
    """Nobody is asked; the operator reads why nothing was learnt."""
    federation = Hospitals({"one": DIGEST})
    hub = hub_of(tmp_path, federation)
    hub.members.add("one", 9, "statistics")
    state = run.run_round(hub, RunState(), phase_of("register"), 1)
    assert state.done == 1 and not state.parts and not federation.asked
    (event,) = told(tmp_path, "round.skipped")
    assert event["phase"] == "register" and event["levels"] == {"one": "statistics"}


def test_a_site_without_a_style_of_its_own_has_the_atlass(tmp_path: Path) -> None:
    """Not that of an untrained A, for a site that keeps its own; where A is averaged, all have the same."""
    hub = hub_of(tmp_path, Hospitals({}))
    for site in ("gives", "keeps"):
        hub.members.add(site, 9)
    part = {"w": np.zeros(2, np.float32)}
    state = RunState(parts={"A": part, "A.gives": part, "moments.keeps": part})
    assert hub.segment() == ("gives", "keeps")
    assert style_source(hub.experiment, state, "gives").appearance is part
    kept = style_source(hub.experiment, state, "keeps")
    assert (kept.appearance, kept.moments) == (None, part)
    averaged = replace(hub.experiment, federation=replace(hub.experiment.federation, style="moments"))
    assert style_source(averaged, state, "keeps").appearance is part


@pytest.mark.parametrize("code", ["load", "refused"])
def test_a_site_of_another_version_or_approval_is_one_line_with_what_to_do(code: str) -> None:
    """The hub's operator learns that the site's IT has to approve, not that something broke."""
    line = cannot_join("north", code)
    assert line.startswith("site north ") and "approved another" in line and "sst site approve --kit" in line
    assert line.endswith(f"({code})")
