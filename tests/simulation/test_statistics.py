"""A federation of sites that train nothing: the hub draws its pairs from their statistics."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from approving import open_policy
from client.alignments import KeptAlignments
from client.gate.ledger import verify
from client.model import open_model
from configs.phases import STATISTICS, phase_of
from configs.schema import Experiment, load
from server.atlas import load_atlas, save_atlas
from server.state import RunState, Store
from simulation.engines import SiteFolder, run_federation
from simulation.scanner import SCANNERS
from simulation.sites import write_site
from sst_models.phases.generate import Recipe
from sst_models.propagation.align import Aligner
from sst_models.wire import payload

MODELS = 'level = "models"\n'
PEOPLE = 7  # at each site: one to validate on, one to test on, five to measure
EXPERIMENT = load(
    "tiny",
    (
        *(f"phases.{phase}.rounds=0" for phase in ("register", "style", "joint", "flow_codes")),
        "phases.statistics.rounds=1",
        "phases.adapt.rounds=1",
    ),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sites as BIDS folders of NIfTI."""
    folder = tmp_path_factory.mktemp("data")
    return {name: write_site(folder / name, scanner, PEOPLE, 1, 5.0) for name, scanner in SCANNERS.items()}


def federate(
    data: dict[str, Path], root: Path, policies: dict[str, str], experiment: Experiment = EXPERIMENT
) -> tuple[RunState, dict[str, SiteFolder]]:
    """Run a federation to its end; give the hub's last state and the sites, whose policies have another line."""
    sites = {}
    for name, folder in data.items():
        policy = open_policy(root / f"{name}-policy", policies.get(name, ""))
        sites[name] = SiteFolder(name, (folder,), root / name, policy, device="cpu", bias=False)
    hub = root / "hub"
    hub.mkdir(parents=True)
    scan = next(iter(sorted(data["candi"].glob("sub-*/anat/*.nii.gz"))))
    labels = next(iter(sorted(data["candi"].glob("derivatives/*/sub-*/anat/*.nii.gz"))))
    save_atlas(load_atlas(scan, labels, experiment.grid.shape, experiment.grid.spacing), hub)
    (hub / "experiment.json").write_text(experiment.to_json(), encoding="utf-8")
    (hub / "plan.json").write_text('{"run": "tiny", "device": "cpu"}', encoding="utf-8")
    run_federation("inprocess", hub, list(sites.values()), root / "work")
    state = Store(hub / "state", experiment).resume()
    assert state is not None
    return state, sites


def left(site: SiteFolder) -> list[tuple[str, list[str]]]:
    """What left a site, by its own ledger: phase and parts of each reply."""
    ledger = site.state / "gate" / "ledger.jsonl"
    verify(ledger)
    entries = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
    return [(entry["phase"], sorted(entry["parts"])) for entry in entries]


def test_moments_leave_and_nothing_else_and_each_site_gets_a_model(data: dict[str, Path], tmp_path: Path) -> None:
    """Not a weight leaves; the segmenter that is adapted at its site stays there, and segments by itself."""
    state, sites = federate(data, tmp_path, {name: "" for name in data})
    assert set(state.parts) == {*(f"statistics.{name}" for name in data), *(f"segmenter.{name}" for name in data)}
    assert (
        STATISTICS in phase_of("statistics").consent and "number of people who train" in phase_of("statistics").consent
    )
    for site in sites.values():
        parts = dict(left(site))
        assert parts.pop("statistics") == ["statistics"]
        assert not any(parts.values())
        model = open_model(site.state / "runs" / "tiny" / "model")
        assert model.card["site"] == site.name
        assert model.of_nobody and model.expected.people == 5
        assert model.generator(torch.device("cpu")).pair(Recipe(1, 1, 1, site.name)).labels.unique().numel() > 10


