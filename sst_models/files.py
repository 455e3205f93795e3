"""Small files that are written whole or not at all."""

import json
import os
from pathlib import Path


def write_json(value: object, path: Path) -> None:
    """Write a value as JSON under another name in the same folder, then rename it; folders are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(value), encoding="utf-8")
    os.replace(part, path)
