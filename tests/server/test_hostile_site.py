"""What a hostile site can say, and what becomes of it: attacks that were carried out on earlier versions, and others.

Replies go the way of real ones: from a site's own coding through Flower's records to the hub's decoding, its checks,
its rounds and its files.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

import client.app
from client.gate.noise import protect, repeatable
from client.messages import decode_request, encode_reply, return_nonce
from configs.errors import FederationError
from configs.phases import PHASES, phase_of
from configs.schema import load
from configs.statistics import count as numbers_of
from configs.structures import PAPER
from server import bounds
from server.atlas import Atlas
from server.delivery import deliver, evaluate
from server.events import read
from server.federation import GridFederation
from server.fold import Fold
from server.hub import Hub, Plan
from server.members import Members
from server.messages import Malformed, decode_reply
from server.run import joining_of
from server.state import RunState
from server.vet import MOST, fault
from simulation.engines.inprocess import InProcessGrid, identity
from simulation.simulate import Options, experiment_of
from sst_models.volume.labels import AtlasLabels
from sst_models.wire import grammar
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.records import to_arrays

NUMBERS = numbers_of(PAPER)

TINY = load("tiny")
SCRIPT = "<script>alert(1)</script>"
WORDS = (
    "[/boom]",
    "\x1b[2J\x1b[31mhub compromised",
    "all well",
    "A" * 3_000_000,
    "deadline",
    "far",
    "Base",
    "",
    "disk ",
)

Lie = Callable[[RecordDict], object]
"""Changes a site's message before it leaves."""


@pytest.fixture(autouse=True)
def _identity() -> Iterator[None]:
    with identity():
        yield


def parts_of(phase: str, value: float = 0.0) -> dict[str, Arrays]:
    """The parts that a phase learns, each of six weights."""
    return {part: {"w": np.full((2, 3), value, np.float32)} for part in phase_of(phase).learns}


def measured(**changes: np.ndarray) -> dict[str, Arrays]:
    """Statistics as a site releases them, but for `changes`."""
    arrays = {"mean": np.zeros(NUMBERS, np.float32), "noise": np.full(1, 0.5, np.float32)}
    arrays["multiplier"] = np.ones(1, np.float32)
    return {"statistics": {**arrays, **changes}}


def relayed() -> dict[str, Arrays]:
    """What a site says to others in a secure sum."""
    return {"sums": {"said": np.frombuffer(b"{}", np.uint8)}}


def asked(phase: str, site: str = "mallory") -> PhaseRequest:
    """What a hub asks in a phase."""
    return PhaseRequest("run", phase, 1, site, TINY.to_json(), parts_of(phase))


def honest(phase: str, site: str = "mallory", **changes: Any) -> SiteReply:
    """A reply that passes, but for `changes`."""
    count = 9 if phase_of(phase).count else 0
    row = phase_of(phase)
    parts = measured() if row.statistics else relayed() if row.sums else parts_of(phase, 1e-4)
    return replace(SiteReply(site, phase, 1, count, parts), **changes)


def word(reply: SiteReply) -> str:
    """What the hub has to say of a reply."""
    return fault(reply, asked(reply.phase), phase_of(reply.phase), TINY)


def site(phase: str, lie: Lie, reply: Callable[[PhaseRequest], SiteReply]) -> ClientApp:
    """A site whose owner has changed the app: it says whatever `lie` makes of its message."""
    app = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        content = encode_reply(reply(decode_request(message.content)))
        return_nonce(message.content, content)
        lie(content)
        return Message(content, reply_to=message)

    category, _, action = phase_of(phase).message.partition(".")
    getattr(app, category)(action)(handle)
    return app


def said(phase: str, lie: Lie, reply: SiteReply | None = None) -> str:
    """What the hub says of one reply that came over the grid."""
    made = reply or honest(phase)
    federation = GridFederation(InProcessGrid(site(phase, lie, lambda _: made), {"mallory": {}}), 60)
    (found,) = federation.ask([asked(phase)])
    return found.error or word(found)