def test_a_site_may_keep_its_statistics(data: dict[str, Path], tmp_path: Path) -> None:
    """Its policy leaves the phase out: no part leaves, and it gets the common segmenter, in the others' looks."""
    phases = 'phases = ["join", "deliver"]\n'
    state, sites = federate(data, tmp_path, {"oasis": phases})
    assert "statistics.candi" in state.parts and "statistics.oasis" not in state.parts
    assert {"segmenter.candi", "segmenter"} <= set(state.parts) and "segmenter.oasis" not in state.trained
    assert [parts for _, parts in left(sites["oasis"])] == [[]] * len(left(sites["oasis"]))
    assert open_model(sites["oasis"].state / "runs" / "tiny" / "model").card["site"] == "oasis"


def test_few_scans_have_no_statistics(data: dict[str, Path], tmp_path: Path) -> None:
    """Moments of so few people would say much of each; where nobody may release any, pairs are drawn at random."""
    few = "min_cases = 6\n"
    state, sites = federate(data, tmp_path, {name: few for name in data})
    assert set(state.parts) == {"segmenter"}  # one for both: the hub knows no more of one than of the other
    for name, site in sites.items():
        assert not any(parts for _, parts in left(site))
        assert open_model(site.state / "runs" / "tiny" / "model").card["site"] == name


def test_each_scan_is_aligned_once(data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`adapt` takes what `statistics` found, to the same bytes as without it; afterwards nothing of it is left."""
    aligned: list[Tensor] = []
    find = Aligner.flows
    monkeypatch.setattr(Aligner, "flows", lambda own, scan: (aligned.append(scan), find(own, scan))[1])
    kept, _ = federate(data, tmp_path / "kept", dict.fromkeys(data, MODELS))
    assert len(aligned) == len(data) * (PEOPLE - 2)
    assert not list((tmp_path / "kept").rglob("aligned"))
    monkeypatch.setattr(KeptAlignments, "load", lambda *_: None)
    anew, _ = federate(data, tmp_path / "anew", dict.fromkeys(data, MODELS))
    assert len(aligned) > 2 * len(data) * (PEOPLE - 2)
    for part in (f"segmenter.{name}" for name in data):
        assert payload.digest(kept.parts[part]) == payload.digest(anew.parts[part])


LEVELS = {"candi": "nothing", "oasis": "networks"}
TRAINED = {"T", "E", "D_style", "F", "encoder", "decoder", "D_flow"}


def test_sites_of_different_levels_take_part_in_one_run(data: dict[str, Path], tmp_path: Path) -> None:
    """One trains networks with the hub, the other takes the atlas and trains by itself; each gets its own model."""
    fuse = "segmenter.fuse_registration=true"
    experiment = load("tiny", ("phases.statistics.rounds=1", "phases.adapt.rounds=1", fuse))
    state, sites = federate(
        data, tmp_path, {name: f'level = "{level}"\n' for name, level in LEVELS.items()}, experiment
    )
    lone, open_one = dict(left(sites["candi"])), dict(left(sites["oasis"]))
    assert lone == {"join": [], "adapt": [], "deliver": []}
    ledger = (sites["candi"].state / "gate" / "ledger.jsonl").read_text(encoding="utf-8")
    assert not any(entry["metrics"] or entry["series"] for entry in map(json.loads, ledger.splitlines()))
    assert {part for parts in open_one.values() for part in parts} == TRAINED | {"statistics", "moments"}
    assert TRAINED | {"A", "moments.oasis", "statistics.oasis", "segmenter", "segmenter.oasis"} == set(state.parts)
    models = {name: open_model(site.state / "runs" / "tiny" / "model") for name, site in sites.items()}
    assert models["oasis"].card["registration"] == "trained"
    assert models["candi"].card["registration"] == "as it begins"
    own = {
        name: load_file(site.state / "runs" / "tiny" / "own" / "segmenter-adapt-1.safetensors")
        for name, site in sites.items()
    }
    for name, model in models.items():
        there = load_file(model.folder / "segmenter.safetensors")
        assert all(torch.equal(there[key], value) for key, value in own[name].items())
        hubs = state.of("segmenter", name)
        assert hubs is not None and not all(np.array_equal(there[key], value) for key, value in hubs.items())
    assert not (sites["candi"].state / "gate" / "refused.jsonl").exists()
