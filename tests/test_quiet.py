"""Flower leaves the network alone, wherever it is started from, by an environment that has one home."""

import os
import re
import subprocess
import sys
from pathlib import Path

from flwr.common.constant import FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION
from flwr.supercore.constant import FLWR_DISABLE_UPDATE_CHECK

from client import launch as site
from configs.processes import QUIET
from server import launch as hub
from simulation import engines

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / "configs" / "processes.py"
GIVEN = re.compile(r"""\b(FLWR_[A-Z_]+)["']?\s*:?=?\s*["']?([01])\b""")  # NAME=0, NAME: "0", "NAME": "0", NAME := 0
FOLDERS = ("configs", "sst_models", "client", "server", "simulation", "benchmarks", "deploy", "docs", "scripts")


def test_flower_knows_the_variables() -> None:
    """Their names move with Flower's versions; telemetry's is in a test below."""
    assert QUIET[FLWR_DISABLE_UPDATE_CHECK] == QUIET[FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION] == "1"


def test_the_command_sets_them_before_flower_reads_them() -> None:
    """Flower reads one of them when it is imported, in a process that had none of them set."""
    code = (
        "import sys; sys.argv[1:] = ['--version']; import sst\n"
        "try: sst.main()\n"
        "except SystemExit: pass\n"
        "from flwr.supercore import telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    )
    variables = {name: value for name, value in os.environ.items() if name not in QUIET}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == "0"


def test_all_that_start_flower_take_them_from_one_home() -> None:
    """Hub, site and simulation have the same object, or all of it."""
    assert site.QUIET is hub.QUIET is QUIET
    assert QUIET.items() <= engines.QUIET.items()


def test_no_other_file_has_a_copy_that_differs() -> None:
    """No other module names the variables; what cannot import them, as the containers and a page, has all of them."""
    files = [*ROOT.glob("*.*"), ROOT / "Makefile", *(path for name in FOLDERS for path in (ROOT / name).rglob("*.*"))]
    wrong = []
    for path in (path for path in files if path.is_file() and path.suffix != ".pyc" and path != HOME):
        given = dict(GIVEN.findall(path.read_text(encoding="utf-8", errors="ignore")))
        copied = {name: value for name, value in given.items() if name in QUIET}
        if copied and (path.suffix == ".py" or copied != QUIET):
            wrong.append(f"{path.relative_to(ROOT)}: {copied}")
    assert GIVEN.findall(HOME.read_text(encoding="utf-8")) == list(QUIET.items())
    assert not wrong, wrong
