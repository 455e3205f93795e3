"""A federation of real processes on loopback: TLS, keys, the proxy where nginx is installed, hub and two sites.

It is set up by the functions behind the commands of the docs and started by the commands themselves.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors.numpy import load_file

from client import bundle, consent, home
from configs.processes import PRIVATE
from configs.schema import from_dict
from server.atlas import read_atlas, save_atlas
from server.kit import admit, invite
from server.office import Office, Settings
from server.setup import make_hub
from simulation.engines import SiteFolder, open_policy, run_federation
from simulation.engines.superlink import free_port

ROOT = Path(__file__).resolve().parents[2]
SITES = ("left", "right")

TINY: Mapping[str, Any] = {
    "name": "tiny",
    "grid": {"shape": [32, 32, 32], "spacing": 6.0},
    "federation": {"deadline": 300.0},
    "registration": {"widths": [4, 4]},
    "style": {"widths": [4, 4], "code": 8, "queue": 4},
    "appearance": {"width": 4},
    "flow_codes": {"widths": [4, 4], "latent": 2},
    "segmenter": {"widths": [4, 4, 4]},
    "phases": {
        "register": {"rounds": 2, "steps": 2},
        "style": {"rounds": 1, "steps": 2, "batch": 2},
        "joint": {"rounds": 2, "steps": 2, "batch": 1},
        "flow_codes": {"rounds": 1, "steps": 2, "batch": 1},
        "segment": {"steps": 2},
        "adapt": {"rounds": 1, "steps": 2},
    },
    "generation": {"pairs": 2},
}
"""All phases, in seconds of work each."""

SHORT: Mapping[str, Any] = {
    **TINY,
    "phases": {name: {**phase, "rounds": 1} for name, phase in TINY["phases"].items()},
}
"""The same in fewer rounds, for what `make test` runs of the long tests."""


def write_brains(folder: Path, seed: int, people: int = 6) -> None:
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


class Live:
    """Hub and sites, and the processes of both."""

    def __init__(
        self,
        root: Path,
        preset: Mapping[str, Any] = TINY,
        wait: int = 600,
        quorum: float = 1.0,
        names: Sequence[str] = SITES,
    ) -> None:
        """Set everything up, as the commands do: scans, authority, kits, keys, approval."""
        before = os.umask(PRIVATE)
        try:
            self._set_up(root, preset, wait, quorum, names)
        finally:
            os.umask(before)

    def _set_up(self, root: Path, preset: Mapping[str, Any], wait: int, quorum: float, names: Sequence[str]) -> None:
        self.root, self.proxied = root, shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is not None
        inner = free_port()
        port = free_port() if self.proxied else inner
        for seed, name in enumerate(names):
            write_brains(root / "scans" / name, seed)
        values = {**preset, "federation": {**preset["federation"], "quorum": quorum}}
        (root / "tiny.toml").write_text(_toml({k: v for k, v in values.items() if k != "name"}))
        case = root / "scans" / "left", "sub-01/anat/sub-01"
        self.office: Office = make_hub(
            root / "hub",
            Settings("tiny", "localhost", port, inner, len(names), wait),
            str(root / "tiny.toml"),
            [(case[0] / f"{case[1]}_T1w.nii.gz", case[0] / "derivatives/reference" / f"{case[1]}_dseg.nii.gz")],
        )
        self.experiment = from_dict(dict(values), "tiny")
        self.homes = {name: self.join(name) for name in names}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def join(self, name: str) -> home.Home:
        """Invite a site, let it join, admit it, and approve the app."""
        own, public, _ = home.join(
            invite(self.office, name).path, self.root / "sites" / name, (self.root / "scans" / name,)
        )
        text = (own.folder / "site.toml").read_text().replace("9094", str(free_port())).replace('"auto"', '"cpu"')
        (own.folder / "site.toml").write_text(text)
        admit(self.office, public)
        own.policy.write_text(open_policy("models"))  # without a hospital's floors
        consent.approve(own, bundle.read_bundle(own.bundle))
        (own.gate / "salt").write_bytes(b"")  # so that the embedded engine can repeat the run
        return own

    def __enter__(self) -> "Live":
        """Start nothing yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End every process that was started."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
        for pid in reversed(descendants(os.getpid(), str(self.root))):
            kill(pid)

    def start_hub(self) -> None:
        """Run `sst hub start`, or go on with it."""
        direct = () if self.proxied else ("--no-proxy",)
        self._start("hub", "hub", "resume" if "hub" in self.running else "start", str(self.office.folder), *direct)

    def start_site(self, name: str) -> None:
        """Run `sst site start`."""
        self._start(name, "site", "start", str(self.homes[name].folder))

    def start(self) -> None:
        """Run hub and sites."""
        self.start_hub()
        for name in self.homes:
            self.start_site(name)

    def wait(self, seconds: float) -> int:
        """Give the exit code of `sst hub start`, once the run is over.

        Raises:
            TimeoutError: it is not over in time.
        """
        end = time.monotonic() + seconds
        while (code := self.running["hub"].poll()) is None:
            if time.monotonic() > end:
                raise TimeoutError(f"the run is not over after {seconds:.0f} s; see {self.root}")
            time.sleep(0.5)
        return code

    def pids(self, who: str, what: str) -> list[int]:
        """Give the processes of hub or site whose command has `what`, e.g. "flwr-serverapp"."""
        return [pid for pid in descendants(self.running[who].pid) if what in command(pid)]

    def readable(self) -> list[Path]:
        """Give what others on this machine could read of the hub and of honest sites, but the approved apps."""
        own = [home for name, home in self.homes.items() if name in SITES]
        roots, apps = [self.office.folder, *(home.folder for home in own)], {home.flower / "apps" for home in own}
        paths = (path for root in roots for path in (root, *root.rglob("*")) if not apps & {path, *path.parents})
        return [path for path in paths if not path.is_symlink() and path.stat().st_mode & 0o077]

    def learnt(self) -> dict[str, bytes]:
        """Give all weights at the hub, by file and name."""
        return learnt(self.office.folder)

    def run(self, name: str, command: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start a process that ends with the federation; its output is in `NAME.out`."""
        with (self.root / f"{name}.out").open("ab") as log:
            self.running[name] = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o022,  # as most machines have it
            )

    def _start(self, name: str, *words: str) -> None:
        self.run(name, [sys.executable, "-m", "sst", *words], {})


def strike(live: Live, target: tuple[str, str], rng: random.Random) -> str:
    """Kill one process, as soon as there is one; give its name, or "" if the run ended before."""
    who, what = target
    name = who if who == "hub" else rng.choice(SITES)
    end = time.monotonic() + 120
    while live.running["hub"].poll() is None and time.monotonic() < end:
        if what.startswith("sst "):
            kill(live.running[name].pid)
            live.running[name].wait()
            time.sleep(rng.uniform(0.0, 5.0))
            _ = live.start_hub() if name == "hub" else live.start_site(name)
            return f"{name} {what}"
        pids = live.pids(name, what)
        if pids:
            kill(rng.choice(pids))
            return f"{name} {what}"
        time.sleep(0.1)
    return ""


def undisturbed(live: Live, root: Path, names: Sequence[str] = SITES, experiment: str = "") -> dict[str, bytes]:
    """Run the federation, or another experiment, on the embedded engine, with as many threads; give what it learnt."""
    hub = root / "hub"
    hub.mkdir(parents=True)
    save_atlas(read_atlas(live.office.folder), hub)
    for name in ("experiment.json", "plan.json"):
        shutil.copy(live.office.folder / name, hub / name)
    if experiment:
        (hub / "experiment.json").write_text(experiment)
    sites = [SiteFolder(name, (live.root / "scans" / name,), root / name, device="cpu") for name in names]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run_federation("inprocess", hub, sites, root / "work")
    finally:
        torch.set_num_threads(threads)
    return learnt(hub)


def learnt(hub: Path) -> dict[str, bytes]:
    """Give all weights that a run left at the hub, by file and name."""
    files = sorted(path for path in hub.rglob("*.safetensors") if "spool" not in path.parts)
    return {
        f"{path.relative_to(hub)}/{name}": array.tobytes()
        for path in files
        for name, array in sorted(load_file(path).items())
    }


def command(pid: int) -> str:
    """Give a process's command line; "" once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def descendants(pid: int, what: str = "") -> list[int]:
    """Give all processes below one, parents first; only those whose command or folder has `what`."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found, todo = [], list(children.get(pid, []))
    while todo:
        one = todo.pop(0)
        todo += children.get(one, [])
        if what in command(one):
            found.append(one)
    return found


def kill(pid: int) -> None:
    """End a process as a power cut would."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _toml(tables: Mapping[str, Any], path: Sequence[str] = ()) -> str:
    """Write nested tables of numbers, words, truth values and lists."""
    plain = {key: value for key, value in tables.items() if not isinstance(value, Mapping)}
    lines = [f"[{'.'.join(path)}]"] * bool(path and plain)
    lines += [f"{key} = {json.dumps(value)}" for key, value in plain.items()]
    inner = [_toml(value, (*path, key)) for key, value in tables.items() if isinstance(value, Mapping)]
    return "\n".join([*lines, *inner]) + "\n"
