"""The command line: what it refuses, with which words and exit codes, before anything is trained."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import sst
from configs.console import Output
from configs.errors import ConfigError
from simulation.arms import ARMS
from simulation.cli import CORE_ARMS, DEMO_ARMS, _show, parse_arms, parse_atlases, parse_sites, parse_unseen
from synthetic_run import run_results


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Two site folders that hold something."""
    sites = {name: tmp_path / name for name in ("candi", "oasis")}
    for folder in sites.values():
        folder.mkdir()
        (folder / "dataset_description.json").write_text("{}")
    return sites


def simulate(folders: dict[str, Path], *more: str) -> list[str]:
    """Give the arguments of a simulation that is right but for `more`."""
    sites = [word for name, folder in folders.items() for word in ("--site", f"{name}={folder}")]
    return ["simulate", "--preset", "demo", *sites, "--out", str(folders["candi"].parent / "run"), *more]


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must be refused, and give its one line on stderr."""
    code = sst.run(arguments)
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    return err


@pytest.mark.parametrize(
    ("option", "word", "near"),
    [
        ("--engine", "superlnk", "'superlink'"),
        ("--device", "gpu", "'cpu'"),
        ("--style", "moment", "'moments'"),
        ("--arms", "affin,F", "'affine'"),
        ("--atlas", "oasi=sub-01", "'oasis'"),
        ("--unseen", "cand", "'candi'"),
    ],
)
def test_a_word_that_is_none_of_few_names_the_nearest(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], option: str, word: str, near: str
) -> None:
    """A slip of the pen is one line with the nearest word, and exit code 2."""
    said = refusal(simulate(folders, option, word), capsys)
    assert option in said and near in said


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        (["candi"], "not NAME=DIR"),
        (["=here"], "not NAME=DIR"),
        (["candi={candi}"], "1 given"),
        (["candi={candi}", "candi={oasis}"], "two sites are called 'candi'"),
        (["candi={candi}", "a/b={oasis}"], "'a/b' is no name"),
        (["candi={candi}", "oasis={candi}/nowhere"], "site 'oasis': there is no folder"),
        (["candi={candi}", "oasis={empty}"], "is empty"),
    ],
)
def test_sites_that_cannot_be_used_are_refused(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], sites: list[str], said: str
) -> None:
    """A site option that makes no sense, or a folder without scans, is one line and exit code 2."""
    (tmp_path / "empty").mkdir()
    words = [word.format(**folders, empty=tmp_path / "empty") for word in sites]
    options = [part for word in words for part in ("--site", word)]
    assert said in refusal(["simulate", "--preset", "demo", *options, "--out", str(tmp_path / "run")], capsys)


def test_files_that_are_not_there_are_refused(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A split that is missing and an output folder that is a file are told from each other."""
    assert "--splits" in refusal(simulate(folders, "--splits", str(tmp_path / "splits.tsv")), capsys)
    (tmp_path / "run").write_text("")
    assert "is a file" in refusal(simulate(folders), capsys)


