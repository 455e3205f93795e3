"""Three ways to bring the unmodified ServerApp and ClientApp together on one machine.

`inprocess` is the default: one process, one thread, nothing to install or to wait for. `ray` uses Flower's simulation
runtime, for many sites on many cores. `superlink` starts a real SuperLink and one SuperNode per site on loopback:
what a federation of hospitals runs. One contract test passes on all three.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from configs import levels, processes
from configs.errors import ConfigError, FederationError
from sst_models.wire.files import replace_file

if TYPE_CHECKING:
    from configs.schema import Experiment

ENGINES = ("inprocess", "ray", "superlink")

QUIET: Mapping[str, str] = MappingProxyType({**processes.QUIET, "RAY_USAGE_STATS_ENABLED": "0"})
"""Environment under which Flower and Ray leave the network alone."""


@dataclass(frozen=True)
class SiteFolder:
    """One simulated site: its folders of NIfTI, and where it keeps its state."""

    name: str
    data: tuple[Path, ...]
    state: Path
    policy: Path | None = None  # None: an open one (`OPEN`)
    splits: Path | None = None
    device: str = "auto"
    bias: bool = True  # take the scanner's bias field out of its scans
    level: str = levels.MODELS  # of sharing; not for a site with a policy of its own
    epsilon: float = math.inf  # of its statistics, likewise; inf adds no noise

    def options(self) -> dict[str, str]:
        """Give what the site's node is told beside its name and folders."""
        paths = {"policy": self.policy or self.state / "gate" / "policy.toml", "splits": self.splits}
        given = {"device": self.device} | ({} if self.bias else {"bias": "no"})
        return given | {key: str(path.resolve()) for key, path in paths.items() if path}


OPEN = """\
# A simulated site: its people are simulated, or belong to the researcher who runs the hub, too.
moments_each_round = true
dice = true
most_bytes = 1_000_000_000
most_rounds = 100_000
most_missed_rounds = 100_000
most_requests = 1_000_000
most_segmenters = 1000
most_runs_with_moments = 1_000_000
most_runs_with_statistics = 1_000_000
min_scans = 1
min_cases = 2
min_volumes = 1
min_test_people = 1
most_epsilon = inf
most_auc = 1
"""
"""The policy of a simulated site that has none of its own, but for its level and its noise: what leaves is limited by
its phase."""


def open_policy(level: str, epsilon: float = math.inf) -> str:
    """Give the policy of a simulated site of a level of sharing."""
    return f'level = "{level}"\nepsilon = {epsilon}\n{OPEN}'


def approve(site: SiteFolder, hub: Path) -> None:
    """Approve the hub's run at a simulated site, as its IT would; its salt is empty, so that runs are repeatable."""
    from client.gate.approval import Approval, parts_of
    from client.gate.approve import write_approval
    from server.atlas import published, read_atlas

    gate, atlas = site.state / "gate", read_atlas(hub)
    experiment = _experiment(hub)
    run = str(json.loads((hub / "plan.json").read_text(encoding="utf-8"))["run"])
    parts = parts_of(published(atlas), {"labels": atlas.packed()})
    write_approval(Approval(run, experiment.to_json(), atlas.digest, **parts), gate)
    replace_file(gate / "salt", b"")
    replace_file(gate / "policy.toml", open_policy(site.level, site.epsilon))


def _experiment(hub: Path) -> "Experiment":
    from configs.schema import from_json

    return from_json((hub / "experiment.json").read_text(encoding="utf-8"))


def introduce(sites: Sequence[SiteFolder], hub: Path) -> None:
    """Give each simulated site a key, and the public ones to the hub and to all other sites, as their IT would."""
    from client.gate.sums import PEERS
    from client.home import make_key

    for site in sites:
        public = make_key(site.state / "gate" / "site.key", hub / "sites" / f"{site.name}.pub").read_bytes()
        for other in (other for other in sites if other is not site):
            replace_file(other.state / "gate" / PEERS / f"{site.name}.pub", public)


def run_federation(engine: str, hub: Path, sites: Sequence[SiteFolder], work: Path) -> None:
    """Run the experiment in the hub's folder over the sites, to the end.

    Args:
        engine: one of `ENGINES`.
        hub: folder with `experiment.json`, the atlas and the run's state; results are written there.
        sites: one folder per site.
        work: folder for what the engine itself writes: logs, Flower's home. Made if it is not there.

    Raises:
        ConfigError: no such engine, or two sites of one name.
        FederationError: the run failed; the message is the hub's.
    """
    check_engine(engine)
    if len({site.name for site in sites}) != len(sites):
        raise ConfigError("two sites have the same name: give each its own")
    work.mkdir(parents=True, exist_ok=True)
    for site in sites:
        site.state.mkdir(parents=True, exist_ok=True)
        approve(site, hub)
    if _experiment(hub).sums:
        introduce(sites, hub)
    (hub / "failed.json").unlink(missing_ok=True)
    play: Callable[[Path, Sequence[SiteFolder], Path], None]
    play = import_module(f"simulation.engines.{engine}").play
    play(hub.resolve(), sites, work.resolve())


def check_engine(engine: str) -> None:
    """See that an engine can run here.

    Raises:
        ConfigError: there is none of this name; or it is Ray, whose workers do not start where the path of Python has a
            space: it would wait for them for ever.
    """
    if engine not in ENGINES:
        raise ConfigError(f"no engine '{engine}': give one of {', '.join(ENGINES)}")
    if engine == "ray" and " " in sys.executable:
        raise ConfigError(
            f"the engine ray cannot start its workers: the path of Python, {sys.executable}, has a space; "
            "move the project to a folder without one, or use another engine"
        )


def environment(hub: Path, sites: Sequence[SiteFolder], work: Path) -> dict[str, str]:
    """Write the list of sites into `work` and give the variables that both apps read."""
    listing = work / "sites.json"
    listed = [
        {
            "name": site.name,
            "data": [str(folder.resolve()) for folder in site.data],
            "state": str(site.state.resolve()),
            **site.options(),
        }
        for site in sites
    ]
    listing.write_text(json.dumps(listed, indent=1), encoding="utf-8")
    return {**QUIET, "SST_HUB": str(hub), "SST_SITES": str(listing), "SST_SITES_EXPECTED": str(len(sites))}


def failure(hub: Path, otherwise: str) -> FederationError:
    """Give the error to raise for a failed run: the hub's own line, or `otherwise` where it left none."""
    try:
        return FederationError(json.loads((hub / "failed.json").read_text(encoding="utf-8"))["message"])
    except (OSError, ValueError, KeyError):
        return FederationError(otherwise)