def put(record: str, **values: Any) -> Lie:
    """Put values into a record of a message."""

    def lie(content: RecordDict) -> None:
        {**content.config_records, **content.metric_records}[record].update(values)

    return lie


ASKED = [phase.name for phase in PHASES if phase.message]


@pytest.mark.parametrize("phase", ASKED)
def test_an_honest_reply_of_each_phase_passes(phase: str) -> None:
    """On the whole way."""
    values = {
        "name": "north", "level": "networks", "atlas": "a" * 64, "code": "b" * 64,
            "scans": 9, "labelled": 0, "set_aside": 1,
        "flwr": "1.41.0", "python": "3.11.2", "torch": "2.9.0",
    }  # fmt: skip
    row = phase_of(phase)
    reply = honest(
        phase,
        metrics=dict.fromkeys((*row.losses, *(PAPER.groups if row.figures else ())), 0.5),
        series={name: (0.5, -1.0) for name in row.losses},
        settings={name: values[name] for name in row.values},
    )
    assert said(phase, lambda content: None, reply) == ""


@pytest.mark.parametrize("phase", ASKED)
@pytest.mark.parametrize("count", [-1, 1_000_001, 10**15, True, 1.5, "9"])
def test_no_count_is_more_than_a_hospital_has(phase: str, count: Any) -> None:
    """Nor below zero, nor anything but a whole number; it is said in every phase, declared or not."""
    if type(count) is int:
        assert said(phase, put("meta", count=count)) == "count"
    else:
        assert said(phase, put("meta", count=count)) == "malformed"
        assert word(honest(phase, count=count)) == "count"


@pytest.mark.parametrize("multiplier", [0.0, 0.5, 1.158, 3.0])
@pytest.mark.parametrize("people", [2, 5, 25, 400])
def test_statistics_of_a_scanner_unlike_all_others_count(people: int, multiplier: float) -> None:
    """People who are as long as may be, and alike: the gate's second step takes their mean beyond the clip."""
    rows = np.full((people, NUMBERS), 4.0, np.float32)
    reply = SiteReply("mallory", "statistics", 1, people, {"statistics": {"people": rows}})
    for number in range(20):
        assert word(protect(reply, multiplier, repeatable(f"{number}"), NUMBERS)) == ""


@pytest.mark.parametrize(
    ("name", "array", "code"),
    [
        ("mean", np.full(NUMBERS, np.nan, np.float32), "not-finite"),
        ("mean", np.full(NUMBERS, 1e6, np.float32), "range"),
        ("mean", np.full(NUMBERS, 3e38, np.float32), "range"),
        ("noise", np.full(1, -1.0, np.float32), "range"),
        ("noise", np.full(1, 1e6, np.float32), "range"),
        ("mean", np.zeros((2, 3), np.float32), "shape"),
        ("mean", np.zeros(NUMBERS, np.float64), "type"),
        ("a.scan", np.zeros((32, 48, 32), np.float32), "names"),
    ],
)
def test_statistics_are_of_people(name: str, array: np.ndarray, code: str) -> None:
    """The hub draws by them: nothing that no people can have, with all the noise that there is."""
    assert word(honest("statistics", arrays=measured(**{name: array}))) == code
    assert word(honest("statistics", arrays={})) == "missing"


@pytest.mark.parametrize("phase", ["keys", "unmask"])
def test_what_is_relayed_is_bytes(phase: str) -> None:
    """Of one name; anything else is left out, and so is a masked part where the run has no secure sums."""
    for odd, code in (
        ({}, "missing"),
        ({"sums": {"said": np.zeros(3, np.float32)}}, "type"),
        ({"sums": {"said": np.zeros((3, 3), np.uint8)}}, "shape"),
        ({"sums": {"scan": np.zeros(3, np.uint8)}}, "names"),
    ):
        assert word(honest(phase, arrays=odd)) == code
    masked = {"masked": {"values": np.zeros(30, np.uint8)}}
    assert word(honest("register", arrays={**parts_of("register"), **masked})) == "undeclared"
    sent = asked("register")
    assert fault(honest("register", arrays=masked), sent, phase_of("register"), TINY, masked=6) == ""
    for odd in ({**parts_of("register"), **masked}, {"masked": {"values": np.zeros(29, np.uint8)}}):
        assert fault(honest("register", arrays=odd), sent, phase_of("register"), TINY, masked=6)


