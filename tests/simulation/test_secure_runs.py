"""Federations whose replies are masked: the hub gets the mean of all sites, and no single one."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

import client.gate.gate as gate
from approving import open_policy
from client.app import CODES
from client.gate import sums
from client.gate.approval import Approval
from client.gate.ledger import verify
from client.site import Site
from configs.errors import FederationError, RefusalError
from configs.phases import averaging
from configs.schema import Experiment, load
from server.atlas import load_atlas, save_atlas
from server.state import RunState, Store
from simulation.engines import SiteFolder, run_federation
from simulation.scanner import SCANNERS
from simulation.sites import write_site
from sst_models.wire.exchange import PhaseRequest, SiteReply

PEOPLE = 3
NAMES = ("east", "north", "south", "up", "west")
AVERAGED = {part for phase in averaging() for part in phase.averaged}


def experiment(*changes: str) -> Experiment:
    """The preset tiny with secure sums; one round of each phase in which sites train together."""
    rounds = (f"phases.{phase.name}.rounds=1" for phase in averaging())
    return load("tiny", ("federation.aggregation=secure", "federation.foreign_negatives=0", *rounds, *changes))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Five sites as BIDS folders of NIfTI."""
    folder, scanners = tmp_path_factory.mktemp("data"), list(SCANNERS.values())
    return {
        name: write_site(folder / name, scanners[number % 2], PEOPLE + number % 2, number, 5.0)
        for number, name in enumerate(NAMES)
    }


