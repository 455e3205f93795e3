"""An atlas's labels, finer than the grid of a run, and how flows propagate them.

A voxel of 2.4 mm holds a dozen of the voxels that an atlas was labelled in, and a third ventricle is thinner than that.
So labels stay as fine as `grid.label_oversampling` says, and a voxel of a scan gets what most of a box is, as large as
a voxel, that its flow points at: as label maps are brought to a grid, but at places between the grid's. The share of
each class in that box is the prior for a scan's own intensities (`sst_models.propagation.em`). On validation scans it
gave 0.7 to 1.7 points of Dice over labels on the grid that are interpolated linearly (benchmarks/LEARNING.md).
"""

import zlib
from collections.abc import Sequence
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from configs.errors import DataError
from configs.structures import PAPER, LabelTable
from sst_models.volume.grid import most_frequent
from sst_models.volume.groups import one_hot
from sst_models.volume.warp import blocks, shared, warp, warp_labels

_SLAB = 131072
"""Voxels whose places are worked out at once on a CPU: as many as stay in a processor's cache."""


LabelledVolume = tuple[Tensor, "AtlasLabels"]
"""An atlas: its volume (1, D, H, W) in [0, 1], background 0, and its labels."""


class AtlasLabels:
    """The class of each part of an atlas's voxels; four bytes a part, once labels were propagated.

    Args:
        parts: class indices (fD, fH, fW), any integer type, 0 where there is no structure.
        oversampling: f, parts along a side of a voxel of the grid; odd, so that every part is the middle of some box.
        table: of labels.
    """

    def __init__(self, parts: Tensor, oversampling: int = 1, table: LabelTable = PAPER) -> None:
        if oversampling % 2 == 0 or any(side % oversampling for side in parts.shape):
            raise ValueError(
                f"label map of {tuple(parts.shape)}: not {oversampling} parts, an odd number, to a voxel's side"
            )
        self.parts, self.oversampling, self.table = parts.to(torch.uint8), oversampling, table

    def to(self, device: torch.device) -> "AtlasLabels":
        """Give the same labels on another device."""
        if self.parts.device == device:
            return self
        return AtlasLabels(self.parts.to(device), self.oversampling, self.table)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W) of the grid."""
        d, h, w = (side // self.oversampling for side in self.parts.shape)
        return d, h, w

    @cached_property
    def on_grid(self) -> Tensor:
        """Class indices (D, H, W) int64: what most parts of each voxel are, the lower class of equals."""
        return self.propagate(torch.zeros(1, 3, *self.shape, device=self.parts.device))

    def propagate(self, flow: Tensor) -> Tensor:
        """Give the class indices (D, H, W) int64 that a flow (1, 3, D, H, W) in voxels propagates onto a scan.

        By a flow of zeros they are `on_grid`. What a flow points at beyond the atlas is background.
        """
        if self.oversampling == 1:
            return warp_labels(self.parts[None], flow)[0].long()
        return self._vote(self._middles(flow)).long()

    def probabilities(self, flow: Tensor) -> Tensor:
        """Give the share of each class, (classes, D, H, W) in the type of the flow, in the boxes that a flow points at.

        Args:
            flow: (1, 3, D, H, W) in voxels. What it points at beyond the atlas is background.
        """
        if self.oversampling == 1:
            propagated = warp(one_hot(self.parts, self.table.classes, flow.dtype)[None], flow)[0]
            propagated[0] = (1 - propagated[1:].sum(0)).clamp(min=0)
            return propagated
        middles = self._middles(flow)
        whole = self._whole.take(middles)
        found = one_hot(whole, self._mixed + 1, flow.dtype)[: self._mixed]
        mixed = (whole.flatten() == self._mixed).nonzero().squeeze(1)
        for block in blocks(mixed):
            found.flatten(1)[:, block] = self._counts(middles.take(block)).to(flow.dtype) / self.oversampling**3
        return found

    @property
    def _mixed(self) -> int:
        """In place of a class: a box that holds several."""
        return self.table.classes

    @property
    def _border(self) -> int:
        """Parts of background around the atlas's: as many as let a box lie beyond it."""
        return 2 * (self.oversampling // 2) + 1

    @cached_property
    def _bordered(self) -> Tensor:
        return F.pad(self.parts, (self._border,) * 6)

    @cached_property
    def _whole(self) -> Tensor:
        """What the box around each part is, if it is of one class, and `_mixed`; as large as `_bordered`."""
        return F.pad(shared(self._bordered, self.oversampling, self._mixed), (self.oversampling // 2,) * 6)

    @cached_property
    def _votes(self) -> Tensor:
        """As `_whole`, with what most of a mixed box is once `_vote` was asked for it."""
        return self._whole.clone().view(-1)

    def _vote(self, middles: Tensor) -> Tensor:
        """Give what most of the boxes around places of `_bordered` is, the lower class of equals."""
        found = self._votes.take(middles)
        new = middles[found == self._mixed]
        if not len(new):
            return found
        for block in blocks(new):
            self._votes[block] = most_frequent(self._counts(block).T)
        return self._votes.take(middles)

    def _middles(self, flow: Tensor) -> Tensor:
        """Give the place in `_bordered` of the part in the middle of the box that a flow points at, (D, H, W)."""
        depth, *plane = (torch.arange(side, dtype=torch.float32, device=flow.device) for side in flow.shape[2:])
        place = torch.empty(flow.shape[2:], dtype=torch.int64, device=flow.device)
        slabs = (blocks(maps, max(1, _SLAB // place[0].numel())) for maps in (place, flow[0].movedim(1, 0), depth))
        for found, flows, rows in zip(*slabs, strict=True):
            found.copy_(self._places(flows.unbind(1), torch.meshgrid(rows, *plane, indexing="ij")))
        return place

    def _places(self, flows: Sequence[Tensor], voxels: Sequence[Tensor]) -> Tensor:
        """As `_middles`, of some voxels, by their displacement and their index along each axis, (...) each."""
        half, strides = self.oversampling // 2, self._bordered.stride()
        whole = torch.int32 if self._bordered.numel() < 2**31 else torch.int64
        place = torch.full_like(flows[0], self._border * sum(strides), dtype=whole)
        for flow, voxel, side, stride in zip(flows, voxels, self.parts.shape, strides, strict=True):
            part = (flow.float() + voxel).mul_(self.oversampling).add_(half).round_().clamp_(-half - 1, side + half)
            place.add_(part.to(whole), alpha=stride)
        return place

    def _counts(self, middles: Tensor) -> Tensor:
        """Count each class, (classes, M) float32, in the boxes around places (M,) of `_bordered`."""
        around, strides = range(-(self.oversampling // 2), self.oversampling // 2 + 1), self._bordered.stride()
        offsets = [sum(map(int.__mul__, steps, strides)) for steps in product(around, repeat=3)]
        boxes = torch.stack([self._bordered.take(middles + offset) for offset in offsets])
        counts = torch.zeros(self.table.classes, len(middles), device=middles.device)
        return counts.scatter_add_(0, boxes.long(), torch.ones(1, 1, device=middles.device).expand(boxes.shape))

    def packed(self, *further: "AtlasLabels") -> np.ndarray:
        """Give the parts as bytes, (N,) uint8, a fiftieth of them: they go to sites so.

        Args:
            further: labels of further atlases on the same grid, which follow.
        """
        content = b"".join(labels.parts.cpu().contiguous().numpy().tobytes() for labels in (self, *further))
        return np.frombuffer(zlib.compress(content), np.uint8)

    @staticmethod
    def unpack(
        packed: np.ndarray, shape: Sequence[int], oversampling: int, count: int = 1, table: LabelTable = PAPER
    ) -> "tuple[AtlasLabels, ...]":
        """Give the labels that `packed` came from.

        Args:
            packed: (N,) uint8.
            shape: (D, H, W) of the grid.
            oversampling: parts along a side of its voxels.
            count: of atlases.
            table: of labels.

        Raises:
            DataError: they are damaged, of another grid or table, or of more or fewer atlases.
        """
        sides = [side * oversampling for side in shape]
        size = count * sides[0] * sides[1] * sides[2]
        reader = zlib.decompressobj()
        try:
            content = reader.decompress(packed.astype(np.uint8).tobytes(), size + 1)  # never more than is asked for
        except zlib.error as error:
            raise DataError(f"damaged: the atlas's labels cannot be unpacked ({error}); ask for them again") from error
        parts = np.frombuffer(content, np.uint8)
        if len(parts) != size or not reader.eof or parts.max(initial=0) >= table.classes:
            told = f"{sides} parts" + (f" of {count} atlases" if count > 1 else "")
            raise DataError(f"the atlas's labels are not those of {told}; hub and site need the same preset")
        each = torch.from_numpy(parts.reshape(count, *sides).copy())
        return tuple(AtlasLabels(one, oversampling, table) for one in each)
