"""What a site wants done to its scans before anything learns from them. Light to import: every message reads it."""

import shlex
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from configs.contrast import T1
from configs.errors import ConfigError
from configs.structures import PAPER, LabelTable

DEEPBET = "deepbet"
"""The stripper that needs no other program."""

INSTALL = "pip install --no-deps --require-hashes -r requirements-strip.lock"


@dataclass(frozen=True)
class Stripping:
    """How skulls come off.

    `command` is "deepbet" (Fisch et al. 2024, within this process), or an external stripper, e.g. "mri_synthstrip -i
    {in} -o {out} -m {mask}", run without a shell; for scans that are evidently not stripped and have no mask. "" for
    none.

    Raises:
        ConfigError: the command has no {in} or no {mask}, or deepbet is not installed.
    """

    command: str = ""

    @property
    def built_in(self) -> bool:
        """Whether no other program is run."""
        return self.command == DEEPBET

    def __post_init__(self) -> None:
        """Refuse a command that cannot work."""
        if self.built_in:
            if find_spec(DEEPBET) is None:
                raise ConfigError(f"the stripper deepbet is not installed; {INSTALL}, or name the command of another")
            return
        for field in ("{in}", "{mask}") if self.command else ():
            if not any(field in word for word in shlex.split(self.command)):
                raise ConfigError(f"the stripper's command has no {field}; e.g. 'mri_synthstrip -i {{in}} -m {{mask}}'")


@dataclass(frozen=True)
class Preparation:
    """All settings of a site's preparation."""

    bias: bool = True  # take the scanner's bias field out (N4)
    mask: str = ""  # where masks lie, see `client.layouts.with_masks`
    stripping: Stripping = Stripping()
    jobs: int = 1  # scans at a time, each in a process and on one thread
    brains: Path | None = None  # where brains are kept, uncompressed, for other atlases to be prepared for sooner

    table: LabelTable = PAPER  # of labels; the run's
    contrast: str = T1  # of the scans; the run's
    series: int | None = None  # number of the series to take of each study in DICOM; None leaves it to the tags

    @property
    def key(self) -> list[object]:
        """All of it that prepared files depend on."""
        return [self.bias, self.stripping.command]
