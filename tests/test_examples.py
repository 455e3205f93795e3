"""The scripts in `examples/` run as their first lines say, and print what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "segment_simulated_people.py"


def run(out: Path) -> subprocess.CompletedProcess[str]:
    """Run the example on one core."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, str(EXAMPLE), "--out", str(out)]
    return subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)


def test_simulated_people_are_segmented_with_a_federations_model(tmp_path: Path) -> None:
    """A row for each person, with figures above chance, and files; the second call uses what is there."""
    done = run(tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^(sub-\S+|mean) +(\d+\.\d) %", done.stdout, flags=re.M)
    assert [name for name, _ in rows] == ["sub-CANDI001", "sub-CANDI002", "mean"]
    dice = [float(value) for _, value in rows]
    assert dice[2] == pytest.approx((dice[0] + dice[1]) / 2, abs=0.11) and dice[0] != dice[1] and min(dice) > 20
    image = re.search(r"^a generated pair: (.*)$", done.stdout, flags=re.M)
    assert image and Path(image[1]).is_file()
    assert len(list((tmp_path / "out" / "segmented").rglob("*_overlay.png"))) == 2

    before = (tmp_path / "out" / "hub" / "events.jsonl").read_bytes()
    assert run(tmp_path / "out").stdout == done.stdout
    assert (tmp_path / "out" / "hub" / "events.jsonl").read_bytes() == before


def test_a_mistake_in_an_example_is_one_line(tmp_path: Path) -> None:
    """A folder with other people in it is refused in the words of the error."""
    (tmp_path / "people" / "labelled").mkdir(parents=True)
    (tmp_path / "people" / "labelled" / "other.txt").touch()
    done = run(tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert re.fullmatch(r"error: .*labelled holds other data.*\n", done.stderr)