@dataclass
class Watched:
    """What sites answered in the clear, before it was masked, and what the hub made of it."""

    replies: dict[tuple[str, int], dict[str, SiteReply]] = field(default_factory=dict)
    requests: dict[tuple[str, int], PhaseRequest] = field(default_factory=dict)
    states: list[tuple[str, int, RunState]] = field(default_factory=list)  # after each phase and round
    lost: Callable[[str, str], bool] = lambda site, phase: False


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """Look at each reply at its site, and lose those that `lost` says; look at each state of the hub."""
    seen, hide, save = Watched(), sums.hide, Store.save

    def look(reply: SiteReply, request: PhaseRequest, site: Site, approval: Approval) -> SiteReply:
        seen.replies.setdefault((request.phase, request.round), {})[site.name] = reply
        seen.requests[request.phase, request.round] = request
        return hide(reply, request, site, approval)

    def keep(own: Store, state: RunState) -> None:
        if state.done:
            seen.states.append((*own.experiment.schedule[state.done - 1], state))
        save(own, state)

    answered = gate._answered

    def lose(request: PhaseRequest, site: Site, *more: object) -> SiteReply:
        if seen.lost(site.name, request.phase):
            raise OSError("lost")
        return answered(request, site, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(sums, "hide", look)
    monkeypatch.setattr(gate, "_answered", lose)
    monkeypatch.setattr(Store, "save", keep)
    yield seen


def federate(data: Mapping[str, Path], root: Path, names: tuple[str, ...], preset: Experiment) -> Path:
    """Run a federation of some sites to its end; give the hub's folder."""
    sites = [
        SiteFolder(name, (data[name],), root / name, open_policy(root / f"{name}-policy"), device="cpu", bias=False)
        for name in names
    ]
    hub = root / "hub"
    if not hub.exists():
        hub.mkdir(parents=True)
        scan = next(iter(sorted(data["east"].glob("sub-*/anat/*.nii.gz"))))
        labels = next(iter(sorted(data["east"].glob("derivatives/*/sub-*/anat/*.nii.gz"))))
        save_atlas(load_atlas(scan, labels, preset.grid.shape, preset.grid.spacing), hub)
        (hub / "experiment.json").write_text(preset.to_json(), encoding="utf-8")
        (hub / "plan.json").write_text('{"run": "tiny", "device": "cpu"}', encoding="utf-8")
    run_federation("inprocess", hub, sites, root / "work")
    return hub


def check_means(watched: Watched, lost: tuple[str, ...] = ()) -> int:
    """Compare each part that was averaged with the plain mean of what its sites answered; give how many there were."""
    compared = 0
    for name, number, state in watched.states[:-1]:  # the last one is kept again at the end of the run
        replies = watched.replies.get((name, number), {})
        kept = {site: reply for site, reply in replies.items() if site not in lost}
        for phase in averaging():
            for part in phase.averaged if phase.name == name else ():
                whole = sum(reply.count for reply in kept.values())
                for array in state.parts[part]:
                    plain = sum(r.count / whole * r.arrays[part][array].astype(float) for r in kept.values())
                    np.testing.assert_allclose(state.parts[part][array], plain, atol=1e-6, rtol=0)
                compared += 1
    return compared


def test_the_mean_is_the_plain_mean_in_every_phase_and_nothing_else_leaves(
    data: dict[str, Path], tmp_path: Path, watched: Watched
) -> None:
    """To a millionth; moments and curves stay, too. No site's weights are in a file of the hub's."""
    hub = federate(data, tmp_path, NAMES[:3], experiment("federation.payload=full"))
    assert check_means(watched) == sum(len(phase.averaged) for phase in averaging())
    files = {path: path.read_bytes() for path in hub.rglob("*") if path.is_file()}
    for replies in watched.replies.values():
        for site, reply in replies.items():
            for part in set(reply.arrays) & AVERAGED:
                planted = max(reply.arrays[part].values(), key=lambda array: array.size).ravel()[:8]
                for kind in (np.float32, np.float16):
                    assert not [path for path, content in files.items() if planted.astype(kind).tobytes() in content]
            ledger = tmp_path / site / "gate" / "ledger.jsonl"
            verify(ledger)
            entries = [json.loads(line) for line in ledger.read_text().splitlines()]
            left = {part for entry in entries for part in entry["parts"]}
            assert left == {"masked", "sums"} and not any(e["series"] for e in entries if e["phase"] != "adapt")


@pytest.mark.parametrize("stage", ["register", "unmask", "keys"])
def test_a_run_of_five_goes_on_without_one(data: dict[str, Path], tmp_path: Path, watched: Watched, stage: str) -> None:
    """Lost before it could send its keys, before its masked reply, or when the masks are taken off."""
    watched.lost = lambda site, phase: site == "west" and phase == stage
    changes = ("federation.quorum=0.8", "phases.style.rounds=0", "phases.joint.rounds=0", "phases.flow_codes.rounds=0")
    federate(data, tmp_path, NAMES, experiment(*changes, "phases.statistics.rounds=1", "federation.payload=full"))
    assert check_means(watched, () if stage == "unmask" else ("west",)) == 1


def test_too_few_end_the_run_and_nothing_is_seen(data: dict[str, Path], tmp_path: Path, watched: Watched) -> None:
    """Of three, two are lost: one site's weights would be the sum."""
    watched.lost = lambda site, phase: site != "east" and phase == "register"
    with pytest.raises(FederationError):
        federate(data, tmp_path, NAMES[:3], experiment("federation.quorum=0.3"))
    assert not watched.states


def test_a_hub_that_was_stopped_before_the_masks_were_off_goes_on(
    data: dict[str, Path], tmp_path: Path, watched: Watched
) -> None:
    """It asks the same sites again, who answer with the same bytes, and the sum comes out."""
    changes = ("phases.style.rounds=0", "phases.joint.rounds=0", "phases.flow_codes.rounds=0")
    preset = experiment(*changes, "phases.statistics.rounds=1", "federation.payload=full")
    watched.lost = lambda site, phase: phase == "unmask"
    with pytest.raises(FederationError):
        federate(data, tmp_path, NAMES[:3], preset)
    assert (tmp_path / "hub" / "sums" / "register 1.json").exists() and not watched.states
    watched.lost = lambda site, phase: False
    federate(data, tmp_path, NAMES[:3], preset)
    assert check_means(watched) == 1


def test_a_key_that_it_did_not_approve_is_refused(data: dict[str, Path], tmp_path: Path, watched: Watched) -> None:
    """A hub that plays another site, or swaps its key, gets no keys, and so no masked weights."""
    hub, preset = tmp_path / "hub", experiment()
    watched.lost = lambda site, phase: phase == "keys"
    with pytest.raises(FederationError):
        federate(data, tmp_path, NAMES[:3], preset)
    north = tmp_path / "east" / "gate" / sums.PEERS / "north.pub"
    swapped = (hub / "sites" / "south.pub").read_bytes()
    watched.lost = lambda site, phase: False
    introduce = sums.peers

    def forged(own: Path) -> dict[str, str]:
        return {**introduce(own), "north": swapped.decode()} if "east" in str(own) else introduce(own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sums, "peers", forged)
        with pytest.raises(FederationError):
            federate(data, tmp_path, NAMES[:3], preset)
    refused = (tmp_path / "east" / "gate" / "refused.jsonl").read_text()
    assert "names the site 'north' with the key SHA256:" in refused and "sst site peer" in refused
    assert north.exists() and CODES[RefusalError] == "refused" and not watched.states
