"""Secure sums over a real SuperLink: seconds a round, sites that are lost, and what the hub's memory holds.

    python benchmarks/secure_sums.py --out FOLDER [--sites 3 5 7] [--fast]

All scans are simulated, networks are those of the preset tiny; after two rounds of `register` a run is ended. What each
site answers in the clear is recorded first, in a run of the same sites in one process, which gives the same bytes. Then
a SuperLink, the sites' SuperNodes and the hub's app run as processes, without and with secure sums; meanwhile the
memory of the SuperLink and of all that it started is read over and over, while they stand still, and the hub's disk at
the end, for each site's weights, and for what they changed by. Seconds of a round hold that, too, unless --fast, which
reads nothing. Without secure sums weights have to be found: else the search is worth nothing. With five sites one is
stopped in the first round, with seven two: the run has to go on.
"""

import argparse
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np

from client.gate import sums
from client.gate.approval import Approval
from client.site import Site
from configs.errors import FederationError
from configs.schema import Experiment, load
from server import events
from server.atlas import load_atlas, save_atlas
from simulation.engines import SiteFolder, run_federation
from simulation.scanner import SCANNERS
from simulation.sites import write_site
from sst_models.wire.exchange import PhaseRequest, SiteReply

LOST: Mapping[int, int] = {3: 0, 5: 1, 7: 2}
"""How many sites are stopped, by how many there are."""

PEOPLE, PHASE, ROUNDS = 4, "register", 2
DEADLINE = 180
"""Seconds after which a site counts as lost."""

PATTERN = slice(8, 16)
"""Weights in a row of which a pattern is made: no other site has them."""

CHANGES = (
    *("federation.foreign_negatives=0", "federation.payload=full"),
    *(f"phases.{phase}.rounds=1" for phase in ("statistics", "segment", "adapt")),
    f"phases.{PHASE}.rounds={ROUNDS}",
    *(f"phases.{phase}.rounds=0" for phase in ("style", "joint", "flow_codes")),
)

Patterns = Mapping[str, Sequence[bytes]]


def experiment(secure: bool, quorum: float) -> Experiment:
    """Give the preset of a run."""
    how = ("federation.aggregation=secure",) if secure else ()
    return load("tiny", (*CHANGES, *how, f"federation.quorum={quorum}", f"federation.deadline={DEADLINE}"))


def make(folder: Path, data: Mapping[str, Path], preset: Experiment) -> tuple[Path, list[SiteFolder]]:
    """Make the folders of a run: the hub's with its atlas, and the sites'."""
    shutil.rmtree(folder, ignore_errors=True)
    hub = folder / "hub"
    hub.mkdir(parents=True)
    first = next(iter(data.values()))
    scan, labels = (min(first.glob(f"{where}sub-*/anat/*.nii.gz")) for where in ("", "derivatives/*/"))
    save_atlas(load_atlas(scan, labels, preset.grid.shape, preset.grid.spacing), hub)
    (hub / "experiment.json").write_text(preset.to_json(), encoding="utf-8")
    (hub / "plan.json").write_text('{"run": "secure", "device": "cpu"}', encoding="utf-8")
    return hub, [SiteFolder(name, (path,), folder / name, device="cpu", bias=False) for name, path in data.items()]


def clear(folder: Path, data: Mapping[str, Path]) -> dict[str, list[bytes]]:
    """Record what each site answers in the clear, as bytes that only it can have."""
    found: dict[str, list[bytes]] = {name: [] for name in data}
    hide = sums.hide

    def look(reply: SiteReply, request: PhaseRequest, site: Site, approval: Approval) -> SiteReply:
        if request.round > 1:
            raise OSError("enough")
        for part, arrays in reply.arrays.items():
            name = max(arrays, key=lambda one: arrays[one].size)
            before = np.asarray(request.arrays[part][name], np.float32)
            for values in (arrays[name], arrays[name] - before, reply.count * arrays[name]):
                found[site.name].append(np.asarray(values, np.float32).ravel()[PATTERN].tobytes())
        return hide(reply, request, site, approval)

    hub, sites = make(folder, data, experiment(True, 1.0))
    with patch.object(sums, "hide", look), suppress(FederationError):
        run_federation("inprocess", hub, sites, folder / "work")
    return found


