"""How the atlas lies on each of a site's scans in one run, kept on its disk from `statistics` until `adapt` is over.

Finding it takes seconds a scan, and `adapt` comes back to each scan many times. Files are named by the scan and by the
networks and settings that found it, so that what others found is not taken for it.
"""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from configs.errors import DataError
from configs.schema import Experiment
from sst_models.wire import payload, weights


@dataclass(frozen=True)
class KeptAlignments:
    """The alignments of one run, as `sst_models.propagation.align.Alignments`."""

    folder: Path
    names: tuple[str, ...]  # of the scans, by their numbers
    found_by: str  # digest of what finds them

    @classmethod
    def of(
        cls, run: Path, names: Sequence[str], nets: Mapping[str, nn.Module], experiment: Experiment
    ) -> "KeptAlignments":
        """Keep them in the folder of a run at its site; `nets` are E, A and F."""
        digests = [payload.digest(weights.parameters(nets[part])) for part in ("E", "A", "F")]
        found_by = hashlib.sha256("\n".join([*digests, experiment.to_json()]).encode()).hexdigest()
        return cls(run / "own" / "aligned", tuple(names), found_by)

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
        """Keep a scan's flow (1, 3, D, H, W), in half precision, and its labels (D, H, W), uint8.

        Raises:
            RunError: the disk is full.
        """
        weights.save({"flow": flow, "labels": labels}, self._path(index))

    def remove(self) -> None:
        """Remove all of them, those that other networks found, too."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{self.names[index]}-{self.found_by[:16]}.safetensors"
