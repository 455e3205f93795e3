"""Print what federating costs: the hub's memory by number of sites, and time beside the same steps without Flower.

    python benchmarks/federation.py [memory] [inprocess] [superlink] [--out FILE]        (`make federation`: all three)

All scans are simulated. Each figure is a ratio of two versions of one run, because machines differ and are shared.
Every process has one thread, so that two sites beside each other on two cores do not take turns at them.

memory     The hub's whole run (`server.run.run`: checks, spool, saved states) over the in-process grid, in a process of
           its own for each number of sites. That process also holds the sites' half of one message at a time, and the
           messages that wait at the grid; toy sites answer with what they were sent, moved a little. 2 GB of disk.
inprocess  One round of each phase at both sites, over the in-process grid, beside `client.learn.learn` called for one
           site after the other and the same mean. Half of the preset's steps, which overstates what messages cost.
superlink  One round of each phase of the run of a hub and two sites that `sst hub` and `sst site` start on loopback,
           with TLS, keys and, where there is one, nginx, beside `learn` in two processes that wait for work and have
           imported all. These do two phases before that run and two after it. Joining is left out of both.

In the last two each phase is measured by one round, and counted as often as the preset has rounds of it.
"""

import argparse
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # this process stays small, and each measured one imports what it uses
    from client.site import Site
    from configs.phases import Phase
    from configs.schema import Experiment
    from server.state import RunState
    from simulation.engines import SiteFolder
    from sst_models.wire.exchange import PhaseRequest, SiteReply

    LearnAll = Callable[[Sequence[PhaseRequest]], Sequence[SiteReply]]

Row = dict[str, Any]

PROJECT = Path(__file__).resolve().parent.parent
PRESET = PROJECT / "configs" / "real-cpu.toml"
RUN = "sst"
SITES = (2, 20, 200)
NAMES = ("candi", "oasis")
PEOPLE = ("train",) * 5 + ("val", "test")  # at each site; five are the fewest whose moments may leave
PATIENCE = 1200.0  # seconds for the run on loopback; about 200 on two idle cores
TOY = (
    "grid.shape=[32, 48, 32]",
    "grid.spacing=4.75",
    'registration.kind="unet"',
    "registration.widths=[16, 32, 64, 64, 64]",
    *(f"phases.{phase}.rounds=1" for phase in ("register", "style", "flow_codes")),
    "phases.joint.rounds=2",
)
"""What the memory row changes of the preset: the paper's T and F, 3.4 MB each, on a small grid."""


def memory(folder: Path, share: float = 0.0) -> Row:
    """Measure the hub's peak memory and its time per site with 2, 20 and 200 sites."""
    call("hub", folder, *TOY)
    rows = [call("toys", folder, str(sites)) for sites in SITES]
    print(f"hub's memory, sites that answer up to {rows[0]['largest']:.1f} MB")
    for row in rows:
        grown, slower = row["peak"] / rows[0]["peak"], row["seconds"] / rows[1]["seconds"]
        print(
            f"| {row['sites']} sites | peak {row['peak']:.0f} MB, {row['before']:.0f} of them before the run,"
            f" x {grown:.2f} | {1000 * row['seconds']:.0f} ms a site and round, x {slower:.2f} |",
            flush=True,
        )
    return {"rows": rows, "grown": rows[-1]["peak"] / rows[0]["peak"]}


def inprocess(folder: Path, share: float = 0.5) -> Row:
    """Measure what the messages of the in-process grid add to a share of the preset's steps."""
    make(folder, share)
    found = call("inside", folder)
    return shown("in process, beside one site after the other", found["plain"], found["federated"])


def superlink(folder: Path, share: float = 1.0) -> Row:
    """Measure what a hub and two sites add to a share of the preset's steps."""
    make(folder, share)
    before = call("beside", folder, "register", "joint")
    events = federate(folder)
    plain = before | call("beside", folder, "style", "flow_codes")
    row = shown("SuperLink with TLS, beside two processes", plain, {one["phase"]: one["seconds"] for one in events})
    for one in events:
        ends = [(folder / name / "state" / "runs" / RUN / "own" / f"{one['phase']}-1.safetensors") for name in NAMES]
        learnt = max(path.stat().st_mtime for path in ends)
        first, last = learnt - one["began"] - plain[one["phase"]], one["time"] - learnt
        print(
            f"  {one['phase']}: {first:+.1f} s until the sites had learnt, {last:+.1f} s from there to the hub's mean"
        )
        row[one["phase"]] = {"until_learnt": first, "after": last}
    return row