@dataclass
class Watch:
    """What is read of a hub while it runs."""

    patterns: Patterns
    hub: Path
    lose: Sequence[str]  # sites whose processes are stopped in the first round
    seen: set[str] = field(default_factory=set)  # sites whose weights were found
    scans: int = 0
    megabytes: float = 0.0  # of the largest scan
    ended: bool = False
    stopped: bool = False

    def look(self) -> None:
        """Read memory until the run has ended."""
        while not self.ended:
            done = _rounds(self.hub)
            if self.lose and not self.stopped and _began(self.hub):
                self.stopped = True
                _stop(self.lose)
            if any(self.patterns.values()):
                self._scan()
            if len(done) == ROUNDS:
                _signal("flower-superlink", signal.SIGTERM)  # what follows is not looked at
            time.sleep(0.5)

    def _scan(self) -> None:
        with _halted("flower-superlink"):
            read = sum(self._search(block) for process in _hubs() for block in _memory(process))
        self.scans += read > 0
        self.megabytes = max(self.megabytes, read / 1e6)

    def disk(self) -> None:
        """Read the hub's folder."""
        for path in self.hub.rglob("*"):
            if path.is_file():
                self._search(path.read_bytes())

    def _search(self, content: bytes) -> int:
        for site in set(self.patterns) - self.seen:
            if any(one in content for one in self.patterns[site]):
                self.seen.add(site)
        return len(content)


def _began(hub: Path) -> bool:
    return any(one["event"] == "round.started" and one.get("phase") == PHASE for one in events.read(hub))


def _rounds(hub: Path) -> list[float]:
    """Give the seconds of the rounds that are finished."""
    return [float(one["seconds"]) for one in events.finished(events.read(hub)) if one.get("phase") == PHASE]


def _processes() -> Iterator[tuple[int, int, str]]:
    """Give (process, its parent, its command line) of all that run."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError, IndexError, ValueError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                yield int(folder.name), parent, (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def _hubs() -> list[int]:
    """Give the SuperLink, and all processes that it started."""
    every = list(_processes())
    found = {one for one, parent, words in every if "flower-superlink" in words and parent == os.getpid()}
    while more := {one for one, parent, _ in every if parent in found} - found:
        found |= more
    return sorted(found)


def _stop(sites: Sequence[str]) -> None:
    for name in sites:
        _signal(f'site-name="{name}"', signal.SIGSTOP)


@contextmanager
def _halted(word: str) -> Iterator[None]:
    """Let the processes that this one started with a word in their command stand still during the block."""
    _signal(word, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(word, signal.SIGCONT)


def _signal(word: str, which: int) -> None:
    """Send a signal to the groups of processes that this one started with a word in their command."""
    for process, parent, words in list(_processes()):
        if parent == os.getpid() and word in words:
            os.killpg(process, which)


def _memory(process: int) -> Iterator[bytes]:
    """Give all memory that a process may write, block by block."""
    with suppress(OSError), Path(f"/proc/{process}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{process}/maps").read_text().splitlines():
            where, rights = line.split()[:2]
            if "w" in rights and "[v" not in line:
                low, high = (int(end, 16) for end in where.split("-"))
                with suppress(OSError, ValueError, OverflowError):
                    memory.seek(low)
                    yield memory.read(high - low)


@contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Read the hub's memory during the block, and its disk after it."""
    thread = threading.Thread(target=watch.look)
    thread.start()
    try:
        yield
    finally:
        watch.ended = True
        thread.join()
    watch.disk()


def measure(folder: Path, data: Mapping[str, Path], patterns: Patterns, secure: bool, lost: int) -> None:
    """Run one federation over a SuperLink, and print what was found."""
    quorum = (len(data) - lost) / len(data) - 0.01
    hub, sites = make(folder, data, experiment(secure, quorum))
    watch = Watch(patterns, hub, sorted(data)[:lost])
    with watching(watch), suppress(FederationError):
        run_federation("superlink", hub, sites, folder / "work")
    rounds = _rounds(hub)
    if len(rounds) < ROUNDS:
        raise SystemExit(f"the run ended early: see {folder}")
    seconds = ", ".join(f"{one:.1f}" for one in rounds)
    where = f"{watch.scans} scans of up to {watch.megabytes:.0f} MB of memory, and the disk"
    print(
        f"| {len(data)} sites, {'secure' if secure else 'plain'}, {lost} lost | rounds of {seconds} s |"
        f" weights of {len(watch.seen)} sites found in {where} |",
        flush=True,
    )


def _alone(pattern: bytes, patterns: Patterns) -> bool:
    return sum(pattern in own for own in patterns.values()) == 1


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sites", type=int, nargs="+", default=[3, 5, 7])
    parser.add_argument("--fast", action="store_true")
    asked = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    scanners = list(SCANNERS.values())
    for count in asked.sites:
        names = [f"site{number}" for number in range(count)]
        data = {
            name: write_site(asked.out / "data" / name, scanners[number % 2], PEOPLE, number, 5.0)
            for number, name in enumerate(names)
        }
        patterns = {name: [] for name in names} if asked.fast else clear(asked.out / "clear", data)
        unlike = {name: [one for one in own if _alone(one, patterns)] for name, own in patterns.items()}
        assert asked.fast or all(unlike.values()), "sites that answer alike cannot be told from each other"
        measure(asked.out / "plain", data, unlike, False, 0)
        measure(asked.out / "secure", data, unlike, True, LOST.get(count, 0))


if __name__ == "__main__":
    main()
