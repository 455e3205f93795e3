"""Who trains, who chooses the model, who is tested: by person, as the paper splits, or from a given table."""

import csv
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from configs.errors import DataError

Split = Literal["train", "val", "test", "atlas", "unused"]
SPLITS: tuple[Split, ...] = ("train", "val", "test", "atlas", "unused")

COLUMNS = ("participant_id", "split")
"""Columns a table must have; with a third one, `site`, one table serves all sites."""


def find_table(folder: Path) -> Path | None:
    """The table that a user gave with a site: `splits.tsv` in its folder, or beside it."""
    candidates = (folder / "splits.tsv", folder.resolve().parent / "splits.tsv")
    return next((path for path in candidates if path.is_file()), None)


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the split table {table}; give a tab-separated text file") from error
    reader = csv.DictReader(text.splitlines(), delimiter="\t")
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise DataError(f"no column {missing[0]} in {table}; expected site (optional), participant_id, split, by tabs")
    return [{key: (value or "").strip() for key, value in row.items() if key is not None} for row in reader]


def _entry(name: str) -> str:
    """`sub-01` and `01` mean one person."""
    return name.removeprefix("sub-")


def read_table(table: Path, site: str | None) -> dict[str, Split]:
    """Read a table: person or case, without "sub-", to its split.

    Args:
        table: tab-separated, columns `participant_id` and `split`, and `site` if it holds more than one site.
        site: whose rows to take; None takes all.

    Raises:
        DataError: the table cannot be read, lacks a column or rows of the site, names a split that does not exist,
            or puts one person into two.
    """
    found: dict[str, Split] = {}
    rows = _rows(table)
    if site is not None and any("site" in row for row in rows):
        rows = [row for row in rows if row.get("site") == site]
    for row in rows:
        split = next((known for known in SPLITS if known == row["split"]), None)
        name = _entry(row["participant_id"])
        if split is None:
            raise DataError(f"split {row['split']!r} of {name} in {table}; expected one of {', '.join(SPLITS)}")
        if found.setdefault(name, split) != split:
            raise DataError(f"{name} is in {found[name]} and in {split} in {table}; keep one row")
    if not found:
        raise DataError(f"no rows of site {site} in {table}; name the site as in its column `site`")
    return found


def _from_table(people: Mapping[str, str], table: Path, site: str | None) -> dict[str, Split]:
    given = read_table(table, site)
    result: dict[str, Split] = {}
    of_person: dict[str, Split] = {}
    for case, person in people.items():
        split = given.get(_entry(case)) or given.get(_entry(person))
        if split is None:
            raise DataError(f"{case} has no row in {table}; add one, or take its scan out of the folder")
        # The atlas may be one scan of a person who trains; any other two splits would leak.
        if split not in ("atlas", "unused") and of_person.setdefault(person, split) != split:
            raise DataError(f"{person} is in {of_person[person]} and in {split} in {table}; a person has one split")
        result[case] = split
    return result


def _at_random(people: Mapping[str, str], seed: int) -> dict[str, Split]:
    """80 % against 20 % test, of the 80 % again 90 % against 10 % validation (Sec. 4), at least one person in each."""
    names = sorted(set(people.values()))
    if len(names) < 3:
        raise DataError(f"{len(names)} people cannot be split into train, val and test; at least 3 are needed")
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    tests = max(1, round(0.2 * len(names)))
    vals = max(1, round(0.1 * (len(names) - tests)))
    of_person: dict[str, Split] = dict.fromkeys(order, "train")
    of_person |= dict.fromkeys(order[:tests], "test") | dict.fromkeys(order[tests : tests + vals], "val")
    return {case: of_person[person] for case, person in people.items()}


def split_people(
    people: Mapping[str, str], seed: int, table: Path | None = None, site: str | None = None
) -> dict[str, Split]:
    """Put each scan of a site into one split; all scans of a person into the same.

    Args:
        people: case to person, of all prepared scans.
        seed: of the random split; the same people and seed give the same split, in any order of cases.
        table: a given `splits.tsv` instead of the random split.
        site: the site's name in the table.

    Returns:
        Case to split. "atlas" comes from a table only: the hub names the atlas, its scan may be in any split.

    Raises:
        DataError: too few people, a bad table, or a table that leaves no scan to train, choose or test on.
    """
    result = _at_random(people, seed) if table is None else _from_table(people, table, site)
    for split in ("train", "val", "test"):
        if split not in result.values():
            raise DataError(f"no scan of this site is in {split} by {table}; give each of train, val and test one")
    return result


SHARES: Mapping[Split, float] = {"test": 0.2, "val": 0.08, "train": 0.72}
"""Share of labelled people in each split: 80 % against 20 % test, of the 80 % again 90 % against 10 % (Sec. 4)."""


def split_for_good(
    people: Mapping[str, str], salt: bytes, known: Mapping[str, Split], labelled: Collection[str]
) -> dict[str, Split]:
    """Split people once for all runs: who was given a split keeps it, and who comes later is put where most is missing.

    Overlapping splits of the same people, chosen by a hub, would let it solve for single people. Only people with
    labels can be tested on, so all others train; and so does everybody where fewer than three have labels.

    Args:
        people: case to person, of all prepared scans.
        salt: the site's secret, which orders the people.
        known: person to split, of those that were given one before.
        labelled: the people with a labelled scan.

    Returns:
        Case to split; at least one person who trains.

    Raises:
        DataError: nobody is left to train on.
    """
    names = sorted(set(people.values()), key=lambda name: hashlib.sha256(salt + b"/" + name.encode()).digest())
    tested = [name for name in names if name in labelled] if len(set(labelled)) >= len(SHARES) else []
    found: dict[str, Split] = {name: known[name] for name in names if name in known}
    for name in names:
        if name in found:
            continue
        given = [found[other] for other in tested if other in found]
        found[name] = _emptiest(given, len(tested)) if name in tested else "train"
    if "train" not in found.values():
        raise DataError(f"of {len(names)} people none is left to train on: add scans of others")
    return {case: found[person] for case, person in people.items()}


def _emptiest(given: Sequence[Split], total: int) -> Split:
    """Give the split that lacks most people beside its share; each gets one before any gets two."""
    empty = [split for split in SHARES if split not in given]
    if empty:
        return empty[0]
    return max(SHARES, key=lambda split: (SHARES[split] * total - given.count(split), SHARES[split]))


def cases_of(splits: Mapping[str, Split], wanted: Sequence[Split]) -> list[str]:
    """Names of the cases in some splits, sorted."""
    return sorted(case for case, split in splits.items() if split in wanted)
