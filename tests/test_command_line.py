"""The command line as a shell sees it: completion, pipes that close early, disks that are full, colours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import sst
from configs import presets

ROOT = Path(sst.__file__).parent
HEAVY = {"torch", "numpy", "pydantic", "flwr", "SimpleITK", "nibabel"}
CODE = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); import sst; sst.main()"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a command `sst` in it, and a space in its path."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "sst").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m sst "$@"\n')
    (folder / "sst").chmod(0o755)
    return folder


def completed(*words: str) -> list[str]:
    """Ask what completes the last of these words after `sst`, as bash does; nothing heavy is imported for it."""
    asked = {"_SST_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(("sst", *words)), "COMP_CWORD": str(len(words))}
    line = [sys.executable, "-c", CODE]
    done = subprocess.run(line, cwd=ROOT, env=os.environ | asked, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stderr.split())
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("seg",), ["segment"]),
        (("hub", "st"), ["start", "status"]),
        (("segment", "--mo"), ["--model"]),
        (("segment", "x", "--device", "c"), ["cpu", "cuda"]),
        (("presets", "real-c"), ["real-cpu", "real-cpu-networks", "real-cpu-statistics"]),
        (("simulate", "--preset", "ti"), ["tiny"]),
        (("hub", "init", "hub", "--preset", "pa"), ["paper"]),
        (("simulate", "--site", "east=1", "--site", "west=2", "--unseen", "w"), ["west"]),
        (("segment", "none/"), []),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_shell_completes(words: tuple[str, ...], found: list[str]) -> None:
    """Commands, options, presets, words, and sites that were named; where nothing is, files, by the shell."""
    assert completed(*words) == found


def test_a_shell_completes_sites_of_a_hub(tmp_path: Path) -> None:
    """Those that are admitted, and not named yet."""
    (tmp_path / "sites").mkdir()
    for site in ("east", "north", "north-2"):
        (tmp_path / "sites" / f"{site}.pub").touch()
    assert completed("hub", "dismiss", str(tmp_path), "nor") == ["north", "north-2"]
    assert completed("hub", "dismiss", str(tmp_path), "north", "n") == ["north-2"]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_takes_the_script(here: Path) -> None:
    """What `--show-completion` prints, as bash reads and uses it."""
    line = (
        "source <(sst --show-completion); COMP_WORDS=(sst presets real-g); COMP_CWORD=2; _sst_completion sst\n"
        'printf "%s " "${COMPREPLY[@]}"; complete -p sst; exit'
    )
    variables = os.environ | {"PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", line], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "real-gpu complete -o default -F _sst_completion sst\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["presets paper", "presets --json", "--help"])
def test_a_reader_that_has_enough_gets_no_trace(words: str, unbuffered: str, here: Path) -> None:
    """As `sst presets | head -1`, whether it is noticed at once or at the end: not a word, and no success."""
    read, write = os.pipe()
    os.close(read)
    done = into(write, here, words, unbuffered)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", ["presets paper", "presets --json"])
def test_output_that_cannot_be_written_is_one_line(words: str, unbuffered: str, here: Path) -> None:
    """A file on a full disk, whether it is noticed at once or at the end."""
    done = into(os.open("/dev/full", os.O_WRONLY), here, words, unbuffered)
    assert done.returncode == 2 and done.stderr.startswith("error: cannot write") and done.stderr.count("\n") == 1


def into(stdout: int, here: Path, words: str, unbuffered: str) -> subprocess.CompletedProcess[str]:
    """Run a command that writes into a file or pipe, which is then closed."""
    variables = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    line = [here / "sst", *words.split()]
    done = subprocess.run(line, env=variables, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    os.close(stdout)
    return done


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By click, too, which colours warnings."""
    command = typer.main.get_command(sst.build())
    for value, color in (("", None), ("1", False)):
        monkeypatch.setenv("NO_COLOR", value)
        with command.make_context("sst", ["presets"]) as context:
            sst._options(context)
            assert context.color is color


def test_presets_are_the_files(here: Path) -> None:
    """From another folder, as a script would keep one."""
    done = subprocess.run([here / "sst", "presets", "tiny"], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout == presets.find("tiny").read_text(encoding="utf-8") and not done.stderr
