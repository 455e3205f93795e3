"""Rounds in which only what changed travels, over the in-process grid with unmodified message handling."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.clientapp import ClientApp

import client.app
from approving import ATLAS, approve, open_policy, toy
from client.messages import encode_reply, return_nonce
from client.site import Site
from configs.schema import Experiment, load
from server import holdings
from server.federation import GridFederation, Traffic
from server.holdings import Holdings
from server.state import RunState, Store
from simulation.engines import SiteFolder
from simulation.engines.inprocess import InProcessGrid, identity, node_config
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.payload import delta_between, digest

SIZE = 1000
HALF, FULL = toy(federation={"payload": "half"}), toy()
BEGINS = {"T": {"w": np.random.default_rng(0).standard_normal(SIZE, dtype=np.float32)}}
ABOUT = {"atlas": ATLAS}
WHOLE, STEP = 4 * SIZE, 2 * SIZE + 2  # bytes


@pytest.fixture(autouse=True)
def _identity() -> Iterator[None]:
    with identity():
        yield


def nudge(request: PhaseRequest, site: Site) -> SiteReply:
    """A toy phase: weights move by a few hundredths, in a way of the site's own."""
    rng = np.random.default_rng([request.round, len(site.name)])
    moved = request.arrays["T"]["w"] + 0.03 * rng.standard_normal(SIZE, dtype=np.float32)
    return SiteReply(site.name, request.phase, request.round, 1, {"T": {"w": moved}})


def app(answer: client.app.Answer = nudge) -> ClientApp:
    """The site's app around a toy phase."""
    return client.app.register(ClientApp(), answer)


def folders(root: Path, names: tuple[str, ...], experiment: Experiment = HALF) -> list[SiteFolder]:
    """Toy sites that approved the run, with their folders under `root`."""
    for name in names:
        approve(root / name, experiment, begins=BEGINS)
    return [SiteFolder(name, (root,), root / name, open_policy(root / f"{name}-policy")) for name in names]


def grid(root: Path, names: tuple[str, ...] = ("a", "bb"), app: ClientApp | None = None, **more: Any) -> InProcessGrid:
    """Toy sites as the hub meets them."""
    sites = folders(root, names)
    return InProcessGrid(
        app or client.app.register(ClientApp(), nudge), {s.name: node_config(s) for s in sites}, **more
    )


def start() -> RunState:
    """A state before the first round."""
    return RunState(0, BEGINS)


def one_round(federation: GridFederation, state: RunState, names: tuple[str, ...] = ("a", "bb")) -> RunState:
    """Ask, and take the plain mean."""
    number = state.done + 1
    words, parts = ("run", "register", number, "", HALF.to_json()), {"T": state.parts["T"]}
    asked = PhaseRequest(*words, parts, ABOUT, "half", state.deltas)
    replies = [reply for reply in federation.ask([replace(asked, site=name) for name in names]) if not reply.error]
    mean = np.mean([reply.arrays["T"]["w"] for reply in replies], axis=0, dtype=np.float64)
    return state.with_parts({"T": {"w": mean.astype(np.float32)}}, coded=True)


def down(federation: GridFederation, number: int) -> dict[str, int]:
    """Bytes that went down to each site in a round."""
    return {item.site: item.down for item in federation.traffic if item.round == number}


def test_the_first_round_is_whole_and_the_next_are_differences(tmp_path: Path) -> None:
    """Half the bytes down from the second round on, and half of them up from the first."""
    federation, state = GridFederation(grid(tmp_path), 60), start()
    for _ in range(3):
        state = one_round(federation, state)
    expected = [Traffic("register", 1, name, WHOLE, STEP) for name in ("a", "bb")]
    expected += [Traffic("register", n, name, STEP, STEP) for n in (2, 3) for name in ("a", "bb")]
    assert federation.traffic == expected


def test_what_did_not_change_travels_as_its_digest(tmp_path: Path) -> None:
    """A part that a phase only uses costs nothing the second time, and neither does what a site sent itself."""
    federation, state = GridFederation(grid(tmp_path, ("a",)), 60), start()
    state = one_round(federation, state, ("a",))
    own = {**state.parts, "T": {"w": start().parts["T"]["w"]}}
    state = one_round(federation, replace(state, parts=own, deltas={}), ("a",))
    one_round(federation, state, ("a",))
    assert down(federation, 2) == down(federation, 3) == {"a": 0}


