"""A file of lines that each hold the hash of the one before."""

import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from configs.errors import RunError
from sst_models.wire import chain

ROOT = Path(__file__).resolve().parents[2]


def test_each_entry_follows_from_the_one_before(tmp_path: Path) -> None:
    """Hashes are of the entry's canonical JSON, the first follows from 64 zeros."""
    path = tmp_path / "log.jsonl"
    hashes = [chain.append(path, {"n": n}, "log") for n in range(3)]
    entries = chain.verify(path, "log")
    assert [entry["hash"] for entry in entries] == hashes
    assert [entry["previous"] for entry in entries] == ["0" * 64, *hashes[:2]]
    own = {key: value for key, value in entries[1].items() if key != "hash"}
    assert sha256(json.dumps(own, sort_keys=True, separators=(",", ":")).encode()).hexdigest() == hashes[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", own["time"])


@pytest.mark.parametrize(("how", "line"), [("changed", 2), ("dropped", 2), ("moved", 1), ("put in", 3), ("no JSON", 2)])
def test_what_was_altered_is_found(how: str, line: int, tmp_path: Path) -> None:
    """The first line that does not follow is named."""
    path = tmp_path / "log.jsonl"
    for n in range(4):
        chain.append(path, {"n": n}, "log")
    lines = path.read_text().splitlines()
    if how == "changed":
        lines[1] = lines[1].replace('"n":1', '"n":7')
    elif how == "dropped":
        del lines[1]
    elif how == "moved":
        lines[0], lines[1] = lines[1], lines[0]
    elif how == "put in":
        lines.insert(2, lines[3])
    else:
        lines[1] = "x"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=rf"line {line} .*the log was altered"):
        chain.verify(path, "log")


def test_a_torn_last_line_is_cut_and_the_chain_goes_on(tmp_path: Path) -> None:
    """What it stood for did not happen."""
    path = tmp_path / "log.jsonl"
    chain.append(path, {"n": 0}, "log")
    with path.open("a") as file:
        file.write('{"n":1')
    chain.append(path, {"n": 2}, "log")
    assert [entry["n"] for entry in chain.verify(path, "log")] == [0, 2]


def test_processes_that_write_at_once_make_one_chain(tmp_path: Path) -> None:
    """A hub that stops and an operator at the terminal: one waits for the other."""
    path = tmp_path / "log.jsonl"
    code = (
        "import sys; from pathlib import Path; from sst_models.wire import chain; "
        "[chain.append(Path(sys.argv[1]), {'who': sys.argv[2], 'n': n}, 'log') for n in range(40)]"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(path), who], cwd=ROOT) for who in "ab"]
    assert [one.wait(60) for one in both] == [0, 0]
    assert len(chain.verify(path, "log")) == 80
