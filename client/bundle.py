"""The app bundle that a hub would run at a site: what it holds, what changed, and the approval that lets it run."""

import hashlib
import io
import json
import os
import shutil
import stat
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from client.home import Home
from configs.errors import DataError
from sst_models.wire.files import write_json

INFO = ".info/"
"""Flower's own manifest inside a bundle; it is not unpacked."""


@dataclass(frozen=True)
class Bundle:
    """A bundle, read."""

    digest: str  # SHA-256 of the file, which Flower knows it by
    folder: str  # what Flower calls its unpacked folder
    files: dict[str, str]  # path -> SHA-256
    lines: int  # of code


def read_bundle(path: Path) -> Bundle:
    """Read a bundle without running or unpacking it.

    Raises:
        DataError: it is no bundle, or has a path that leads out of its folder.
    """
    try:
        data = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            content = {name: archive.read(name) for name in archive.namelist() if not name.startswith(INFO)}
        manifest = content["pyproject.toml"].decode()
    except (OSError, zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged or no app bundle; ask the hub's operator for a new kit") from error
    for name in content:
        if name.startswith(("/", "\\")) or ".." in Path(name).parts or "\\" in name:
            raise DataError(
                f"{path} holds the path '{name}', which leads out of its folder: do not use it, and ask why"
            )
    import tomllib

    try:
        values = tomllib.loads(manifest)
        project = values["project"]
        publisher = values["tool"]["flwr"]["app"]["publisher"]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path} says not what it is; ask the hub's operator for a new kit") from error
    digest = hashlib.sha256(data).hexdigest()
    return Bundle(
        digest=digest,
        folder=f"{publisher}.{project['name']}.{project['version']}.{digest[:8]}",
        files={name: hashlib.sha256(text).hexdigest() for name, text in sorted(content.items())},
        lines=sum(text.count(b"\n") for name, text in content.items() if name.endswith(".py")),
    )


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
    with zipfile.ZipFile(home.bundle) as archive:
        for name in bundle.files:
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
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
    if hashlib.sha256(home.bundle.read_bytes()).hexdigest() != about["digest"]:
        return f"the app of the last kit is not approved yet: sst site approve {home.folder}"
    apps = home.flower / "apps"
    others = [path.name for path in apps.glob("*") if path.name != about["folder"]]
    if others:
        return f"{apps} holds another app, '{others[0]}': find out how it came there, then approve anew"
    target = apps / about["folder"]
    found = {
        path.relative_to(target).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in target.rglob("*")
        if path.is_file()
    }
    if found != about["files"]:
        odd = sorted(set(found.items()) ^ set(about["files"].items()))[0][0]
        return f"the unpacked app differs from what was approved ({odd}): find out why, then approve anew"
    return ""


def _writable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            os.chmod(path, stat.S_IRWXU)
