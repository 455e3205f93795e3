"""A table of files, .csv or .tsv: a row for each scan."""

import csv
from pathlib import Path

from client.layouts.scan import Scan, stem_of
from configs.errors import DataError

COLUMNS = ("image", "case", "person", "labels", "mask")
"""Columns of a table of files; only `image` must be there. Paths start at the table's own folder."""

_SEPARATORS = ("\t", ";", ",")  # a spreadsheet writes what its country has


def is_table(path: Path) -> bool:
    """Whether a path is that of a table of files."""
    return path.suffix.lower() in (".csv", ".tsv") and path.is_file()


def read_table(path: Path) -> list[Scan]:
    """List the scans of a table of files, see `COLUMNS`; what separates its columns is read off its first line.

    Raises:
        DataError: it cannot be read, has no column `image`, or a row has no image.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the table {path}; give a text file in UTF-8, .csv or .tsv") from error
    separator = max(_SEPARATORS, key=lambda one: lines[0].count(one) if lines else 0)
    reader = csv.DictReader(lines, delimiter=separator)
    if "image" not in (reader.fieldnames or ()):
        raise DataError(f"no column image in {path}; expected {', '.join(COLUMNS)}, of which only image must be there")
    scans = []
    for number, row in enumerate(reader, start=2):
        given = {name: (row.get(name) or "").strip() for name in COLUMNS}
        if not given["image"]:
            raise DataError(f"line {number} of {path} has no image; fill it in or take the line out")
        labels, mask = (path.parent / given[name] if given[name] else None for name in ("labels", "mask"))
        image = path.parent / given["image"]
        case = given["case"] or stem_of(image)
        scans.append(Scan(case, given["person"] or case, image, labels, mask))
    if not scans:
        raise DataError(f"no rows in {path}; add one for each scan")
    return scans
