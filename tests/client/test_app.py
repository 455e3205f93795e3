"""The wrapper around everything that a site answers."""

import errno
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

import client.app
from approving import ATLAS, approve, open_policy, toy
from client.gate import ledger, replies
from configs.errors import DataError
from server.messages import TYPES, decode_reply, encode_request
from simulation.engines.inprocess import identity
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel, delta_between, digest

ONE, TWO = {"w": np.ones(3, np.float32)}, {"w": np.full(3, 1.5, np.float32)}
FULL, HALF = toy(), toy(federation={"payload": "half"})
REQUEST = PhaseRequest("run", "register", 1, "one", FULL.to_json(), {"T": ONE}, {"atlas": ATLAS})


def site_config(folder, more=""):
    """The config of a site with a policy that has no floors, and `more` of its own lines."""
    folders = {"data-path": str(folder), "state-dir": str(folder / "state")}
    return {"site-name": "one", **folders, "policy": str(open_policy(folder / "policy", more))}


@pytest.fixture(autouse=True)
def _approved(tmp_path):
    approve(tmp_path / "state", FULL, begins={"T": ONE})


def add_one(request, site):
    """A toy phase: the site's weights are the hub's plus one."""
    return SiteReply(site.name, request.phase, request.round, 3, {"T": {"w": request.arrays["T"]["w"] + 1}})


def send(answer, folder, request=REQUEST, content=None, config=None):
    """Put one message through a ClientApp as Flower would, and read its reply."""
    config = config or site_config(folder)
    with identity():
        message = Message(content or encode_request(request, {}), 2, TYPES[request.phase])
        reply = client.app.register(ClientApp(), answer)(message, Context(1, 2, config, RecordDict(), {}))
    assert reply.has_content()
    return decode_reply(reply.content, request)


def test_answer_passes_gate_ledger_and_cache(tmp_path):
    """A good answer reaches the hub, and its entry is in the ledger."""
    reply = send(add_one, tmp_path)
    np.testing.assert_array_equal(reply.arrays["T"]["w"], np.full(3, 2, np.float32))
    assert (reply.error, reply.count) == ("", 3)
    assert ledger.verify(tmp_path / "state" / "gate" / "ledger.jsonl") == 1


def test_repeated_request_is_not_computed_again(tmp_path):
    """The second time the same request is answered from disk, and the ledger has both releases."""
    calls = []

    def count(request, site):
        calls.append(request.round)
        return add_one(request, site)

    first, second = send(count, tmp_path), send(count, tmp_path)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.arrays["T"]["w"], second.arrays["T"]["w"])
    assert ledger.verify(tmp_path / "state" / "gate" / "ledger.jsonl") == 2


def test_a_reply_on_disk_goes_out_by_the_policy_of_today(tmp_path):
    """A reply that left under an older policy is checked again when it is asked for again, and stays."""
    assert send(add_one, tmp_path).error == ""
    assert list((tmp_path / "state" / "gate" / "runs" / "run" / "replies").iterdir())
    strict = site_config(tmp_path, "most_bytes = 11")  # three float32 are one byte too many
    again = send(raising(AssertionError("computed")), tmp_path, config=strict)
    assert again == SiteReply("one", "register", 1, 0, error="release")
    assert ledger.verify(tmp_path / "state" / "gate" / "ledger.jsonl") == 1
    allowed = send(add_one, tmp_path, config=site_config(tmp_path, "most_bytes = 12"))
    assert allowed.error == "" and ledger.verify(tmp_path / "state" / "gate" / "ledger.jsonl") == 2


def test_a_reply_on_disk_that_somebody_changed_does_not_go_out(tmp_path):
    """What lies in the cache is no more trusted than what was just computed: here, a part of another phase."""
    folder = tmp_path / "state" / "gate" / "runs" / "run" / "replies"
    send(add_one, tmp_path)
    (path,) = folder.iterdir()
    good = add_one(REQUEST, SimpleNamespace(name="one"))
    replies.remember(folder, path.stem, replace(good, arrays={**good.arrays, "codes": {"w": np.zeros(3, np.float32)}}))
    assert send(add_one, tmp_path) == SiteReply("one", "register", 1, 0, error="release")


SECRET = "/scans/sub-JaneDoe_T1w.nii.gz"


