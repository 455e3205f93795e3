"""The engines: the same apps, the same results."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.clientapp import ClientApp
from flwr.supercore.object_ref import validate

import client.app
import server.app
from configs.errors import ConfigError, FederationError
from configs.schema import Experiment, Grid
from simulation.engines import SiteFolder, failure, run_federation
from simulation.engines.inprocess import InProcessGrid, identity, node_config
from simulation.engines.superlink import Processes, free_port
from sst_models.exchange import PhaseRequest, SiteReply

EXPERIMENT = replace(Experiment(name="toy"), grid=Grid(shape=(16, 16, 16), spacing=12.0))


def half_way(request, site):
    """A toy phase: three weights move half of the way to the number of scans of the site."""
    weights = request.arrays["T"]["w"]
    scans = len(list(site.data[0].iterdir()))
    return SiteReply(
        site.name, request.phase, request.round, scans, {"T": {"w": weights + np.float32(0.5) * (scans - weights)}}
    )


def three_rounds(hub, federation):
    """A toy hub: three rounds of a weighted mean from zero."""
    weights = np.zeros(3, np.float32)
    for number in (1, 2, 3):
        asked = [
            PhaseRequest("run", "register", number, site, EXPERIMENT.to_json(), {"T": {"w": weights}})
            for site in federation.sites()
        ]
        total, count = np.zeros(3), 0
        for reply in federation.ask(asked):
            total, count = total + reply.count * reply.arrays["T"]["w"], count + reply.count
        weights = (total / count).astype(np.float32)
    (hub / "weights.json").write_text(json.dumps(weights.tolist()))


@pytest.fixture
def sites(tmp_path):
    """Two sites of 1 and 3 scans."""
    made = []
    for name, scans in (("one", 1), ("two", 3)):
        data = tmp_path / name / "data"
        data.mkdir(parents=True)
        for number in range(scans):
            (data / f"{number}.nii.gz").touch()
        made.append(SiteFolder(name, (data,), tmp_path / name / "state"))
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
    """Half way to the mean of 1, 3, 3, 3, three times from zero, is 2.5 * 7 / 8."""
    serve(hub, sites, three_rounds, monkeypatch)
    assert json.loads((hub / "weights.json").read_text()) == [2.5 * 7 / 8] * 3
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


@pytest.mark.parametrize("engine", ["inprocess"])
def test_failure_of_the_hub_reaches_the_caller(engine, hub, sites, tmp_path):
    """The real apps with an experiment that cannot be read: the hub's own line comes out."""
    (hub / "experiment.json").write_text('{"name": "toy", "sed": 1}')
    before = dict(os.environ)
    with pytest.raises(FederationError, match="did you mean 'seed'"):
        run_federation(engine, hub, sites, tmp_path / "work")
    assert dict(os.environ) == before


def test_apps_are_the_ones_that_flower_finds():
    """Flower's own check of the references in pyproject.toml passes."""
    root = Path(__file__).resolve().parents[2]
    for reference in ("server.app:app", "client.app:app"):
        assert validate(reference, check_module=True, project_dir=root) == (True, None)


def test_every_process_ends_with_the_block(tmp_path):
    """Whatever ends the block, Ctrl-C too, ends the processes and the processes of these."""
    tool = tmp_path / "bin" / "sleepers"
    tool.parent.mkdir()
    script = "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    tool.write_text(f"#!{sys.executable}\n{script}\n")
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
