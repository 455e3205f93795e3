"""Label tables: which structures a run segments, their ids in files, groups, colours and sides.

`PAPER`, the 28 structures and 16 groups that the paper reports (Sec. 4; FreeSurfer ids), is what a preset has that
names no other. `read_table` reads another: tab-separated, with a header, as `dseg.tsv` of BIDS derivatives.
"""

import colorsys
import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from configs.errors import ConfigError

BACKGROUND = "background"
"""Group of ids that may be in a label file, and count as background."""

MOST_STRUCTURES = 254
"""A class takes a byte; 0 is background, and one more value is kept for what is mixed."""

MOST_ID = 65535

COLUMNS = ("index", "name", "group", "mirror", "color", "brightness", "inflation", "symmetry", "folded", "tissue")
"""Columns of a table that are read; only the first two must be there, others are skipped."""

BRIGHTNESS, INFLATION, SYMMETRY = 0.024, 0.45, 0.8
"""What a table says that does not say it; most of the paper's structures have these (`Row`)."""

TISSUES = ("fluid", "grey", "white")
"""Of a T1-weighted scan, the darkest first."""

_MOST = {"brightness": 1.0, "inflation": 10.0, "symmetry": 1.0, "folded": 1.0}

LABEL_TABLE = "Ids, names and groups of labels (a dseg.tsv), instead of the preset's: FreeSurfer's 28 of the paper."
"""Of the option --label-table, as commands explain it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+()-]{0,63}")
_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
_SIDE = re.compile(r"(left|right|lh|rh|l|r)[-_. ](.+)|(.+)[-_. ](left|right|lh|rh|l|r)", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One id of a label file, as a preset carries it."""

    id: int  # in a NIfTI file
    name: str
    group: str  # the name of left and right together; `BACKGROUND` for an id that is dropped
    mirror: int  # id of the same structure on the other side; its own where there is one only
    color: tuple[int, int, int]  # RGB
    brightness: float = BRIGHTNESS  # how people differ: standard deviation of the mean intensity, which is in [0, 1]
    inflation: float = INFLATION  # mm; standard deviation of how far its surface lies outwards
    symmetry: float = SYMMETRY  # correlation of that with the other side's
    folded: bool = False  # finer than a registration can follow
    tissue: str = ""  # one of `TISSUES`, for what is evidently of one


@dataclass(frozen=True)
class Structure(Row):
    """One labelled structure: a row of the table, and its class in a network's output, from 1; 0 is background."""

    index: int = 0


