"""What a site knows of itself, and where it keeps what is a run's."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from client.gate.names import RUN
from client.gate.policy import Policy
from client.preparation import Preparation
from configs.dp_sgd import DpSgd
from configs.errors import FederationError
from sst_models.wire.files import replace_file


@dataclass(frozen=True)
class Site:
    """What a site knows of itself; nothing of it comes from the hub."""

    name: str
    data: tuple[Path, ...]  # folders with scans
    state: Path  # folder of what the app writes: prepared scans, optimisers, queue, model
    policy: Policy
    splits: Path | None = None  # a splits.tsv instead of the site's random split by person
    device: str = "auto"
    preparation: Preparation = Preparation()
    gate_folder: Path | None = None  # see `gate`
    key_file: Path | None = None  # see `key`
    salt: bytes = b""  # secret; what is drawn at this site depends on it. Empty in a simulation, which is repeatable
    dp_sgd: DpSgd | None = None  # how training has to hide people: the gate's word to the app, for one request

    @property
    def simulated(self) -> bool:
        """Whether noise may be drawn so that it can be drawn again: never a hospital's, whatever became of its salt."""
        return not (self.gate_folder or self.salt)

    @property
    def gate(self) -> Path:
        """The folder of what the gate alone writes: approvals, ledger, replies, logs; below `state` in a simulation."""
        return self.gate_folder or self.state / "gate"

    @property
    def key(self) -> Path:
        """The site's long-term private key; in the gate's folder in a simulation."""
        return self.key_file or self.gate / "site.key"

    def folder(self, run: str) -> Path:
        """Give the folder of one run's state at this site.

        Raises:
            FederationError: the run's name, which the hub chose, could lead out of the state folder.
        """
        if not RUN.fullmatch(run):
            raise FederationError("the hub's name for the run is none: letters, digits, dots, - and _, at most 64")
        return self.state / "runs" / run

    def seed(self, seed: int) -> int:
        """Give the seed of what is drawn here in a run of this seed: a hub cannot tell which scan a step reads."""
        if not self.salt:
            return seed
        return int.from_bytes(hashlib.sha256(self.salt + f"/{seed}".encode()).digest()[:4], "big")


SALT = "salt"


def read_salt(gate: Path) -> bytes:
    """Give the site's secret salt; it is drawn by the operating system where there is none yet.

    Raises:
        OSError: it can neither be read nor written.
    """
    path = gate / SALT
    if not path.exists():
        replace_file(path, os.urandom(32))
        path.chmod(0o600)
    return path.read_bytes()
