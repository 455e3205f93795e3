"""What `--help` shows of every command: the text of each argument and option, whole, in a terminal of 80 columns."""

import re
from collections.abc import Iterator

import click
import pytest
import typer

import sst


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
