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


def remove(run: Path) -> None:
    """Remove the alignments of a run at its site, whatever networks found them."""
    shutil.rmtree(_folder(run), ignore_errors=True)


def _folder(run: Path) -> Path:
    return run / "own" / "aligned"


@dataclass(frozen=True)
class KeptAlignments:
    """The alignments of one run, as `sst_models.propagation.align.Alignments`."""

    run: Path  # folder of the run
    scans: Cases
    found_by: str  # digest of what finds them

    @classmethod
    def of(cls, run: Path, scans: Cases, nets: Mapping[str, nn.Module], experiment: Experiment) -> "KeptAlignments":
        """Keep them below the folder of a run at its site; `nets` are E, A and F."""
        digests = [payload.digest(weights.parameters(nets[part])) for part in ("E", "A", "F")]
        found_by = hashlib.sha256("\n".join([*digests, experiment.to_json()]).encode()).hexdigest()
        return cls(run, scans, found_by)

    def load(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Give a scan's flow and labels as they were saved; None where they were not, or the file is damaged."""
        try:
            found = weights.load(self._path(index))
            return found["flow"], found["labels"]
        except (DataError, KeyError):
            return None

    def save(self, index: int, flow: Tensor, labels: Tensor) -> None:
        """Keep a scan's flow (N, 3, D, H, W), in half precision, and its labels (D, H, W), uint8, if there is room."""
        try:
            weights.save({"flow": flow, "labels": labels}, self._path(index))
        except (RunError, OSError) as error:
            log.warning("alignments are not kept: %s", error)
            remove(self.run)

    def _path(self, index: int) -> Path:
        file = self.scans.paths[index].stat()
        whole = hashlib.sha256(f"{self.found_by} {file.st_size} {file.st_mtime_ns}".encode()).hexdigest()
        return _folder(self.run) / f"{self.scans.names[index]}-{whole[:16]}.safetensors"