def test_an_atlas_and_sites_kept_out_are_sites_that_are_there(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A federation keeps two sites, the atlas is of one of them, and a case is named where there is a =."""
    assert "fewer than two sites are left" in refusal(simulate(folders, "--unseen", "oasis"), capsys)
    assert "not SITE=CASE" in refusal(simulate(folders, "--atlas", "oasis="), capsys)
    late = folders | {"late": folders["oasis"]}
    said = refusal(simulate(late, "--unseen", "late", "--atlas", "late"), capsys)
    assert "--atlas: there is no 'late'" in said


def test_an_unknown_preset_stops_the_demo_before_it_makes_sites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo reads its preset first, and leaves nothing behind if there is none."""
    assert "no preset 'nothing'" in refusal(["demo", "--preset", "nothing", "--out", str(tmp_path / "run")], capsys)
    assert not (tmp_path / "run").exists()


def test_what_is_right_is_parsed(folders: dict[str, Path]) -> None:
    """Sites keep their order, and only the first = separates."""
    assert parse_sites([f"{name}={folder}" for name, folder in folders.items()]) == tuple(folders.items())
    words = ["oasis=sub-01=b", "oasis", "candi", "oasis"]
    found = (("oasis", "sub-01=b"), ("oasis", ""), ("candi", ""), ("oasis", ""))
    assert parse_atlases(words, ["candi", "oasis"]) == found
    with pytest.raises(ConfigError, match="'oasis=a' is there twice"):
        parse_atlases(["oasis=a", "candi=a", "oasis=a"], ["candi", "oasis"])
    assert parse_unseen(["c", "a"], ["a", "b", "c", "d"]) == ("a", "c")


def test_arms_are_given_in_the_order_of_the_table() -> None:
    """Sets of arms, single arms and both together, in any case and any order."""
    modules = {"antspyx": "ants", "voxelmorph": "voxelmorph"}
    here = [name for name, arm in ARMS.items() if not arm.package or find_spec(modules[arm.package])]
    assert parse_arms("all", atlases=2) == tuple(here)
    assert parse_arms("all") == tuple(name for name in here if name != "joint label fusion")
    assert {"StyleSeg", "DataAug refined", "control", "supervised"} <= set(parse_arms("baselines"))
    assert not {"affine", "F", "U-Net w/ adaptation"} & set(parse_arms("baselines"))
    assert parse_arms("core") == CORE_ARMS
    assert parse_arms("u-net W/ adaptation, AFFINE") == ("affine", "U-Net w/ adaptation")
    assert parse_arms("core,supervised") == (*CORE_ARMS, "supervised")
    assert set(parse_arms("core", late=True)) == {*CORE_ARMS, "U-Net common", "U-Net common and F"}
    with pytest.raises(ConfigError, match="no arm"):
        parse_arms(" , ")


def test_the_sets_of_arms_exist() -> None:
    """The arms of the core and of the demo are arms of the table, in its order."""
    assert [arm for arm in ARMS if arm in CORE_ARMS] == list(CORE_ARMS)
    assert [arm for arm in ARMS if arm in DEMO_ARMS] == list(DEMO_ARMS)


def test_usage_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An option or a command that does not exist, and one that is missing, each point to the help."""
    assert "--help" in refusal(["demo", "--outt", "run"], capsys)
    assert "--help" in refusal(["simulat"], capsys)
    assert "--preset" in refusal(["simulate"], capsys)


def test_help_and_version_succeed(capsys: pytest.CaptureFixture[str]) -> None:
    """Help names the commands of what is installed."""
    assert sst.run(["--help"]) == 0
    assert {"simulate", "demo"} <= set(capsys.readouterr().out.split())
    assert sst.run(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_a_fault_of_ours_is_one_line_and_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anything unforeseen exits with 1 and leaves its trace in a file, not on the screen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sst, "PARTS", {"ast": None})  # a module that has no commands
    assert sst.run(["demo"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "sst-error.log" in err
    assert "Traceback" in (tmp_path / "sst-error.log").read_text()


def test_ctrl_c_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is stopped exits with 130 and names the command that goes on, and nothing else."""
    (tmp_path / "stopped_part.py").write_text(
        "import typer\n\napp = typer.Typer()\n\n\n"
        "@app.command()\ndef work(out: str) -> None:\n    raise KeyboardInterrupt\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sst, "PARTS", {"stopped_part": None})
    assert sst.run(["work", "a folder"]) == 130
    said = "stopped; the same command goes on where it stopped: sst work 'a folder'\n"
    assert capsys.readouterr() == ("", said)


def test_a_part_that_is_not_installed_is_not_mounted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hospital without the simulation has a command line without its commands."""
    monkeypatch.setattr(sst, "PARTS", {"not_installed.cli": None, "simulation.not_there": "x"})
    assert sst.run(["--help"]) == 0
    assert "simulate" not in capsys.readouterr().out


def test_the_help_imports_nothing_heavy() -> None:
    """Help answers at once: no torch, no Flower, no image library is imported for it."""
    code = "import sys, sst; sst.run(['simulate', '--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "flwr", "monai", "SimpleITK", "pydantic", "matplotlib"} & set(done.stdout.split())


def test_a_script_gets_report_results_and_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one document; the table that a person reads is on stderr, or nowhere."""
    model = tmp_path / "sites" / "ixi" / "runs" / "r" / "model"
    model.mkdir(parents=True)
    (model / "card.json").write_text("{}")
    for quiet in (False, True):
        _show(run_results(), tmp_path, Output(json=True, quiet=quiet))
        out, err = capsys.readouterr()
        assert json.loads(out) == {
            "folder": str(tmp_path),
            "report": str(tmp_path / "report.html"),
            "results": str(tmp_path / "results.json"),
            "models": [{"site": "ixi", "model": str(model)}],
        }
        assert not err if quiet else "affine" in err and str(model) in err.replace("\n", "")