def test_sites_and_hub_hold_the_same_bytes_in_whatever_form_they_got_them(tmp_path: Path) -> None:
    """A site that was away for a round gets the part whole, and sees what the others see."""
    seen: dict[str, list[str]] = {"a": [], "bb": []}

    def watch(request: PhaseRequest, site: Site) -> SiteReply:
        seen[site.name].append(digest(request.arrays["T"]))
        return nudge(request, site)

    federation, state = GridFederation(grid(tmp_path, app=app(watch)), 60), start()
    state = one_round(federation, state)
    state = one_round(federation, state, ("a",))
    last = one_round(federation, state)
    assert down(federation, 3) == {"a": 0, "bb": WHOLE}  # the mean of one site is what that site sent
    assert seen["a"][2] == seen["bb"][1] == digest(state.parts["T"]) != digest(last.parts["T"])


def test_a_hub_that_starts_again_goes_on_with_differences(tmp_path: Path) -> None:
    """It knows from its disk what each site holds; a file that is damaged costs bytes, and nothing else."""
    store, kept = Store(tmp_path / "state", load("tiny")), tmp_path / "holdings.json"
    sites = grid(tmp_path)
    store.save(one_round(GridFederation(sites, 60, kept=kept), start()))
    resumed = store.resume()
    assert resumed is not None
    state = one_round(again := GridFederation(sites, 60, kept=kept), resumed)
    assert down(again, 2) == {"a": STEP, "bb": STEP}
    kept.write_bytes(kept.read_bytes()[:-9])
    one_round(third := GridFederation(sites, 60, kept=kept), state)
    assert down(third, 3) == {"a": WHOLE, "bb": WHOLE}


def test_a_hub_that_knows_nothing_sends_whole_parts_once(tmp_path: Path) -> None:
    """The results are those of a hub that was never stopped; the round that it was killed in is not trained again."""
    worked: list[str] = []

    def count(request: PhaseRequest, site: Site) -> SiteReply:
        worked.append(site.name)
        return nudge(request, site)

    whole = one_round(f := GridFederation(grid(tmp_path / "1", app=app(count)), 60), one_round(f, start()))
    state = one_round(GridFederation(sites := grid(tmp_path / "2", app=app(count)), 60), start())
    one_round(first := GridFederation(sites, 60), state, ("a",))
    resumed = RunState(state.done, state.parts)
    again = one_round(second := GridFederation(sites, 60), resumed)
    assert digest(again.parts["T"]) == digest(whole.parts["T"])
    assert down(first, 2) == {"a": WHOLE} and down(second, 2) == {"a": WHOLE, "bb": WHOLE}
    assert len(worked) == 8


def test_a_site_that_lost_its_parts_gets_them_at_once(tmp_path: Path) -> None:
    """No failure and no retry: with none allowed it answers in the same round, and differences go on after it."""
    federation, state = GridFederation(grid(tmp_path), 60, retries=0), start()
    state = one_round(federation, state)
    shutil.rmtree(tmp_path / "a" / "gate" / "runs" / "run" / "parts")
    for path in (tmp_path / "bb" / "gate" / "runs" / "run" / "parts").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    state = one_round(federation, state)
    one_round(federation, state)
    assert down(federation, 2) == {"a": STEP + WHOLE, "bb": STEP + WHOLE}
    assert down(federation, 3) == {"a": STEP, "bb": STEP}
    assert {item.up for item in federation.traffic} == {STEP}


