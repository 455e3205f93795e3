"""Archives that came from elsewhere, read within limits: a file at a time, in pieces, and nothing that looks odd."""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from configs.errors import DataError


@dataclass(frozen=True)
class Limits:
    """The most that an archive of a kind may hold."""

    what: str  # as it is called in errors
    packed: int  # bytes of the archive itself
    unpacked: int  # bytes of all its files together
    files: int


APP = Limits("app bundle", 10 * 1024 * 1024, 50_000_000, 2000)
"""Packed as Flower limits it; this project's own has 0.7 MB in 140 files."""

KIT = Limits("start-up kit", 12_000_000, 12_000_000, 16)
"""An app and a few small files."""

PIECE = 1 << 16
"""Bytes that are unpacked at a time."""

NAME, LONGEST = re.compile(r"[A-Za-z0-9._-]+"), 200
"""A part of a path, and the longest path: names are shown in terminals and become files."""

ENTRY = 46 + 2 * LONGEST
"""Most bytes of one entry in an archive's list of files: what zip puts before the name, the name, and as much again."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, NotImplementedError, RuntimeError)


def read(file: BinaryIO, limits: Limits, name: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Give each file of a zip archive: its path, and its content in pieces, to be used up before the next file.

    The whole list of files is looked at before the first is unpacked.

    Args:
        file: the archive, open.
        limits: the most that it may hold.
        name: of the archive, for errors.

    Raises:
        DataError: it is damaged, holds more than it may, or has a path that is odd, is there twice or is no plain file.
    """
    with _explained(limits, name):
        entries = _entries(file, limits, name)
        with zipfile.ZipFile(file) as archive:
            items = archive.infolist()
            if len(items) != entries:
                raise zipfile.BadZipFile("another number of files than it says")
            _check_list(items, limits, name)
            for item in items:
                yield item.filename, _pieces(archive, item, limits, name)


def check(file: BinaryIO, limits: Limits, name: str) -> None:
    """Look at an archive's list of files alone; arguments and errors as those of `read`."""
    for _ in read(file, limits, name):
        return


def _pieces(archive: zipfile.ZipFile, item: zipfile.ZipInfo, limits: Limits, name: str) -> Iterator[bytes]:
    with _explained(limits, name), archive.open(item) as file:  # gives as many bytes as the list says, and no more
        while piece := file.read(PIECE):
            yield piece


@contextmanager
def _explained(limits: Limits, name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise DataError(f"{name} is damaged or no {limits.what}; ask the hub's operator for a new kit") from error


def _entries(file: BinaryIO, limits: Limits, name: str) -> int:
    """Give the number of files, from an archive's end, before the list of them is read: that takes memory, too."""
    size = file.seek(0, os.SEEK_END)
    if size > limits.packed:
        raise DataError(f"{name} has {size:,} bytes; its kind has {limits.packed:,} at most: do not use it")
    file.seek(max(0, size - 42))
    tail = file.read()
    if tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0" or tail[:4] == b"PK\6\7":
        raise zipfile.BadZipFile("no plain end: none at all, with a comment, or zip64")
    entries, length = struct.unpack("<HI", tail[-12:-6])
    if entries > limits.files or length > limits.files * ENTRY:
        raise DataError(f"{name} holds too many files; its kind has {limits.files} at most: do not use it")
    return int(entries)


def _check_list(items: list[zipfile.ZipInfo], limits: Limits, name: str) -> None:
    seen: set[str] = set()
    for item in items:
        if why := _fault(item):
            raise DataError(f"{name} holds the path {item.orig_filename[:80]!a}, which {why}: do not use it, ask why")
        seen.add(item.filename.lower())  # as file systems of some machines compare them
    folders = {"/".join(parts[:depth]) for parts in (path.split("/") for path in seen) for depth in range(len(parts))}
    if len(seen) < len(items) or seen & folders:
        raise DataError(f"{name} holds a path twice: do not use it, and ask why")
    total = sum(item.file_size for item in items)
    if total > limits.unpacked:
        raise DataError(f"{name} unpacks to {total:,} bytes; its kind has {limits.unpacked:,} at most: do not use it")


def _fault(item: zipfile.ZipInfo) -> str:
    path, parts = item.orig_filename, item.orig_filename.split("/")
    if path.startswith("/") or "\\" in path or ".." in parts:
        return "leads out of its folder"
    if item.is_dir() or stat.S_IFMT(item.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is no plain file"
    if path != item.filename or len(path) > LONGEST or "." in parts or not all(map(NAME.fullmatch, parts)):
        return "has an odd name"
    if item.flag_bits & 1 or item.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in an odd way"
    return ""
