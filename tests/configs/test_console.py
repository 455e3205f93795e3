"""What commands share: examples, and what is printed where."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from configs.console import Output, document, example, examples


@dataclass(frozen=True)
class Result:
    """What a command gives back."""

    folder: Path
    figures: dict[str, float]
    ends: tuple[float, float]
    picture: str = field(default="megabytes", repr=False)

    @property
    def page(self) -> Path:
        """Derived."""
        return self.folder / "page.html"


def test_examples_are_read_back_as_whole_lines() -> None:
    """One that goes on in the next line is one."""
    epilog = example("sst a b \\", "  --out c", "sst d")
    assert examples(epilog) == ["sst a b --out c", "sst d"]
    assert examples(None) == examples("") == []


def test_a_document_has_what_the_python_interface_has() -> None:
    """Fields and properties by their names, paths as text, null for no figure; nothing that is not shown."""
    result = Result(Path("a b"), {"dice": math.nan, "ml": 1.5}, (0.0, math.inf))
    assert json.loads(document({"result": result, "all": [result.page]})) == {
        "result": {
            "folder": "a b",
            "figures": {"dice": None, "ml": 1.5},
            "ends": [0.0, None],
            "page": str(Path("a b") / "page.html"),
        },
        "all": [str(Path("a b") / "page.html")],
    }


def test_a_name_that_is_not_utf_8_comes_back() -> None:
    """The document is ASCII, whatever files are called."""
    path = Path(b"f\xfcr.nii".decode("utf-8", "surrogateescape"))
    assert document(path).isascii() and json.loads(document(path)) == str(path)


@pytest.mark.parametrize(
    ("json_", "quiet", "out", "err"),
    [
        (False, False, "done\n", "bad\n"),
        (False, True, "", "bad\n"),
        (True, False, "7\n", "done\nbad\n"),
        (True, True, "7\n", "bad\n"),
    ],
)
def test_what_is_printed_where(
    json_: bool, quiet: bool, out: str, err: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json the document alone on stdout; with --quiet only what is wrong on stderr."""
    output = Output(json_, quiet)
    output.say("done")
    output.warn("bad")
    output.give(7)
    assert capsys.readouterr() == (out, err)


def test_words_of_files_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither names nor what a scan's header says, also where they cannot be written as UTF-8."""
    Output().say("a\x1b[2Jb")
    Output().warn("a\udcfc\nb")
    assert capsys.readouterr() == ("a\\x1b[2Jb\n", "a\\udcfc\\nb\n")