def test_a_request_that_comes_whole_is_the_one_that_came_as_a_difference(tmp_path: Path) -> None:
    """A site that answered and lost its parts, and is asked again as its reply got lost, does not train again."""
    worked: list[int] = []

    def count(request: PhaseRequest, site: Site) -> SiteReply:
        worked.append(request.round)
        return nudge(request, site)

    class Lossy(InProcessGrid):
        """A grid that loses the reply to the second round, while the site loses its parts."""

        asked = 0

        def pull_messages(self, message_ids: Any) -> list[Message]:
            replies = super().pull_messages(message_ids)
            self.asked += bool(replies)
            if self.asked == 2 and replies:
                from flwr.app import Error

                shutil.rmtree(tmp_path / "a" / "gate" / "runs" / "run" / "parts")
                return [Message(Error(5), reply_to=replies[0])]
            return replies

    (site,) = folders(tmp_path, ("a",))
    federation = GridFederation(Lossy(app(count), {"a": node_config(site)}), 60)
    one_round(federation, one_round(federation, start(), ("a",)), ("a",))
    assert worked == [1, 2]
    assert down(federation, 2) == {"a": WHOLE}  # twice as a digest, then whole


def test_preset_full_sends_everything_as_it_is(tmp_path: Path) -> None:
    """Float32 both ways in every round, and nothing is kept for it."""
    federation, state = GridFederation(grid(tmp_path, ("a",)), 60), start()
    approve(tmp_path / "a", FULL, begins=BEGINS)
    asked = PhaseRequest("run", "register", 1, "a", FULL.to_json(), state.parts, ABOUT)
    for number in (1, 2):
        (reply,) = federation.ask([replace(asked, round=number)])
        expected = nudge(replace(asked, round=number), Site("a", (), tmp_path, None))  # type: ignore[arg-type]
        assert digest(reply.arrays["T"]) == digest(expected.arrays["T"])
    assert [(item.down, item.up) for item in federation.traffic] == [(WHOLE, WHOLE)] * 2
    assert not (tmp_path / "a" / "gate" / "runs" / "run" / "parts").exists()


def replaced(content: Any, record: str, **arrays: np.ndarray) -> None:
    """Put other arrays into one record of a message."""
    content[record] = ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _spoil_value(content: Any) -> None:
    values = content["delta.T"]["values"].numpy().copy()
    values[0] += 1
    replaced(content, "delta.T", values=values, exponents=content["delta.T"]["exponents"].numpy())


def _array(content: Any, kind: str, data: bytes) -> None:
    content["delta.T"]["values"] = Array(dtype="float16", shape=(SIZE,), stype=kind, data=data)


TERABYTES = b"{'descr': '<f2', 'fortran_order': False, 'shape': (999999999999999,), }".ljust(117) + b"\n"

HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "another value": (_spoil_value, "digest"),
    "another digest": (lambda c: c["digests"].update({"T": "0" * 64}), "digest"),
    "a digest alone": (lambda c: c.pop("delta.T"), "digest"),
    "a digest that is a number": (lambda c: c["digests"].update({"T": 7}), "digest"),
    "an unknown part": (lambda c: c["digests"].update({"X": "0" * 64}), "malformed"),
    "no base": (lambda c: c["bases"].pop("T"), "malformed"),
    "no digests": (lambda c: c.pop("digests"), "malformed"),
    "both forms": (lambda c: replaced(c, "arrays.T", w=np.zeros(SIZE, np.float32)), "malformed"),
    "another record": (lambda c: replaced(c, "scan.T", w=np.zeros(SIZE, np.float32)), "malformed"),
    "no values": (lambda c: replaced(c, "delta.T", w=np.zeros(SIZE, np.float16)), "malformed"),
    "infinite": (
        lambda c: replaced(c, "delta.T", values=np.full(SIZE, np.inf, np.float16), exponents=np.zeros(1, np.int16)),
        "malformed",
    ),
    "short": (
        lambda c: replaced(c, "delta.T", values=np.zeros(3, np.float16), exponents=np.zeros(1, np.int16)),
        "malformed",
    ),
    "pickled": (lambda c: _array(c, "pickle", b"cos\nsystem\n(S'true'\ntR."), "malformed"),
    "terabytes": (lambda c: _array(c, "numpy.ndarray", b"\x93NUMPY\x01\x00v\x00" + TERABYTES), "malformed"),
    "nothing": (lambda c: _array(c, "numpy.ndarray", b""), "malformed"),
}


