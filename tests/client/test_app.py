"""The wrapper around everything that a site answers."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

import client.app
from client import ledger
from configs.errors import DataError
from server.messages import TYPES, decode_reply, encode_request
from simulation.engines.inprocess import identity
from sst_models.exchange import PhaseRequest, SiteReply

EXPERIMENT = json.dumps({"grid": {"shape": [16, 16, 16]}, "style": {"code": 8}})
REQUEST = PhaseRequest("run", "register", 1, "one", EXPERIMENT, {"T": {"w": np.ones(3, np.float32)}})


def add_one(request, site):
    """A toy phase: the site's weights are the hub's plus one."""
    return SiteReply(site.name, request.phase, request.round, 3, {"T": {"w": request.arrays["T"]["w"] + 1}})


def send(answer, folder, request=REQUEST, content=None, config=None):
    """Put one message through a ClientApp as Flower would, and read its reply."""
    config = config or {"site-name": "one", "data-path": str(folder), "state-dir": str(folder / "state")}
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
    assert ledger.verify(tmp_path / "state" / "ledger.jsonl") == 1


def test_repeated_request_is_not_computed_again(tmp_path):
    """The second time the same request is answered from disk, and the ledger has both releases."""
    calls = []

    def count(request, site):
        calls.append(request.round)
        return add_one(request, site)

    first, second = send(count, tmp_path), send(count, tmp_path)
    assert len(calls) == 1
    np.testing.assert_array_equal(first.arrays["T"]["w"], second.arrays["T"]["w"])
    assert ledger.verify(tmp_path / "state" / "ledger.jsonl") == 2


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
    assert SECRET in (tmp_path / "state" / "site.log").read_text()
    assert not (tmp_path / "state" / "ledger.jsonl").exists()
    assert not (tmp_path / "state" / "replies").exists()


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
    config = {"site-name": "one", "data-path": str(tmp_path), "state-dir": str(blocked / "state")}
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


def test_policy_of_the_site_is_asked_before_the_work(tmp_path):
    """A phase that the policy leaves out is refused without being computed."""
    policy = tmp_path / "policy.toml"
    policy.write_text('phases = ["join"]')
    config = {"site-name": "one", "data-path": "x", "state-dir": str(tmp_path / "s"), "policy": str(policy)}
    assert send(raising(AssertionError("computed")), tmp_path, config=config).error == "release"


def test_hello_names_site_versions_and_code(tmp_path):
    """The hub learns who a node is and what code it runs."""
    reply = send(add_one, tmp_path, PhaseRequest("", "hello", 0, "", ""))
    assert reply.error == ""
    assert reply.settings["name"] == "one"
    assert reply.settings["code"] == client.app.code_digest(Path(client.app.__file__).parent.parent)
    assert {"flwr", "python", "torch"} <= set(reply.settings)


def test_simulated_node_finds_its_site_by_number(tmp_path, monkeypatch):
    """Flower's simulation gives a number; the list in SST_SITES says the rest."""
    listing = tmp_path / "sites.json"
    sites = [{"name": name, "data": [str(tmp_path)], "state": str(tmp_path / name)} for name in ("zero", "one")]
    listing.write_text(json.dumps(sites))
    monkeypatch.setenv("SST_SITES", str(listing))
    send(add_one, tmp_path, config={"partition-id": 1, "num-partitions": 2})
    assert (tmp_path / "one" / "ledger.jsonl").is_file()
    assert send(add_one, tmp_path, config={"partition-id": 7}).error == "config"


def test_app_imports_nothing_heavy():
    """Each message starts a process: what is heavy is imported where it is used."""
    import subprocess

    script = (
        "import sys, client.app; print([m for m in ('torch', 'monai', 'SimpleITK', 'nibabel') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