def raising(error):
    """An answer that fails with `error`."""

    def answer(request, site):
        raise error

    return answer


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError(SECRET), "data"), (ValueError(SECRET), "internal"), (MemoryError(SECRET), "memory")],
)
def test_text_of_an_exception_stays_at_the_site(tmp_path, error, code):
    """The hub gets one word; the text is in the site's log, and nothing is in the ledger or the cache."""
    reply = send(raising(error), tmp_path)
    assert reply == SiteReply("one", "register", 1, 0, error=code)
    assert SECRET not in repr(reply)
    assert SECRET in (tmp_path / "state" / "gate" / "site.log").read_text()
    assert not (tmp_path / "state" / "gate" / "ledger.jsonl").exists()
    assert not (tmp_path / "state" / "gate" / "runs" / "run" / "replies").exists()


def test_each_request_is_in_the_log_for_programs(tmp_path):
    """Its start, and its end with seconds, bytes and code; no name of a scan, which only `site.log` has."""
    send(add_one, tmp_path)
    send(raising(DataError(SECRET)), tmp_path, replace(REQUEST, round=2))
    text = (tmp_path / "state" / "gate" / "log.jsonl").read_text()
    first, good, _, bad = map(json.loads, text.splitlines())
    assert (first["event"], first["run"], first["phase"], first["round"]) == ("request started", "run", "register", 1)
    assert (good["event"], good["down"], good["up"], good["code"]) == ("request finished", 12, 12, "")
    assert (bad["level"], bad["round"], bad["up"], bad["code"]) == ("warning", 2, 0, "data")
    assert good["seconds"] >= 0
    assert SECRET not in text


def test_a_log_that_cannot_be_written_does_not_keep_a_site_from_answering(tmp_path):
    """The reply goes out all the same."""
    (tmp_path / "state" / "gate" / "log.jsonl").mkdir(parents=True)
    assert send(add_one, tmp_path).error == ""


def test_nothing_undeclared_is_sent(tmp_path):
    """A reply with a part too many becomes a code word."""

    def leak(request, site):
        return SiteReply("one", "register", 1, 3, {"T": request.arrays["T"], "codes": {"w": np.zeros(3, np.float32)}})

    assert send(leak, tmp_path) == SiteReply("one", "register", 1, 0, error="release")


@pytest.mark.parametrize("answer", [lambda request, site: None, lambda request, site: "reply"])
def test_answer_of_a_wrong_type_is_still_answered(tmp_path, answer):
    """A handler that returns nothing would block the node for ever; the wrapper answers."""
    assert send(answer, tmp_path).error == "internal"


