"""The presets that come with the project: their names, and what the comment at the top of each file says of it.

That comment is `# COMMAND        (TIME AND MACHINE)`, and below an empty line what the preset is for. Nothing is
checked here, and nothing heavy imported: help and completion ask for names (`configs.schema` reads presets).
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from configs.errors import ConfigError

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class About:
    """What a preset says of itself."""

    name: str
    purpose: str  # one sentence: what it is for
    takes: str  # how long, and on which machine; "" where it does not say
    command: str  # that uses it
    text: str  # the whole comment, without command and time
    extends: str  # the preset that it takes all else from, or ""
    path: Path


def names() -> tuple[str, ...]:
    """Give the names of the presets that come with the project."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def find(preset: str, beside: Path = Path()) -> Path:
    """Give the file of a preset by its name, or by the path of a .toml file, relative to `beside`.

    Raises:
        ConfigError: there is none.
    """
    path = beside / preset
    if path.suffix != ".toml":
        path = FOLDER / f"{preset}.toml"
    if not path.is_file():
        raise ConfigError(f"no preset '{preset}': give one of {', '.join(names())}, or the path of a .toml file")
    return path


def about(path: Path) -> About:
    """Read what a preset's file says of itself.

    Raises:
        ConfigError: it is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        extends = tomllib.loads(text).get("extends", "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}") from error
    head = text.partition("\n\n")[0].splitlines()
    first, *others = [line.lstrip("# ") for line in head if line.startswith("#")] or [""]
    command, _, takes = first.rstrip(")").partition("        (")
    told = " ".join(others).strip()
    return About(path.stem, told.partition(". ")[0].rstrip("."), takes, command, told, str(extends), path)
