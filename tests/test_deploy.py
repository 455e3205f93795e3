"""What `deploy/` holds: units and containers start what there is, and one port is open, of the hub's proxy."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import sst
from configs.processes import QUIET
from server.sources import build_bundle

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"


def parse(words: list[str]) -> tuple[str, dict[str, Any]]:
    """Parse a command line of `sst` as it would be, without running it; give the command and its arguments.

    Raises:
        click.UsageError: there is no such command or option, or an argument is missing.
    """
    command, name = typer.main.get_command(sst.build()), "sst"
    while subcommands := getattr(command, "commands", None):
        name, *words = words
        assert name in subcommands
        command = subcommands[name]
    return name, command.make_context(name, list(words)).params


def unit(name: str) -> configparser.ConfigParser:
    """Read a unit of systemd's."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string((DEPLOY / name).read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]
    return found


@pytest.mark.parametrize(("group", "folder"), [("hub", "hub"), ("site", "SITE")])
def test_units_start_commands_that_exist(group: str, folder: str) -> None:
    """With options that they have, on a folder that the unit lets them write."""
    service = unit(f"sst-{group}.service")["Service"]
    tool, *words = shlex.split(service["ExecStart"])
    assert Path(tool).name == "sst" and words[0] == group
    command, given = parse(words)
    where = Path(given[group])
    assert (command, where) == ("start", Path("/var/lib/sst") / folder)
    assert where.is_relative_to(service["ReadWritePaths"])
    # A stop is no failure, and the command ends its own processes, in order.
    assert (service["KillMode"], service["SuccessExitStatus"], "KillSignal" in service) == ("mixed", "130", False)
    assert service["Restart"] == {"hub": "on-failure", "site": "always"}[group]  # a hub ends when its run is finished


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd's own judge is not here")
@pytest.mark.parametrize("name", ["sst-hub.service", "sst-site.service"])
def test_units_are_exposed_little(name: str) -> None:
    """By systemd's own measure, 0 to 10: at most 3; and what confines the app is among the calls that are allowed."""
    checked = subprocess.run(
        ["systemd-analyze", "verify", str(DEPLOY / name)], capture_output=True, text=True, check=False
    )
    assert "ignoring" not in checked.stderr  # a line that systemd does not understand is as if it were not there
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(DEPLOY / name)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"exposure level for \S+: (\d+\.\d)", told)
    assert found is not None, told
    assert float(found[1]) <= 3.0
    allowed = re.findall(r"^SystemCallFilter=(@.*)$", (DEPLOY / name).read_text(encoding="utf-8"), flags=re.M)[0]
    assert {"@system-service", "landlock_restrict_self", "seccomp"} <= set(allowed.split())


def test_the_hubs_proxy_alone_publishes_a_port(services: dict[str, Any]) -> None:
    """One port of the hub's; a site has none, by any name, and neither shares the machine's network."""
    assert services.keys() == {"hub", "site"}
    assert services["hub"]["ports"] == ["${SST_PORT:-8443}:${SST_PORT:-8443}"]
    command, given = parse(services["hub"]["command"])
    assert (command, given["proxy"]) == ("start", True)  # so that what listens there is nginx
    assert not services["site"].keys() & {"ports", "expose", "network_mode"}
    assert "network_mode" not in services["hub"]


def test_the_hubs_health_is_its_status(services: dict[str, Any]) -> None:
    """By a command that exists, and on the folder that the hub was started with."""
    test = services["hub"]["healthcheck"]["test"]
    assert test[:2] == ["CMD", "sst"]
    command, given = parse(test[2:])
    assert (command, given["hub"]) == ("status", services["hub"]["command"][2])


def test_containers_start_commands_that_exist_and_can_do_little(services: dict[str, Any]) -> None:
    """Each starts again, Flower asks nobody, scans are read-only, and so is the container itself."""
    assert parse(services["site"]["command"])[0] == "start"
    assert {name: own["restart"] for name, own in services.items()} == {"hub": "on-failure", "site": "unless-stopped"}
    for own in services.values():
        assert "stop_signal" not in own
        assert QUIET.items() <= own["environment"].items()
        assert own["read_only"] is True and own["cap_drop"] == ["ALL"] and "privileged" not in own
        assert own["build"] == {"context": "..", "dockerfile": "deploy/Containerfile"}
        mounts = {mount["target"]: mount.get("read_only", False) for mount in own["volumes"]}
        assert mounts == ({"/srv": False, "/data/scans": True} if own is services["site"] else {"/srv": False})


def test_the_image_is_made_of_pinned_versions_and_of_all_that_hub_and_site_need(tmp_path: Path) -> None:
    """Its sources build the app that the sites approve, its command has both sides, and no data can get in."""
    lines = (DEPLOY / "Containerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith(("ARG", "FROM"))] == [
        "ARG BASE=python:3.12-slim",
        "FROM ${BASE}",
        "ARG PIP_EXTRA_INDEX_URL=",  # pip reads it from the environment
    ]
    installs = [line.split("--no-cache-dir ")[1] for line in lines if "pip install" in line]
    assert installs == [
        "--no-deps --require-hashes -r requirements-strip.lock",
        "-c constraints.txt \"$(grep '^torch==' constraints.txt)\"",
        "--no-deps --no-build-isolation -e . && pip check",
    ]
    assert not any(re.search(r"://|index-url|find-links", line) for line in lines)
    image = tmp_path / "sst"
    for line in lines:
        if line.startswith("COPY"):
            *sources, target = line.split()[1:]
            for source in sources:
                where = image / (source if target == "./" else target)
                where.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(ROOT / source, where) if (ROOT / source).is_dir() else shutil.copy(ROOT / source, where)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import sst; from server.sources import build_bundle, PROJECT; "
        "assert str(PROJECT) == sys.argv[1]; "
        "assert {g.name for g in sst.build().registered_groups} >= {'hub', 'site'}; "
        "sys.stdout.buffer.write(build_bundle())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(image)], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.stdout == build_bundle(), done.stderr.decode()
