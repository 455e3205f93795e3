"""A hub in one file, to go on with its run on another machine: `sst hub backup` and `sst hub restore`.

What is saved names a whole state while the hub runs: the state's files are linked, not copied, so that they stay when
a newer state replaces them, and all is taken again if `state.json` was replaced meanwhile.
"""

import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import file_digest
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from configs.errors import DataError, RunError
from server import journal, state
from server.office import SETTINGS, Office

LIST = "backup.json"
"""The first file in a backup: which others it has, and their digests."""

FORMAT = 1

LEFT_OUT = frozenset(
    {"bin", "empty", "engine", "flower", "generated", "heartbeat.json", "logs", "metrics.prom", "nginx"}
    | {"progress.json", "spool", "state", "tensorboard"}
)
"""What a hub makes again by itself, or what is of this machine; of `state`, what state.json names is taken."""

TRIES, PAUSE = 20, 0.25
"""How often, and after how many seconds, a backup is begun anew because a round was saved meanwhile."""


@dataclass(frozen=True)
class Saved:
    """What was written, or read."""

    path: Path
    files: int
    digest: str  # SHA-256 of the tar


def backup(office: Office, file: Path) -> Saved:
    """Write all that is needed to go on with a hub into a tar that its owner alone may read. Its secrets are in it.

    Args:
        office: the hub's folder; its hub may run.
        file: the tar; must not be there yet, nor lie in the hub's folder.

    Raises:
        RunError: the folder is no hub's, the file is there already, or the state changed all the time.
        ConfigError: hub.toml is not as it should be.
    """
    name = office.settings.name
    if file.exists():
        raise RunError(f"{file} is there already; give another name, nothing is written over")
    if file.resolve().is_relative_to(office.folder.resolve()):
        raise RunError(f"{file} lies in the hub's folder; give a file outside of it, best on another disk")
    for _ in range(TRIES):
        with TemporaryDirectory(dir=office.folder, prefix=".backup-") as place:
            before = _state(office.folder)
            try:
                _take(office.folder, Path(place), before)
            except FileNotFoundError:  # what was listed is not there any more
                pass
            else:
                if _state(office.folder) == before:
                    return _pack(Path(place), file, name)
        time.sleep(PAUSE)
    raise RunError(f"{office.folder}: its state changed {TRIES} times while it was taken; try again")


def restore(file: Path, folder: Path) -> Saved:
    """Make a hub's folder from a backup; it is there whole or not at all.

    Args:
        file: what `backup` wrote.
        folder: new or empty.

    Raises:
        RunError: the folder holds something.
        DataError: the file cannot be read, is no backup, or is not as it was written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder} holds something already; give a new folder, nothing is written over")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.{os.getpid()}")
    part.mkdir(mode=0o700)
    try:
        with file.open("rb") as opened:
            count = _unpack(file, part)
            digest = file_digest(opened, "sha256").hexdigest()
        part.replace(folder)
    except OSError as error:
        if error.filename == str(file):
            raise DataError(f"{file} cannot be read: {error.strerror}") from error
        raise
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        raise DataError(f"{file} is damaged, or no backup of a hub; take another copy of it") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Saved(folder, count, digest)


def _state(folder: Path) -> bytes:
    path = folder / "state" / "state.json"
    return path.read_bytes() if path.exists() else b""


def _take(folder: Path, place: Path, state_json: bytes) -> None:
    for path in _listed(folder):
        target = place / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    if state_json:
        for name in ("state.json", *state.files_of(json.loads(state_json))):
            _link(folder / "state" / name, place / "state" / name)


def _listed(folder: Path) -> Iterator[Path]:
    for top in sorted(folder.iterdir()):
        if top.name in LEFT_OUT or top.name.startswith("."):
            continue
        inside = sorted(top.rglob("*")) if top.is_dir() else [top]
        yield from (path for path in inside if path.is_file() and not path.name.startswith("."))


def _link(path: Path, target: Path) -> None:
    """Keep a file that may be removed meanwhile, without a copy where the file system can do that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy(path, target)


def _pack(place: Path, file: Path, name: str) -> Saved:
    paths = sorted(path for path in place.rglob("*") if path.is_file())
    digests = {path.relative_to(place).as_posix(): journal.digest(path) for path in paths}
    about = {"format": FORMAT, "name": name, "time": time.time(), "files": digests}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "w+b") as opened:
            with tarfile.open(fileobj=opened, mode="w") as tar:
                _add(tar, LIST, json.dumps(about, indent=1).encode())
                for path in paths:
                    tar.add(path, path.relative_to(place).as_posix(), recursive=False)
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return Saved(file, len(paths), journal.digest(file))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode = len(content), 0o600
    tar.addfile(about, BytesIO(content))


def _unpack(file: Path, place: Path) -> int:
    """Unpack a backup; give the number of its files.

    Raises:
        DataError: a file is missing, too much, or not as it was written.
        tarfile.TarError, ValueError, KeyError, TypeError: it is no backup.
    """
    found: dict[str, str] = {}
    with tarfile.open(file, mode="r:") as tar:
        first = tar.next()
        opened = tar.extractfile(first) if first is not None and first.name == LIST else None
        if opened is None:
            raise ValueError("no list")
        about = json.loads(opened.read())
        if about["format"] != FORMAT or SETTINGS not in about["files"]:
            raise ValueError("another format")
        for one in tar:
            if one.name == LIST:
                continue
            path = PurePosixPath(one.name)
            if not one.isreg() or path.is_absolute() or ".." in path.parts or one.name in found:
                raise DataError(f"{file}: {one.name!r} does not belong into a backup; take another copy of it")
            tar.extract(one, place, filter="data")
            found[one.name] = journal.digest(place / one.name)
    if odd := sorted({name for name, _ in (about["files"].items() ^ found.items())}):
        raise DataError(f"{file}: {odd[0]!r} is not as it was saved; take another copy of the backup")
    return len(found)
