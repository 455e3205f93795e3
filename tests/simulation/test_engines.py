"""The engines: the same apps, the same results."""

import errno
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from flwr.clientapp import ClientApp
from flwr.supercore.object_ref import validate
from safetensors.numpy import load_file

import client.app
import server.app
from approving import ATLAS, approve, open_policy, toy
from client.gate.ledger import verify
from client.gate.policy import Policy
from client.model import open_model
from client.site import Site
from configs.errors import ConfigError, FederationError, RunError
from configs.phases import PARTS, PHASES, VALUES, phase_of
from configs.processes import Processes
from configs.schema import from_dict
from configs.structures import PAPER
from server import bounds
from server.atlas import load_atlas, save_atlas
from server.state import RunState, Store
from simulation.engines import SiteFolder, failure, run_federation
from simulation.engines.inprocess import InProcessGrid, identity, node_config
from simulation.engines.superlink import free_port
from sst_models.networks.build import build
from sst_models.phases.generate import Recipe
from sst_models.wire import weights
from sst_models.wire.exchange import PhaseRequest, SiteReply

RAY = pytest.param("ray", marks=pytest.mark.skipif(" " in sys.executable, reason="Ray needs a path without a space"))

EXPERIMENT = toy()
FIRST = weights.parameters(build("T", EXPERIMENT))
EXPECTED = np.concatenate([2.5 * 7 / 8 + FIRST[name].ravel() / 8 for name in sorted(FIRST)])


def half_way(request, site):
    """A toy phase: all weights of T move half of the way to the number of scans of the site."""
    scans = np.float32(len(list(site.data[0].iterdir())))
    arrays = {name: array + np.float32(0.5) * (scans - array) for name, array in request.arrays["T"].items()}
    return SiteReply(site.name, request.phase, request.round, int(scans), {"T": arrays})


def three_rounds(hub, federation):
    """A toy hub: three rounds of a weighted mean, from the first weights of T."""
    now = FIRST
    for number in (1, 2, 3):
        words = ("run", "register", number)
        asked = [
            PhaseRequest(*words, site, EXPERIMENT.to_json(), {"T": now}, {"atlas": ATLAS})
            for site in federation.sites()
        ]
        total, count = dict.fromkeys(now, 0.0), 0
        for reply in federation.ask(asked):
            assert not reply.error, reply.error
            count += reply.count
            total = {name: value + reply.count * reply.arrays["T"][name].astype(float) for name, value in total.items()}
        now = {name: (value / count).astype(np.float32) for name, value in total.items()}
    whole = np.concatenate([now[name].ravel() for name in sorted(now)])
    (hub / "weights.json").write_text(json.dumps(whole.tolist()))


@pytest.fixture
def sites(tmp_path):
    """Two sites of 1 and 3 scans."""
    made = []
    for name, scans in (("one", 1), ("two", 3)):
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        for number in range(scans):
            (data / f"{number}.nii.gz").touch()
        state = tmp_path / name / "state"
        approve(state, EXPERIMENT)
        made.append(SiteFolder(name, (data,), state, open_policy(tmp_path / name)))
    return made


@pytest.fixture
def hub(tmp_path):
    """A hub's folder with an experiment."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "experiment.json").write_text(EXPERIMENT.to_json())
    return folder


def serve(hub, sites, run, monkeypatch, expected=2):
    """Play the hub's half with a toy run over an in-process grid."""
    for name, value in (("SST_HUB", str(hub)), ("SST_SITES_EXPECTED", str(expected)), ("SST_SITES_WAIT", "0")):
        monkeypatch.setenv(name, value)
    app = client.app.register(ClientApp(), half_way)
    with identity():
        server.app.serve(InProcessGrid(app, {site.name: node_config(site) for site in sites}), run)


def test_toy_federation_has_its_closed_form(hub, sites, monkeypatch):
    """Half way to the mean of 1, 3, 3, 3, three times from w, is 2.5 * 7 / 8 + w / 8."""
    serve(hub, sites, three_rounds, monkeypatch)
    np.testing.assert_allclose(json.loads((hub / "weights.json").read_text()), EXPECTED, rtol=1e-6)
    assert not (hub / server.app.FAILED).exists()


