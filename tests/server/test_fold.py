"""A round's replies: what counts, what is left out, and what comes of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.phases import phase_of
from configs.schema import Experiment, load
from server.fold import Fold
from server.vet import MOST, Strikes, fault
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply

SITES = ("a", "b", "c", "d")
TINY = load("tiny", ["phases.critic_rate=1e3"])
"""A rate with which the toys' steps of whole numbers are within reach."""

SENT = {part: {"w": np.zeros((2, 3), np.float32)} for part in ("E", "D_style")}


def request(site: str) -> PhaseRequest:
    """What the style phase asks a site, with weights of zero."""
    return PhaseRequest("run", "style", 1, site, TINY.to_json(), SENT)


def reply(site: str, value: float, count: int = 1, **more: Arrays) -> SiteReply:
    """A reply whose weights are all `value`."""
    parts = {part: {"w": np.full((2, 3), value, np.float32)} for part in SENT}
    return SiteReply(site, "style", 1, count, {**parts, **more}, series={"total": (1.0,)})


def fold(folder: Path, *replies: SiteReply, experiment: Experiment = TINY) -> tuple[Fold, dict[str, str]]:
    """A round of the style phase with these replies, and the words for those that were left out."""
    asked = {one.site: request(one.site) for one in replies}
    made = Fold(phase_of("style"), experiment, asked, folder / "spool", folder / "library")
    words = {one.site: made.add(one) for one in replies}
    return made, {site: word for site, word in (words | made.drop_outliers()).items() if word}


def value(parts: dict[str, Arrays]) -> float:
    """The one value of E's weights."""
    assert len(set(parts["E"]["w"].ravel().tolist())) == 1
    return float(parts["E"]["w"][0, 0])


def test_replies_count_by_their_scans_and_leave_no_file(tmp_path: Path) -> None:
    """(1 x 1 + 3 x 2) / 4, with each site's moments kept as its own."""
    code = TINY.style.code
    moments = {"mean": np.ones(code, np.float32), "std": np.ones(code, np.float32)}
    made, _ = fold(tmp_path, reply("a", 1.0), reply("b", 2.0, 3, moments=moments))
    parts = made.close()
    assert value(parts) == 1.75
    assert set(parts) == {"E", "D_style", "moments.b"}
    assert not (tmp_path / "spool").exists()


@pytest.mark.parametrize("mean", ["auto", "mean", "median"])
@pytest.mark.parametrize("style", ["weights", "moments"])
def test_each_site_keeps_its_a_or_all_share_one(style: str, mean: str, tmp_path: Path) -> None:
    """Weights of A as they came, in the library under each site's name; or, with moments, one A like other parts."""
    phase = phase_of("joint")
    federation = replace(TINY.federation, style=style, aggregation=mean)  # type: ignore[arg-type]
    sent = {part: {"w": np.zeros(2, np.float32)} for part in phase.learns}
    asked = {site: PhaseRequest("run", "joint", 1, site, TINY.to_json(), sent) for site in ("a", "b")}
    made = Fold(phase, replace(TINY, federation=federation), asked, tmp_path / "spool", tmp_path / "library")
    for site, number in (("a", 1.0), ("b", 3.0)):
        arrays = {part: {"w": np.full(2, number, np.float32)} for part in phase.learns}
        assert made.add(SiteReply(site, "joint", 1, 5, arrays)) == ""
    parts = {part: float(arrays["w"][0]) for part, arrays in made.close().items()}
    shared = {part: 2.0 for part in phase.learns if part != "A"}
    assert parts == shared | ({"A.a": 1.0, "A.b": 3.0} if style == "weights" else {"A": 2.0})
    assert len(list((tmp_path / "library").glob("*"))) == (2 if style == "weights" else 0)


def wrong() -> dict[str, SiteReply]:
    """Replies that are wrong in one way each, by the word that the hub has for it."""
    good, whole = reply("a", 1.0), {"w": np.ones((2, 3), np.float32)}
    arrays = {
        "undeclared": {**good.arrays, "A": whole},
        "missing": {"E": whole},
        "names": {**good.arrays, "E": {"v": whole["w"]}},
        "shape": {**good.arrays, "E": {"w": np.ones((3, 2), np.float32)}},
        "type": {**good.arrays, "E": {"w": np.ones((2, 3), np.float64)}},
        "not-finite": {**good.arrays, "E": {"w": np.full((2, 3), np.nan, np.float32)}},
    }
    return {word: replace(good, arrays=parts) for word, parts in arrays.items()} | {"count": replace(good, count=0)}


@pytest.mark.parametrize("word", wrong())
def test_a_wrong_reply_is_left_out_and_named(word: str, tmp_path: Path) -> None:
    """The round goes on with the others."""
    made, out = fold(tmp_path, wrong()[word], reply("b", 2.0))
    assert value(made.close()) == 2.0
    assert out == {"a": word}


def test_a_loss_curve_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    """One value of one curve is enough: the site's training diverged, though its weights are finite."""
    for curve in ((1.0, float("nan")), (float("inf"), 1.0)):
        made, out = fold(tmp_path, replace(reply("a", 1.0), series={"total": (1.0,), "critic": curve}), reply("b", 2.0))
        assert out == {"a": "not-finite"}
        assert set(made.series) == {"b"} and value(made.close()) == 2.0


