# mypy: untyped-calls-exclude="nibabel"
"""`import sst`: the bytes and the messages of the commands, and results that say what was written, and what was not."""

import dataclasses
import doctest
import inspect
import math
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import client.api
import sst
from client.model import Model
from client.segmented import Segmented
from configs.structures import PAPER
from egg import make_model, remember, sample, write_scan

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")
FUNCTIONS = ("prepare", "open_model", "segment", "generate", "regenerate", "export", "evaluate")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a scan and one that is damaged, and a reference for the first."""
    folder = tmp_path_factory.mktemp("made")
    make_model(folder / "model")
    scan = nib.load(write_scan(folder / "scans" / "a.nii.gz", "LIA"))
    (folder / "scans" / "bad.nii").write_text("no image")
    (folder / "reference").mkdir()
    nib.save(nib.Nifti1Image(sample(scan.affine, scan.shape)[1], scan.affine), folder / "reference" / "a_dseg.nii.gz")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, as the current one."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def _no_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segment as the atlas is labelled: the labels of a network that has learnt nothing take long to compare."""
    monkeypatch.setattr(Model, "segmenter", remember)


def command(*words: str) -> int:
    """Run `sst` with these words."""
    return sst.run(list(words))


def tree(folder: str) -> dict[str, bytes]:
    """Give the content of every file below a folder."""
    root = Path(folder)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