def test_a_phase_that_learns_has_scans_and_one_that_brings_nothing_has_none() -> None:
    """Nought would divide by itself; a delivery says nothing but that it was done."""
    for phase in ("register", "style", "joint", "flow_codes", "statistics", "adapt"):
        assert said(phase, put("meta", count=0)) == "count"
    for phase in ("hello", "deliver"):
        assert said(phase, put("meta", count=1)) == "count"


@pytest.mark.parametrize("phase", ASKED)
def test_two_million_numbers_are_not_unpacked(phase: str) -> None:
    """Neither as one curve, nor as many; the hub's own check holds where a reply was unpacked, too."""
    many = [1.0] * 2_000_000
    assert said(phase, put("series", total=many)) == "malformed"
    assert said(phase, put("series", **{f"c{n}": many[:100] for n in range(60)})) == "malformed"
    assert said(phase, put("metrics", **{f"m{n}": 1.0 for n in range(100)})) == "malformed"
    assert word(honest(phase, series={"total": tuple(many)})) == "numbers"


@pytest.mark.parametrize("phase", ASKED)
@pytest.mark.parametrize("name", [SCRIPT, SCRIPT * 10, "x\x1b[2J", "[/boom]", "../../etc", "total "])
def test_a_curve_or_value_with_another_name_does_not_count(phase: str, name: str) -> None:
    """In metrics, series and settings alike."""
    assert said(phase, put("series", **{name: [1.0]})) == "undeclared"
    assert said(phase, put("metrics", **{name: 1.0})) == "undeclared"
    assert said(phase, put("settings", **{name: "x"})) == "undeclared"


@pytest.mark.parametrize(("phase", "name"), [("joint", "cycle"), ("flow_codes", "flow"), ("adapt", "total")])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 7])
def test_a_loss_is_a_finite_float(phase: str, name: str, value: float) -> None:
    """As a metric and in a curve."""
    assert said(phase, put("metrics", **{name: value})) == "not-finite"
    curve = [value, value] if isinstance(value, int) else [0.5, value]
    assert said(phase, put("series", **{name: curve})) == "not-finite"


@pytest.mark.parametrize("value", [float("nan"), 1.0001, -0.1, 1e9])
def test_a_dice_is_between_nought_and_one(value: float) -> None:
    """The cross-site table holds no other."""
    expected = "range" if value == value else "not-finite"
    assert said("evaluate", put("metrics", **{PAPER.groups[0]: value})) == expected


@pytest.mark.parametrize(
    ("phase", "values"),
    [
        ("join", {"atlas": SCRIPT}),
        ("join", {"scans": 10**15}),
        ("join", {"scans": -1}),
        ("join", {"labelled": "9"}),
        ("join", {"set_aside": 1.5}),
        ("hello", {"name": "../../north"}),
        ("hello", {"name": "\x1b[2J"}),
        ("hello", {"name": "n" * 33}),
        ("hello", {"torch": SCRIPT}),
        ("hello", {"python": "3.11 and all is well"}),
    ],
)
def test_a_value_is_of_its_form(phase: str, values: dict[str, Any]) -> None:
    """What a site says at join and hello is checked like all else."""
    assert said(phase, put("settings", **values)) == "value"
    assert said("register", put("settings", **values)) == "undeclared"


def test_a_list_or_bytes_as_a_value_are_no_value() -> None:
    """The hub would not have seen them otherwise."""
    for value in ([1, 2], b"x", ["a"]):
        assert said("join", put("settings", scans=value)) == "malformed"
    assert said("join", put("settings", scans="x" * 1000)) == "malformed"


@pytest.mark.parametrize("spoken", WORDS)
def test_a_site_says_only_a_sites_words(spoken: str) -> None:
    """Markup, escapes, megabytes, and the hub's own words become "malformed"."""
    expected = "malformed" if spoken else ""
    for phase in ("register", "join", "evaluate", "deliver"):
        assert said(phase, put("meta", error=spoken)) == expected


