"""A wheel, without the source tree: it makes a hub with the same app, and notices what is not ours."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from configs.structures import PAPER
from server.sources import build_bundle
from simulation.phantom import draw_anatomy
from simulation.scanner import SCANNERS, scan
from sst import PACKAGES

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is packed, since setuptools leaves its folders in the tree."""
    tree = tmp_path_factory.mktemp("a tree")
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py", "sst.py"):
        shutil.copy(ROOT / name, tree)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(tree / "made")]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(tree)], check=True)
    (found,) = (tree / "made").glob("*.whl")
    return found


@pytest.fixture
def site_packages(wheel: Path, tmp_path: Path) -> Path:
    """The wheel, installed: a folder with its files, in which others may install, too."""
    folder = tmp_path / "site packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def sst(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command, away from the source tree."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-P", "-m", "sst", *words]
    return subprocess.run(command, cwd=folder.parent, env=environment, capture_output=True, text=True, check=False)


def test_a_wheel_makes_a_hub_with_the_same_app(site_packages: Path, tmp_path: Path) -> None:
    """To the byte, so that it does not matter to a site; a file that others put there is not in it."""
    (site_packages / "server" / "theirs.py").write_text("print('theirs')")
    scanner = SCANNERS["oasis"]
    image, classes, affine = scan(draw_anatomy(1, 30.0, spacing=3.0), scanner, 1)
    ids = np.array([0, *(structure.id for structure in PAPER.structures)])
    nib.save(nib.Nifti1Image(np.float32(image), affine), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image(ids[classes].astype(np.int16), affine), tmp_path / "labels.nii.gz")
    done = sst(
        site_packages, "hub", "init", str(tmp_path / "hub"), "--address", "localhost:8443", "--preset", "tiny",
        "--image", str(tmp_path / "image.nii.gz"), "--labels", str(tmp_path / "labels.nii.gz"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "hub" / "app.fab").read_bytes() == build_bundle()
    assert "listen 8443 ssl;" in (tmp_path / "hub" / "nginx" / "nginx.conf").read_text()


def test_a_wheel_has_all_that_its_commands_read(wheel: Path) -> None:
    """Every file of the packages, also what is no Python: pages, presets, tables."""
    tree = wheel.parent.parent
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    files = {path.relative_to(tree).as_posix() for name in PACKAGES for path in (tree / name).rglob("*.*")}
    assert files - packed == set() and len(files) > 200


def test_a_file_of_ours_that_another_project_overwrote_is_told(site_packages: Path) -> None:
    """Both may have a `client` in one folder, and the one that came last wins."""
    assert sst(site_packages, "--version").returncode == 0
    victim = site_packages / "client" / "app.py"
    victim.write_text("print('theirs is run')")
    done = sst(site_packages, "--version")
    assert done.returncode == 2 and not done.stdout
    assert f"{victim} is not the one that was installed" in done.stderr and len(done.stderr.splitlines()) == 1
