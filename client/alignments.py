"""How the atlas lies on each of a site's scans in one run, kept on its disk from `statistics` until `adapt` is over.

Finding it takes seconds a scan, and `adapt` comes back to each scan many times. Files are named by the scan, by its
prepared file as it was, and by the networks and settings that found it, so that nothing else is taken for it. They only
save time: where the disk is full, the site goes on without them.
"""

import hashlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from client.cases import Cases
from configs.errors import DataError, RunError
from configs.schema import Experiment
from sst_models.wire import payload, weights

log = logging.getLogger(__name__)


def folder_of(run: Path) -> Path:
    """Give the folder of the alignments of a run at its site."""
    return run / "own" / "aligned"


@dataclass(frozen=True)
class KeptAlignments:
    """The alignments of one run, as `sst_models.propagation.align.Alignments`."""

    folder: Path
    scans: Cases
    found_by: str  # digest of what finds them

    @classmethod
    def of(cls, run: Path, scans: Cases, nets: Mapping[str, nn.Module], experiment: Experiment) -> "KeptAlignments":
        """Keep them in the folder of a run at its site; `nets` are E, A and F."""
        digests = [payload.digest(weights.parameters(nets[part])) for part in ("E", "A", "F")]
        found_by = hashlib.sha256("\n".join([*digests, experiment.to_json()]).encode()).hexdigest()
        return cls(folder_of(run), scans, found_by)

    def load(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Give a scan's flow and labels as they were saved; None where they were not, or the file is damaged."""
        if not self._path(index).exists():
            return None
        try:
            found = weights.load(self._path(index))
            return found["flow"], found["labels"]
        except (DataError, KeyError):
            return None

    def save(self, index: int, flow: Tensor, labels: Tensor) -> None:
        """Keep a scan's flow (1, 3, D, H, W), in half precision, and its labels (D, H, W), uint8, if there is room."""
        try:
            weights.save({"flow": flow, "labels": labels}, self._path(index))
        except (RunError, OSError) as error:
            log.warning("alignments are not kept: %s", error)
            self.remove()

    def remove(self) -> None:
        """Remove all of them, those that other networks found, too."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        file = self.scans.paths[index].stat()
        whole = hashlib.sha256(f"{self.found_by} {file.st_size} {file.st_mtime_ns}".encode()).hexdigest()
        return self.folder / f"{self.scans.names[index]}-{whole[:16]}.safetensors"