def test_unwritable_state_and_missing_config_are_answered(tmp_path, caplog):
    """A site that cannot even write its log still answers, and sends nothing else."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    config = {**site_config(tmp_path), "state-dir": str(blocked / "state")}
    assert send(add_one, tmp_path, config=config) == SiteReply("one", "register", 1, 0, error="internal")
    with identity():
        message = Message(encode_request(REQUEST, {}), 2, TYPES["register"])
        reply = client.app.app(message, Context(1, 2, {}, RecordDict(), {}))
    assert reply.content["meta"]["error"] == "config"


def test_message_that_is_not_ours_is_answered(tmp_path):
    """Content without our records gets a code, too."""
    with identity():
        message = Message(RecordDict({}), 2, TYPES["register"])
        context = Context(1, 2, {"site-name": "one", "data-path": "x", "state-dir": str(tmp_path)}, RecordDict(), {})
        reply = client.app.register(ClientApp(), add_one)(message, context)
    assert reply.content["meta"]["error"] == "internal"


STEP, _ = delta_between(ONE, TWO)


def hostile(**arrays):
    """A difference with these arrays instead of its own."""
    return Parcel(deltas={"T": replace(STEP, arrays={**STEP.arrays, **arrays})}, digests={"T": STEP.digest})


@pytest.mark.parametrize(
    ("parcel", "word"),
    [
        (Parcel(deltas={"T": STEP}, digests={"T": STEP.digest}), ""),
        (Parcel(digests={"T": digest(ONE)}), ""),
        (Parcel(deltas={"T": replace(STEP, base="0" * 64)}, digests={"T": STEP.digest}), "base"),
        (Parcel(digests={"T": "../../../secret"}), "base"),
        (Parcel(deltas={"T": STEP}, digests={"T": "0" * 64}), "digest"),
        (Parcel(whole={"T": TWO}, digests={"T": digest(ONE)}), "digest"),
        (hostile(values=np.zeros(3, np.float16)), "digest"),
        (hostile(values=np.full(3, np.nan, np.float16)), "internal"),
        (hostile(values=np.zeros(10**6, np.float16)), "internal"),
        (hostile(exponents=np.full(1, 32767, np.int16)), "internal"),
        (hostile(more=np.zeros(1, np.float32)), "internal"),
    ],
)
def test_a_site_takes_a_difference_to_what_it_holds_and_nothing_else(tmp_path, parcel, word):
    """Anything else is a word, and the site trains on nothing that it did not check."""
    approve(tmp_path / "state", HALF, begins={"T": ONE})
    begin = replace(REQUEST, experiment=HALF.to_json(), payload="half")
    send(add_one, tmp_path, begin, encode_request(begin, {}, Parcel(whole={"T": ONE}, digests={"T": digest(ONE)})))
    seen = []

    def watch(request, site):
        seen.append(request.arrays["T"]["w"].tolist())
        return add_one(request, site)

    second = replace(begin, round=2, arrays={"T": TWO if parcel.deltas else ONE})
    reply = send(watch, tmp_path, second, encode_request(second, {}, parcel))
    assert reply.error == word
    assert seen == ([] if word else [second.arrays["T"]["w"].tolist()])


def test_policy_of_the_site_is_asked_before_the_work(tmp_path):
    """A phase that the policy leaves out is refused without being computed."""
    config = site_config(tmp_path, 'phases = ["join"]')
    assert send(raising(AssertionError("computed")), tmp_path, config=config).error == "declined"


def test_hello_names_site_versions_and_code(tmp_path):
    """The hub learns who a node is and what code it runs."""
    reply = send(add_one, tmp_path, PhaseRequest("", "hello", 0, "", ""))
    assert reply.error == ""
    assert reply.settings["name"] == "one"
    assert reply.settings["code"] == client.app.code_digest(Path(client.app.__file__).parent.parent)
    assert {"flwr", "python", "torch"} <= set(reply.settings)


@pytest.mark.parametrize("run", ["../../elsewhere", "/elsewhere", "..", "a/b", "x" * 65])
def test_a_run_cannot_lead_out_of_the_state_folder(run, tmp_path):
    """The hub chooses the name of the run, which becomes a folder at the site."""
    assert send(add_one, tmp_path, replace(REQUEST, run=run)).error == "refused"
    assert {path.name for path in tmp_path.iterdir()} == {"policy", "state"}
    assert not (tmp_path / "state" / "runs").exists()


def test_a_full_disk_is_a_word_of_its_own(tmp_path):
    """The hub's operator can tell a site to make room, where "internal" would say nothing."""

    def fill(request, site):
        raise OSError(errno.ENOSPC, "No space left on device", "/data/doe_jane.nii.gz")

    assert send(fill, tmp_path).error == "disk"


def test_simulated_node_finds_its_site_by_number(tmp_path, monkeypatch):
    """Flower's simulation gives a number; the list in SST_SITES says the rest."""
    listing = tmp_path / "sites.json"
    sites = [{"name": name, "data": [str(tmp_path)], "state": str(tmp_path / name)} for name in ("zero", "one")]
    sites = [site | {"policy": str(open_policy(tmp_path / "policy"))} for site in sites]
    listing.write_text(json.dumps(sites))
    monkeypatch.setenv("SST_SITES", str(listing))
    approve(tmp_path / "one", FULL, begins={"T": ONE})
    send(add_one, tmp_path, config={"partition-id": 1, "num-partitions": 2})
    assert (tmp_path / "one" / "gate" / "ledger.jsonl").is_file()
    assert send(add_one, tmp_path, config={"partition-id": 7}).error == "config"


def test_app_imports_nothing_heavy():
    """Each message starts a process: what is heavy is imported where it is used."""
    import subprocess

    script = (
        "import sys, client.app; print([m for m in ('torch', 'monai', 'SimpleITK', 'nibabel') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_site_that_comes_too_late_says_so_in_its_log(tmp_path):
    """It prepares nothing, and what leaves is an empty reply."""
    late = PhaseRequest("run", "join", 1, "one", FULL.to_json(), {}, {"atlas": ATLAS, "late": True})
    assert send(client.app.answer, tmp_path, late) == SiteReply("one", "join", 1, 0)
    state, gate = tmp_path / "state", tmp_path / "state" / "gate"
    told = [json.loads(line) for line in (gate / "log.jsonl").read_text().splitlines()]
    assert [(line["event"].split(":")[0], line["level"]) for line in told] == [
        ("request started", "info"),
        ("too late for this run", "warning"),
        ("request finished", "info"),
    ]
    assert "wait for the next" in told[1]["event"] and told[1]["run"] == "run"
    assert not (state / "prepared").exists() and not (gate / "site.log").exists()
