"""The app bundle that a hub would run at a site: what it holds, what changed, and the approval that lets it run."""

import hashlib
import json
import os
import shutil
import stat
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from client import archive
from client.home import Home
from configs import guard
from configs.errors import DataError
from sst_models.wire.files import write_json

INFO = ".info/"
"""Flower's own manifest inside a bundle; it is not unpacked."""

MANIFEST = "pyproject.toml"
"""Where a bundle says what it is."""


@dataclass(frozen=True)
class Bundle:
    """A bundle, read."""

    digest: str  # SHA-256 of the file, which Flower knows it by
    folder: str  # what Flower calls its unpacked folder
    files: dict[str, str]  # path -> SHA-256
    lines: int  # of code


def read_bundle(path: Path) -> Bundle:
    """Read a bundle without running or unpacking it, in pieces.

    Raises:
        DataError: it is no bundle, has a path that leads out of its folder, or holds more than it may.
    """
    files, lines, manifest = {}, 0, b""
    try:
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest()
            for name, pieces in archive.read(file, archive.APP, str(path)):
                digest = hashlib.sha256()
                for piece in pieces:
                    digest.update(piece)
                    lines += piece.count(b"\n") if name.endswith(".py") else 0
                    manifest += piece if name == MANIFEST and len(manifest) < archive.PIECE else b""
                files[name] = digest.hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; ask the hub's operator for a new kit") from error
    named = _named(manifest, path)
    own = {name: digest for name, digest in sorted(files.items()) if not name.startswith(INFO)}
    return Bundle(digest=whole, folder=f"{named}.{whole[:8]}", files=own, lines=lines)


def _named(manifest: bytes, path: Path) -> str:
    """Give what Flower calls a bundle: its publisher, project and version."""
    import tomllib

    try:
        values = tomllib.loads(manifest.decode())
        project, publisher = values["project"], values["tool"]["flwr"]["app"]["publisher"]
        return f"{publisher}.{project['name']}.{project['version']}"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} says not what it is; ask the hub's operator for a new kit") from error


@dataclass(frozen=True)
class Changes:
    """What a bundle has that another had not, and the other way round."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]


def changes(new: dict[str, str], old: dict[str, str]) -> Changes:
    """Compare two bundles' files."""
    return Changes(
        added=tuple(sorted(set(new) - set(old))),
        changed=tuple(sorted(name for name in new if name in old and new[name] != old[name])),
        removed=tuple(sorted(set(old) - set(new))),
    )


def approved_files(home: Home) -> dict[str, str]:
    """Give the files of the bundle that was approved last; none where none was."""
    try:
        return dict(json.loads(home.approved.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError):
        return {}


def approve(home: Home, bundle: Bundle) -> Path:
    """Unpack the site's bundle, read-only, as the only app that may run there; give its folder."""
    apps = home.flower / "apps"
    if apps.exists():
        _writable(apps)
        shutil.rmtree(apps)
    target = apps / bundle.folder
    with zipfile.ZipFile(home.bundle) as packed:
        for name in bundle.files:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(packed.read(name))
            path.chmod(0o444)
    for folder in (*(path for path in apps.rglob("*") if path.is_dir()), apps):
        folder.chmod(0o555)
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {"digest": bundle.digest, "folder": bundle.folder, "files": bundle.files, "time": when}
    write_json(about, home.approved, indent=1)
    return target


def fault(home: Home) -> str:
    """Say in a line why the approved app may not run; "" where it may."""
    try:
        about = json.loads(home.approved.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"no app is approved; look at it and approve it: sst site approve {home.folder}"
    if guard.digest_of(home.bundle) != about["digest"]:
        return f"the app of the last kit is not approved yet: sst site approve {home.folder}"
    apps = home.flower / "apps"
    others = [path.name for path in apps.glob("*") if path.name != about["folder"]]
    if others:
        return f"{apps} holds another app, '{others[0]}': find out how it came there, then approve anew"
    target = apps / about["folder"]
    if odd := guard.difference(target, about["files"]):
        return f"the unpacked app differs from what was approved ({odd}): find out why, then approve anew"
    return ""


def _writable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            os.chmod(path, stat.S_IRWXU)
