"""The real thing on loopback: a SuperLink, one SuperNode per site, and `flwr run`.

Without TLS the SuperNodes have no registered names (Flower wants TLS for its keys), so the hub asks them. Nothing waits
without a limit: the SuperLink has `START` to answer, the hub's app `BEGIN` to begin, sites and their answers what the
app gives them (SST_SITES_WAIT, `federation.deadline`).
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from configs.errors import FederationError
from configs.processes import Processes
from server.office import works
from server.sources import assemble
from simulation.engines import SiteFolder, environment, failure
from simulation.engines.inprocess import node_config

CONNECTION = "loopback"
EMPTY: Mapping[str, str] = MappingProxyType({})
START = 90.0  # seconds for a SuperLink to answer; 1.6 to 2.6 s on an idle 2-core machine, imports from a cold disk more
BEGIN = 300.0  # seconds for the hub's app to begin; 5 to 8 s on an idle 2-core machine, a minute and more on a busy one


def play(hub: Path, sites: Sequence[SiteFolder], work: Path) -> None:
    """Run the hub's experiment over the sites on loopback (see `run_federation`).

    Raises:
        FederationError: a process did not start, or the run failed.
    """
    with superlink(hub, sites, work) as (processes, address):
        for site in sites:
            processes.start(f"site-{site.name}", _supernode(site, address))
        submit(processes, hub, [])


@contextmanager
def superlink(
    hub: Path, sites: Sequence[SiteFolder], work: Path, *options: str, more: Mapping[str, str] = EMPTY
) -> Iterator[tuple[Processes, str]]:
    """Start a SuperLink with `options` and `more` variables; give its processes and address. All end with the block.

    Raises:
        FederationError: it did not answer in time.
    """
    address = f"127.0.0.1:{free_port()}"
    home = work / "flwr"
    home.mkdir(parents=True, exist_ok=True)
    lines = ("[superlink]", f'default = "{CONNECTION}"', f"[superlink.{CONNECTION}]", f'address = "{address}"')
    (home / "config.toml").write_text("\n".join((*lines, "insecure = true", "")), encoding="utf-8")
    variables = _variables({**environment(hub, sites, work), **more}, home)
    with Processes(variables, work / "logs", work / "empty") as processes:
        host, port = address.split(":")
        quiet = "--disable-runtime-dependency-installation"
        processes.start(
            "superlink", ["flower-superlink", "--insecure", "--host", host, "--port", port, quiet, *options]
        )
        _await_health(processes, address)
        yield processes, address


def submit(processes: Processes, hub: Path, options: Sequence[str]) -> None:
    """Bring the app to the SuperLink by `flwr run` and wait until the run has ended.

    Raises:
        FederationError: the run did not begin in time or failed, or a process ended before it.
        RunError: this installation does not say what the app is made of.
    """
    with TemporaryDirectory(prefix="sst-app-") as folder:
        assemble(Path(folder) / "app")
        command = ["flwr", "run", str(Path(folder) / "app"), CONNECTION, "--stream", *options]
        run = processes.start("run", command)
        began, before, end = False, time.time(), time.monotonic() + BEGIN
        while run.poll() is None:
            processes.check("run")
            began = began or works(hub) or _written(hub / "logs" / "hub.jsonl", before)
            if not began and time.monotonic() > end:
                raise FederationError(f"the hub's app did not begin within {BEGIN:.0f} s: see {processes.logs}")
            time.sleep(0.5)
    while (status := _status(processes)).startswith(("pending", "starting", "running")):
        processes.check("run")
        time.sleep(5.0)  # the stream of the log broke, but the run goes on
    if status != "finished:completed":
        raise failure(hub, f"the run ended as '{status}': see {processes.logs / 'run.log'}")


def _written(path: Path, since: float) -> bool:
    return path.exists() and path.stat().st_mtime >= since


def free_port() -> int:
    """Give a port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _supernode(site: SiteFolder, address: str) -> list[str]:
    config = " ".join(f"{key}={json.dumps(value)}" for key, value in node_config(site).items())
    port = str(free_port())
    return ["flower-supernode", "--insecure", "--superlink", address, "--port", port, "--node-config", config]


def _variables(own: Mapping[str, str], home: Path) -> dict[str, str]:
    tools = str(Path(sys.executable).parent)  # Flower starts its parts by their names
    path = os.pathsep.join((tools, os.environ.get("PATH", "")))
    fast = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}  # seconds; a second otherwise, at each message
    quiet = {"NO_PROXY": "127.0.0.1", "NO_COLOR": "1"}
    return {**os.environ, **own, **fast, **quiet, "PATH": path, "FLWR_HOME": str(home)}


def _await_health(processes: Processes, address: str) -> None:
    opener = build_opener(ProxyHandler({}))
    end = time.monotonic() + START
    while time.monotonic() < end:
        processes.check()
        try:
            opener.open(f"http://{address}/health", timeout=2.0).close()
            return
        except (URLError, OSError):
            time.sleep(0.2)
    raise FederationError(f"the SuperLink did not answer within {START:.0f} s: see {processes.logs / 'superlink.log'}")


def _status(processes: Processes) -> str:
    """Ask for the status of the one run that this SuperLink has."""
    tool = Path(sys.executable).with_name("flwr")
    command = [str(tool), "list", CONNECTION, "--format", "json"]
    done = subprocess.run(
        command, cwd=processes.folder, env=processes.variables, capture_output=True, timeout=60.0, check=False
    )
    try:
        return str(json.loads(done.stdout)["runs"][0]["status"])
    except (ValueError, LookupError, TypeError):
        return "not started"
