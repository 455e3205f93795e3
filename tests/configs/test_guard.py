"""The seam at which the guard stands between Flower and the app; a new minor version of Flower is to be read first."""

import ast
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

from client.gate import clientapp
from client.home import Home
from client.launch import write_tools
from configs import guard
from configs.processes import guarded
from server import launch
from server.office import Office, Settings, write_settings

ROOT = Path(__file__).resolve().parents[2]

SEAMS = {
    "flwr-clientapp": (clientapp.RUNNER, clientapp.COMMAND),
    "flwr-serverapp": (guard.RUNNER, guard.COMMAND),
}
"""Command -> module that installs the app, and what is run."""

LOADERS = {"flwr-clientapp": "get_load_client_app_fn", "flwr-serverapp": "run_"}
"""Command -> the call by which Flower finds, or imports, the app."""

MAIN = {"flwr-clientapp": "client.gate.clientapp", "flwr-serverapp": "configs.guard"}
"""Command -> the module whose `main` stands for it."""


def calls(name: str) -> list[ast.Call]:
    """Give the calls in the function that runs an app, in the order in which they stand there."""
    runner = import_module(SEAMS[name][0])
    function = getattr(runner, SEAMS[name][0].rpartition(".")[2])
    found = [node for node in ast.walk(ast.parse(inspect.getsource(function))) if isinstance(node, ast.Call)]
    return sorted(found, key=lambda node: node.lineno)


def test_the_seam_was_checked_for_this_version_of_flower() -> None:
    """Read `run_clientapp` and `run_serverapp` of a new one, run tests/live, then raise `guard.CHECKED` and the pin."""
    assert ".".join(version("flwr").split(".")[:2]) == guard.CHECKED
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"flwr[simulation]=={guard.CHECKED}.*" in project["dependencies"]


@pytest.mark.parametrize("name", guard.GUARDED)
def test_the_names_that_the_guard_uses_are_flowers(name: str) -> None:
    """The command calls the runner, the runner has Flower's own installation, and what is raised is an exception."""
    where, what = SEAMS[name]
    runner, command = import_module(where), guard.named(what)
    assert runner.install_from_fab is install_from_fab
    run = where.rpartition(".")[2]
    assert run in command.__code__.co_names
    assert command.__globals__[run] is getattr(runner, run)
    assert issubclass(guard.named("flwr.clientapp.client_app:LoadClientAppError"), Exception)


@pytest.mark.parametrize("name", guard.GUARDED)
def test_flower_installs_the_app_by_that_name_before_it_loads_it(name: str) -> None:
    """Once, with the content of the bundle first; whatever imports the app comes after, and once, too."""
    named = [(node.func.id, node) for node in calls(name) if isinstance(node.func, ast.Name)]
    (installed,) = [node for called, node in named if called == "install_from_fab"]
    (loaded,) = [node for called, node in named if called == LOADERS[name]]
    assert ast.unparse(installed.args[0]) == "fab.content"
    assert installed.lineno < loaded.lineno
    first = next(iter(inspect.signature(install_from_fab).parameters.values()))
    assert (first.name, first.kind) == ("fab_file", first.POSITIONAL_OR_KEYWORD)


@pytest.mark.parametrize("name", guard.GUARDED)
def test_an_app_that_is_not_approved_is_not_installed(name: str, tmp_path: Path) -> None:
    """The guard takes the place of the installation that Flower's command would call, and says why in its log."""
    (runner, command), main = SEAMS[name], MAIN[name]
    code = (
        "import sys; from importlib import import_module\n"
        f"runner = import_module('{runner}'); command = import_module('{command.split(':')[0]}')\n"
        "def run(*_, **__): runner.install_from_fab(b'another app', skip_prompt=True)\n"
        f"command.{command.split(':')[1]} = run\n"
        f"import_module('{main}').main()"
    )
    own = {"SST_SITE": str(tmp_path)}
    own |= {"SST_APPROVED": str(tmp_path / "approved.json"), "SST_REFUSED": str(tmp_path / "refused.log")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **own, "FLWR_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    error = {"flwr-clientapp": "LoadClientAppError", "flwr-serverapp": "PermissionError"}[name]
    assert error in done.stderr.splitlines()[-1], done.stderr
    assert re.fullmatch(r"\S+ refused [0-9a-f]{64}: no app is approved\n", (tmp_path / "refused.log").read_text())
    assert not (tmp_path / "apps").exists()


def test_the_gate_stands_in_the_place_of_the_app(tmp_path: Path) -> None:
    """Flower asks one function for what loads an app, and calls what that gives: it gets the gate, whatever it asks."""
    source = inspect.getsource(import_module(clientapp.RUNNER).run_clientapp)
    assert re.search(r"load_client_app_fn = get_load_client_app_fn\(", source)
    assert re.search(r"client_app: ClientApp = load_client_app_fn\(", source)
    (tmp_path / "site.toml").write_text('name = "north"\naddress = "hub:8443"\ndata = ""\n')
    (tmp_path / "approved.json").write_text('{"folder": "app"}')
    app = clientapp.loader(Home(tmp_path))("an app", "of any version", "and hash")
    assert isinstance(app, ClientApp)


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
    first = shlex.split(launch.printed(office).splitlines()[-3])[0]
    assert Path(first).name == "flower-superlink" and Path(first).exists()
