"""`kill -9` while scans are prepared: the next run finishes, and the store is as if nothing had happened."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from client.prepare import Preparation, prepare_site
from client.segmented import NO_BIDS
from egg import make_model, write_scan

KILLS = int(os.environ.get("SST_KILLS", "4"))
"""Random moments; `make kills` takes 20."""

WORK = """
import sys
from pathlib import Path
from client.model import open_model
from client.prepare import Preparation, prepare_site
model, scans, store = map(Path, sys.argv[1:])
print("ready", flush=True)
prepare_site([scans], open_model(model).frame, store, how=Preparation())
"""


def _digests(store: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(store.iterdir())}


def test_a_killed_preparation_leaves_no_trace(tmp_path: Path) -> None:
    """Same names, same bytes, nothing half-written, after any number of kills."""
    model = make_model(tmp_path / "model")
    for number in range(3):
        write_scan(tmp_path / "in" / f"s{number}.nii.gz", turn=0.05 * number)
    began = time.monotonic()
    prepare_site([tmp_path / "in"], model.frame, tmp_path / "whole", how=Preparation())
    takes = time.monotonic() - began
    draws = random.Random(1)
    for number in range(KILLS):
        store = tmp_path / f"killed-{number}"
        command = [sys.executable, "-c", WORK, str(tmp_path / "model"), str(tmp_path / "in"), str(store)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(draws.uniform(0, takes))
            process.send_signal(signal.SIGKILL)
        prepare_site([tmp_path / "in"], model.frame, store, how=Preparation())
        assert _digests(store) == _digests(tmp_path / "whole")


def test_two_processes_may_fill_one_store(tmp_path: Path) -> None:
    """Neither waits for the other, and neither takes away what the other is writing."""
    make_model(tmp_path / "model")
    for number in range(2):
        write_scan(tmp_path / "in" / f"s{number}.nii.gz")
    store = tmp_path / "store"
    command = [sys.executable, "-c", WORK, str(tmp_path / "model"), str(tmp_path / "in"), str(store)]
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert sorted(path.name for path in store.iterdir()) == ["s0.safetensors", "s1.safetensors"]


def test_several_at_a_time_give_the_same_bytes(tmp_path: Path) -> None:
    """Processes share nothing but the store."""
    model = make_model(tmp_path / "model")
    for number in range(3):
        write_scan(tmp_path / "in" / f"s{number}.nii.gz", turn=0.05 * number)
    (tmp_path / "in" / "bad.nii").write_text("no image")
    seen: list[tuple[int, int]] = []
    for jobs, name in ((1, "one"), (2, "two")):
        how = Preparation(jobs=jobs)
        done = prepare_site([tmp_path / "in"], model.frame, tmp_path / name, lambda a, b: seen.append((a, b)), how)
        assert [case.case for case in done.cases] == ["s0", "s1", "s2"]
        assert [item.code for item in done.set_aside] == ["unreadable"]
    assert _digests(tmp_path / "one") == _digests(tmp_path / "two")
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)] * 2


SMALL_DISK = """
import resource, signal, sys
import sst
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit is an error, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(sst.run(sys.argv[2:]))
"""


@pytest.mark.parametrize(("command", "room"), [("prepare", 50_000), ("segment", 4_000), ("generate", 20_000)])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path: Path, command: str, room: int) -> None:
    """Exit code 2, what to do, and no part of a file under any name."""
    make_model(tmp_path / "model")
    scan = write_scan(tmp_path / "in" / "s.nii.gz")
    words = {
        "prepare": ["prepare", scan.parent, "--atlas", tmp_path / "model", "--jobs", "1"],
        "segment": ["segment", scan, "--model", tmp_path / "model"],
        "generate": ["generate", "--model", tmp_path / "model", "-n", "1"],
    }[command]
    line = [sys.executable, "-c", SMALL_DISK, str(room), *map(str, words), "-o", str(tmp_path / "out")]
    done = subprocess.run(line, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot write")
    assert "make room" in done.stderr and "Traceback" not in done.stderr
    left = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    hidden = {path.name: path.read_text(encoding="utf-8").splitlines() for path in left if path.name.startswith(".")}
    assert hidden in ({}, {".bidsignore": list(NO_BIDS)})  # of BIDS's own name, and whole
    assert not [path.name for path in left if path.suffix in (".gz", ".safetensors")]
