"""What `--help` shows of every command: the text of each argument and option, whole, in a terminal of 80 columns.

And an example, which can be given as it stands there.
"""

import re
import shlex
from collections.abc import Iterator

import click
import pytest
import typer

import sst
from configs import presets
from configs.console import examples


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Give a command and all below it, each with the words after `sst` that call it."""
    yield words, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*words, name))


COMMANDS = dict(commands(typer.main.get_command(sst.build())))


def shown(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """Run `sst WORDS --help`; give the text without frames and line breaks."""
    assert sst.run([*words, "--help"]) == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())


def test_help_shows_the_text_of_each_argument_and_option(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every parameter has a text, and it is there: typer 0.20 with click 8.5 drops those of arguments."""
    monkeypatch.setenv("COLUMNS", "80")
    missing = []
    for words, command in COMMANDS.items():
        page = shown(words, capsys)
        for parameter in command.params:
            text = " ".join((getattr(parameter, "help", None) or "(it has no help)").split())
            if text not in page:
                missing.append(f"sst {' '.join(words)}: {parameter.name}: {text}")
    assert not missing, "\n" + "\n".join(missing)


def test_help_says_what_each_command_does(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A command's page has its description, and a group's names every command below it."""
    monkeypatch.setenv("COLUMNS", "80")
    missing = []
    for words, command in COMMANDS.items():
        page = shown(words, capsys)
        description = " ".join((command.help or "(it has no description)").split())
        below = [f" {name} " for name in getattr(command, "commands", {})]
        missing += [f"sst {' '.join(words)}: {text}" for text in (description, *below) if text not in page]
    assert not missing, "\n" + "\n".join(missing)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_help_has_an_example_that_can_be_given(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole lines, of this command or one below it, with known options, and those that must be there."""
    monkeypatch.setenv("COLUMNS", "80")
    epilog = COMMANDS[words].epilog
    assert sst.run([*words, "--help"]) == 0
    page = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert set(filter(None, (line.strip() for line in (epilog or "").split("\n\n")))) <= set(page)
    assert examples(epilog)
    for line in examples(epilog):
        first, *given = shlex.split(line.partition(" > ")[0])
        called = next(tuple(given[:n]) for n in (2, 1) if tuple(given[:n]) in COMMANDS)
        assert first == "sst" and called[: len(words)] == words, line
        COMMANDS[called].make_context(line, given[len(called) :])


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_h_is_help(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """On every command and group."""
    assert sst.run([*words, "--help"]) == 0
    page = capsys.readouterr().out
    assert sst.run([*words, "-h"]) == 0
    assert capsys.readouterr().out == page and "Usage: " in page


def test_help_of_a_preset_names_all_of_them() -> None:
    """Wherever one is asked for, whichever are there."""
    asked = [(words, one) for words, command in COMMANDS.items() for one in command.params if one.name == "preset"]
    assert {("prepare",), ("simulate",), ("demo",), ("hub", "init")} <= {words for words, _ in asked}
    names = ", ".join(presets.names())
    assert not [words for words, one in asked if f"(sst presets): {names};" not in (getattr(one, "help", None) or "")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sgment", "No such command 'sgment'. Did you mean 'segment'? (see `sst --help`)"),
        ("hub stat", "No such command 'stat'. Did you mean 'start', 'status'? (see `sst hub --help`)"),
        ("segment a --modle b", "No such option '--modle'. Did you mean '--model'? (see `sst segment --help`)"),
        ("segment a -o b --model", "Option '--model' requires an argument. (see `sst segment --help`)"),
        ("segment a -o b --out c --model d", "Option '--out' is given 2 times; give it once. (see `sst segment"),
        ("hub status", "Missing argument 'HUB'. (see `sst hub status --help`)"),
    ],
)
def test_a_slip_of_the_fingers_is_one_line(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What was likely meant is named once, and the command whose help says more; the last of two values never wins."""
    assert sst.run(line.split()) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(f"error: {said}") and err.count("\n") == 1


def test_options_that_may_be_given_again_may(capsys: pytest.CaptureFixture[str]) -> None:
    """Sites are two or more; a flag is as it was said last."""
    line = "simulate --preset tiny --site a=/none --site b=/none --bias --no-bias --out x"
    assert sst.run(line.split()) == 2
    assert "there is no folder /none" in capsys.readouterr().err
