"""Small files that are written whole or not at all."""

import json
import os
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old one or the new one and nothing between.

    Folders are made if need be; text is UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(value: object, path: Path, indent: int | None = None) -> None:
    """Write a value as JSON, whole or not at all."""
    replace_file(path, json.dumps(value, indent=indent))