@pytest.mark.parametrize(("phase", "word"), [("register", "undeclared"), ("style", "")])
def test_moments_come_with_phases_that_have_them(phase: str, word: str) -> None:
    """A site that sends moments of styles with another phase's weights is left out."""
    asked = {part: {"w": np.zeros(2, np.float32)} for part in phase_of(phase).learns}
    moments = {"mean": np.ones(8, np.float32), "std": np.ones(8, np.float32)}
    sent = SiteReply("a", phase, 1, 5, {**asked, "moments": moments})
    request, tiny = PhaseRequest("run", phase, 1, "a", "{}", asked), load("tiny")
    eight, nine = (replace(tiny, style=replace(tiny.style, code=code)) for code in (8, 9))
    assert fault(sent, request, phase_of(phase), eight) == word
    assert fault(sent, request, phase_of(phase), nine) == (word or "shape")


def test_a_reply_far_from_the_others_is_left_out(tmp_path: Path) -> None:
    """Eleven times as far as the others' median is too far; among two nobody can tell."""
    made, out = fold(tmp_path, reply("a", 11.0), reply("b", 1.0), reply("c", 1.0), reply("d", 1.0))
    assert value(made.close()) == 1.0
    assert out == {"a": "far"}
    two, _ = fold(tmp_path, reply("a", 11.0), reply("b", 1.0))
    assert value(two.close()) == 6.0


@pytest.mark.parametrize(("mean", "expected"), [("mean", 3.5), ("median", 2.5), ("auto", 3.5)])
def test_the_median_outvotes_one_site(mean: str, expected: float, tmp_path: Path) -> None:
    """Four sites cannot be trimmed by a fifth at either end, so "auto" is their mean."""
    federation = replace(TINY.federation, aggregation=mean)  # type: ignore[arg-type]
    replies = [reply(site, number) for site, number in zip(SITES, (1.0, 2.0, 3.0, 8.0), strict=True)]
    made, _ = fold(tmp_path, *replies, experiment=replace(TINY, federation=federation))
    assert value(made.close()) == expected


@pytest.mark.parametrize(("mean", "expected"), [("mean", 4.2), ("median", 4.0), ("trimmed", 11 / 3), ("auto", 11 / 3)])
def test_a_trimmed_mean_leaves_out_a_fifth_of_the_sites_at_either_end(
    mean: str, expected: float, tmp_path: Path
) -> None:
    """Of five sites the lowest and the highest, for each weight; all count alike, whatever their number of scans."""
    federation = replace(TINY.federation, aggregation=mean)  # type: ignore[arg-type]
    values = {"a": 4.0, "b": 1.0, "c": 9.0, "d": 2.0, "e": 5.0}
    scans = dict.fromkeys(values, 1) if mean == "mean" else {"a": 1, "b": 9, "c": 7, "d": 1, "e": 3}
    replies = [reply(site, number, scans[site]) for site, number in values.items()]
    made, out = fold(tmp_path, *replies, experiment=replace(TINY, federation=federation))
    assert not out
    assert value(made.close()) == pytest.approx(expected)


def test_the_order_of_replies_changes_no_bit(tmp_path: Path) -> None:
    """A site that is asked again answers last; the mean is the one of a round in which it answered first."""
    replies = [
        reply(site, number, count) for site, number, count in zip(SITES, (0.1, 0.7, 1.3), (3, 5, 7), strict=False)
    ]
    one, _ = fold(tmp_path / "one", *replies)
    other, _ = fold(tmp_path / "other", *reversed(replies))
    assert value(one.close()) == value(other.close())


def test_three_strikes_put_a_site_out_over_restarts(tmp_path: Path) -> None:
    """The count is on disk, and only the last strike says so."""
    said = [Strikes(tmp_path / "strikes.json").add("a") for _ in range(MOST)]
    assert said == [False, False, True]
    Strikes(tmp_path / "strikes.json").add("b")
    assert Strikes(tmp_path / "strikes.json").out == {"a"}


@settings(max_examples=300, deadline=None)
@given(
    part=st.sampled_from(["E", "D_style", "A", "T", "atlas", "moments", "queue"]),
    name=st.sampled_from(["w", "v", "mean", ""]),
    shape=st.lists(st.integers(0, 4), max_size=5),
    kind=st.sampled_from(["float32", "float16", "int64", "uint8"]),
    count=st.integers(-1, 3),
)
def test_random_replies_never_get_in(
    tmp_path_factory: pytest.TempPathFactory, part: str, name: str, shape: list[int], kind: str, count: int
) -> None:
    """Whatever one site sends, the round's result is either the others' or has the names and shapes that were sent."""
    odd = replace(reply("a", 1.0), arrays={**reply("a", 1.0).arrays, part: {name: np.ones(shape, kind)}}, count=count)
    made, out = fold(tmp_path_factory.mktemp("round"), odd, reply("b", 2.0), reply("c", 2.0))
    parts = made.close()
    assert {p: {n: a.shape for n, a in own.items()} for p, own in parts.items() if "." not in p} == {
        p: {n: a.shape for n, a in own.items()} for p, own in SENT.items()
    }
    if "a" in out:
        assert value(parts) == 2.0