SAME: dict[str, tuple[str, Callable[[str], object]]] = {
    "prepare": (
        "prepare scans --atlas model --report --jobs 1",
        lambda out: sst.prepare("scans", "model", out, report=True),
    ),
    "prepare a scan to a scan": (
        "prepare scans/a.nii.gz --atlas scans/a.nii.gz --preset tiny --no-bias",
        lambda out: sst.prepare(["scans/a.nii.gz"], "scans/a.nii.gz", out, preset="tiny", bias_correction=False),
    ),
    "segment": (
        "segment scans --model model --device cpu",
        lambda out: sst.segment(Path("scans"), sst.open_model("model"), out, device="cpu"),
    ),
    "segment otherwise": (
        "segment scans/a.nii.gz --model model --device cpu --no-bias --largest",
        lambda out: sst.segment(
            ["scans/a.nii.gz"], "model", out, bias_correction=False, largest_component=True, device="cpu"
        ),
    ),
    "generate": (
        "generate --model model -n 2 --layout nnunet --seed 5 --device cpu",
        lambda out: sst.generate("model", out, count=2, layout="nnunet", seed=5, device="cpu"),
    ),
    "export": (
        "export model --to torchscript --with-atlas",
        lambda out: sst.export("model", out, to="torchscript", with_atlas=True),
    ),
    "evaluate": (
        "evaluate reference reference",
        lambda out: sst.evaluate("reference", "reference", out),
    ),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("case", SAME)
def test_a_function_writes_the_bytes_of_its_command(case: str) -> None:
    """All files, with what is in them; what an option changes, its argument changes likewise."""
    words, call = SAME[case]
    assert command(*words.split(), "-o", "of-command") == 0
    call("of-function")
    assert tree("of-function") and tree("of-function") == tree("of-command")


@pytest.mark.usefixtures("here")
def test_arguments_change_what_their_options_change() -> None:
    """No two calls above write the same, so that an argument that is dropped on the way is seen."""
    plain = sst.segment("scans/a.nii.gz", "model", "plain", device="cpu").scans[0].path
    other = sst.segment("scans/a.nii.gz", "model", "other", device="cpu", bias_correction=False).scans[0].path
    whole = sst.segment("scans/a.nii.gz", "model", "whole", device="cpu", largest_component=True).scans[0].path
    assert len({path.read_bytes() for path in (plain, other, whole)}) == 3


@pytest.mark.usefixtures("here")
def test_a_pair_is_made_again() -> None:
    """From its recipe, the bytes that it had; the command does the same."""
    first = sst.generate("model", "pairs", count=1, device="cpu").pairs[0]
    again = sst.regenerate(first.recipe, sst.open_model("model"), "again", device="cpu")
    assert command(*f"generate --model model --recipe {first.recipe} -o of-command --device cpu".split()) == 0
    assert tree("again") == tree("of-command")
    assert again.image.read_bytes() == first.image.read_bytes() and again.recipe == first.recipe
    assert again.labels.read_bytes() == first.labels.read_bytes()


@pytest.mark.usefixtures("here", "_no_learning")
def test_results_say_what_was_written_and_what_was_set_aside() -> None:
    """Every path is there; reasons are those of the tables; progress names all; nothing is assigned to by accident."""
    seen: list[tuple[object, ...]] = []
    told = {"progress": lambda *words: seen.append(words), "begin": lambda *words: seen.append(words)}
    prepared = sst.prepare("scans", "model", "prepared", report=True, jobs=2, **told)
    found = sst.segment("scans", "model", "segmented", device="cpu")
    pairs = sst.generate("model", "pairs", count=2, device="cpu")
    figures = sst.evaluate("segmented", "reference", "figures")
    assert seen == [(1, 2, "a"), (1, 2), (2, 2, "bad"), (2, 2)]
    assert [(scan.case, scan.path.parent) for scan in prepared.scans] == [("a", prepared.folder)]
    assert prepared.report == Path("prepared/check.html") and [row.case for row in prepared.checks] == ["a"]
    assert [item.code for item in prepared.set_aside] == [item.code for item in found.set_aside] == ["unreadable"]
    assert found.set_aside[0].reason in Path("segmented/set_aside.tsv").read_text(encoding="utf-8")
    one = found.scans[0]
    wanted = {f"a_desc-sst_{end}" for end in ("dseg.nii.gz", "volumes.tsv", "overlay.png", "dseg.json")}
    assert {path.name for path in (one.path, one.table, one.overlay, one.sidecar)} == wanted
    files = [prepared.scans[0].path, one.path, one.table, one.overlay, one.sidecar, found.volumes]
    files += [path for pair in pairs.pairs for path in (pair.image, pair.labels, pair.recipe)]
    assert all(path.is_file() for path in [*files, figures.table, figures.summary, figures.plot])
    labelled = np.asarray(nib.load(one.path).dataobj)
    assert sum(structure.voxels for structure in one.structures) == (labelled > 0).sum() > 0
    assert sst.prepare("scans", "model", "prepared").report is None
    for result in (prepared, found, pairs, figures):
        with pytest.raises(dataclasses.FrozenInstanceError):
            result.folder = Path()  # type: ignore[misc]


@pytest.mark.usefixtures("here")
def test_the_mean_dice_is_that_of_the_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """Mean over scans of the mean over groups that have a figure; the command shows it in percent."""
    truth = nib.load("reference/a_dseg.nii.gz")
    ids = np.asarray(truth.dataobj).copy()
    ids[10:15][ids[10:15] == 2] = 41  # a group of two, which do not agree alike
    Path("found").mkdir()
    for case, shift in (("a", 1), ("b", 3), ("c", 0)):
        nib.save(nib.Nifti1Image(ids, truth.affine), f"reference/{case}_dseg.nii.gz")
        if shift:
            moved = nib.Nifti1Image(np.roll(ids, shift, axis=0), truth.affine)
            nib.save(moved, f"found/{case}_desc-sst_dseg.nii.gz")
    figures = sst.evaluate("found", "reference", "figures")
    dice = [[scan.figures[f"group:{group}"]["dice"] for group in PAPER.groups] for scan in figures.scans]
    known = [[value for value in values if not math.isnan(value)] for values in dice]
    assert [len(values) for values in known] == [4, 4] and known[0] != known[1]
    assert figures.mean_dice == pytest.approx(sum(sum(values) / 4 for values in known) / 2)
    assert figures.left_out == ("c is on one side only",)
    assert command("evaluate", "found", "reference", "-o", "figures") == 0
    assert f"mean Dice over 2 scans: {100 * figures.mean_dice:.1f} %" in capsys.readouterr().out


MISTAKES: list[tuple[str, Callable[[], object]]] = [
    ("segment none --model model -o out", lambda: sst.segment("none", "model", "out")),
    ("segment scans --model scans -o out", lambda: sst.segment("scans", "scans", "out")),
    ("segment scans/bad.nii --model model -o out", lambda: sst.segment("scans/bad.nii", "model", "out")),
    ("segment scans --model model -o scans/bad.nii", lambda: sst.segment("scans", "model", "scans/bad.nii")),
    ("segment scans --model model -o out --device tpu", lambda: sst.segment("scans", "model", "out", device="tpu")),
    (
        "segment scans --model model -o out --mask-pattern {x}",
        lambda: sst.segment("scans", "model", "out", mask_pattern="{x}"),
    ),
    (
        "segment scans --model model -o out --strip x",
        lambda: sst.segment("scans", "model", "out", skull_stripping="x"),
    ),
    ("prepare scans --atlas none -o out", lambda: sst.prepare("scans", "none", "out")),
    ("prepare scans/bad.nii --atlas model -o out", lambda: sst.prepare("scans/bad.nii", "model", "out")),
    ("prepare none scans --atlas model -o out", lambda: sst.prepare(["none", "scans"], "model", "out")),
    ("prepare scans --atlas scans/a.nii.gz -o out", lambda: sst.prepare("scans", "scans/a.nii.gz", "out")),
    (
        "prepare scans --atlas model -o out --mask-pattern {x}",
        lambda: sst.prepare("scans", "model", "out", mask_pattern="{x}"),
    ),
    (
        "prepare scans --atlas model -o out --strip x",
        lambda: sst.prepare("scans", "model", "out", skull_stripping="x"),
    ),
    ("generate --model none -o out", lambda: sst.generate("none", "out")),
    ("generate --model model -o out --layout zip", lambda: sst.generate("model", "out", layout="zip")),
    ("generate --model model -o out --device tpu", lambda: sst.generate("model", "out", device="tpu")),
    ("generate --model model -o out --recipe none", lambda: sst.regenerate("none", "model", "out")),
    ("export none --to torchscript -o out", lambda: sst.export("none", "out", to="torchscript")),
    ("export model --to keras -o out", lambda: sst.export("model", "out", to="keras")),
    ("export model --to torchscript -o scans", lambda: sst.export("model", "scans", to="torchscript")),
    ("evaluate none reference -o out", lambda: sst.evaluate("none", "reference", "out")),
    ("evaluate scans reference -o out", lambda: sst.evaluate("scans", "reference", "out")),
]
if not torch.cuda.is_available():
    MISTAKES.append(
        (
            "generate --model model -o out --device cuda",
            lambda: sst.generate("model", "out", device="cuda"),
        )
    )


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(("words", "call"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_an_error_with_the_message_of_the_command(
    words: str, call: Callable[[], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """An `SstError`, and nothing else, whose text is the line that the command shows."""
    with pytest.raises(sst.SstError) as error:
        call()
    assert capsys.readouterr() == ("", "")
    assert command(*words.split()) == 2
    assert capsys.readouterr().err.splitlines()[-1] == "error: " + " ".join(str(error.value).split())


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: sst.segment([], "model", "out"), "no scans are given"),
        (lambda: sst.prepare([], "model", "out"), "no scans are given"),
        (lambda: sst.prepare("scans", "model", "out", jobs=-1), "--jobs: -1 is less than 0"),
        (lambda: sst.generate("model", "out", count=0), "--count: 0 is less than 1"),
        (lambda: sst.generate("model", "out", seed=-1), "--seed: -1 is less than 0"),
    ],
)
def test_what_a_command_line_cannot_be_given_is_an_error_too(call: Callable[[], object], said: str) -> None:
    """Before anything is written."""
    with pytest.raises(sst.SstError, match=f"^{said}"):
        call()
    assert not Path("out").exists()


@pytest.fixture
def _small_disk() -> Iterator[None]:
    """Have writes beyond 1000 bytes of a file fail, as on a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("here", "_small_disk")
def test_a_full_disk_is_an_error_of_ours() -> None:
    """What the system says of it does not come through."""
    with pytest.raises(sst.RunError, match="^cannot write: .*; make room, or give another folder$"):
        sst.evaluate("reference", "reference", "out")


# Imports

HEAVY = {"torch", "numpy", "nibabel", "SimpleITK", "monai", "flwr", "pydantic", "matplotlib"}


@pytest.mark.parametrize(
    "code",
    [
        "import sst",
        "import sst; sst.SstError, sst.prepare, sst.segment, sst.SegmentedScans",
        "import sst; sst.run(['--help'])",
        "import sst; sst.run(['segment', '--help'])",
        "import sst; sst.run('segment none --model none -o none'.split())",
    ],
)
def test_import_and_help_are_quick(code: str) -> None:
    """No torch, no image library: neither for help, nor for names, nor for a path that is not there."""
    line = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "sst" in done.stdout.split() and not HEAVY & set(done.stdout.split())


def test_every_public_name_is_there_and_no_other() -> None:
    """What `__all__` names is found, also by `dir`; a misspelt name is the usual error."""
    for name in sst.__all__:
        assert getattr(sst, name).__module__.split(".")[0] in ("client", "configs"), name
    assert set(sst.__all__) == set(dir(sst)) and set(FUNCTIONS) < set(sst.__all__)
    with pytest.raises(AttributeError, match="module 'sst' has no attribute 'segmnt'"):
        sst.segmnt  # type: ignore[attr-defined]  # noqa: B018


# Documentation


@pytest.fixture
def example(here: Path, _no_learning: None) -> Path:
    """What the examples work on: the scan that is damaged is not there."""
    (here / "scans" / "bad.nii").unlink()
    return here


@pytest.mark.usefixtures("example")
@pytest.mark.parametrize("module", [sst, client.api], ids=lambda module: module.__name__)
def test_the_examples_of_docstrings_run(module: ModuleType) -> None:
    """As they stand there, with what they show."""
    tests = [test for test in doctest.DocTestFinder(recurse=False).find(module) if test.examples]
    assert len(tests) == 1
    assert doctest.DocTestRunner().run(tests[0]) == doctest.TestResults(0, len(tests[0].examples))


@pytest.mark.usefixtures("example")
def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The blocks of the page, one after the other, in one namespace."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.S | re.M)
    assert len(blocks) >= 2
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
    assert "mean Dice" in capsys.readouterr().out


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_page_has_each_signature(name: str) -> None:
    """Names, order and defaults of the arguments, and a row for each."""
    section = PAGE.partition(f"\n## sst.{name}\n")[2].partition("\n## ")[0]
    parameters = inspect.signature(getattr(sst, name)).parameters.values()
    words, starred = [], False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            words, starred = [*words, "*"], True
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}".replace("'", '"')
        words.append(parameter.name + default)
    shown = " ".join(line.strip() for line in section.splitlines() if line.startswith("    "))
    assert shown.startswith(f"sst.{name}({', '.join(words)}) -> "), words
    rows = re.findall(r"^\| (`[^|]+) \|", section, flags=re.M)
    assert {parameter.name for parameter in parameters} <= {one for row in rows for one in re.findall(r"`(\w+)`", row)}


def test_the_page_has_each_field_of_the_results() -> None:
    """Fields and properties of what the functions return, and of a scan that was segmented."""
    for result in (sst.PreparedScans, sst.SegmentedScans, Segmented, sst.GeneratedPairs, sst.Exported, sst.Evaluation):
        section = PAGE.partition(f"\n### {result.__name__}\n")[2].partition("\n## ")[0].partition("\n### ")[0]
        described = {
            one for row in re.findall(r"^\| (`[^|]+) \|", section, flags=re.M) for one in re.findall(r"\w+", row)
        }
        properties = {name for name, value in vars(result).items() if isinstance(value, property)}
        assert described == {field.name for field in dataclasses.fields(result)} - {"scan"} | properties, result