def shown(name: str, plain: dict[str, float], federated: dict[str, float]) -> Row:
    """Print one row, and give it."""
    text = PRESET.read_text(encoding="utf-8")
    rounds = {phase: int(re.findall(rf"\[phases.{phase}\]\s+rounds = (\d+)", text)[0]) for phase in plain}
    alone, with_flower = (sum(rounds[phase] * took[phase] for phase in plain) for took in (plain, federated))
    print(f"| {name} | {100 * (with_flower / alone - 1):+.1f} % | {alone:.0f} s and {with_flower:.0f} s |")
    for phase in plain:
        print(
            f"  {phase}: {plain[phase]:.1f} s and {federated[phase]:.1f} s a round, {rounds[phase]} rounds", flush=True
        )
    return {"plain": plain, "federated": federated, "rounds": rounds, "overhead": with_flower / alone - 1}


def call(part: str, folder: Path, *words: str) -> Row:
    """Run one part of this script in a process of its own, with one thread; give what it printed last."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment())
    found: Row = json.loads(done.stdout.splitlines()[-1])
    return found


def environment() -> dict[str, str]:
    """Give the environment of all processes."""
    from configs.processes import QUIET

    return {**os.environ, **QUIET, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def make(folder: Path, share: float) -> None:
    """Write a preset of one round a phase and a share of its steps, a hub's folder, and two sites, all prepared."""
    text = re.sub(r"(?m)^rounds = \d+", "rounds = 1", PRESET.read_text(encoding="utf-8"))
    text = re.sub(r"(?m)^steps = (\d+)", lambda found: f"steps = {max(1, round(int(found[1]) * share))}", text)
    (folder / PRESET.name).write_text(text, encoding="utf-8")
    call("hub", folder)
    call("scans", folder)


def preset(folder: Path, *changes: str) -> "Experiment":
    """Load the preset, that of one round a phase where there is one."""
    from configs.schema import load

    return load(str(own if (own := folder / PRESET.name).exists() else PRESET), changes)


def brain(folder: Path) -> tuple[Path, Path]:
    """Give the files of the simulated person that is the atlas: image and label map."""
    site = folder / "atlas"
    return next(site.glob("sub-*/anat/*.nii.gz")), next(site.glob("derivatives/*/sub-*/anat/*.nii.gz"))


def make_hub(folder: Path, *changes: str) -> Row:
    """Write the folder of a hub that makes no segmenters, with a simulated person as its atlas."""
    from server.atlas import load_atlas, save_atlas
    from simulation.scanner import OASIS
    from simulation.sites import write_site

    experiment, hub = preset(folder, *changes), folder / "hub"
    write_site(folder / "atlas", OASIS, 1, seed=9, spacing=3.0)
    save_atlas(load_atlas(*brain(folder), experiment.grid.shape, experiment.grid.spacing), hub)
    (hub / "experiment.json").write_text(experiment.to_json(), encoding="utf-8")
    (hub / "plan.json").write_text(json.dumps({"run": RUN, "segment": [], "device": "cpu"}), encoding="utf-8")
    return {}


