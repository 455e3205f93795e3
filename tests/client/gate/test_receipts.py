"""Entries that the hub has seen, and has signed, cannot be cut off the ledger in silence."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.clientapp import ClientApp

import client.app
import sst
from approving import ATLAS, approve, open_policy, toy
from client.gate import ledger, receipts
from client.gate.approval import Approval
from client.gate.approve import write_approval
from client.gate.gate import REFUSED
from server import receipts as hub_receipts
from server.federation import GridFederation
from server.receipts import Receipts
from simulation.engines import SiteFolder
from simulation.engines.inprocess import InProcessGrid, identity, node_config
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.receipts import Receipt, signed_text

BEGIN = {"w": np.ones(3, np.float32)}


def same(request: PhaseRequest, site: object) -> SiteReply:
    """A toy phase that learns nothing."""
    return SiteReply(request.site, request.phase, request.round, 9, {"T": dict(request.arrays["T"])})


@pytest.fixture
def world(tmp_path: Path) -> SimpleNamespace:
    """A hub with a key, and a site that approved its kit."""
    experiment, state = toy(), tmp_path / "north" / "state"
    (tmp_path / "hub").mkdir()
    signer = hub_receipts.public(tmp_path / "hub")
    approve(state, experiment, begins={"T": BEGIN})
    first = state / "gate" / "approved" / "run.first" / "T.safetensors"
    kept = first.read_bytes()
    write_approval(Approval("run", experiment.to_json(), ATLAS, ATLAS, ATLAS, signer), state / "gate")
    first.write_bytes(kept)
    site = SiteFolder("north", (tmp_path,), state, open_policy(tmp_path / "policy"))
    grid = InProcessGrid(client.app.register(ClientApp(), same), {"north": node_config(site)})
    made = SimpleNamespace(hub=tmp_path / "hub", gate=state / "gate", signer=signer)

    def ask(number: int) -> str:
        federation = GridFederation(grid, 60, receipts=Receipts(made.hub))
        words = ("run", "register", number, "north", experiment.to_json())
        with identity():
            (reply,) = federation.ask([PhaseRequest(*words, {"T": BEGIN}, {"atlas": ATLAS})])
        return str(reply.error)

    made.ask = ask
    return made


def test_each_request_brings_a_receipt_for_the_last_entry(world: SimpleNamespace) -> None:
    """It is kept beside the ledger; a hub that was started again still knows."""
    assert [world.ask(number) for number in (1, 2, 3)] == ["", "", ""]
    hashes = [json.loads(line)["hash"] for line in (world.gate / ledger.NAME).read_text().splitlines()]
    assert [receipt.head for receipt in receipts.read(world.gate)] == hashes[:2]
    assert receipts.missing(world.gate) == []
    assert Receipts(world.hub).heads == {"north": hashes[2]}


@pytest.mark.parametrize("both", [False, True])
def test_entries_that_were_cut_off_are_missed(both: bool, world: SimpleNamespace) -> None:
    """Today's chain of the rest is whole, and that is what is wrong with it; also where the receipts were cut, too."""
    for number in (1, 2):
        world.ask(number)
    path = world.gate / ledger.NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]) if both else b"")
    if both:
        (world.gate / receipts.NAME).unlink()
    assert ledger.verify(path) == (1 if both else 0)
    world.ask(3)  # the hub comes again, with the receipt for what was cut off
    assert json.loads(lines[-1])["hash"] in receipts.missing(world.gate)
    home = world.gate.parent.parent / "home"
    shutil.copytree(world.gate, home / "gate")
    (home / "site.toml").write_text('name = "north"\naddress = "hub:8443"\ndata = ""\n')
    assert sst.run(["site", "ledger", str(home)]) == 2


def test_another_hubs_receipt_is_refused(world: SimpleNamespace, tmp_path: Path) -> None:
    """With another key, for another site, or with none: who is not the approved hub gets no answer."""
    assert world.ask(1) == ""
    key = world.hub / hub_receipts.KEY
    key.unlink()
    hub_receipts.make_key(world.hub)
    assert world.ask(2) == "refused"
    key.unlink()
    assert world.ask(2) == "refused"
    lines = (world.gate / REFUSED).read_text().splitlines()
    assert all("is not signed by the hub that was approved" in line for line in lines) and len(lines) == 2


def test_what_is_signed_names_the_site() -> None:
    """A receipt of one site is none of another's."""
    assert signed_text("north", "a" * 64) != signed_text("south", "a" * 64)


@pytest.mark.parametrize("head", ["", "A" * 64, "a" * 63, "../../etc/passwd", "[/boom]"])
def test_a_head_of_another_form_is_none(head: str, tmp_path: Path) -> None:
    """It reaches neither the hub's file nor the site's."""
    made = Receipts(tmp_path)
    made.take("north", head)
    assert made.heads == {} and not (tmp_path / hub_receipts.HEADS).exists()
    assert Receipt.of({"ledger": head, "receipt": "0" * 128}) == Receipt("", "")