def test_the_words_of_a_site_are_those_of_its_app() -> None:
    """Each is of the form, and there is none besides."""
    assert {*client.app.CODES.values(), "disk", "internal"} == grammar.REASONS
    assert all(grammar.CODE.fullmatch(each) for each in (*grammar.REASONS, "a", "not-finite"))
    assert not any(grammar.CODE.fullmatch(each) for each in ("", "A", "-a", "a b", "a" * 33, "é", "a\n"))


def test_arrays_are_as_large_as_they_say() -> None:
    """A header of a few bytes that announces a terabyte makes no room for it; nor do real bytes by the megabyte."""
    small = np.ones((2, 3), np.float32)
    liar = Array(small)
    liar.data = liar.data.replace(b"(2, 3), }" + b" " * 12, b"(9999999, 99999), }  ")
    assert liar.data != Array(small).data

    def arrays(record: str, **values: Array) -> Lie:
        return lambda content: content.update({record: ArrayRecord(dict(values))})

    assert said("register", arrays("arrays.T", w=liar)) == "malformed"
    with pytest.raises(ValueError, match="not as large as it says"):
        to_arrays(ArrayRecord({"w": liar}))
    assert said("register", arrays("arrays.T", w=Array(np.ones(1 << 20, np.float32)))) == "malformed"
    many = {f"w{n}": Array(small) for n in range(1000)}
    assert said("register", arrays("arrays.T", **many)) == "malformed"
    assert said("register", arrays(f"arrays.{SCRIPT}", w=Array(small))) == "undeclared"
    assert said("join", arrays("arrays.scan", w=Array(small))) == "undeclared"


def test_other_records_are_none_of_ours() -> None:
    """By their names, and by their number."""
    assert said("register", lambda content: content.update({SCRIPT: ConfigRecord({"a": 1})})) == "malformed"
    assert said("register", lambda content: content.update({SCRIPT: MetricRecord({"a": 1})})) == "malformed"
    lots = {f"arrays.{n}": ArrayRecord() for n in range(100)}
    assert said("register", lambda content: content.update(lots)) == "malformed"


def test_nothing_that_was_said_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log says what was wrong, in words of the hub."""
    for lie in (
        put("meta", error=SCRIPT),
        put("meta", phase=SCRIPT),
        put("meta", nonce=SCRIPT),
        put("settings", name=SCRIPT),
        put("digests", **{SCRIPT: SCRIPT}),
        lambda content: content.update({SCRIPT: ArrayRecord({SCRIPT: Array(np.ones(3, np.float32))})}),
        lambda content: content.update({f"delta.{SCRIPT}": ArrayRecord({SCRIPT: Array(np.ones(3, np.float32))})}),
    ):
        assert said("register", lie)
    assert "malformed reply site=mallory phase=register" in caplog.text and "script" not in caplog.text
    with pytest.raises(Malformed, match="nonce"):
        decode_reply(encode_reply(honest("register")), asked("register"), "another")


@pytest.mark.parametrize("lie", [put("settings", name="../x"), put("settings", name=SCRIPT), put("meta", count=3)])
def test_a_node_with_a_bad_hello_is_nobody(lie: Lie, caplog: pytest.LogCaptureFixture) -> None:
    """Its name would become a file's."""
    reply = honest("hello", site="", round=0, settings={"name": "north"})

    def federation(lie: Lie) -> GridFederation:
        return GridFederation(InProcessGrid(site("hello", lie, lambda _: reply), {"x": {}}, registered=False), 60)

    assert federation(lambda content: None).sites() == ("north",)
    assert federation(lie).sites() == ()
    assert "does not say its name" in caplog.text and "script" not in caplog.text


class Told:
    """Members, and what the hub was told of them."""

    def __init__(self, folder: Path, federation: GridFederation, patience: float = 600.0) -> None:
        """Two sites take part."""
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.members = Members(
            federation, folder, 1.0, patience, lambda name, **values: self.events.append((name, values))
        )