def make_scans(folder: Path) -> Row:
    """Write the scans of two sites, and let these join a run, so that all is prepared."""
    import numpy as np

    from client.join import join
    from server.atlas import read_atlas
    from simulation.atlases import write_splits
    from simulation.scanner import CANDI, OASIS
    from simulation.sites import write_site
    from sst_models.wire.exchange import PhaseRequest

    splits = {}
    for seed, (name, scanner) in enumerate(zip(NAMES, (CANDI, OASIS), strict=True)):
        scans = write_site(folder / "scans" / name, scanner, len(PEOPLE), seed, spacing=3.0)
        splits[name] = dict(zip(sorted(person.name for person in scans.glob("sub-*")), PEOPLE, strict=True))
    write_splits(splits, folder / "splits.tsv")
    atlas = read_atlas(folder / "hub")
    arrays = {"image": atlas.image.numpy(), "affine": np.array(atlas.affine, dtype=np.float64)}
    for site in sites(folder):
        asked = PhaseRequest(RUN, "join", 1, site.name, preset(folder).to_json(), {"atlas": arrays})
        join(PhaseRequest(**{**vars(asked), "settings": {"atlas": atlas.digest}}), site)
    return {}


def site_folders(folder: Path) -> list["SiteFolder"]:
    """Give the two sites as an engine takes them."""
    from simulation.engines import SiteFolder

    return [
        SiteFolder(
            name,
            (folder / "scans" / name,),
            folder / "plain" / name,
            splits=folder / "splits.tsv",
            device="cpu",
            bias=False,  # N4 would take most of the time of preparing
        )
        for name in NAMES
    ]


def sites(folder: Path) -> list["Site"]:
    """Give the two sites as their own code sees them."""
    from client.gate.policy import Policy
    from client.preparation import Preparation
    from client.site import Site

    policy = Policy(level="models", moments_each_round=True, min_scans=1)  # as `simulation.engines.open_policy`
    return [
        Site(one.name, one.data, one.state, policy, one.splits, one.device, Preparation(bias=False))
        for one in site_folders(folder)
    ]


def run_toys(folder: Path, number: str) -> Row:
    """Run the hub over toy sites in this process; give its peak memory in MB and its seconds per site and round."""
    from flwr.clientapp import ClientApp

    import client.app
    from server.federation import GridFederation
    from server.run import run
    from simulation.engines import SiteFolder, approve
    from simulation.engines.inprocess import InProcessGrid, identity, node_config

    with TemporaryDirectory(dir=folder) as own:
        hub = Path(shutil.copytree(folder / "hub", Path(own) / "hub"))
        sites = [SiteFolder(f"site-{one:03d}", (), Path(own) / f"site-{one:03d}") for one in range(int(number))]
        names = [site.name for site in sites]
        approve(sites[0], hub)
        for site in sites[1:]:
            shutil.copytree(sites[0].state, site.state)
        configs = {site.name: node_config(site) for site in sites}
        with identity():
            grid = InProcessGrid(client.app.register(ClientApp(), move_a_little), configs)
            before = peak()
            run(hub, GridFederation(grid, deadline_s=600.0))
        took = learning_rounds(hub)
    largest = max(item["up"] for one in took for item in one["traffic"]) / 1e6
    seconds = {f"{one['phase']} {one['round']}": one["seconds"] / len(names) for one in took}
    mean = sum(seconds.values()) / len(seconds)
    found = {"sites": len(names), "before": before, "peak": peak(), "seconds": mean, "largest": largest}
    return {**found, "seconds_by_round": seconds}


def move_a_little(request: "PhaseRequest", site: "Site") -> "SiteReply":
    """Answer as a site would, without learning; only its last reply stays on disk."""
    import numpy as np

    from configs.phases import phase_of
    from configs.schema import from_json
    from sst_models.wire.exchange import Arrays, SiteReply

    shutil.rmtree(site.gate / "runs" / request.run / "replies", ignore_errors=True)
    if request.phase == "join":
        return SiteReply(site.name, "join", 1, count=9, settings={"atlas": str(request.settings["atlas"])})
    phase, code = phase_of(request.phase), from_json(request.experiment).style.code
    arrays: dict[str, Arrays] = {
        part: {name: array + np.float32(1e-3) for name, array in request.arrays[part].items()} for part in phase.learns
    }
    if phase.moments:
        arrays["moments"] = {"mean": np.zeros(code, np.float32), "std": np.ones(code, np.float32)}
    return SiteReply(site.name, request.phase, request.round, count=9, arrays=arrays)


