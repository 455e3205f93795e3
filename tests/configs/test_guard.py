"""The seam at which the guard stands between Flower and the app; a new minor version of Flower is to be read first."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.cli.install import install_from_fab
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

from client.home import Home
from client.launch import write_tools
from configs import guard
from configs.processes import guarded
from server import launch
from server.office import Office, Settings, write_settings

ROOT = Path(__file__).resolve().parents[2]

LOADERS = {"flwr-clientapp": "load_client_app_fn", "flwr-serverapp": "run_"}
"""Command -> the call by which Flower imports the app."""


def calls(name: str) -> list[ast.Call]:
    """Give the calls in the function that runs an app, in the order in which they stand there."""
    runner = import_module(guard.TOOLS[name].runner)
    function = getattr(runner, guard.TOOLS[name].runner.rpartition(".")[2])
    found = [node for node in ast.walk(ast.parse(inspect.getsource(function))) if isinstance(node, ast.Call)]
    return sorted(found, key=lambda node: node.lineno)


def test_the_seam_was_checked_for_this_version_of_flower() -> None:
    """Read `run_clientapp` and `run_serverapp` of a new one, run tests/live, then raise `guard.CHECKED` and the pin."""
    assert ".".join(version("flwr").split(".")[:2]) == guard.CHECKED
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"flwr[simulation]=={guard.CHECKED}.*" in project["dependencies"]


@pytest.mark.parametrize("name", guard.TOOLS)
def test_the_names_that_the_guard_uses_are_flowers(name: str) -> None:
    """The command calls the runner, the runner has Flower's own installation, and what is raised is an exception."""
    tool = guard.TOOLS[name]
    runner, command = import_module(tool.runner), guard._named(tool.command)
    assert runner.install_from_fab is install_from_fab
    run = tool.runner.rpartition(".")[2]
    assert run in command.__code__.co_names
    assert command.__globals__[run] is getattr(runner, run)
    assert issubclass(guard._named(tool.refusal), Exception)


@pytest.mark.parametrize("name", guard.TOOLS)
def test_flower_installs_the_app_by_that_name_before_it_loads_it(name: str) -> None:
    """Once, with the content of the bundle first; whatever imports the app comes after, and once, too."""
    named = [(node.func.id, node) for node in calls(name) if isinstance(node.func, ast.Name)]
    (installed,) = [node for called, node in named if called == "install_from_fab"]
    (loaded,) = [node for called, node in named if called == LOADERS[name]]
    assert ast.unparse(installed.args[0]) == "fab.content"
    assert installed.lineno < loaded.lineno
    first = next(iter(inspect.signature(install_from_fab).parameters.values()))
    assert (first.name, first.kind) == ("fab_file", first.POSITIONAL_OR_KEYWORD)


@pytest.mark.parametrize("name", guard.TOOLS)
def test_an_app_that_is_not_approved_is_not_installed(name: str, tmp_path: Path) -> None:
    """The guard takes the place of the installation that Flower's command would call, and says why in its log."""
    tool = guard.TOOLS[name]
    code = (
        "import sys; from importlib import import_module; from configs import guard; "
        f"runner = import_module('{tool.runner}'); command = import_module('{tool.command.split(':')[0]}')\n"
        "def run(*_, **__): runner.install_from_fab(b'another app', skip_prompt=True)\n"
        f"command.{tool.command.split(':')[1]} = run\n"
        f"guard.main('{name}')"
    )
    own = {"SST_APPROVED": str(tmp_path / "approved.json"), "SST_REFUSED": str(tmp_path / "refused.log")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **own, "FLWR_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tool.refusal.split(":")[1] in done.stderr.splitlines()[-1], done.stderr
    assert re.fullmatch(r"\S+ refused [0-9a-f]{64}: no app is approved\n", (tmp_path / "refused.log").read_text())
    assert not (tmp_path / "apps").exists()


def test_flower_finds_the_guarded_commands_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a hub and at a site; Flower starts a command by its name, for each kind of task that anybody may ask for."""
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    office, site = Office(tmp_path / "hub"), Home(tmp_path / "north")
    office.folder.mkdir()
    office.bundle.write_bytes(b"app")
    (office.folder / "hub.toml").write_text(write_settings(Settings("trial", "hub.example.org", 8443)))
    launch._write_tools(office)
    tools = write_tools(site)
    for folder, path in ((office.folder / "bin", launch._path(office)), (tools, guarded(tools))):
        found = {name: shutil.which(name, path=path) for name in TASK_TYPE_TO_COMMAND.values()}
        assert {Path(place).parent for place in found.values() if place} == {folder.resolve()}
        assert {name for name, place in found.items() if place} >= set(guard.OTHERS)
    log = tmp_path / "refused.log"
    done = subprocess.run([tools / "flwr-model", "--token", "x"], env={"SST_REFUSED": str(log)}, check=False)
    assert done.returncode == 1
    assert log.read_text().endswith("refused flwr-model: nothing that is approved needs it\n")
    first = launch.printed(office).splitlines()[-3].split()[0]
    assert Path(first).name == "flower-superlink" and Path(first).exists()