def test_order_of_the_sites_changes_nothing(hub, sites, monkeypatch):
    """The sites are folded in the order of their names: the same bytes whatever the order of the nodes."""
    serve(hub, sites, three_rounds, monkeypatch)
    first = (hub / "weights.json").read_bytes()
    serve(hub, sites[::-1], three_rounds, monkeypatch)
    assert (hub / "weights.json").read_bytes() == first


def test_failed_run_leaves_its_reason(hub, sites, monkeypatch):
    """An error that a user can mend is one line in the hub's folder, for whoever started the run."""

    def fail(hub, federation):
        raise FederationError("no quorum in round 2 of joint: look into the sites' logs")

    with pytest.raises(FederationError):
        serve(hub, sites, fail, monkeypatch)
    assert json.loads((hub / server.app.FAILED).read_text())["code"] == "FederationError"
    assert str(failure(hub, "")) == "no quorum in round 2 of joint: look into the sites' logs"


def test_a_full_disk_ends_the_run_with_a_line(hub, sites, monkeypatch):
    """Which disk, and what to do; what the last round left is there."""

    def fill(hub, federation):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="make room, then sst hub resume"):
        serve(hub, sites, fill, monkeypatch)
    assert "disk" in json.loads((hub / server.app.FAILED).read_text())["message"]


