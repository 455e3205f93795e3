"""The numbers of all people of a site, and labels of all of its scans: measured once for an audit, then kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simulation.audit.finished import Everybody
from simulation.stage import Stage
from sst_models.phases.statistics import untrained_aligner
from sst_models.statistics.measure import measure
from sst_models.wire import weights


@dataclass(frozen=True)
class Measured:
    """What the site's own way of measuring gives for each of its scans."""

    rows: Tensor  # (scans, NUMBERS), standard units
    labels: Tensor  # (scans, D, H, W) uint8, the atlas's, propagated

    def people(self, everybody: Everybody) -> np.ndarray:
        """Give a row for each person, (people, NUMBERS), the mean of her scans, as a site does (`client.measure`)."""
        rows = self.rows.numpy()
        return np.stack([rows[everybody.person == one].mean(0) for one in np.unique(everybody.person)])


class _Labels:
    """Keeps the labels that are found on the way, as `sst_models.propagation.align.Alignments`."""

    def __init__(self) -> None:
        self.found: dict[int, Tensor] = {}

    def load(self, index: int) -> None:
        """Know nothing."""

    def save(self, index: int, flow: Tensor, labels: Tensor) -> None:
        """Keep the labels."""
        self.found[index] = labels.cpu()


def kept_in(folder: Path, stage: Stage, site: str) -> Path:
    """Give the file that keeps what was measured: by atlas, as the numbers are differences from it."""
    return folder / stage.roles.name / f"rows-{site}.safetensors"


def measured(path: Path, stage: Stage, everybody: Everybody, watch: Callable[[int], None]) -> Measured:
    """Measure all scans of a site as it measured those that trained, or read what an earlier call measured.

    Args:
        path: where it is kept.
        stage: what there is with one atlas.
        everybody: the site's scans.
        watch: called with the number of scans done.

    Raises:
        DataError: a prepared scan is damaged.
    """
    if path.exists():
        kept = weights.load(path)
        if len(kept["rows"]) == len(everybody.cases):
            return Measured(**kept)
    aligner = untrained_aligner(stage.experiment, stage.atlas.each, stage.device)
    labels = _Labels()
    with torch.no_grad():
        rows = measure(everybody.cases, aligner, watch, labels).cpu()
    found = Measured(rows, torch.stack([labels.found[index] for index in range(len(rows))]))
    weights.save({"rows": found.rows, "labels": found.labels}, path)
    return found