def test_a_site_that_says_base_for_ever_is_put_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site that gets all of a part lacks none; a word that it has reason to say is no strike, however often."""
    now = [0.0]
    monkeypatch.setattr("server.members.time.monotonic", lambda: now[0])
    monkeypatch.setattr("server.members.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    for spoken, strikes in (("base", MOST), ("disk", 0), ("memory", 0), ("boom", MOST)):
        liar = site("register", put("meta", error=spoken), lambda _: honest("register", count=0, arrays={}))
        told = Told(tmp_path / spoken, GridFederation(InProcessGrid(liar, {"mallory": {}}), 60))
        with pytest.raises(FederationError, match="0 of 1 sites answered"):
            told.members.collect({"mallory": asked("register")}, lambda _: "")
        counts = tmp_path / spoken / "strikes.json"
        assert (json.loads(counts.read_text())["mallory"] if counts.exists() else 0) == strikes, spoken
        assert [values["why"] for name, values in told.events if name == "site.quarantined"] == ["malformed"] * (
            strikes == MOST
        )


NAMES = ("a", "b", "c", "d", "e")


def moved(phase: str, scale: float, seed: int) -> dict[str, Arrays]:
    """Weights of zero that went a way of their own, of length `scale` in each part."""
    found = {}
    for number, part in enumerate(phase_of(phase).learns):
        way = np.random.default_rng([seed, number]).standard_normal((2, 3))
        found[part] = {"w": (scale * way / np.linalg.norm(way)).astype(np.float32)}
    return found


def fold(
    folder: Path,
    replies: Mapping[str, SiteReply],
    announced: Mapping[str, int] | None = None,
    before: tuple[float, ...] = (),
    aggregation: str = "mean",
) -> tuple[Fold, dict[str, str], dict[str, Arrays]]:
    """One round: the fold, the codes of what it left out, and what it brought."""
    phase = next(iter(replies.values())).phase
    federation = replace(TINY.federation, aggregation=aggregation)  # type: ignore[arg-type]
    requests = {name: asked(phase, name) for name in replies}
    ways = dict.fromkeys(phase_of(phase).learns, before)
    experiment = replace(TINY, federation=federation)
    made = Fold(
        phase_of(phase),
        experiment,
        requests,
        folder / "spool",
        folder / "library",
        announced or {},
        ways if before else {},
    )
    codes = {name: made.add(reply) for name, reply in replies.items()} | made.drop_outliers()
    return made, {name: code for name, code in codes.items() if code}, made.close()


def round_of(phase: str, count: int, scales: tuple[float, ...], honest_count: int = 20) -> dict[str, SiteReply]:
    """Replies that moved so far each; the last one's site says that it has `count` scans."""
    names = NAMES[: len(scales)]
    counts = [*[honest_count] * (len(scales) - 1), count]
    return {
        name: SiteReply(name, phase, 1, number, moved(phase, scale, seed))
        for seed, (name, number, scale) in enumerate(zip(names, counts, scales, strict=True))
    }


STEP = 1e-4
"""How far an honest site moves a part."""


def length(arrays: Arrays) -> float:
    """The Euclidean length of a part."""
    return float(np.linalg.norm(arrays["w"]))


@pytest.mark.parametrize("phase", ["register", "style", "joint", "flow_codes", "adapt"])
def test_a_reply_with_another_count_than_at_join_is_left_out(phase: str, tmp_path: Path) -> None:
    """A million scans for one round; more or fewer by one; nothing said at join lets the reply's own count pass."""
    for count in (1_000_000, 21, 19):
        _, codes, _ = fold(tmp_path, round_of(phase, count, (STEP, STEP, STEP)), {"a": 20, "b": 20, "c": 20})
        assert codes == {"c": "count"}
    _, codes, _ = fold(tmp_path, round_of(phase, 20, (STEP, STEP, STEP)), {"a": 20, "b": 20, "c": 20})
    assert codes == {}
    _, codes, _ = fold(tmp_path, round_of(phase, 21, (STEP, STEP, STEP)), {"a": 20, "b": 20})
    assert codes == {}


