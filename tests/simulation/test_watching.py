"""The live page of a simulation, `--watch`: beside the run, of its generated images alone, in a browser."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import sst
from browser import BROWSER, DRIVER, browser
from configs.errors import RunError
from configs.schema import load
from server import events
from simulation.scanner import SCANNERS
from simulation.sites import write_site
from simulation.watching import RunSource, page


def federation(out: Path, key: str, *rounds: int) -> Path:
    """Write the hub's folder of a federation with some rounds of register."""
    hub = out / "federations" / key
    hub.mkdir(parents=True)
    (hub / "experiment.json").write_text(load("tiny").to_json())
    for number in rounds:
        events.tell(hub, "round.started", key, {"phase": "register", "round": number})
    return hub


def test_the_newest_federation_is_shown_or_the_one_that_is_asked_for(tmp_path: Path) -> None:
    """With how far the whole run is; before there is a federation the page waits."""
    told = tmp_path / "progress.json"
    source = RunSource(tmp_path / "out", told)
    empty = source.look("")
    assert empty.facts is None and empty.simulated is not None and empty.simulated.federations == ()
    told.write_text(json.dumps({"stage": "prepare", "share": 0.25, "left": [60.0, 90.0]}))
    first = federation(tmp_path / "out", "candi/federated", 1, 2)
    os.utime(first / events.NAME, (1.0, 1.0))
    federation(tmp_path / "out", "oasis/federated", 1)
    found = source.look("")
    assert found.facts is not None and found.facts.name == "Atlas of oasis, federated"
    assert found.simulated is not None and found.simulated.left == (60.0, 90.0) and found.simulated.share == 0.25
    asked = source.look("candi/federated")
    assert asked.facts is not None and (asked.facts.name, asked.facts.status.round) == ("Atlas of candi, federated", 2)
    assert source.look("../../etc").folder == found.folder
    told.write_text('{"stage": "pre')
    assert source.look("").facts is not None


def test_a_port_that_is_taken_is_said_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the option, exit code 2, and no folder of a run."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = ["demo", "--preset", "tiny", "--out", str(tmp_path / "run"), "--watch", "--watch-port", port]
        assert sst.run(command) == 2
        err = capsys.readouterr().err
        assert port in err and "another --watch-port" in err and err.count("\n") == 1
        with pytest.raises(RunError), page(tmp_path, int(port), print):
            pass
    assert not (tmp_path / "run").exists()


def test_the_page_lives_as_long_as_the_run(tmp_path: Path) -> None:
    """It answers while the block runs, and its port is free afterwards, whatever ended the block."""
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), page(tmp_path, 0, said.append) as told:
        assert told is not None
        address = said[0].removeprefix("watch it at ")
        assert "Nothing to see yet" in httpx.get(address, trust_env=False, timeout=60).text
        raise KeyboardInterrupt
    with pytest.raises(httpx.ConnectError):
        httpx.get(address, trust_env=False)
    assert not told.parent.exists()


def test_without_watch_there_is_no_page(tmp_path: Path) -> None:
    """Nothing is started, and no file is to be written."""
    with page(tmp_path, None, print) as told:
        assert told is None


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str], Path]]:
    """A tiny simulation at work, with its page's address and its folder, whose path has a space."""
    out = tmp_path / "a run"
    sites = [f"{name}={write_site(tmp_path / name, scanner, 6, 1, 5.0)}" for name, scanner in SCANNERS.items()]
    command = [sys.executable, "-m", "sst", "simulate", "--preset", "tiny", "--no-bias", "--atlas", "candi"]
    command += ["--out", str(out), "--arms", "U-Net w/ adaptation", "--watch", "--watch-port", "0"]
    command += ["--site", sites[0], "--site", sites[1]]
    root = str(Path(sst.__file__).parent)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
    assert process.stdout is not None
    line = process.stdout.readline()
    yield line.split()[-1], process, out
    process.kill()
    process.communicate()


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium and chromedriver on this machine")
def test_a_page_of_a_simulation_shows_generated_images_alone(
    running: tuple[str, subprocess.Popen[str], Path], tmp_path: Path
) -> None:
    """A browser sees values change as rounds are done, and the images that the hub made; no file of a site is read."""
    address, process, out = running
    with browser(tmp_path) as window:
        window.patience = 300.0
        window.open(address)
        window.wait("return document.querySelectorAll('.chart').length")
        first = window.run("return document.getElementById('sites').textContent")
        window.wait("return [...document.querySelectorAll('.pictures img')].some((one) => one.naturalWidth > 0)")
        assert window.run("return document.getElementById('sites').textContent") != first
        sources = window.run("return [...document.images].map((one) => new URL(one.src).pathname)")
        files = {path.name for path in (out / "federations/candi/federated/generated").glob("*.png")}
        assert sources and {Path(source).name for source in sources} <= files
        assert all(source.startswith("/generated/") for source in sources)
        assert window.said() == []
    rest, _ = process.communicate(timeout=500)
    assert process.returncode == 0 and f"report: {out / 'report.html'}" in rest
    assert not re.search(r"Traceback|error", rest)
