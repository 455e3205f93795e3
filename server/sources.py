"""What the app that sites approve is made of, and building it: from a source tree, or from an installed wheel."""

import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from configs.errors import RunError

PROJECT = Path(__file__).resolve().parent.parent
"""Where our packages lie: a source tree, or the folder that a wheel was installed into."""

LISTING = "pyproject.toml"
"""Says which files are the app's (`fab-include`). A wheel has a copy beside this file (setup.py)."""

DISTRIBUTION = "sst-federation"

BUILDS = 600.0
"""Seconds that Flower may take to build the app: 2 on an idle machine, two minutes and more on a busy one."""


def files() -> Mapping[str, Path]:
    """Give each file of the app by its name there, in the order of names.

    Raises:
        RunError: this installation does not say what the app is made of.
    """
    packed = PROJECT / "server" / LISTING
    listing = packed if packed.is_file() else PROJECT / LISTING
    if not listing.is_file():
        raise RunError(f"{PROJECT} is neither a source tree nor an installed wheel: install the project anew")
    patterns = tomllib.loads(listing.read_text(encoding="utf-8"))["tool"]["flwr"]["app"]["fab-include"]
    found = {path for pattern in patterns for path in PROJECT.glob(pattern) if path.is_file()}
    if listing == packed:  # others install into the same folder, and may have a package of the same name
        found &= _installed()
    named = {path.relative_to(PROJECT).as_posix(): path for path in found} | {LISTING: listing}
    return dict(sorted(named.items()))


def _installed() -> set[Path]:
    """Give what our wheel installed.

    Raises:
        RunError: there is no record of it.
    """
    for found in metadata.distributions(name=DISTRIBUTION, path=[str(PROJECT)]):
        return {PROJECT / str(path) for path in found.files or ()}
    raise RunError(f"{PROJECT} has no record of what {DISTRIBUTION} installed there: install it anew")


def sources() -> dict[str, str]:
    """Give the SHA-256 of each file of the app.

    Raises:
        RunError: this installation does not say what the app is made of.
    """
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files().items()}


def assemble(folder: Path) -> None:
    """Copy the app's files into a folder, as `flwr run` takes them.

    Raises:
        RunError: this installation does not say what the app is made of.
    """
    for name, path in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def build_bundle() -> bytes:
    """Build the app as Flower ships it; the same sources give the same bytes, also from a wheel.

    Raises:
        RunError: this installation does not say what the app is made of, or Flower cannot build it.
    """
    # A process of its own: Flower's command imports packages and prints as it likes.
    code = (
        "import sys; from pathlib import Path; from flwr.cli.build import build_fab_from_disk; "
        "sys.stdout.buffer.write(build_fab_from_disk(Path(sys.argv[1])))"
    )
    with TemporaryDirectory(prefix="sst-app-") as folder:
        assemble(Path(folder))
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, check=False, timeout=BUILDS)
    if done.returncode:
        why = done.stderr.decode(errors="replace").strip().splitlines()
        raise RunError(f"Flower cannot build the app in {PROJECT}: {why[-1] if why else 'no reason given'}")
    return done.stdout