@pytest.mark.parametrize(("phase", "part"), [("register", "T"), ("joint", "F"), ("flow_codes", "decoder")])
@pytest.mark.parametrize("sites", [2, 3, 4])
def test_a_million_announced_scans_do_not_own_the_mean(phase: str, part: str, sites: int, tmp_path: Path) -> None:
    """Said at join and in each reply: the liar weighs five times the middle site, no more."""
    replies = round_of(phase, 1_000_000, (STEP,) * sites)
    announced = {name: reply.count for name, reply in replies.items()}
    _, codes, parts = fold(tmp_path, replies, announced)
    weights = [20] * (sites - 1) + [20 * bounds.CAP]
    expected = sum(w * replies[n].arrays[part]["w"] for n, w in zip(sorted(replies), weights, strict=True)) / sum(
        weights
    )
    assert codes == {}
    np.testing.assert_allclose(parts[part]["w"], expected, rtol=1e-5)


def test_counts_of_honest_sites_weigh_as_they_are() -> None:
    """Those of the paper, and of any sites that differ by less than five times."""
    for counts in ({"oasis": 414, "candi": 103}, {"a": 9, "b": 9}, {"a": 1, "b": 3}, {"a": 100, "b": 20, "c": 30}):
        assert bounds.weights_of(counts, tuple(counts)) == counts
    assert bounds.weights_of({"a": 20, "b": 30, "gone": 10**6}, ("a", "b")) == {"a": 20, "b": 30}
    assert bounds.weights_of({}, ()) == {}


@pytest.mark.parametrize(
    ("phase", "part"), [("register", "T"), ("style", "D_style"), ("joint", "E"), ("flow_codes", "encoder")]
)
def test_two_sites_a_liar_that_goes_1e8_times_as_far(phase: str, part: str, tmp_path: Path) -> None:
    """In the first round as far as Adam could have gone; in later ones ten times as far as the phase has gone."""
    first, _, parts = fold(tmp_path, round_of(phase, 20, (STEP, 1e8 * STEP)))
    most = bounds.reach(TINY, phase, {"w": np.zeros((2, 3), np.float32)})
    assert set(first.clipped) == {"b"} and length(parts[part]) <= (STEP + most) / 2 < 1e-4 * (1e8 * STEP)
    later, _, parts = fold(tmp_path, round_of(phase, 20, (STEP, 1e8 * STEP)), before=(STEP, 0.9 * STEP, 50 * STEP))
    assert set(later.clipped) == {"b"} and length(parts[part]) <= (STEP + bounds.ROOM * STEP) / 2 * 1.001
    assert later.moved[part] == pytest.approx(length(parts[part]))


@pytest.mark.parametrize("phase", ["register", "joint", "flow_codes"])
def test_a_liar_among_more_sites_moves_no_more_than_four_times_the_usual(phase: str, tmp_path: Path) -> None:
    """Nine times as far is not dropped, but shortened; eleven times is dropped; one part alone is found, too."""
    made, codes, _ = fold(tmp_path, round_of(phase, 20, (STEP, STEP, STEP, 9 * STEP)))
    assert codes == {} and made.clipped == {"d": pytest.approx(bounds.CLIP / 9)}
    assert fold(tmp_path, round_of(phase, 20, (STEP, STEP, STEP, 11 * STEP)))[1] == {"d": "far"}
    replies = round_of(phase, 20, (STEP, STEP, STEP, STEP))
    part = "T" if phase == "register" else "E" if phase == "joint" else "encoder"
    lie = {**replies["d"].arrays, part: moved(phase, 6 * STEP, 9)[part]}
    made, codes, parts = fold(tmp_path, {**replies, "d": replace(replies["d"], arrays=lie)})
    assert codes == {} and made.clipped == {"d": pytest.approx(bounds.CLIP / 6)}
    assert length(parts[part]) <= (3 + bounds.CLIP) * STEP / 4