def test_a_full_disk_leaves_the_last_state_whole(tmp_path, monkeypatch):
    """A round that cannot be saved is as if it had not been; then the run goes on from the one before."""
    store = Store(tmp_path, EXPERIMENT)
    state = RunState(1, {"T": {"w": np.ones(3, np.float32)}})
    store.save(state)

    def fill(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in ("server.state.weights.save", "server.state.write_json"):
        with monkeypatch.context() as full, pytest.raises(OSError, match="No space"):
            full.setattr(place, fill)
            store.save(state.with_parts({"T": {"w": np.zeros(3, np.float32)}}))
        kept = store.resume()
        assert kept.done == 1
        np.testing.assert_array_equal(kept.parts["T"]["w"], 1)


def test_one_run_at_a_time_works_in_a_hubs_folder(hub, sites, monkeypatch):
    """Whoever submits a second one gets a no, and the first goes on undisturbed."""

    def submit_again(hub, federation):
        with pytest.raises(RunError, match="another run works"):
            serve(hub, sites, three_rounds, monkeypatch)
        assert not (hub / server.app.FAILED).exists()
        three_rounds(hub, federation)

    serve(hub, sites, submit_again, monkeypatch)
    np.testing.assert_allclose(json.loads((hub / "weights.json").read_text()), EXPECTED, rtol=1e-6)


def test_missing_sites_and_bad_experiments_are_told(hub, sites, monkeypatch):
    """Too few sites, or a hub's folder without an experiment, end before any work."""
    with pytest.raises(FederationError, match="2 of 5 sites"):
        serve(hub, sites, three_rounds, monkeypatch, expected=5)
    (hub / "experiment.json").write_text('{"name": "toy", "sed": 1}')
    with pytest.raises(ConfigError, match="seed"):
        serve(hub, sites, three_rounds, monkeypatch)


def test_unknown_engine_and_twin_names_are_refused(hub, sites, tmp_path):
    """Bad arguments end with one line before anything starts."""
    with pytest.raises(ConfigError, match="inprocess, ray, superlink"):
        run_federation("grpc", hub, sites, tmp_path / "work")
    with pytest.raises(ConfigError, match="same name"):
        run_federation("inprocess", hub, [sites[0], sites[0]], tmp_path / "work")


def hold_another_run(hub, root):
    """Complete a hub's folder, and put the state of a run with other settings into it."""
    write_brains(root / "atlas", 0, people=1)
    save_atlas(atlas_of(root / "atlas", EXPERIMENT), hub)
    (hub / "plan.json").write_text('{"run": "run"}')
    Store(hub / "state", toy(seed=2)).save(RunState())


@pytest.mark.parametrize("engine", ["inprocess"])
def test_failure_of_the_hub_reaches_the_caller(engine, hub, sites, tmp_path):
    """The real apps on a folder with the state of another preset: the hub's own line comes out."""
    hold_another_run(hub, tmp_path)
    before = dict(os.environ)
    with pytest.raises(FederationError, match="a run with other settings"):
        run_federation(engine, hub, sites, tmp_path / "work")
    assert dict(os.environ) == before


def test_a_preset_that_cannot_be_read_ends_before_anything_starts(hub, sites, tmp_path):
    """The line names the key."""
    hold_another_run(hub, tmp_path)
    (hub / "experiment.json").write_text('{"name": "toy", "sed": 1}')
    with pytest.raises(ConfigError, match="did you mean 'seed'"):
        run_federation("inprocess", hub, sites, tmp_path / "work")


TINY = from_dict(
    {
        "name": "tiny",
        "grid": {"shape": [32, 32, 32], "spacing": 6.0},
        "registration": {"widths": [4, 4]},
        "style": {"widths": [4, 4], "code": 8, "queue": 4},
        "appearance": {"width": 4, "quantile_loss": 1.0},
        "flow_codes": {"widths": [4, 4], "latent": 2},
        "segmenter": {"widths": [4, 4, 4]},
        "phases": {
            "register": {"rounds": 2, "steps": 2},
            "style": {"rounds": 1, "steps": 2, "batch": 2},
            "joint": {"rounds": 1, "steps": 2, "batch": 1},
            "flow_codes": {"rounds": 1, "steps": 2, "batch": 1},
            "segment": {"steps": 2},
            "adapt": {"rounds": 1, "steps": 2},
        },
        "generation": {"pairs": 2},
    },
    "tiny",
)

LEARNING = ("join", "register", "register", "style", "joint", "flow_codes")


def write_brains(folder, seed, people=6):
    """A BIDS folder of ellipsoids of 24 voxels of 6 mm with five structures, no two alike."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij")
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    for number in range(1, people + 1):
        radius = sum((axis / size) ** 2 for axis, size in zip(axes, rng.uniform(0.6, 0.9, 3), strict=True))
        left = axes[0] < rng.uniform(-0.1, 0.1)
        ids = np.where(radius > 1, 0, np.where(radius > 0.5, np.where(left, 3, 42), np.where(left, 2, 41)))
        ids[radius < 0.1] = 14
        image = (ids > 0) * (60 + 9 * np.sin(ids) * 5 + 4 * rng.standard_normal(ids.shape)).clip(1)
        for place, name, values in (
            ("", "T1w", image.astype(np.float32)),
            ("derivatives/reference", "dseg", ids.astype(np.uint8)),
        ):
            path = folder / place / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, affine), path)
    (folder / "dataset_description.json").write_text('{"Name": "ellipsoids", "BIDSVersion": "1.9.0"}')


def atlas_of(folder, experiment):
    """The first person of a folder of brains as a preset's atlas."""
    name, grid = "sub-01/anat/sub-01", experiment.grid
    image, labels = folder / f"{name}_T1w.nii.gz", folder / "derivatives/reference" / f"{name}_dseg.nii.gz"
    return load_atlas(image, labels, grid.shape, grid.spacing)


def tiny_run(root, engine, policies=(None, None)):
    """Run all phases over two tiny sites on one engine; give the hub's folder and the sites."""
    named = zip(("left", "right"), policies, strict=True)
    sites = [SiteFolder(name, (root / name,), root / engine / name, policy, device="cpu") for name, policy in named]
    for seed, site in enumerate(sites):
        if not site.data[0].exists():
            write_brains(site.data[0], seed)
    hub = root / engine / "hub"
    hub.mkdir(parents=True)
    save_atlas(atlas_of(root / "left", TINY), hub)
    (hub / "experiment.json").write_text(TINY.to_json())
    (hub / "plan.json").write_text('{"run": "tiny", "device": "cpu"}')
    run_federation(engine, hub, sites, root / engine / "work")
    return hub, sites


def learnt(hub):
    """All weights that a run left at the hub, by file and name."""
    library = json.loads((hub / "state" / "state.json").read_text())["library"]
    own = {name: part for part, name in library["parts"].items()}
    files = {own.get(path.stem, str(path.relative_to(hub))): path for path in hub.rglob("*.safetensors")}
    return {f"{where}/{name}": array for where, path in files.items() for name, array in load_file(path).items()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The tiny federation on the embedded engine."""
    root = tmp_path_factory.mktemp("tiny")
    return root, *tiny_run(root, "inprocess")


def test_tiny_federation_runs_all_phases(reference):
    """Every phase asks every site, each site has a whole ledger, and each gets its segmenter."""
    _, hub, sites = reference
    for site in sites:
        assert verify(site.state / "gate" / "ledger.jsonl") == 10
        entries = [json.loads(line) for line in (site.state / "gate" / "ledger.jsonl").read_text().splitlines()]
        told = [entry["phase"] for entry in entries]
        assert told == [*LEARNING, "adapt", "evaluate", "evaluate", "deliver"]
        parts = {part for entry in entries for part in entry["parts"]}
        assert parts == {"T", "E", "D_style", "A", "F", "encoder", "decoder", "D_flow", "segmenter", "moments"}
        assert not (site.state / "gate" / "site.log").exists()
        model = open_model(site.state / "runs" / "tiny" / "model")
        assert model.card["site"] == site.name and model.card["sites"] == ["left", "right"]
        assert model.card["figures"]["left"]["scans"] == 1
        assert model.expected.people == 4 and not model.of_nobody
        pair = model.generator(torch.device("cpu")).pair(Recipe(1, 1, 1, site.name))
        assert pair.image.shape == (1, *TINY.grid.shape)


def test_what_a_policy_withholds_is_learnt_and_delivered_all_the_same(tmp_path):
    """A site that keeps A and its segmenter: neither reaches the hub, both are in its model, and the run ends."""
    kept = open_policy(tmp_path / "left-policy", 'level = "networks"')
    hub, (left, right) = tiny_run(tmp_path, "inprocess", (kept, None))
    library = json.loads((hub / "state" / "state.json").read_text())["library"]
    assert {"A.right", "segmenter.left", "segmenter.right"} <= set(library["parts"])
    assert "A.left" not in library["parts"]
    assert (len(library["trained"]["left"]), len(library["trained"]["right"])) == (1, 2)  # the hub's; and the adapted
    own = left.state / "runs" / "tiny" / "own"
    model = open_model(left.state / "runs" / "tiny" / "model")
    device = torch.device("cpu")
    for part, phase in (("segmenter", "adapt"), ("A", "joint")):
        there = load_file(own / f"{part}-{phase}-1.safetensors")
        net = model.segmenter(device) if part == "segmenter" else model.generator(device).appearance
        assert all(np.array_equal(value.detach().numpy(), there[name]) for name, value in net.named_parameters())
    entries = [json.loads(line) for line in (left.state / "gate" / "ledger.jsonl").read_text().splitlines()]
    assert not {"A", "segmenter"} & {part for entry in entries for part in entry["parts"]}
    assert not (right.state / "gate" / "refused.jsonl").exists()


def test_the_text_that_it_approves_names_all_that_left(reference):
    """Parts, curves, figures, values and counts of every real reply are in its phase's sentence; all phases occur."""
    _, hub, sites = reference
    greeting = PhaseRequest(run="", phase="hello", round=0, site="", experiment="")
    hello = client.app._hello(greeting, Site("left", (), sites[0].state, Policy()))
    empty = {"parts": [], "metrics": [], "series": []}
    found = {"hello": {**empty, "settings": list(hello.settings), "count": hello.count}}
    for line in (line for site in sites for line in (site.state / "gate" / "ledger.jsonl").read_text().splitlines()):
        entry = json.loads(line)
        here = found.setdefault(entry["phase"], entry)
        for kind in ("parts", "metrics", "series", "settings"):
            here[kind] = sorted({*here[kind], *entry[kind]})
        here["count"] = max(here["count"], entry["count"])
    asked = {phase.name for phase in PHASES if phase.message}
    others = {
        phase.name for phase in PHASES if phase.statistics or phase.sums
    }  # test_statistics.py, test_secure_runs.py
    assert set(found) == asked - others
    for name, left in found.items():
        phase, said = phase_of(name), phase_of(name).consent
        words = [PARTS.get(part, "style codes") for part in left["parts"]] + [
            VALUES[value] for value in left["settings"]
        ]
        figures = {*left["metrics"], *left["series"]}
        words += [f"{len(PAPER.groups)} structure groups" if word in PAPER.groups else word for word in figures]
        words += [phase.count] if left["count"] else []
        assert all(word and word in said for word in words), (name, words, said)
        declared = {*phase.learns, *phase.losses, *phase.values}
        seen = {*left["parts"], *left["series"], *left["settings"]} - {"moments"}
        assert seen == declared, name


def test_a_run_can_be_watched(reference):
    """Hub and sites log each reply for programs, the hub without anything of a scan, and there are curves."""
    _, hub, sites = reference
    text = (hub / "logs" / "hub.jsonl").read_text()
    assert "sub-" not in text and not any(str(site.data[0]) in text or str(site.state) in text for site in sites)
    told = [json.loads(line) for line in text.splitlines()]
    rounds = [(line["phase"], line["round"]) for line in told if line["event"] == "round.finished"]
    assert rounds[:4] == [("join", 1), ("register", 1), ("register", 2), ("style", 1)]
    assert told[-1]["event"] == "run.finished" and {line["level"] for line in told} == {"info"}
    for site in sites:
        own = [json.loads(line) for line in (site.state / "gate" / "log.jsonl").read_text().splitlines()]
        assert [line["event"] for line in own] == 10 * ["request started", "request finished"]
        seen = [line for line in told if line["event"] == "reply" and line["site"] == site.name]
        assert [line["up"] for line in seen] == [line["up"] for line in own if "up" in line]
    runs = {path.parent.relative_to(hub / "tensorboard").as_posix() for path in hub.rglob("*tfevents*")}
    assert runs == {"hub", "sites/left", "sites/right"}


def test_honest_sites_meet_no_bound(reference, tmp_path, monkeypatch):
    """The bounds that hold a liar change no bit of what honest sites learn together."""
    _, hub, _ = reference
    assert "clipped" not in (hub / "events.jsonl").read_text()
    monkeypatch.setattr(bounds, "CAP", 10**9)
    monkeypatch.setattr(bounds, "CLIP", 1e9)
    monkeypatch.setattr(bounds, "ROOM", 1e9)
    free, _ = tiny_run(tmp_path, "inprocess")
    one, other = learnt(hub), learnt(free)
    assert set(one) == set(other) and all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("engine", [RAY, "superlink"])
def test_engines_agree(reference, engine):
    """The same apps and sites give the same weights on every engine."""
    root, expected, _ = reference
    hub, sites = tiny_run(root, engine)
    one, other = learnt(expected), learnt(hub)
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_allclose(other[name], array, rtol=1e-4, atol=1e-5, err_msg=name)
    assert all(verify(site.state / "gate" / "ledger.jsonl") >= 9 for site in sites)


@pytest.mark.parametrize("engine", [RAY, "superlink"])
def test_failure_of_the_hub_reaches_the_caller_from_other_processes(engine, hub, sites, tmp_path):
    """The hub's own line comes out, and no process is left."""
    hold_another_run(hub, tmp_path)
    with pytest.raises(FederationError, match="a run with other settings"):
        run_federation(engine, hub, sites, tmp_path / "work")
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in running


def test_apps_are_the_ones_that_flower_finds():
    """Flower's own check of the references in pyproject.toml passes."""
    root = Path(__file__).resolve().parents[2]
    for reference in ("server.app:app", "client.app:app"):
        assert validate(reference, check_module=True, project_dir=root) == (True, None)


def test_ray_is_refused_where_its_workers_could_not_start(hub, sites, tmp_path, monkeypatch):
    """Ray takes a path with a space apart, and waits without end; one line says so, before anything is started."""
    monkeypatch.setattr(sys, "executable", "/opt/my programs/bin/python")
    with pytest.raises(ConfigError, match="has a space; move the project to a folder without one"):
        run_federation("ray", hub, sites, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_every_process_ends_with_the_block(tmp_path):
    """Whatever ends the block, Ctrl-C too, ends the processes and the processes of these."""
    tool = tmp_path / "bin" / "sleepers"
    tool.parent.mkdir()
    script = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    tool.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{script}"\n')
    tool.chmod(0o755)
    processes = Processes(dict(os.environ), tmp_path / "logs", tmp_path / "empty")
    with pytest.raises(KeyboardInterrupt), processes:
        one = processes.start("sleeper", [str(tool)])
        end = time.monotonic() + 20
        while not (child := (tmp_path / "logs" / "sleeper.log").read_text().strip()) and time.monotonic() < end:
            time.sleep(0.05)
        raise KeyboardInterrupt
    assert one.poll() is not None
    state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True, check=False).stdout
    assert state.strip() in ("", "Z", "Zs")


def test_free_ports_can_be_used():
    """A port is a number above the reserved ones."""
    assert 1024 < free_port() < 65536