def learning_rounds(hub: Path) -> list[Row]:
    """Give the rounds in which sites learnt, as the hub noted them, each with when it began and its seconds."""
    found, began = [], 0.0
    for line in (hub / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        if event["event"] == "round.started":
            began = event["time"]
        elif event["event"] == "round.finished" and "series" in event:
            found.append({**event, "began": began, "seconds": event["time"] - began})
    return found


def peak() -> float:
    """Give this process's peak resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def shared_phases() -> "list[Phase]":
    """List the phases whose rounds make shared weights."""
    from configs.phases import at_sites

    return [phase for phase in at_sites() if not phase.optional]


def first_state(experiment: "Experiment") -> "RunState":
    """Give fresh weights of all parts, and moments of both sites, so that a phase can be done without the others."""
    import numpy as np

    from server.state import MOMENTS, RunState, fresh_parts

    code = experiment.style.code
    moments = {"mean": np.zeros(code, np.float32), "std": np.ones(code, np.float32)}
    state = RunState(0, {f"{MOMENTS}.{name}": moments for name in NAMES})
    for phase in shared_phases():
        state = RunState(0, {**state.parts, **fresh_parts(phase, state, experiment)})
    return state


def plain_round(state: "RunState", phase: "Phase", experiment: "Experiment", learn_all: "LearnAll") -> "RunState":
    """Do a round without a message: the same requests, steps and mean."""
    from configs.phases import KEPT
    from server.aggregate import RunningMean
    from server.state import MOMENTS
    from sst_models.wire.exchange import Arrays, PhaseRequest

    requests = []
    for name in NAMES:
        arrays = {part: state.parts[part] for part in phase.learns + phase.uses}
        if phase.foreign and experiment.federation.foreign_negatives:
            arrays |= {part: a for part, a in state.parts.items() if part.startswith(MOMENTS) and name not in part}
        requests.append(PhaseRequest(RUN, phase.name, 1, name, experiment.to_json(), arrays))
    brought: dict[str, Arrays] = {}
    means = {part: RunningMean() for part in phase.learns if part not in KEPT}
    for reply in learn_all(requests):
        for part, found in reply.arrays.items():
            if part in means:
                means[part].add(found, reply.count)
            else:
                brought[f"{part}.{reply.site}"] = found
    return state.with_parts({**brought, **{part: mean.arrays() for part, mean in means.items()}})


def run_inside(folder: Path) -> Row:
    """Do each phase's round without and with the in-process grid, in turn; give the seconds of both."""
    import client.app
    from client import scans
    from client.learn import learn
    from server.federation import GridFederation
    from server.hub import open_hub
    from server.run import run_round
    from server.state import Store
    from simulation.engines import approve
    from simulation.engines.inprocess import InProcessGrid, identity, node_config

    experiment, both = preset(folder), sites(folder)
    took: dict[str, dict[str, float]] = {"plain": {}, "federated": {}}
    with identity():
        grid = InProcessGrid(client.app.app, {one.name: node_config(one) for one in site_folders(folder)})
        hub = open_hub(folder / "hub", GridFederation(grid, deadline_s=3600.0))
        for folders, one in zip(site_folders(folder), both, strict=True):
            approve(folders, folder / "hub")
            hub.members.add(one.name, len(scans.cases(one.folder(RUN), "train")))  # as joining would
        store, state = Store(folder / "hub" / "state", experiment), first_state(experiment)
        for number, phase in enumerate(shared_phases()):
            for version in ("plain", "federated")[:: -1 if number % 2 else 1]:
                began = time.perf_counter()
                if version == "plain":
                    plain_round(state, phase, experiment, lambda asked: list(map(learn, asked, both)))
                else:
                    store.save(run_round(hub, state, phase, 1))
                took[version][phase.name] = time.perf_counter() - began
    return took


def run_beside(folder: Path, *names: str) -> Row:
    """Do the round of each phase in `names` in two processes beside each other; give the seconds."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from client.learn import learn
    from configs.phases import phase_of

    experiment, both, took = preset(folder), sites(folder), {}
    state = first_state(experiment)
    with ProcessPoolExecutor(len(both), get_context("spawn")) as pool:
        list(pool.map(import_all, [1.0] * len(both)))
        for name in names:
            began = time.perf_counter()
            plain_round(state, phase_of(name), experiment, lambda asked: list(pool.map(learn, asked, both)))
            took[name] = time.perf_counter() - began
    return took


def import_all(seconds: float) -> None:
    """Import what learning needs, and wait, so that each process of a pool gets one of these."""
    import client.learn  # noqa: F401

    time.sleep(seconds)


def federate(folder: Path) -> list[Row]:
    """Set up a hub and two sites as their operators would, run them, and give the hub's rounds."""
    set_up(folder)
    direct = () if proxied() else ("--no-proxy",)
    one, other = (started(folder, "site", "start", name) for name in NAMES)
    with started(folder, "hub", "start", "desk", *direct) as hub, one, other:
        code = hub.wait(PATIENCE)
    if code:
        raise SystemExit(f"the hub ended with code {code}: see above")
    return learning_rounds(folder / "desk")


def set_up(folder: Path) -> None:
    """Make a hub's folder and two sites' folders, whose scans are prepared already."""
    from simulation.engines import open_policy

    port, inner, *own = free_ports(4)
    port = port if proxied() else inner
    image, labels = map(str, brain(folder))
    address = f"localhost:{port}"
    files = ("--preset", str(folder / PRESET.name), "--image", image, "--labels", labels)
    sst(folder, "hub", "init", "desk", "--address", address, "--inner", str(inner), *files)
    (folder / "desk" / "plan.json").write_bytes((folder / "hub" / "plan.json").read_bytes())
    sst(folder, "hub", "invite", "desk", *NAMES)
    for name, number in zip(NAMES, own, strict=True):
        sst(folder, "site", "join", f"desk/kits/{name}.zip", "--data", str(folder / "scans" / name))
        settings = folder / name / "site.toml"
        text = settings.read_text(encoding="utf-8").replace("9094", str(number)).replace('"auto"', '"cpu"')
        text = text.replace('bias = "yes"', 'bias = "no"')
        text = text.replace('splits = ""', f"splits = {json.dumps(str(folder / 'splits.tsv'))}")
        settings.write_text(text, encoding="utf-8")
        policy = open_policy("models")  # half of a preset's steps is below a floor
        (folder / name / "policy.toml").write_text(policy, encoding="utf-8")
        sst(folder, "site", "approve", name, "--yes")
        shutil.copytree(folder / "plain" / name / "prepared", folder / name / "state" / "prepared")
    sst(folder, "hub", "admit", "desk", *(f"{name}/{name}.pub" for name in NAMES))


def sst(folder: Path, *words: str) -> None:
    """Run one command of the product to its end."""
    command = [sys.executable, "-m", "sst", *words]
    subprocess.run(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL, check=True)


@contextmanager
def started(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Keep one command of the product running; at the end it is asked to stop."""
    command = [sys.executable, "-m", "sst", *words]
    with subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60.0)


def proxied() -> bool:
    """Say whether this machine has nginx."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin") is not None


def free_ports(number: int) -> list[int]:
    """Give ports of loopback that nothing listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


PARTS: dict[str, Callable[..., Row]] = {
    "hub": make_hub,
    "scans": make_scans,
    "toys": run_toys,
    "inside": run_inside,
    "beside": run_beside,
}
ROWS: dict[str, Callable[..., Row]] = {"memory": memory, "inprocess": inprocess, "superlink": superlink}


def main() -> None:
    """Parse the command line, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="|".join(ROWS))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--share", type=float, help="of the preset's steps, for a quick trial of the last two")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps(PARTS[asked.part](asked.folder, *asked.words)))
        return
    if unknown := set(asked.words) - set(ROWS):
        parser.error(f"{', '.join(unknown)}: give one of {', '.join(ROWS)}, or none for all")
    found = {}
    shares = () if asked.share is None else (asked.share,)
    for name in asked.words or ROWS:
        with TemporaryDirectory(prefix="federation-", ignore_cleanup_errors=True) as folder:
            found[name] = ROWS[name](Path(folder), *shares)
        if asked.out:
            asked.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
