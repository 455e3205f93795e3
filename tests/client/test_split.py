from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.split import cases_of, find_table, split_for_good, split_people
from configs.errors import DataError

PEOPLE = {f"sub-{n:02d}": f"sub-{n:02d}" for n in range(20)}


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(row.replace(" ", "\t") for row in rows) + "\n")
    return path


def test_random_split_has_the_papers_shares() -> None:
    """Of 50 people, 10 are tested on, 4 choose the model, 36 train."""
    splits = split_people({f"sub-{n}": f"sub-{n}" for n in range(50)}, seed=0)
    assert [len(cases_of(splits, [s])) for s in ("test", "val", "train")] == [10, 4, 36]


@given(st.dictionaries(st.text("abcd", min_size=1), st.sampled_from("pqrstu"), min_size=1), st.integers(0, 99))
def test_no_person_is_in_two_splits(people: dict[str, str], seed: int) -> None:
    """All scans of a person fall into one split, and the order of the cases does not matter."""
    if len(set(people.values())) < 3:
        with pytest.raises(DataError, match="at least 3"):
            split_people(people, seed)
        return
    splits = split_people(people, seed)
    assert len({(people[case], split) for case, split in splits.items()}) == len(set(people.values()))
    assert {"train", "val", "test"} == set(splits.values())
    assert splits == split_people(dict(reversed(people.items())), seed)


def test_the_seed_moves_people() -> None:
    """Another seed is another split."""
    assert split_people(PEOPLE, 0) != split_people(PEOPLE, 1)


def test_table_is_read_for_one_site(tmp_path: Path) -> None:
    """Rows of other sites do not count, and "sub-" may be left out."""
    table = write(
        tmp_path / "splits.tsv",
        "site participant_id split",
        "a sub-1 train", "a 2 val", "a sub-3 test", "a sub-4 atlas", "b sub-1 test",
    )  # fmt: skip
    people = {f"sub-{n}": f"sub-{n}" for n in (1, 2, 3, 4)}
    expected = {"sub-1": "train", "sub-2": "val", "sub-3": "test", "sub-4": "atlas"}
    assert split_people(people, 0, table, "a") == expected


def test_table_of_people_covers_their_sessions(tmp_path: Path) -> None:
    """A row of a person holds for each of his scans, and one may be the atlas while the others train."""
    table = write(
        tmp_path / "splits.tsv", "participant_id split", "OAS1_0001 train", "OAS1_0001_MR2 atlas", "b val", "c test"
    )
    people = {"OAS1_0001_MR1": "OAS1_0001", "OAS1_0001_MR2": "OAS1_0001", "b": "b", "c": "c"}
    assert split_people(people, 0, table)["OAS1_0001_MR1"] == "train"
    assert split_people(people, 0, table)["OAS1_0001_MR2"] == "atlas"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["subject split", "s1 train"], "no column participant_id"),
        (["participant_id split", "s1 training"], "'training' of s1"),
        (["participant_id split", "s1 train", "s1 test"], "s1 is in train and in test"),
        (["participant_id split", "s1 train", "s2 val"], "s3 has no row"),
        (["participant_id split", "s1 train", "s2 train", "s3 test"], "is in val"),
        (["site participant_id split", "b s1 train"], "no rows of site a"),
        (["participant_id split"], "no rows of site a"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    """One line that names what is wrong and the table."""
    table = write(tmp_path / "splits.tsv", *rows)
    with pytest.raises(DataError, match=message) as error:
        split_people({"s1": "s1", "s2": "s2", "s3": "s3"}, 0, table, "a")
    assert "splits.tsv" in str(error.value) and "\n" not in str(error.value)


def test_a_person_in_two_splits_is_refused(tmp_path: Path) -> None:
    """A table may name sessions, but not so that one person trains and is tested on."""
    table = write(tmp_path / "splits.tsv", "participant_id split", "p_1 train", "p_2 test", "q val")
    with pytest.raises(DataError, match="p is in train and in test"):
        split_people({"p_1": "p", "p_2": "p", "q": "q"}, 0, table)


def test_a_missing_or_binary_table_is_refused(tmp_path: Path) -> None:
    """Neither is a stack trace."""
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00\xd8")
    for name in ("missing.tsv", "binary.tsv"):
        with pytest.raises(DataError, match="cannot read the split table"):
            split_people(PEOPLE, 0, tmp_path / name)


def test_table_is_found_in_the_site_or_beside_it(tmp_path: Path) -> None:
    """The site's own table wins."""
    site = tmp_path / "site"
    site.mkdir()
    assert find_table(site) is None
    beside = write(tmp_path / "splits.tsv", "participant_id split")
    assert find_table(site) == beside
    inside = write(site / "splits.tsv", "participant_id split")
    assert find_table(site) == inside


def test_scans_that_cannot_be_tested_on_train() -> None:
    """A hospital without labels trains on all that it has; of those with labels, each split has some."""
    assert set(split_for_good(PEOPLE, b"salt", {}, ()).values()) == {"train"}
    assert set(split_for_good({"a": "a"}, b"salt", {}, ()).values()) == {"train"}
    assert set(split_for_good(PEOPLE, b"salt", {}, ("sub-01", "sub-02")).values()) == {"train"}
    labelled = [f"sub-{n:02d}" for n in range(10)]
    splits = split_for_good(PEOPLE, b"salt", {}, labelled)
    assert all(splits[name] == "train" for name in PEOPLE if name not in labelled)
    assert {split: [splits[name] for name in labelled].count(split) for split in ("train", "val", "test")} == {
        "train": 7,
        "val": 1,
        "test": 2,
    }
    later = split_for_good(PEOPLE, b"salt", splits, PEOPLE)  # labels came: nobody is moved
    assert later == splits


def test_nobody_left_to_train_on_is_an_error() -> None:
    """Where all were given away to be tested on."""
    with pytest.raises(DataError, match="none is left to train on"):
        split_for_good({"a": "a"}, b"salt", {"a": "test"}, ())


def test_an_unused_scan_is_in_no_split(tmp_path: Path) -> None:
    """A table can leave scans out, also of somebody who trains."""
    rows = ("s1 train", "s1_second unused", "s2 val", "s3 test", "s4 unused")
    table = write(tmp_path / "splits.tsv", "participant_id split", *rows)
    people = {"s1": "s1", "s1_second": "s1", "s2": "s2", "s3": "s3", "s4": "s4"}
    splits = split_people(people, 0, table)
    assert cases_of(splits, ["train", "val", "test"]) == ["s1", "s2", "s3"]
