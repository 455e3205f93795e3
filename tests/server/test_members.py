"""Rounds that end: quorum, waiting, sites that come and go, replies that come too late or from the wrong hands."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.errors import FederationError
from server import members
from server.federation import Late, Traffic
from server.members import Members
from server.vet import MOST
from sst_models.wire.exchange import PhaseRequest, SiteReply

SITES = ("a", "b", "c", "d")


class Script:
    """A federation in which each site has a list of words to answer with, "" for a reply; the last one stays."""

    def __init__(self, words: dict[str, list[str]], there: Callable[[], Sequence[str]] = lambda: SITES) -> None:
        """Take the words by site; a site without any answers at once."""
        self.words, self.there = words, there
        self.asked: list[str] = []
        self.traffic: list[Traffic] = []
        self.late: list[Late] = []

    def sites(self) -> tuple[str, ...]:
        """Who is there."""
        return tuple(sorted(self.there()))

    def ask(self, requests: Sequence[PhaseRequest]) -> Iterator[SiteReply]:
        """Answer by the script."""
        for request in requests:
            self.asked.append(request.site)
            words = self.words.get(request.site, [""])
            word = words.pop(0) if len(words) > 1 else words[0]
            yield SiteReply(request.site, request.phase, request.round, count=0 if word else 1, error=word)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that goes on only where somebody sleeps."""
    now = [0.0]
    monkeypatch.setattr(members.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(members.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


class Round:
    """One round at four sites, with what the hub was told."""

    def __init__(self, folder: Path, federation: Script, quorum: float = 1.0, patience: float = 600.0) -> None:
        """Let all four take part."""
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.taken: list[str] = []
        self.members = Members(
            federation, folder, quorum, patience, lambda event, **values: self.told.append((event, values))
        )
        for site in SITES:
            self.members.add(site, 9)

    def collect(self, take: Callable[[SiteReply], str] | None = None, **options: Any) -> dict[str, str]:
        """Ask all four."""
        requests = {site: PhaseRequest("run", "style", 1, site, "{}") for site in self.members.names}

        def keep(reply: SiteReply) -> str:
            self.taken.append(reply.site)
            return ""

        return self.members.collect(requests, take or keep, **options)


def test_a_round_waits_for_its_quorum_and_goes_on(tmp_path: Path, clock: list[float]) -> None:
    """It says whom it waits for, asks only those again, and counts each reply once."""
    federation = Script({"b": ["unavailable", "data", ""]})
    one = Round(tmp_path, federation)
    assert one.collect() == {}
    assert [values["missing"] for event, values in one.told] == [{"b": "unavailable"}, {"b": "data"}]
    assert federation.asked == [*SITES, "b", "b"]
    assert one.taken == ["a", "c", "d", "b"]
    assert clock[0] > 0


def test_a_quorum_is_enough(tmp_path: Path, clock: list[float]) -> None:
    """Three of four do not wait for the fourth, whose word is told."""
    assert Round(tmp_path, Script({"b": ["deadline"]}), quorum=0.75).collect() == {"b": "deadline"}
    assert clock[0] == 0


def test_waiting_ends(tmp_path: Path, clock: list[float]) -> None:
    """With the reasons, and no later than the hub was told to; without patience at once."""
    with pytest.raises(FederationError, match=r"style: 3 of 4 sites answered \(b: deadline\)"):
        Round(tmp_path, Script({"b": ["deadline"]})).collect()
    assert clock[0] <= 600
    with pytest.raises(FederationError, match="b: data"):
        Round(tmp_path, Script({"b": ["data"]}), patience=0).collect()


def test_a_site_that_comes_back_is_asked_soon(tmp_path: Path, clock: list[float]) -> None:
    """Long pauses are for sites that are there and fail, not for one that was away."""
    federation = Script({"b": ["unavailable"] * 4 + [""]}, lambda: SITES if clock[0] > 300 else ("a", "c", "d"))
    federation.words["b"] = ["unavailable", ""]
    Round(tmp_path, federation).collect()
    assert 300 < clock[0] <= 300 + 2 * members.FIRST


def test_a_dismissed_site_is_not_waited_for(tmp_path: Path, clock: list[float]) -> None:
    """Not even by a round that is waiting for it."""
    one = Round(tmp_path, Script({"b": ["unavailable"]}, lambda: ("a", "c", "d")))
    told = one.members.tell

    def dismiss(event: str, **values: object) -> None:
        told(event, **values)
        (tmp_path / members.LEFT).write_text('["b"]')

    object.__setattr__(one.members, "tell", dismiss)
    assert one.collect() == {"b": "unavailable"}
    assert one.members.names == ("a", "c", "d")


def test_three_bad_replies_put_a_site_out_and_the_round_goes_on(tmp_path: Path, clock: list[float]) -> None:
    """Its bad replies do not count, in the round where they came and after."""
    federation = Script({})
    one = Round(tmp_path, federation)
    assert one.collect(lambda reply: "not-finite" if reply.site == "c" else "") == {"c": "not-finite"}
    assert federation.asked.count("c") == MOST
    assert one.told[-1] == ("site.quarantined", {"site": "c", "phase": "style", "why": "not-finite"})
    assert one.members.names == ("a", "b", "d")


def test_a_reply_that_cannot_be_read_is_a_bad_one(tmp_path: Path, clock: list[float]) -> None:
    """It came from the site, whoever wrote it; a site that was away did nothing wrong."""
    one = Round(tmp_path, Script({"b": ["unavailable", "malformed", "digest", ""]}))
    assert one.collect() == {}
    assert not one.members.strikes.out
    assert json.loads((tmp_path / "strikes.json").read_text()) == {"b": 2}


def test_what_is_far_from_the_others_is_a_bad_reply(tmp_path: Path, clock: list[float]) -> None:
    """It is found when all have answered."""
    words = iter([{"d": "far"}, {"d": "far"}, {"d": "far"}, {}])
    one = Round(tmp_path, Script({}))
    assert one.collect(drop_outliers=lambda: next(words)) == {"d": "far"}
    assert one.members.strikes.out == {"d"}


def test_a_site_may_say_no_where_it_may(tmp_path: Path, clock: list[float]) -> None:
    """A no is an answer; silence is none."""
    federation = Script({"a": ["release"], "b": ["lost", ""]})
    assert Round(tmp_path, federation).collect(consent=True) == {"a": "release"}
    assert federation.asked.count("a") == 1


def test_late_replies_are_told(tmp_path: Path) -> None:
    """Once each."""
    federation = Script({})
    federation.late.append(Late("style", 1, "a"))
    one = Round(tmp_path, federation)
    one.collect()
    one.collect()
    assert one.told == [("reply.late", {"site": "a", "phase": "style", "round": 1})]


def test_members_outlive_the_hub(tmp_path: Path) -> None:
    """A site that is away still takes part; one that came is a stranger until it joined."""
    Round(tmp_path, Script({}))
    again = Members(Script({}, lambda: ("a", "e")), tmp_path, 1.0, 0.0, lambda event, **values: None)
    assert again.names == SITES
    assert again.strangers() == ("e",)
    (tmp_path / members.LEFT).write_text(json.dumps(["e"]))
    assert again.strangers() == ()


def test_what_a_site_said_of_its_scans_outlives_the_hub(tmp_path: Path) -> None:
    """A list of names, as versions before 0.3 left it, is read, too: their counts come when the sites join again."""
    (tmp_path / members.MEMBERS).write_text('["a", "b"]')
    one = Round(tmp_path / "new", Script({})).members
    old = Members(Script({}), tmp_path, 1.0, 0.0, lambda event, **values: None)
    assert old.names == ("a", "b") and old.counts == {}
    old.add("b", 7)
    assert old.names == ("a", "b") and old.counts == {"b": 7}
    one.add("a", 4)
    assert Members(Script({}), tmp_path / "new", 1.0, 0.0, one.tell).counts == {"a": 4, "b": 9, "c": 9, "d": 9}


def test_a_round_can_need_more_replies_than_its_quorum(tmp_path: Path, clock: list[float]) -> None:
    """A trimmed mean needs five sites, whatever the quorum."""
    with pytest.raises(FederationError, match="3 of 4 sites"):
        Round(tmp_path, Script({"b": ["deadline"]}), quorum=0.5).collect(least=4)
