"""The prepared scans of one split as a sequence, read from disk when asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from configs.errors import DataError
from sst_models.training.learner import Scans


def _tensor(path: Path, name: str) -> Tensor | None:
    """One tensor of a prepared file, or None if the file does not hold it; only its own bytes are read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise DataError(f"unreadable: prepared scan {path}; delete it and prepare the site again") from error


@dataclass(frozen=True)
class Cases:
    """Prepared scans in a fixed order. Memory holds none of them: each call maps one file and copies one tensor."""

    paths: tuple[Path, ...]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> "Cases":
        """Any sequence of prepared files, see `client.prepare`."""
        return cls(tuple(paths))

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        """Case names; they stay at the site."""
        return tuple(path.name.removesuffix(".safetensors") for path in self.paths)

    def image(self, position: int) -> Tensor:
        """(1, D, H, W) float32 in [0, 1].

        Raises:
            DataError: the prepared file is damaged.
        """
        image = _tensor(self.paths[position], "image")
        if image is None:
            raise DataError(f"unreadable: no image in {self.paths[position]}; delete it and prepare the site again")
        return image[None]

    def labels(self, position: int) -> Tensor | None:
        """(D, H, W) int64 class indices, or None where the scan has no label map.

        Raises:
            DataError: the prepared file is damaged.
        """
        labels = _tensor(self.paths[position], "labels")
        return None if labels is None else labels.to(torch.int64)


KEEP = 64
"""Scans that stay on a GPU: 13 MB each at 128 x 160 x 160."""


class OnDevice:
    """Scans that stay on a GPU once they were read: a step there is shorter than reading its scans.

    Args:
        scans: a site's.
        device: where to.
    """

    def __init__(self, scans: Scans, device: torch.device) -> None:
        self._scans = scans
        self._held = lru_cache(maxsize=KEEP)(lambda position: scans.image(position).to(device))

    def __len__(self) -> int:
        return len(self._scans)

    def image(self, position: int) -> Tensor:
        """(1, D, H, W) float32 in [0, 1], not to be changed.

        Raises:
            DataError: the prepared file is damaged.
        """
        return self._held(position)