@pytest.mark.parametrize(("spoil", "word"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_reply_is_one_word_and_the_others_go_on(
    spoil: Callable[[Any], None], word: str, tmp_path: Path
) -> None:
    """Whatever one site makes of its reply, the hub's loop goes on."""
    hostile = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        reply = client.app.respond(message, context, nudge)
        if context.node_config["site-name"] == "a":
            spoil(reply.content)
        return reply

    hostile.train("register")(handle)
    asked = PhaseRequest("run", "register", 1, "", HALF.to_json(), start().parts, ABOUT, "half")
    federation = GridFederation(grid(tmp_path, app=hostile), 60)
    replies = federation.ask([replace(asked, site=name) for name in ("a", "bb")])
    assert [reply.error for reply in replies] == [word, ""]


def test_a_site_that_always_says_base_is_given_up(tmp_path: Path) -> None:
    """All of a part is sent once. Who lacks what it starts from then, too, lies: that ends after three strikes."""
    stubborn = ClientApp()

    def handle(message: Message, context: Context) -> Message:
        content = encode_reply(SiteReply("a", "register", 1, 0, error="base"))
        return_nonce(message.content, content)
        return Message(content, reply_to=message)

    stubborn.train("register")(handle)
    asked = PhaseRequest("run", "register", 1, "a", HALF.to_json(), start().parts, ABOUT, "half")
    federation = GridFederation(grid(tmp_path, ("a",), stubborn), 60)
    assert [reply.error for reply in federation.ask([asked])] == ["malformed"]
    assert down(federation, 1) == {"a": 2 * WHOLE}


def test_what_is_asked_for_once_is_not_kept() -> None:
    """A segmenter that a site only tests is not counted on; its own, which it adapted, is."""
    own, other = ({"w": np.full(3, value, np.float32)} for value in (1.0, 2.0))
    asked = PhaseRequest("run", "adapt", 1, "a", "{}", {"segmenter": own, "moments.b": other}, payload="half")
    known = Holdings()
    parcel = known.pack(asked, {})
    assert set(parcel.whole) == {"segmenter", "moments.b"} and set(parcel.digests) == {"segmenter"}
    known.note(asked, parcel.digests.values())
    test = replace(asked, phase="evaluate", arrays={"segmenter": own})
    assert not known.pack(test, {}).records
    foreign = known.pack(replace(test, arrays={"segmenter": other}), {})
    assert set(foreign.whole) == {"segmenter"} and not foreign.digests
    step, led = delta_between(own, other)
    changed = known.pack(replace(test, phase="deliver", arrays={"segmenter": led}, deltas={"segmenter": step}), {})
    assert changed.deltas == {"segmenter": step} and changed.digests == {"segmenter": step.digest}


def test_shared_weights_are_coded_and_read_once(tmp_path: Path) -> None:
    """The parcels of many sites hold the same arrays, so that Flower's edge serialises them once."""
    state = start()
    moved: Arrays = {"w": state.parts["T"]["w"] + np.float32(0.1)}
    after = state.with_parts({"T": moved}, coded=True)
    known, digests = Holdings(), dict[int, str]()
    asked = [PhaseRequest("run", "register", 2, s, "{}", after.parts, {}, "half", after.deltas) for s in ("a", "b")]
    for request in asked:
        known.note(request, [digest(state.parts["T"])])
    one, two = (known.pack(request, digests) for request in asked)
    assert one.records["delta.T"] is two.records["delta.T"]
    assert list(digests) == [id(after.parts["T"])]


def test_a_site_keeps_as_much_as_the_hub_counts_on() -> None:
    """The hub never counts on more than a site keeps."""
    from client.gate import kept

    assert holdings.KEEP == kept.KEEP


def test_only_the_last_parts_stay_on_a_sites_disk(tmp_path: Path) -> None:
    """Oldest first; what was used again stays."""
    from client.gate.kept import KEEP, Kept

    kept = Kept(tmp_path)
    parts = [{"w": np.full(2, value, np.float32)} for value in range(KEEP + 1)]
    for part in parts[:-1]:
        kept.remember(digest(part), part)
    assert kept.recall("T", digest(parts[0])) is not None
    kept.remember(digest(parts[-1]), parts[-1])
    assert len(list(tmp_path.iterdir())) == KEEP
    assert kept.recall("T", digest(parts[0])) is not None
    assert kept.recall("T", digest(parts[1])) is None
    assert kept.recall("T", "../../" + "0" * 58) is None
