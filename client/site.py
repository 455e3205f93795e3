"""What a site knows of itself, and where it keeps what is a run's."""

import re
from dataclasses import dataclass
from pathlib import Path

from client.gate.policy import Policy
from client.preparation import Preparation
from configs.errors import FederationError

RUN = re.compile(r"(?!\.)[A-Za-z0-9._-]{0,64}")
"""What a run may be called: it names a folder at each site."""


@dataclass(frozen=True)
class Site:
    """What a site knows of itself; nothing of it comes from the hub."""

    name: str
    data: tuple[Path, ...]  # folders with scans
    state: Path  # folder of the site's own: prepared scans, optimisers, queue, ledger
    policy: Policy
    splits: Path | None = None  # a splits.tsv instead of the site's random split by person
    device: str = "auto"
    preparation: Preparation = Preparation()

    def folder(self, run: str) -> Path:
        """Give the folder of one run's state at this site.

        Raises:
            FederationError: the run's name, which the hub chose, could lead out of the state folder.
        """
        if not RUN.fullmatch(run):
            raise FederationError("the hub's name for the run is none: letters, digits, dots, - and _, at most 64")
        return self.state / "runs" / run