def test_a_reply_within_the_bounds_counts_to_the_bit(tmp_path: Path) -> None:
    """Four times as far, and one site alone however far; what is the site's own is not touched."""
    made, _, parts = fold(tmp_path, round_of("joint", 20, (STEP, STEP, STEP, 3.9 * STEP)))
    assert made.clipped == {}
    _, _, alone = fold(tmp_path, round_of("joint", 20, (1e8 * STEP,)))
    np.testing.assert_array_equal(alone["F"]["w"], moved("joint", 1e8 * STEP, 0)["F"]["w"])
    made, _, parts = fold(tmp_path, round_of("joint", 20, (STEP, STEP, STEP, 9 * STEP)))
    assert made.clipped
    np.testing.assert_array_equal(parts["A.d"]["w"], moved("joint", 9 * STEP, 3)["A"]["w"])


@pytest.mark.parametrize("sites", [1, 2, 3, 4])
def test_a_trimmed_mean_of_too_few_is_refused(sites: int, tmp_path: Path) -> None:
    """It would trim nothing, and be a mean in silence; a simulation of two sites refuses it before anything begins."""
    with pytest.raises(FederationError, match=f'"trimmed" needs 5 sites that answer, but there are {sites}: invite'):
        fold(tmp_path, round_of("register", 20, (STEP,) * sites), aggregation="trimmed")
    options = Options("tiny", (("a", tmp_path), ("b", tmp_path)), tmp_path, "inprocess", (), None, None, "cpu")
    with pytest.raises(FederationError, match="needs 5 sites"):
        experiment_of(replace(options, changes=("federation.aggregation=trimmed",)))
    assert experiment_of(options).federation.aggregation == "auto"


@pytest.mark.parametrize("phase", ["register", "style", "joint"])
def test_from_five_sites_on_one_liar_is_trimmed_away(phase: str, tmp_path: Path) -> None:
    """Whatever its count and its way, each weight stays within those of the honest sites; below five it does not."""
    replies = round_of(phase, 1_000_000, (STEP, STEP, STEP, STEP, 9 * STEP))
    _, codes, parts = fold(tmp_path, replies, aggregation="auto")
    part = phase_of(phase).learns[0]
    good = np.stack([replies[name].arrays[part]["w"] for name in NAMES[:4]])
    assert codes == {}
    assert (parts[part]["w"] <= good.max(axis=0)).all() and (parts[part]["w"] >= good.min(axis=0)).all()
    np.testing.assert_array_equal(parts[part]["w"], fold(tmp_path, replies, aggregation="trimmed")[2][part]["w"])
    four = {name: replies[name] for name in NAMES[1:]}
    _, _, mean = fold(tmp_path, four, aggregation="auto")
    np.testing.assert_array_equal(mean[part]["w"], fold(tmp_path, four, aggregation="mean")[2][part]["w"])


def test_a_phase_that_averages_nothing_needs_no_number_of_sites(tmp_path: Path) -> None:
    """Each site keeps its own segmenter, however few adapt theirs, and however far; none at all is no fault, either."""
    made, codes, parts = fold(tmp_path, round_of("adapt", 20, (STEP, 1e8 * STEP)), aggregation="trimmed")
    assert codes == {} and made.clipped == {} and set(parts) == {"segmenter.a", "segmenter.b"}
    empty = Fold(phase_of("adapt"), TINY, {"a": asked("adapt", "a")}, tmp_path / "spool", tmp_path / "library")
    assert empty.close() == {}


def hub_of(folder: Path, phase: str, lie: Lie, reply: SiteReply) -> Hub:
    """A hub with one site, which lies in one phase."""
    federation = GridFederation(InProcessGrid(site(phase, lie, lambda _: reply), {"mallory": {}}), 60)
    image = torch.ones(1, 4, 4, 4)
    affine = tuple(tuple(float(i == j) for j in range(4)) for i in range(4))
    atlas = Atlas(image, AtlasLabels(image[0].long()), affine, 1.0, "a" * 64, "atlas.nii.gz")  # type: ignore[arg-type]
    return Hub(folder, Plan("run"), TINY, atlas, federation)


