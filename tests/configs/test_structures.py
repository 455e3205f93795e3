"""Label tables: what a file says, what follows from it, and which files are refused."""

import json
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.schema import from_dict, from_json, load
from configs.structures import PAPER, Row, change_of, read_table, table_of

TABLE = "index\tname\tgroup\tcolor\n0\tair\t\t\n3\tLeft-Kidney\t\t#ff0000\n4\tright_kidney\tKidney\tn/a\n9\tLiver\t\t\n"


def written(folder: Path, text: str, name: str = "labels.tsv") -> Path:
    """Write a table."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_the_paper_s_table_is_the_paper_s() -> None:
    """28 structures in 16 groups, ids of FreeSurfer, left for right."""
    assert (PAPER.classes, len(PAPER.groups)) == (29, 16)
    assert PAPER.groups[:3] == ("Cerebral-WM", "Cerebral-CX", "Lateral-Vent") and PAPER.groups[-1] == "VentralDC"
    assert PAPER.ids[PAPER.mirrored[PAPER.index_of[17]]] == 53  # hippocampus
    assert PAPER.mirrored[PAPER.index_of[16]] == PAPER.index_of[16]  # brain stem
    assert PAPER.members["Hippocampus"] == (PAPER.index_of[17], PAPER.index_of[53])


def test_a_file_says_ids_names_groups_sides_and_colours(tmp_path: Path) -> None:
    """Sides are read off names, groups too where the file says none; a row for 0 is skipped, and colours are chosen."""
    table = table_of(read_table(written(tmp_path, TABLE)))
    assert table.ids == (0, 3, 4, 9) and table.groups == ("Kidney", "Liver")
    assert table.mirrored == (0, 2, 1, 3) and table.group_of == (0, 1, 1, 2)
    assert table.structures[0].color == (255, 0, 0) and len({s.color for s in table.structures}) == 3
    assert (table.structures[2].brightness, table.structures[2].inflation) == (0.024, 0.45)


@pytest.mark.parametrize(
    ("name", "side"), [("lh.kidney", "left"), ("Right kidney", "right"), ("kidney-R", "right"), ("L_kidney", "left")]
)
def test_sides_are_told_in_the_usual_ways(tmp_path: Path, name: str, side: str) -> None:
    """And the rest of the name is the group."""
    other = {"left": "right", "right": "left"}[side]
    table = table_of(read_table(written(tmp_path, f"index\tname\n1\t{name}\n2\t{other}-kidney\n")))
    assert table.groups == ("kidney",) and table.mirrored == (0, 2, 1)


def test_what_a_file_says_beats_what_is_guessed(tmp_path: Path) -> None:
    """Sides by `mirror`, how people differ by its columns, ids that mean nothing by the group `background`."""
    head = "index\tname\tgroup\tmirror\tbrightness\tinflation\tsymmetry\tfolded\ttissue\textra"
    first, second = "1\tA\tlobe\t2\t0.1\t1.5\t0\t1\tgrey\tx", "2\tB\tlobe\t1\t\t\t\t\tn/a\t"
    rows = (first, second, "7\ttable\tbackground\t\t\t\t\t\t\t")
    table = table_of(read_table(written(tmp_path, "\n".join((head, *rows)) + "\n")))
    assert table.mirrored == (0, 2, 1) and table.classes == 3 and table.dropped == {7}
    one = table.structures[0]
    assert (one.brightness, one.inflation, one.symmetry, one.folded) == (0.1, 1.5, 0.0, True)
    assert table.tissues == {"fluid": (), "grey": (1,), "white": ()}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,name\n1,A\n", "no column 'index'"),
        ("index\tname\n1.5\tA\n", "line 2: '1.5' is no id"),
        ("index\tname\n1\tA\n70000\tB\n", "line 3: '70000' is no id"),
        ("index\tname\n1\tA\n1\tB\n", "id 1 is there twice"),
        ("index\tname\n1\tA\n2\tA\n", "name A is there twice"),
        ("index\tname\n1\tA\n2\n", "label 2: '' cannot be a name"),
        ("index\tname\n1\t<b>\n", "cannot be a name"),
        ("index\tname\tmirror\n1\tA\t2\n2\tB\t2\n", "label 1 has 2 for its other side"),
        ("index\tname\tmirror\n1\tA\t5\n", "label 1 has 5 for its other side"),
        ("index\tname\tcolor\n1\tA\tred\n", "line 2: color 'red'"),
        ("index\tname\tbrightness\n1\tA\tnan\n", "line 2: brightness 'nan'"),
        ("index\tname\ttissue\n1\tA\tgray\n", "label 1: tissue 'gray' is none of fluid, grey, white"),
        ("index\tname\tgroup\n1\tA\tbackground\n", "0 structures"),
        ("index\tname\n", "0 structures"),
        ("index\tname\n" + "".join(f"{n}\tn{n}\n" for n in range(1, 256)), "255 structures"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_its_line(tmp_path: Path, text: str, why: str) -> None:
    """The message names the file, and what is wrong in it."""
    with pytest.raises(ConfigError, match="labels.tsv: .*" + why.replace("(", r"\(")):
        read_table(written(tmp_path, text))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """One that is not there, and one that is no text."""
    with pytest.raises(ConfigError, match="cannot read the label table"):
        read_table(tmp_path / "nothing.tsv")
    (tmp_path / "image.tsv").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read the label table"):
        read_table(tmp_path / "image.tsv")


def test_a_preset_carries_its_table_to_the_sites(tmp_path: Path) -> None:
    """A preset's own path is beside the preset, an option's where the user is; both arrive as rows in its JSON."""
    written(tmp_path, TABLE)
    preset = written(tmp_path, 'extends = "tiny"\nlabel_table = "labels.tsv"\n', "mine.toml")
    experiment = load(str(preset))
    assert experiment.table.groups == ("Kidney", "Liver")
    assert from_json(experiment.to_json()) == experiment
    assert load("tiny", change_of(tmp_path / "labels.tsv")).label_table == experiment.label_table
    assert load("tiny").table is PAPER and load("tiny", change_of(None)).label_table == ()


@pytest.mark.parametrize(
    "change",
    [
        {"id": 0},
        {"id": "3"},
        {"name": ""},
        {"mirror": 8},
        {"color": [0, 0]},
        {"color": [0, 0, 256]},
        {"more": 1},
        {"symmetry": 1.5},
    ],
)
def test_rows_that_a_hub_made_up_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    """They come in a message: what is checked in a file is checked in them."""
    values = json.loads(load("tiny", change_of(written(tmp_path, TABLE))).to_json())
    values["label_table"][0] |= change
    with pytest.raises(ConfigError, match="label_table"):
        from_dict(values, "the experiment")


def test_too_many_structures_are_refused_in_rows_too() -> None:
    """A class takes a byte."""
    with pytest.raises(ConfigError, match="255 structures"):
        table_of(tuple(Row(n, f"n{n}", f"n{n}", n, (0, 0, 0)) for n in range(1, 256)))
