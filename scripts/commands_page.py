"""The page of all commands, from the command line itself: every argument and option with its help."""

from collections.abc import Iterator
from typing import Any

import typer.main

import sst
from configs.console import examples
from scripts.settings_page import row

INTRODUCTION = """\
# Commands

Every command first checks what can be checked, so that a mistake costs no training, and says what is wrong in one line.
Exit code 0 is success, 2 something that you can mend, 130 a stop by Ctrl-C, and 1 a fault of the program, whose trace
is then in `sst-error.log`. What takes long goes on where it stopped when the same command is given again.

`sst --install-completion` lets the shell complete commands, options, presets and names of sites from the next terminal
on; `sst --show-completion` prints what it would install. `NO_COLOR=1` leaves colours out.

*Made from the command line itself at each build; `sst COMMAND -h` says the same.*

## For scripts

What a command has done goes to stdout; what is wrong, and how far it is, to stderr: on a terminal as a line that moves,
elsewhere as a plain line for each scan (`segment 3/40: sub-03`). `--quiet` leaves only what is wrong. With `--json`
stdout has one JSON document and nothing else. An error is one line on stderr and no document, but for `sst site check`,
which also lists what is not fine. Paths are as they were given, relative to the folder in which the command ran. A
figure that does not exist is `null`, where Python has nan. Names stay; a later version may add some.
"""

RESULT = "the fields of [{0}](python-api.md#{1})"

DOCUMENTS = {
    "sst prepare": RESULT.format("PreparedScans", "preparedscans"),
    "sst segment": RESULT.format("SegmentedScans", "segmentedscans"),
    "sst evaluate": RESULT.format("Evaluation", "evaluation"),
    "sst generate": RESULT.format("GeneratedPairs", "generatedpairs"),
    "sst export": RESULT.format("Exported", "exported"),
    "sst presets": "`presets`: `name`, `purpose`, `takes`, `command`, `text`, `extends`, `path` of each; of one, "
    "`about`: the same, and `settings`: all [settings](settings.md)",
    "sst simulate": "`folder`, `report`, `results` ([results.json](files.md#resultsjson)), `models`: `site` and "
    "`model` of each",
    "sst demo": "the same",
    "sst audit": "`report`, and what [audit.json](files.md#auditjson) holds",
    "sst hub invite": "`kits`: `site`, `path`, `digest` of each",
    "sst hub admit": "`admitted`: `site`, `fingerprint` of each",
    "sst hub backup": "`path`, `files`, `digest`",
    "sst hub log": "not one document, but a line of JSON for each entry, as in [admin.jsonl](files.md#adminjsonl)",
    "sst hub status": "in one line, `state`, `phase`, `round`, `since`, `left`, `between`, `sites`, `message`, "
    "`certificates`, `superlink`; [exit codes](operate-a-hub.md#watching)",
    "sst site check": "`fine`, and `lines`: `name`, `fine`, `found`, `do` of each",
    "sst site ledger": "`entries`, as [ledger.jsonl](files.md#ledgerjsonl) has them",
}
"""Each command that has `--json` -> what it then prints."""


def page() -> str:
    """Write the page: a section for each command."""
    lines = [INTRODUCTION, "| command | its document |", "|---|---|"]
    lines += [*(row((f"`{name}`", text)) for name, text in DOCUMENTS.items()), ""]
    for name, command in commands(command_line()).items():
        lines += [f"## {name}", "", (command.help or "").strip(), "", "```text", _usage(name, command), "```", ""]
        lines += ["For example:", "", "```text", *examples(command.epilog), "```", ""]
        rows = [_parameter(parameter) for parameter in parameters(command)]
        lines += ["| | | default |", "|---|---|---|", *rows, ""] if rows else []
    return "\n".join(lines)


def command_line() -> Any:
    """Give the whole command line, as click has it."""
    return typer.main.get_command(sst.build())


def commands(group: Any, name: str = "sst") -> dict[str, Any]:
    """Give all commands by their full names, such as "sst hub init"."""
    found: dict[str, Any] = {}
    for own, command in sorted(group.commands.items(), key=lambda item: hasattr(item[1], "commands")):
        full = f"{name} {own}"
        found |= commands(command, full) if hasattr(command, "commands") else {full: command}
    return found


def parameters(command: Any) -> Iterator[Any]:
    """Give a command's arguments and options, without --help."""
    return (parameter for parameter in command.params if parameter.name != "help")


def is_option(parameter: Any) -> bool:
    """Whether a parameter is an option, and not an argument."""
    return bool(parameter.param_type_name == "option")


def _usage(name: str, command: Any) -> str:
    given = list(parameters(command))
    arguments = [_argument(one) for one in given if not is_option(one)]
    needed = [f"{one.opts[0]} {one.metavar or ''}".strip() for one in given if is_option(one) and one.required]
    others = ["[OPTIONS]"] if any(is_option(one) and not one.required for one in given) else []
    return " ".join([name, *arguments, *needed, *others])


def _argument(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _parameter(parameter: Any) -> str:
    if not is_option(parameter):
        return row((f"`{_argument(parameter)}`", parameter.help or "", ""))
    names, off = (", ".join(f"`{name}`" for name in given) for given in (parameter.opts, parameter.secondary_opts))
    takes = f" `{parameter.metavar}`" if parameter.metavar and not parameter.is_flag else ""
    shown = f"{names}{takes}" + (f" or {off}" if off else "")
    return row((shown, parameter.help or "", "needed" if parameter.required else _default(parameter)))


def _default(parameter: Any) -> str:
    given = parameter.default
    if parameter.is_flag:
        return "on" if given is True else "off"
    return f"`{given}`" if isinstance(given, str | int | float) and str(given) else ""