def written(folder: Path) -> str:
    """All text that a hub wrote."""
    return "".join(path.read_text() for path in folder.rglob("*.json*"))


@pytest.mark.parametrize(
    ("lie", "code", "strikes"),
    [
        (put("meta", count=10**9), "count", 1),
        (put("settings", scans=10**9), "value", 1),
        (put("settings", atlas=SCRIPT), "value", 1),
        (put("settings", **{SCRIPT: 1}), "undeclared", 1),
        (put("meta", error=SCRIPT), "malformed", 1),
        (put("series", total=[1.0] * 5000), "malformed", 1),
        (put("meta", error="data"), "data", 0),
        (put("settings", atlas="b" * 64), "mismatch", 0),
    ],
)
def test_a_bad_answer_to_join_lets_nobody_in(lie: Lie, code: str, strikes: int, tmp_path: Path) -> None:
    """Its code is in the hub's events, and nothing that it said; what no honest site says is held against it."""
    settings = {"atlas": "a" * 64, "scans": 9}
    reply = honest("join", settings=settings)
    hub = hub_of(tmp_path / "bad", "join", lie, reply)
    hub.folder.mkdir()
    with pytest.raises(FederationError, match="mallory"):
        joining_of(hub).gather(1)
    assert hub.sites == () and read(hub.folder)[-1]["failed"] == {"mallory": code}
    assert "script" not in written(hub.folder)
    counts = hub.folder / "strikes.json"
    assert (json.loads(counts.read_text())["mallory"] if counts.exists() else 0) == strikes
    good = hub_of(tmp_path, "join", lambda content: None, reply)
    joining_of(good).gather(1)
    assert good.members.counts == {"mallory": 9}


def test_a_site_that_joins_badly_for_ever_is_put_out(tmp_path: Path) -> None:
    """Three times, over the rounds; then it is not asked any more."""
    hub = hub_of(tmp_path, "join", put("meta", error="boom"), honest("join"))
    coming = joining_of(hub)
    for _ in range(5):
        coming.welcome()
    assert hub.members.strikes.out == {"mallory"} and hub.members.strangers() == ()
    told = [event["event"] for event in read(tmp_path)]
    assert told.count("round.started") == MOST and told.count("site.quarantined") == 1


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        (put("metrics", **{PAPER.groups[0]: 7.0}), "range"),
        (put("metrics", **{PAPER.groups[0]: float("nan")}), "not-finite"),
        (put("metrics", **{SCRIPT: 0.5}), "undeclared"),
        (put("settings", note=SCRIPT), "undeclared"),
        (put("meta", count=10**7), "count"),
        (put("meta", error=SCRIPT), "malformed"),
    ],
)
def test_the_cross_site_table_holds_what_passed(lie: Lie, code: str, tmp_path: Path) -> None:
    """A reply that did not is a row with its code; the hub's events and the cards of models hold nothing of it."""
    hub = hub_of(tmp_path, "evaluate", lie, honest("evaluate", arrays={}, metrics={PAPER.groups[1]: 0.5}))
    hub.members.add("mallory", 9)
    evaluate(hub, RunState(parts={"segmenter.mallory": {"w": np.zeros(2, np.float32)}}))
    (row,) = json.loads((tmp_path / "cross-site.json").read_text())
    assert row == {"style": "mallory", "site": "mallory", "scans": 0, "dice": {}, "error": code}
    assert json.loads((tmp_path / "strikes.json").read_text()) == {"mallory": 1}
    assert "script" not in written(tmp_path)


def test_a_bad_answer_to_a_delivery_is_no_delivery(tmp_path: Path) -> None:
    """It is named like any other reply that fails."""
    hub = hub_of(tmp_path, "deliver", put("settings", note=SCRIPT), honest("deliver", arrays={}))
    hub.members.add("mallory", 9)
    (tmp_path / "cross-site.json").write_text("[]")
    with pytest.raises(FederationError, match=r"mallory could not keep its segmenter \(undeclared\)"):
        deliver(hub, RunState(parts={"segmenter.mallory": {"w": np.zeros(2, np.float32)}}))
    assert "script" not in written(tmp_path)
