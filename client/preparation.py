"""What a site wants done to its scans before anything learns from them. Light to import: every message reads it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from configs.contrast import T1
from configs.errors import ConfigError
from configs.structures import PAPER, LabelTable


@dataclass(frozen=True)
class Stripping:
    """How skulls come off.

    `command` is an external stripper, e.g. "mri_synthstrip -i {in} -o {out} -m {mask}", run without a shell for scans
    that are evidently not stripped and have no mask; "" for none.

    Raises:
        ConfigError: the command has no {in} or no {mask}.
    """

    command: str = ""

    def __post_init__(self) -> None:
        """Refuse a command that cannot work."""
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

    @property
    def key(self) -> list[object]:
        """All of it that prepared files depend on."""
        return [self.bias, self.stripping.command]