@dataclass(frozen=True)
class LabelTable:
    """The structures of a run, in the order of their classes, and what follows from them."""

    rows: tuple[Row, ...]

    @cached_property
    def structures(self) -> tuple[Structure, ...]:
        """All structures, in the order of their classes."""
        kept = [row for row in self.rows if row.group != BACKGROUND]
        return tuple(Structure(**vars(row), index=number) for number, row in enumerate(kept, start=1))

    @cached_property
    def classes(self) -> int:
        """Number of classes of a segmenter: the structures and background."""
        return len(self.structures) + 1

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups, in the order in which they first appear."""
        return tuple(dict.fromkeys(structure.group for structure in self.structures))

    @cached_property
    def members(self) -> dict[str, tuple[int, ...]]:
        """Class indices of each group, left and right together."""
        return {group: tuple(s.index for s in self.structures if s.group == group) for group in self.groups}

    @cached_property
    def tissues(self) -> dict[str, tuple[int, ...]]:
        """Class indices of what is evidently of each tissue."""
        return {tissue: tuple(s.index for s in self.structures if s.tissue == tissue) for tissue in TISSUES}

    @cached_property
    def group_of(self) -> tuple[int, ...]:
        """For each class, its group: from 1 in the order of `groups`; 0 is background."""
        return (0, *(self.groups.index(structure.group) + 1 for structure in self.structures))

    @cached_property
    def mirrored(self) -> tuple[int, ...]:
        """For each class, that of the same structure on the other side; its own where there is one, and background."""
        return (0, *(self.index_of[structure.mirror] for structure in self.structures))

    @cached_property
    def index_of(self) -> dict[int, int]:
        """Id in a file -> class; 0 is background."""
        return {0: 0, **{structure.id: structure.index for structure in self.structures}}

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """For each class, its id in a file."""
        return (0, *(structure.id for structure in self.structures))

    @cached_property
    def structures_named(self) -> frozenset[tuple[int, str]]:
        """Id and name of each structure."""
        return frozenset((structure.id, structure.name) for structure in self.structures)

    @cached_property
    def dropped(self) -> frozenset[int]:
        """Ids that may be in a label file, and count as background."""
        return frozenset(row.id for row in self.rows if row.group == BACKGROUND)


def table_from(values: Sequence[Mapping[str, Any]]) -> LabelTable:
    """Give the table of rows as JSON has them.

    Raises:
        ConfigError: they make no table.
    """
    try:
        rows = tuple(Row(**{**row, "color": tuple(row["color"])}) for row in values)
        return table_of(rows)
    except (TypeError, KeyError) as error:
        raise ConfigError(f"label_table: no rows of a label table ({error})") from error


@cache
def table_of(rows: tuple[Row, ...]) -> LabelTable:
    """Give the table of the rows that a preset carries; the paper's where it carries none.

    Raises:
        ConfigError: they make no table.
    """
    if not rows:
        return PAPER
    _check(rows)
    return LabelTable(rows)


def colour_table(table: LabelTable) -> list[tuple[int, str, tuple[int, int, int]]]:
    """Give id, name and colour of each structure for viewers; of the paper's as FreeSurferColorLUT.txt has them.

    Our names are those of the paper's tables, and right white matter is light grey in our pictures, as the left.
    """
    if table != PAPER:
        return [(s.id, s.name, s.color) for s in table.structures]
    rows = []
    for structure in table.structures:
        name = structure.name
        for short, long in (("-WM", "-White-Matter"), ("-CX", "-Cortex"), ("-Vent", "-Ventricle"), ("-Proper", "")):
            name = name.removesuffix(short) + (long if name.endswith(short) else "")
        rows.append((structure.id, name, (0, 225, 0) if structure.id == 41 else structure.color))
    return rows


def change_of(path: Path | None) -> tuple[str, ...]:
    """Give the change of a preset, for `configs.schema.load`, that has the label table of a file; none without one."""
    return () if path is None else (f"label_table={json.dumps(str(path))}",)


def tables_beside(labels: Path) -> list[Path]:
    """Find what may be the label table of a label map, by name: `labels.tsv` and `*dseg.tsv` in its folder."""
    return sorted({*labels.parent.glob("labels.tsv"), *labels.parent.glob("*dseg.tsv")})


def read_table(path: Path) -> tuple[Row, ...]:
    """Read a table of labels, tab-separated: see `COLUMNS`.

    `index` is the id in label files (a row for 0 is skipped). Without a `group`, or with "n/a", it is the name without
    its side (Left-, lh., ..._R); rows of the group "background" name ids that are dropped. Without a `mirror`, it is
    the row of the same group on the other side. Without a `color` (#rrggbb) one is chosen. What follows says how people
    differ, which pairs from statistics are drawn by (`Row`); without it a structure is taken for a usual one.

    Raises:
        ConfigError: it cannot be read, or makes no table; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            lines = [(n, {k: v.strip() for k, v in line.items() if k and v}) for n, line in enumerate(reader, start=2)]
            columns = reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read the label table {path}: {error}") from error
    if missing := [column for column in COLUMNS[:2] if column not in columns]:
        raise ConfigError(
            f"{path}: no column '{missing[0]}'; a label table is tab-separated and begins with a line of names: "
            f"{', '.join(COLUMNS)} (the first two must be there)"
        )
    try:
        rows = _rows([(f"line {number}", line) for number, line in lines])
        _check(rows)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return rows


def _rows(lines: Sequence[tuple[str, dict[str, str]]]) -> tuple[Row, ...]:
    """Make rows of what the lines of a table say; each comes with its place, for errors."""
    found: list[tuple[str, dict[str, str], int, str, str]] = []  # place, line, id, side, group
    for place, line in lines:
        id_ = _id(line.get("index", ""), place)
        if id_ == 0:
            continue
        side, base = side_of(line.get("name", ""))
        found.append((place, line, id_, side, _given(line, "group") or base))
    at = {(group, side): id_ for _, _, id_, side, group in found}
    rows = []
    for number, (place, line, id_, side, group) in enumerate(found):
        other = at.get((group, "right" if side == "left" else "left"), id_) if side else id_
        given = _given(line, "mirror")
        color = _given(line, "color")
        if color and not _COLOR.fullmatch(color):
            raise ConfigError(f"{place}: color '{color}' is none: give #rrggbb")
        chosen = tuple(bytes.fromhex(color[1:])) if color else _palette(number)
        mirror = _id(given, place) if given else other
        usual = {"brightness": BRIGHTNESS, "inflation": INFLATION, "symmetry": SYMMETRY, "folded": 0.0}
        brightness, inflation, symmetry, folded = (
            _number(_given(line, column), column, value, place) for column, value in usual.items()
        )
        own = (id_, line.get("name", ""), group, mirror, (chosen[0], chosen[1], chosen[2]))
        rows.append(Row(*own, brightness, inflation, symmetry, bool(folded), _given(line, "tissue")))
    return tuple(rows)


def _given(line: dict[str, str], column: str) -> str:
    text = line.get(column, "")
    return "" if text == "n/a" else text


def _number(text: str, column: str, usual: float, place: str) -> float:
    try:
        value = float(text or usual)
    except ValueError:
        value = math.nan
    if not 0 <= value <= _MOST[column]:
        raise ConfigError(f"{place}: {column} '{text}' is no number from 0 to {_MOST[column]:g}")
    return value


def _id(text: str, place: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= MOST_ID):
        raise ConfigError(f"{place}: '{text}' is no id of a label file: give a whole number from 0 to {MOST_ID}")
    return int(text)


def side_of(name: str) -> tuple[str, str]:
    """Give the side that a name says, "left", "right" or "", and the name without it."""
    found = _SIDE.fullmatch(name)
    if not found:
        return "", name
    side, base = (found[1], found[2]) if found[1] else (found[4], found[3])
    return ("left" if side[0] in "lL" else "right"), base


def _palette(number: int) -> tuple[int, int, int]:
    """Choose a colour that is unlike those before it: hues by the golden ratio."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.55 + 0.3 * (number % 2), 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _check(rows: Iterable[Row]) -> None:
    """Refuse rows that make no table.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    rows = tuple(rows)
    kept = {row.id: row for row in rows if row.group != BACKGROUND}
    for field, values in (("id", [str(row.id) for row in rows]), ("name", [row.name for row in rows])):
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ConfigError(f"{field} {twice} is there twice; each label needs its own")
    for row in rows:
        if not 1 <= row.id <= MOST_ID or not all(0 <= part <= 255 for part in row.color):
            raise ConfigError(f"label {row.id}: ids are 1 to {MOST_ID}, colours three numbers from 0 to 255")
        for column, most in _MOST.items():
            if not 0 <= getattr(row, column) <= most:
                raise ConfigError(f"label {row.id}: {column} is a number from 0 to {most:g}")
        if row.tissue not in ("", *TISSUES):
            raise ConfigError(f"label {row.id}: tissue '{row.tissue[:80]}' is none of {', '.join(TISSUES)}")
        for text in (row.name, row.group):
            if not _NAME.fullmatch(text):
                raise ConfigError(
                    f"label {row.id}: '{text[:80]}' cannot be a name: up to 64 letters, digits, spaces and _ . + ( ) -"
                )
    for row in kept.values():
        other = kept.get(row.mirror)
        if other is None or other.mirror != row.id or other.group != row.group:
            raise ConfigError(
                f"label {row.id} has {row.mirror} for its other side, which is no label of the same group whose other "
                f"side is {row.id}"
            )
    if not 1 <= len(kept) <= MOST_STRUCTURES:
        raise ConfigError(f"{len(kept)} structures; a label table has 1 to {MOST_STRUCTURES}")


# FreeSurfer's ids and colours, the paper's names; groups in the order of the columns of its Table 1. How people differ
# was measured on the training scans of two public sites, OASIS-1 and IXI; at most two digits of it.
_PAPER = """
index name                  color    brightness  inflation  symmetry  folded  tissue
2     Left-Cerebral-WM      #f5f5f5  0.006       0.45       0.8       0       white
3     Left-Cerebral-CX      #cd3e4e  0.024       0.45       0.8       1       grey
4     Left-Lateral-Vent     #781286  0.06        1.9        0.8       0       fluid
7     Left-Cerebellum-WM    #dcf8a4  0.016       0.45       0         0       n/a
8     Left-Cerebellum-CX    #e69422  0.024       1.1        0         1       n/a
10    Left-Thalamus-Proper  #00760e  0.016       0.45       0.8       0       n/a
11    Left-Caudate          #7abadc  0.06        1.1        0.8       0       n/a
12    Left-Putamen          #ec0db0  0.016       0.45       0.8       0       n/a
13    Left-Pallidum         #0c30ff  0.024       0.45       0.8       0       n/a
14    3rd-Vent              #ccb68e  0.06        1.1        0.8       0       fluid
15    4th-Vent              #2acca4  0.024       0.9        0.8       0       fluid
16    Brain-Stem            #779fb0  0.016       0.45       0.8       0       n/a
17    Left-Hippocampus      #dcd814  0.024       0.45       0.8       0       n/a
18    Left-Amygdala         #67ffff  0.024       0.45       0.8       0       n/a
24    CSF                   #3c3c3c  0.06        0.9        0.8       0       fluid
28    Left-VentralDC        #a52a2a  0.016       0.45       0.8       0       n/a
41    Right-Cerebral-WM     #e1e1e1  0.006       0.45       0.8       0       white
42    Right-Cerebral-CX     #cd3e4e  0.024       0.45       0.8       1       grey
43    Right-Lateral-Vent    #781286  0.06        1.9        0.8       0       fluid
46    Right-Cerebellum-WM   #dcf8a4  0.016       0.45       0         0       n/a
47    Right-Cerebellum-CX   #e69422  0.024       1.1        0         1       n/a
49    Right-Thalamus-Proper #00760e  0.016       0.45       0.8       0       n/a
50    Right-Caudate         #7abadc  0.06        1.1        0.8       0       n/a
51    Right-Putamen         #ec0db0  0.016       0.45       0.8       0       n/a
52    Right-Pallidum        #0d30ff  0.024       0.45       0.8       0       n/a
53    Right-Hippocampus     #dcd814  0.024       0.45       0.8       0       n/a
54    Right-Amygdala        #67ffff  0.024       0.45       0.8       0       n/a
60    Right-VentralDC       #a52a2a  0.016       0.45       0.8       0       n/a
"""

_HEADER, *_LINES = (line.split() for line in _PAPER.strip().split("\n"))

PAPER = LabelTable(_rows([("", dict(zip(_HEADER, line, strict=True))) for line in _LINES]))
"""The paper's 28 structures and 16 groups."""
