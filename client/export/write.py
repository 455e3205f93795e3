"""Writes an export: one folder, whole or not at all, of one model in one format."""

# mypy: untyped-calls-exclude="nibabel"

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np

from client.export.bundle import inference, metadata, prepared
from client.export.card import readme
from client.export.check import Checked, check
from client.export.facts import facts
from client.model import Model
from client.native import save_nifti
from configs.errors import ConfigError, DataError, RunError
from sst_models.wire.files import replace_file, write_json

MARK = "export.json"
"""In each export: the model, the format, and the digest of every other file."""

ROOT = Path(__file__).resolve().parents[2]

NETWORK = {"monai-bundle": "models/model.ts", "torchscript": "model.ts", "onnx": "model.onnx"}
"""Format -> where its network is."""

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
"""Format -> what it needs of the extra `export`."""

INSTALL = "pip install --no-deps --require-hashes -r requirements-export.lock"

ATLAS = "atlas.nii.gz"


@dataclass(frozen=True)
class Written:
    """An export."""

    folder: Path
    files: tuple[Path, ...]  # the network first
    checked: Checked  # how it compares with the model


def write_export(model: Model, folder: Path, to: str, with_atlas: bool = False) -> Written:
    """Write an export; the same model again, in the same format, takes the place of what it wrote before.

    Args:
        model: an opened model.
        folder: where to; files of others that are in it stay.
        to: "monai-bundle", "torchscript" or "onnx".
        with_atlas: write the atlas's image, too.

    Raises:
        ConfigError: a package is missing.
        DataError: the folder holds something else, or a file of the export was changed.
        RunError: the network could not be exported, or differs from the model's.
    """
    if missing := [name for name in PACKAGES.get(to, ()) if find_spec(name) is None]:
        raise ConfigError(f"--to {to} needs {' and '.join(missing)}; {INSTALL}")
    _claim(folder, model, to)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        part = Path(scratch) / "export"
        checked = _fill(part, model, to, with_atlas)
        names = sorted(_names(part))
        if folder.exists():
            for name in (*(one for one in names if one != MARK), MARK):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(part / name, folder / name)
        else:
            os.replace(part, folder)
    first = NETWORK[to]
    return Written(folder, tuple(folder / name for name in (first, *(one for one in names if one != first))), checked)


def _claim(folder: Path, model: Model, to: str) -> None:
    """Refuse a folder that holds anything but this export as it was written.

    Raises:
        DataError: it does.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    try:
        held = json.loads((folder / MARK).read_text(encoding="utf-8"))
        digests = dict(held["digests"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds something that is no export; give another folder") from error
    if (held.get("model"), held.get("to")) != (model.digest, to):
        raise DataError(f"{folder} holds an export of another model, or to another format; give another folder")
    for name, digest in digests.items():
        path = folder / name
        if path.exists() and _digest(path) != digest:
            raise DataError(f"{path} was changed since it was exported; move it away, or give another folder")


def _fill(part: Path, model: Model, to: str, with_atlas: bool) -> Checked:
    kind, known = "onnx" if to == "onnx" else "torchscript", facts(model)
    network = _traced(model, kind, part.parent)
    checked = check(network, kind, model)
    replace_file(part / NETWORK[to], network)
    shown = {"difference": f"{checked.difference:.0e}", "differing": str(checked.differing)}
    card = readme(known, to, shown, with_atlas)
    replace_file(part / "README.md", card)
    replace_file(part / "LICENSE", f"{known['licence']}\n")
    if to == "monai-bundle":
        write_json(metadata(known), part / "configs" / "metadata.json", 2)
        write_json(inference(known), part / "configs" / "inference.json", 2)
        write_json(prepared(), part / "configs" / "prepared.json", 2)
        replace_file(part / "docs" / "README.md", card)
    if with_atlas:
        save_nifti(nib.Nifti1Image(model.frame.image.astype(np.float32), np.array(model.frame.affine)), part / ATLAS)
    digests = {name: _digest(part / name) for name in sorted(_names(part))}
    write_json({"model": model.digest, "to": to, "digests": digests}, part / MARK, 2)
    return checked


def _traced(model: Model, kind: str, scratch: Path) -> bytes:
    """Have the network traced in a process of its own, see `client.export.traced`."""
    file = scratch / "network"
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    words = [sys.executable, "-P", "-W", "ignore", "-m", "client.export.traced", str(model.folder.resolve()), kind]
    done = subprocess.run(
        [*words, str(file.resolve())],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not file.is_file():
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise RunError(f"the network could not be exported to {kind}: {last}; use the versions of constraints.txt")
    content = file.read_bytes()
    file.unlink()
    return content


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
