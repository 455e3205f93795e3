"""A new phase is one row of `configs/phases.py` and one file of `sst_models/phases/`: all the rest follows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

ROW = """    Phase(
        "sharpen",
        4,
        "trains T a little more",
        "mean",
        message="train.sharpen",
        learns=("T",),
        losses=("total", "edges"),
        count=TRAINING,
        cost=0.5,
    ),
"""

FILE = '''"""A toy: T learns to bring the atlas onto a scan by nothing but L1."""

from sst_models.training.learner import adam
from sst_models.training.seeds import below
from sst_models.volume.warp import warp


class Sharpen:
    def __init__(self, nets, phase, scans, atlas):
        self.nets, self.scans, self.atlas, self.own = nets, scans, atlas, {}
        self.optimisers = {"T": adam(nets["T"], phase.rate)}

    def step(self, draws):
        scan, atlas = self.scans.image(below(len(self.scans), draws))[None], self.atlas[None]
        total = (warp(atlas, self.nets["T"](atlas, scan)) - scan).abs().mean()
        self.optimisers["T"].zero_grad()
        total.backward()
        self.optimisers["T"].step()
        return {"total": total, "edges": 0 * total}


def make(nets, experiment, material):
    return Sharpen({"T": nets["T"]}, experiment.phases.of("sharpen"), material.scans, material.atlas)
'''

PLAY = """
import importlib.util, json, sys
from dataclasses import replace
from pathlib import Path

spec = importlib.util.spec_from_file_location("engines", Path(sys.argv[1]) / "tests/simulation/test_engines.py")
engines = importlib.util.module_from_spec(spec)
spec.loader.exec_module(engines)

from client.consent import policy_text
from client.gate.policy import PHASES, Policy
from configs.phases import phase_of
from configs.schema import from_dict
from server.events import read
from server.office import Office, Settings, write_settings
from server.status import status
from simulation.schemes import Roles, Scheme
from simulation.stage import Stage, planned

values = json.loads(engines.TINY.to_json())
values["phases"]["sharpen"] = {"rounds": 2, "steps": 3, "batch": 1, "rate": 1e-3}
engines.TINY = from_dict(values, "toy")
root = Path(sys.argv[2])
hub, sites = engines.tiny_run(root, "inprocess")
(hub / "hub.toml").write_text(write_settings(Settings("toy", "hub.example.org", 8443)))
events = read(hub)
stage = Stage(root, Roles("left", ("right",)), engines.TINY, None, {}, "inprocess", None)
scheme = Scheme("federated", engines.TINY, ("left", "right"), ("left", "right"))
ledger = [json.loads(line) for line in (sites[0].state / "gate" / "ledger.jsonl").read_text().splitlines()]
own = [entry for entry in ledger if entry["phase"] == "sharpen"]
print(json.dumps({
    "policy": policy_text(),
    "consent": phase_of("sharpen").leaves("networks"),
    "phases": PHASES,
    "released": [[e["round"], e["count"] > 0, sorted(e["parts"]), e["metrics"]] for e in own],
    "rounds": [e["round"] for e in events if e["event"] == "round.finished" and e["phase"] == "sharpen"],
    "display": [[one.phase, one.rounds, one.units] for one in planned(stage, scheme)],
    "status": [status(Office(hub)).state],
}))
"""


def test_a_row_and_a_file_make_a_phase(tmp_path: Path) -> None:
    """It runs in a federation; the policy and its text, the gate and the ledger, events and the display know it."""
    tree = tmp_path / "tree"
    for name in ("configs", "sst_models", "client", "server", "simulation"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    table = tree / "configs" / "phases.py"
    text = table.read_text()
    assert text.count('    Phase(\n        "segment",\n') == 1
    table.write_text(text.replace('    Phase(\n        "segment",\n', ROW + '    Phase(\n        "segment",\n'))
    (tree / "sst_models" / "phases" / "sharpen.py").write_text(FILE)
    done = subprocess.run(
        [sys.executable, "-c", PLAY, str(ROOT), str(tmp_path / "run")],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": os.pathsep.join((str(tree), str(ROOT / "tests" / "client")))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert "sharpen" in told["phases"]
    items = (
        "weights of the registration network T (masked, where the run has secure sums)",
        "training curves (total, edges)",
        "number of training scans",
    )
    assert '"sharpen"' in told["policy"] and told["consent"] == list(items)
    assert told["released"] == [[number, True, ["T"], ["edges", "total"]] for number in (1, 2)]
    assert told["rounds"] == [1, 2]
    assert ["sharpen", 2, 0.5 * 2 * 3 * 1 * 2] in told["display"]
    assert told["status"] == ["finished"]
