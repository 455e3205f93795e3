# mypy: untyped-calls-exclude="nibabel"
"""The commands as a person types them: what they leave, and one line with exit code 2 for what they cannot do."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sst
from client.check import write_check
from client.cli import app
from client.display import Display
from client.preparation import Preparation
from client.prepare import prepare_site
from egg import affine_for, make_model, sample, write_scan


def run(*words: object) -> int:
    """Run `sst` with these words; give its exit code."""
    return sst.run([str(word) for word in words])


def test_from_raw_scans_to_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Prepare, segment, evaluate and generate, one after the other, with the files that each promises."""
    make_model(tmp_path / "model")
    write_scan(tmp_path / "in" / "a.nii.gz", "LIA")
    model = ("--model", tmp_path / "model")
    assert run("prepare", tmp_path / "in", "--atlas", tmp_path / "model", "-o", tmp_path / "p", "--report") == 0
    assert (tmp_path / "p" / "check.html").read_text().startswith("<!DOCTYPE html>")
    assert run("segment", tmp_path / "in" / "a.nii.gz", *model, "-o", tmp_path / "s", "--device", "cpu") == 0
    found = tmp_path / "s" / "a_desc-sst_dseg.nii.gz"
    assert found.exists() and (tmp_path / "s" / "a_desc-sst_overlay.png").exists()
    assert run("evaluate", found, found, "-o", tmp_path / "e") == 0
    assert "mean Dice over 1 scans: 100.0 %" in capsys.readouterr().out
    assert run("generate", *model, "-n", 1, "-o", tmp_path / "g") == 0
    assert run("generate", *model, "--recipe", tmp_path / "g" / "pair-0001.json", "-o", tmp_path / "g2") == 0
    assert (tmp_path / "g2" / "pair-0001_T1w.nii.gz").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("segment", "{in}", "--model", "{in}", "-o", "{out}"), "is no model"),
        (("segment", "{in}/none.nii", "--model", "{model}", "-o", "{out}"), "there is no"),
        (("segment", "{in}/bad.nii", "--model", "{model}", "-o", "{out}"), "none of 1 scans could be segmented"),
        (("segment", "{in}", "--model", "{model}", "-o", "{in}/bad.nii"), "cannot write to"),
        (("segment", "{in}", "--model", "{model}", "-o", "{out}", "--device", "tpu"), "none of auto, cpu, cuda"),
        (("segment", "{in}", "--model", "{model}", "-o", "{out}", "--mask-pattern", "{{x}}"), "may hold"),
        (("prepare", "{in}", "--atlas", "{in}", "-o", "{out}"), "no atlas in"),
        (("prepare", "{in}", "--atlas", "{none}", "-o", "{out}"), "there is no"),
        (("prepare", "{in}", "--atlas", "{scan}", "-o", "{out}"), "--preset"),
        (("prepare", "{in}", "--atlas", "{model}", "-o", "{out}", "--strip", "x"), "has no {in}"),
        (("generate", "--model", "{model}", "-o", "{out}", "--layout", "zip"), "none of nifti, bids, nnunet"),
        (("evaluate", "{in}/none", "{in}", "-o", "{out}"), "there is no"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    """What was wrong and what to do, exit code 2, no stack trace."""
    make_model(tmp_path / "model")
    scan = write_scan(tmp_path / "scan.nii.gz")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.nii").write_text("no image")
    places = {name: tmp_path / name for name in ("in", "out", "model", "none")} | {"scan": scan}
    assert run(*(word.format(**places) if word != "x" else word for word in words)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and said in error


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[dict[str, Any], list[str]]:
    """Run a command with --json; give its document, which is all of stdout, and the lines of stderr."""
    assert run(*words, "--json") == 0
    out, err = capsys.readouterr()
    assert "\r" not in err and "\x1b" not in err
    document: dict[str, Any] = json.loads(out)
    return document, err.splitlines()


def test_json_is_what_python_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The names of `client.api`, with files that are there; what is wrong, and how far it is, on stderr."""
    model = ("--model", tmp_path / "model")
    make_model(tmp_path / "model")
    for name in ("a", "b"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    (tmp_path / "in" / "bad.nii").write_text("no image")

    found, err = told(capsys, "segment", tmp_path / "in", *model, "-o", tmp_path / "s", "--device", "cpu")
    assert err[:3] == ["segment 1/3: a", "segment 2/3: b", "segment 3/3: bad"]
    assert any(line.startswith("set aside: unreadable: ") for line in err) and err[-1].startswith("2 scans segmented")
    assert [scan["case"] for scan in found["scans"]] == ["a", "b"] and len(found["scans"][0]["structures"]) == 28
    assert {"light", "dice", "concerns"} == set(found["scans"][0]["judgement"])
    assert [item["code"] for item in found["set_aside"]] == ["unreadable"]
    scan = found["scans"][0]
    paths = [scan[name] for name in ("path", "table", "overlay", "view", "sidecar")] + [found["page"], found["volumes"]]
    assert all(Path(path).is_file() for path in paths) and scan["dicom"] is None

    words = ("prepare", tmp_path / "in", "--atlas", tmp_path / "model", "-o", tmp_path / "p", "--report")
    prepared, err = told(capsys, *words)
    assert err[0] == "prepare 1/3: a" and Path(prepared["scans"][1]["path"]).is_file()
    assert Path(prepared["report"]).is_file() and "picture" not in prepared["checks"][0]

    figures, err = told(capsys, "evaluate", tmp_path / "s", tmp_path / "s", "-o", tmp_path / "e")
    assert err[0] == "evaluate 1/2: a" and figures["mean_dice"] == figures["scans"][1]["mean_dice"] == 1.0
    assert Path(figures["summary"]).is_file() and "group:Hippocampus" in figures["scans"][0]["figures"]

    pairs, err = told(capsys, "generate", *model, "-n", 2, "-o", tmp_path / "g", "--device", "cpu")
    assert err[:2] == ["generate 1/2: pair-0001", "generate 2/2: pair-0002"]
    again, _ = told(capsys, "generate", *model, "--recipe", pairs["pairs"][1]["recipe"], "-o", tmp_path / "g2")
    assert again["pairs"][0]["image"] == str(tmp_path / "g2" / "pair-0002_T1w.nii.gz")

    exported, _ = told(capsys, "export", tmp_path / "model", "--to", "torchscript", "-o", tmp_path / "x")
    assert exported["checked"]["differing"] == 0 and all(Path(path).is_file() for path in exported["files"])


def test_quiet_says_only_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing on stdout, no progress; a scan that was set aside, as always."""
    make_model(tmp_path / "model")
    write_scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "in" / "bad.nii").write_text("no image")
    assert run("prepare", tmp_path / "in", "--atlas", tmp_path / "model", "-o", tmp_path / "p", "-q") == 0
    out, err = capsys.readouterr()
    assert not out and err.startswith("set aside: unreadable") and err.count("\n") == 1


def test_an_error_has_no_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line on stderr, exit code 2, and nothing for a script to misread."""
    write_scan(tmp_path / "a.nii.gz")
    assert run("segment", tmp_path / "a.nii.gz", "--model", tmp_path, "-o", tmp_path / "s", "--json") == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("error: ") and err.count("\n") == 1


class Terminal(io.StringIO):
    """A stderr that a person looks at."""

    def isatty(self) -> bool:
        """It is one."""
        return True


@pytest.mark.parametrize(("term", "lines"), [("xterm", False), ("dumb", True)])
def test_a_terminal_shows_which_of_how_many(
    term: str, lines: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Number, total and name from the first scan on, with no markup; where no line can move, plain ones."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    with Display("segment") as display:
        display.begin(1, 4, "[bold]sub-01")
        display.progress(1, 4)
    text = terminal.getvalue()
    assert ("segment 1/4: [bold]sub-01\n" in text) is lines
    assert "1/4" in text and "[bold]sub-01" in text and ("\r" in text) is not lines
    assert not capsys.readouterr().out


def test_a_forced_colour_is_no_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Continuous integration sets FORCE_COLOR, and keeps what is written: no line that moves."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Display("segment") as display:
        display.begin(1, 4, "sub-01")
    assert capsys.readouterr() == ("", "segment 1/4: sub-01\n")


def test_the_check_shows_the_worst_first(tmp_path: Path) -> None:
    """A scan of another contrast is red and on top; names of files cannot break the page."""
    import nibabel as nib

    frame = make_model(tmp_path / "model").frame
    for name in ("a", "b", "c"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    affine, shape = affine_for("RAS", (3.0, 3.0, 3.0))
    image, ids = sample(affine, shape)
    negative = np.where(ids > 0, 1100 - image, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(negative, affine), tmp_path / "in" / "inverted.nii.gz")
    (tmp_path / "in" / "<b>.nii").write_text("no image")
    prepared = prepare_site([tmp_path / "in"], frame, tmp_path / "store", how=Preparation(bias=False))
    rows = write_check(prepared, frame, tmp_path / "check.html")
    assert rows[0].case == "inverted" and rows[0].light == "red"
    assert [row.light for row in rows[1:]] == ["green"] * 3
    page = (tmp_path / "check.html").read_text()
    assert "&lt;b&gt;.nii" in page and "<b>.nii" not in page and "http" not in page
    assert app.registered_commands


@pytest.mark.parametrize("how", [("-c", "import sys; sys.argv[0] = 'sst'; import sst"), ("-m", "sst", "--help")])
def test_another_project_s_package_of_our_name_is_told_at_once(tmp_path: Path, how: tuple[str, ...]) -> None:
    """`client` and the like are names that others have, too: one line, and nothing of theirs is run."""
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "__init__.py").write_text("print('theirs is run')")
    root = str(Path(sst.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    done = subprocess.run([sys.executable, "-P", *how], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: 'client' is another project's") and str(tmp_path / "client") in line


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP there")
@pytest.mark.parametrize(("own", "sleeps"), [({}, True), ({"OMP_WAIT_POLICY": "ACTIVE"}, False)])
def test_threads_that_wait_sleep_unless_the_user_has_it_otherwise(own: dict[str, str], sleeps: bool) -> None:
    """Beside another program, threads that spin make a command several times slower; OpenMP says how it waits."""
    code = (
        "import sys; sys.argv[1:] = ['--version']; import sst\ntry: sst.main()\nexcept SystemExit: pass\nimport torch"
    )
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    variables = {**others, "OMP_DISPLAY_ENV": "VERBOSE", **own}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(sst.HERE), env=variables, capture_output=True, text=True, check=True
    )
    assert ("GOMP_SPINCOUNT = '0'" in done.stderr) == sleeps
