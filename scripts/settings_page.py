"""The page of all settings, from `configs/schema.py`: names, types and defaults, and the comments as their texts."""

import ast
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType, NoneType, UnionType
from typing import Any

from configs import presets, schema
from configs.structures import Row

KINDS: dict[Any, str] = {bool: "true or false", int: "whole number", float: "number", str: "text"}
KINDS[tuple[Row, ...]] = "path of a label table"
BOUNDS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))

INTRODUCTION = """\
# Settings

A preset is a TOML file. What it leaves out has the default, which is the paper's wherever the paper states one. Change
single settings of a run with `sst simulate --set TABLE.KEY=VALUE`, or write a file and give its path as `--preset`. A
file that begins with `extends = "NAME"` takes everything from that preset and names only what it changes. A key that
does not exist is an error that names the nearest one, or what it is called now.

*Made from `configs/schema.py` and its comments at each build.*
"""


@dataclass(frozen=True)
class Setting:
    """One key of a preset."""

    key: str  # as `--set` takes it: table.key
    kind: str  # in English
    default: Any
    text: str  # of its comment


@dataclass(frozen=True)
class Table:
    """One table of a preset, without the tables in it."""

    name: str  # "" for the top
    text: str  # first paragraph of the dataclass's docstring
    settings: tuple[Setting, ...]


def page() -> str:
    """Write the page: a section for each table of a preset, then what each preset sets."""
    lines = [INTRODUCTION]
    for table in tables(schema.Experiment):
        lines += [f"## [{table.name}]" if table.name else "## Top of the file", "", table.text, ""]
        if table.settings:
            lines += ["| key | meaning | default | may be |", "|---|---|---|---|"]
        for one in table.settings:
            lines.append(row((f"`{one.key.rpartition('.')[2]}`", one.text, value(one.default), one.kind)))
        lines.append("")
    return "\n".join([*lines, *_by_preset()])


def tables(root: type) -> Iterator[Table]:
    """Give the tables of a preset in their order; `root` is the dataclass of a whole one."""
    yield from _tables(root, "", comments(inspect.getmodule(root)), None)


def _tables(kind: type, name: str, texts: Mapping[str, Mapping[str, str]], given: Any) -> Iterator[Table]:
    hints = typing.get_type_hints(kind, include_extras=True)
    settings, nested = [], []
    for item in fields(kind):
        key = f"{name}.{item.name}" if name else item.name
        default = getattr(kind if given is None else given, item.name, None)
        if is_dataclass(hints[item.name]):
            nested.append((hints[item.name], key, default))
            continue
        said = (texts.get(parent.__name__, {}).get(item.name, "") for parent in kind.__mro__)
        settings.append(Setting(key, in_english(hints[item.name]), default, next(filter(None, said), "")))
    yield Table(name, " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split()), tuple(settings))
    for inner, key, default in nested:
        yield from _tables(inner, key, texts, default)


def comments(module: ModuleType | None) -> dict[str, dict[str, str]]:
    """Give the comment of each field of a module's classes: behind the field, or on the lines above it."""
    source = inspect.getsource(module) if module else ""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(source).body:
        items = node.body if isinstance(node, ast.ClassDef) else []
        for item in items:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                found.setdefault(getattr(node, "name", ""), {})[item.target.id] = _comment(source.splitlines(), item)
    return found


def _comment(lines: list[str], item: ast.AnnAssign) -> str:
    end = item.end_lineno or item.lineno
    behind = lines[end - 1].encode()[item.end_col_offset or 0 :].decode().strip()
    if behind.startswith("#"):
        return behind.lstrip("# ")
    above: list[str] = []
    for line in reversed(lines[: item.lineno - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().lstrip("# "))
    return " ".join(above)


def in_english(hint: Any) -> str:
    """Say which values a field may have, from its type and the bounds in it."""
    if hint in KINDS:
        return KINDS[hint]
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        marks = [mark for extra in inner[1:] for mark in getattr(extra, "metadata", [extra])]
        return _bounded(in_english(inner[0]), marks)
    if origin is typing.Literal:
        return " or ".join(value(choice) for choice in inner)
    if origin in (typing.Union, UnionType):
        kinds = [in_english(kind) for kind in inner if kind is not NoneType]
        return " or ".join([*kinds, "left out"])
    if origin is dict:
        return "tables, by name"
    if origin is tuple:
        many = "list" if inner[-1] is Ellipsis else f"list of {len(inner)}"
        return f"{many}, each a {in_english(inner[0])}"
    return str(getattr(hint, "__name__", hint))


def _bounded(words: str, marks: Iterable[Any]) -> str:
    bounds = [f"{text} {getattr(mark, name):g}" for mark in marks for name, text in BOUNDS if hasattr(mark, name)]
    return f"{words}, {' and '.join(bounds)}" if bounds else words


def value(given: Any) -> str:
    """Give a value as a preset has it."""
    if given is None or given == {}:
        return ""
    if isinstance(given, bool):
        return f"`{str(given).lower()}`"
    if isinstance(given, tuple):
        return f"`[{', '.join(map(str, given))}]`"
    return f'`"{given}"`' if isinstance(given, str) else f"`{given}`"


def row(cells: Iterable[str]) -> str:
    """Write one row of a table; a bar in a cell is escaped, but in code, where none ends the cell."""
    escaped = (re.sub(r"`[^`]*`|\|", lambda found: "\\|" if found[0] == "|" else found[0], cell) for cell in cells)
    return "| " + " | ".join(escaped) + " |"


def _by_preset() -> Iterator[str]:
    loaded = {name: schema.load(name) for name in presets.names()}
    yield from ("## What each preset sets", "")
    for name in loaded:
        yield f"- **`{name}`**: {_about(name)}"
    yield from ("", "An empty cell: the default.", "")
    yield from (row(("key", *(f"`{name}`" for name in loaded))), row(["---"] * (len(loaded) + 1)))
    settings = (one for table in tables(schema.Experiment) for one in table.settings if one.key != "name")
    for one in settings:
        given = [at(preset, one.key) for preset in loaded.values()]
        if any(found != one.default for found in given):
            yield row((f"`{one.key}`", *(value(found) if found != one.default else "" for found in given)))
    yield ""


def _about(name: str) -> str:
    """Give what the comment at the top of a preset says of it."""
    told = presets.about(presets.find(name))
    base = f"Extends `{told.extends}`." if told.extends else ""
    return " ".join(filter(None, [f"`{told.command}`{f', {told.takes}' if told.takes else ''}.", told.text, base]))


def at(preset: Any, key: str) -> Any:
    """Give the value of a dotted key."""
    for part in key.split("."):
        preset = getattr(preset, part)
    return preset
