"""What a site and a hub write is for their user alone, whatever umask the machine has; what a user asks for is not."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sst
from client.home import Home
from client.launch import printed, write_tools
from client.preflight import check
from configs import guard
from live import write_brains
from server.office import Office
from simulation.engines import OPEN

PERMISSIVE = 0o022

PROBE = """
import os, sys
from pathlib import Path

def main():
    where = Path(sys.argv[1])
    (where / "prepared").mkdir()
    (where / "prepared" / "patient.safetensors").write_text("")

def install_from_fab(content):
    pass
"""
"""Stands for Flower's command: writes as an app does."""


@pytest.fixture(autouse=True)
def _permissive() -> Iterator[None]:
    before = os.umask(PERMISSIVE)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub that invited a site; its folder was there before, open to all."""
    root = tmp_path_factory.mktemp("private")
    root.chmod(0o755)
    write_brains(root / "scans", 0, people=1)
    image, labels = (next((root / "scans").rglob(f"*_{kind}.nii.gz")) for kind in ("T1w", "dseg"))
    before = os.umask(PERMISSIVE)
    (root / "hub").mkdir()
    files = "--image", str(image), "--labels", str(labels)
    words = ["hub", "init", str(root / "hub"), "--address", "hub.example.org:8443", "--preset", "tiny", *files]
    assert sst.run(words) == 0
    assert sst.run(["hub", "invite", str(root / "hub"), "north"]) == 0
    os.umask(before)
    return root / "hub"


@pytest.fixture
def site(hub: Path, tmp_path: Path) -> Home:
    """A site that joined and approved; its folder was there before, open to all."""
    (tmp_path / "north").mkdir()
    folder, kit = str(tmp_path / "north"), str(Office(hub).kit("north"))
    assert sst.run(["site", "join", kit, "--data", str(hub.parent / "scans"), "--folder", folder]) == 0
    (tmp_path / "north" / "policy.toml").write_text(OPEN)
    (tmp_path / "north" / "policy.toml").chmod(0o600)
    assert sst.run(["site", "approve", folder, "--yes"]) == 0
    return Home(tmp_path / "north")


def readable(root: Path, but: Path | None = None) -> list[Path]:
    """Give what others than the owner could read."""
    paths = (path for path in (root, *root.rglob("*")) if but is None or but not in (path, *path.parents))
    return [path for path in paths if path.stat().st_mode & 0o077]


def test_what_the_commands_write_is_for_the_owner_alone(hub: Path, site: Home) -> None:
    """Folders, too; but for the approved app, which is no secret, and which nobody may write."""
    assert readable(hub) == []
    assert readable(site.folder, but=site.flower / "apps") == []
    assert {stat.S_IMODE(path.stat().st_mode) & 0o222 for path in (site.flower / "apps").rglob("*")} == {0}
    write_tools(site)
    assert stat.S_IMODE((site.folder / "bin" / "flwr-clientapp").stat().st_mode) == 0o700
    assert printed(site).splitlines()[0] == "umask 077"


def test_the_users_umask_is_as_before_after_a_command(hub: Path, site: Home) -> None:
    """Whether it went well or not: what a user asks for by name is written as the user likes."""
    assert sst.run(["site", "ledger", str(site.folder)]) == 0
    assert sst.run(["site", "ledger", "--no-such-option"]) == 2
    assert sst.run(["hub", "admit", str(hub), "no-such.pub"]) == 2
    assert os.umask(PERMISSIVE) == PERMISSIVE


def test_what_an_app_writes_is_for_the_owner_alone(tmp_path: Path) -> None:
    """The gate sees to it for itself: somebody may start the node by hand."""
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "site").mkdir()
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from client.gate import clientapp; "
        "clientapp.RUNNER, clientapp.COMMAND = 'probe', 'probe:main'; clientapp.main()"
    )
    root, own = Path(guard.__file__).parents[1], os.environ | {"SST_SITE": str(tmp_path)}
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "site")]
    subprocess.run(command, cwd=root, env=own, umask=PERMISSIVE, check=True)
    assert readable(tmp_path / "site") == [tmp_path / "site"]


def test_the_check_finds_what_others_can_read(site: Home) -> None:
    """It names one of them, and what it says mends it."""

    def line() -> tuple[bool, str, str]:
        return next((line.fine, line.found, line.do) for line in check(site) if line.name == "files")

    assert line() == (True, "nobody else's", f"chmod -R go= {site.folder}")
    open_one = site.state / "prepared" / "patient.safetensors"
    open_one.parent.mkdir(parents=True)
    open_one.write_text("")
    fine, found, do = line()
    assert not fine and found.startswith("3 files and folders can be read by others") and str(site.state) in found
    subprocess.run(do, shell=True, check=True)
    assert line()[0]


def test_the_log_of_a_fault_is_for_the_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trace may name a patient's file, and it may lie in a folder of everybody's."""
    monkeypatch.chdir(tmp_path)
    path = sst._log()
    assert path.is_relative_to(tmp_path) and stat.S_IMODE(path.stat().st_mode) == 0o600
