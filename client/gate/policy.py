"""What one site lets out of the building: read from the site's own `policy.toml`, never from the hub."""

import tomllib
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.phases import asked

PHASES = tuple(phase.name for phase in asked())
"""Every phase that a hub can ask for; `hello` needs no leave: it names the site and its versions."""


@dataclass(frozen=True)
class Policy:
    """A site's rules for release.

    A site without a `policy.toml` has these defaults: it takes part in every phase, shares the weights of its
    appearance model, and shares the moments of its style codes when they come from 5 scans or more. A simulated site
    runs with them. A hospital should write its own file and keep it where the hub's code cannot write.
    """

    phases: tuple[str, ...] = PHASES
    moments: bool = True  # may mean and standard deviation of style codes leave, in phases that have them
    appearance: bool = True  # may the weights of A, which carry the scanner's style, leave
    most_bytes: int = 1_000_000_000  # arrays of one reply; the largest exchange of the paper is 41 MB
    min_cases: int = 5  # fewest scans behind moments

    @property
    def releases_moments(self) -> bool:
        """Whether moments may leave at all: a site that leaves the style phase out keeps them in every phase."""
        return self.moments and "style" in self.phases


def read_policy(path: Path | None) -> Policy:
    """Give the policy in `path`, or the defaults where a site has none.

    Raises:
        ConfigError: no such file, not TOML, an unknown key, a wrong type, or an unknown phase.
    """
    if path is None:
        return Policy()
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"policy {path} cannot be read: give the path of a policy.toml") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"policy {path} is not valid TOML: {error}") from error
    return Policy(**{key: _checked(key, value, path) for key, value in values.items()})


def _checked(key: str, value: object, path: Path) -> Any:
    default = {field.name: field.default for field in fields(Policy)}
    if key not in default:
        nearest = get_close_matches(key, default, n=1, cutoff=0.0)[0]
        raise ConfigError(f"policy {path}: unknown key '{key}'; did you mean '{nearest}'?")
    if key == "phases":
        return _checked_phases(value, path)
    if type(value) is not type(default[key]):
        raise ConfigError(f"policy {path}: '{key}' must be a {type(default[key]).__name__}, not {value!r}")
    if isinstance(value, int) and value < 0:
        raise ConfigError(f"policy {path}: '{key}' must not be negative, but is {value}")
    return value


def _checked_phases(value: object, path: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or any(phase not in PHASES for phase in value):
        raise ConfigError(f"policy {path}: 'phases' must be a list of {', '.join(PHASES)}, not {value!r}")
    return tuple(value)
