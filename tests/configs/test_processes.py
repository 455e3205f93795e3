"""What `sst hub start` and `sst site start` start ends with them, also when a service manager stops them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import processes
from configs.errors import FederationError
from configs.processes import Processes, stoppable

ROOT = Path(__file__).resolve().parents[2]

CODE = """
import sys, time
from pathlib import Path
from configs.processes import Processes, stoppable
place = Path(sys.argv[1])
with stoppable(), Processes({}, place / "logs", place / "work") as processes:
    script = "trap 'echo clean > ended; exit 0' TERM; echo $$ > up; while :; do sleep 0.1; done"
    processes.start("sleeper", ["sh", "-c", script])
    time.sleep(60)
"""


def test_sigterm_is_a_clean_stop(tmp_path: Path) -> None:
    """Exit code 0, and what was started was asked to end and has ended."""
    hub = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path)], cwd=ROOT)
    end = time.monotonic() + 30
    up = tmp_path / "work" / "up"
    while not (up.exists() and up.read_text().strip()):
        assert time.monotonic() < end and hub.poll() is None
        time.sleep(0.05)
    hub.send_signal(signal.SIGTERM)
    assert hub.wait(20) == 0
    assert (tmp_path / "work" / "ended").read_text() == "clean\n"
    assert not Path(f"/proc/{up.read_text().strip()}").exists()


def test_after_the_block_sigterm_is_what_it_was() -> None:
    """Whether the block was stopped or not."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped, stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.code == 0 and signal.getsignal(signal.SIGTERM) == before
    with stoppable():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def mended(kept: Processes, name: str, most: int, until: int) -> None:
    """Start a process that ends at once, and mend it until it has been started as often as given."""
    kept.start(name, [sys.executable, "-c", "print('no such table'); print('----'); raise SystemExit(3)"])
    for _ in range(until - 1):
        kept.running[name].process.wait(20)
        assert kept.mend(0.0, most) == [name]
    kept.running[name].process.wait(20)


def test_what_does_not_stay_up_is_not_started_for_ever(tmp_path: Path) -> None:
    """After five times in a row the reason is told, with the last line that the process left."""
    with Processes(dict(os.environ), tmp_path / "logs", tmp_path / "work") as kept:
        mended(kept, "superlink", 5, 5)
        with pytest.raises(FederationError, match=r"superlink ended 5 times in a row, with code 3 \(no such table\)"):
            kept.mend(0.0, 5)


def test_what_worked_for_a_while_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often; and a site, whose hub may be away for days, gives no limit."""
    with Processes(dict(os.environ), tmp_path / "logs", tmp_path / "work") as kept:
        mended(kept, "supernode", 2, 1)
        assert kept.mend(0.0) == ["supernode"]
        monkeypatch.setattr(processes, "LIVES", 0.0)
        for _ in range(3):
            kept.running["supernode"].process.wait(20)
            assert kept.mend(0.0, 2) == ["supernode"]
