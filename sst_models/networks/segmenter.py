"""The 3D U-Net that each site ends with (paper, Sec. 3.6; MONAI's DynUNet)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sst_models.networks.blocks import check_sides, fold, unfold
from sst_models.networks.norm import merge_norms
from sst_models.volume.separable import apply, bands, gaussian

COARSE = 4
"""Voxels of the grid along a side of one voxel of the spatial prior: it is smooth, and travels with the weights."""

FLOOR = 1e-4
"""Least probability of a class anywhere: what the image says must be able to win."""

SOFTEN = 0.2
"""Scale of the last layer's first weights under a prior, so that the segmenter starts at the prior and not at noise."""

MARGIN = 1
"""Cells of `factor` voxels beyond the brain that are still in question: a label may reach over the rim of a mask."""

LOT = 4096
"""Cells by which the last layer's rows grow: oneDNN keeps what it built for every size that it ever met, so that sizes
of every brain's own would fill the memory, 20 MB a step."""

OUTSIDE = 30.0
"""By how much background's logit is above all others where no brain is."""


@dataclass(frozen=True)
class Inside:
    """What a segmenter says of the voxels that are in question: those in or beside cells that touch the brain."""

    logits: Tensor  # (cells, factor^3, classes), volume after volume
    cells: Tensor  # (cells,) int64: their places among all cells of all volumes, ascending
    counts: tuple[int, ...]  # cells of each volume


class Segmenter(nn.Module):
    """MONAI's DynUNet, at full resolution, or at half with all voxels folded into channels on both ends.

    Folding (factor 2) keeps every voxel of input and output and costs about a quarter of the time. Where a
    skull-stripped volume holds no brain, there is nothing to tell: such voxels are background, and the last layer,
    whose 29 classes a voxel are most of a segmenter's memory traffic, is left out there.

    Args:
        widths: channels of each level, from the finest; each level but the first halves the sides.
        classes: classes of the output, background included.
        factor: 1, or 2 for half resolution with all voxels folded into channels.
        prior: sides of the spatial prior, which `start` fills; None: the logits are the U-Net's alone.
    """

    def __init__(
        self, widths: tuple[int, ...], classes: int, factor: int = 1, prior: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        from monai.networks.nets import DynUNet  # here, since the import takes seconds and few phases need it

        self.factor, self.classes = factor, classes
        halvings = [2] * (len(widths) - 1)
        kernels, strides = [3] * len(widths), [1, *halvings]
        self.unet = DynUNet(3, factor**3, classes * factor**3, kernels, strides, halvings, filters=list(widths))
        merge_norms(self.unet)

        self.prior = None if prior is None else nn.Parameter(torch.zeros(1, classes, *prior), requires_grad=False)

    @torch.no_grad()
    def start(self, labels: Tensor, sigma: float = 0.0) -> None:
        """Begin with what labels alone say, before any image is seen.

        Half of the volume is background and some structures are a thousandth of it; without this the first hundreds
        of steps go into learning that. Without a spatial prior, the last bias becomes the log of the classes' shares
        (the initialisation of RetinaNet, Lin et al. 2017, Sec. 4.1). With one, the log of each class's probability at
        each place is added to the logits, then and ever after, as tissue probability maps do in SPM (Ashburner and
        Friston 2005): left from right, and roughly where a structure is, need not be learnt.

        Args:
            labels: (M, D, H, W) class indices of one or more label maps on the grid.
            sigma: voxels of the Gaussian that blurs the spatial prior.
        """
        last = self.unet.output_block.conv.conv
        if self.prior is None:
            count = torch.bincount(labels.flatten(), minlength=self.classes).float() + 1
            last.bias.copy_((count / count.sum()).log().repeat_interleave(self.factor**3))
            return
        chance = torch.stack([(labels == index).float().mean(dim=0) for index in range(self.classes)])
        blurred = apply(bands(chance, gaussian(2 * round(2.5 * sigma) + 1, sigma, same=True)), chance)
        self.prior.copy_((F.avg_pool3d(blurred, COARSE) + FLOOR).log()[None])
        last.weight.mul_(SOFTEN)
        last.bias.zero_()

    def forward(self, volume: Tensor) -> Tensor:
        """Map (N, 1, D, H, W), 0 outside the brain, to logits (N, classes, D, H, W)."""
        found = self.inside(volume)
        n, _, *sides = volume.shape
        cells = [side // self.factor for side in sides]
        rows = found.logits.new_full((n * cells[0] * cells[1] * cells[2], self.factor**3, self.classes), -OUTSIDE)
        rows[..., 0] = 0
        rows[found.cells] = found.logits
        folded = rows.view(n, *cells, self.factor**3, self.classes).permute(0, 5, 4, 1, 2, 3)
        return unfold(folded.reshape(n, -1, *cells), self.factor)

    def inside(self, volume: Tensor) -> Inside:
        """Map (N, 1, D, H, W) to logits where the volume holds brain, or `MARGIN` cells beside it."""
        check_sides(volume)
        features = self.unet.skip_layers(fold(volume, self.factor))
        brain = F.max_pool3d((volume != 0).to(volume.dtype), self.factor)
        brain = F.max_pool3d(brain, 2 * MARGIN + 1, stride=1, padding=MARGIN)[:, 0]
        cells = brain.flatten().nonzero()[:, 0]
        rows = features.movedim(1, -1).reshape(-1, features.shape[1]).index_select(0, cells)
        last = self.unet.output_block.conv.conv  # kernel 1: its output is class after class, and is wanted cell by cell
        weight, bias = (
            part.view(self.classes, self.factor**3, -1).transpose(0, 1) for part in (last.weight, last.bias)
        )
        filled = F.pad(rows, (0, 0, 0, -len(rows) % LOT))
        logits = F.linear(filled, weight.flatten(0, 1), bias.flatten())[: len(cells)]
        logits = logits.view(len(cells), -1, self.classes)
        if self.prior is not None:
            near = F.interpolate(self.prior, size=features.shape[2:], mode="trilinear", align_corners=False)
            near = near[0].flatten(1).T
            logits = logits + near.index_select(0, cells % len(near))[:, None]
        return Inside(logits, cells, tuple(int(count) for count in brain.flatten(1).sum(1)))


def labels_inside(labels: Tensor, found: Inside, factor: int) -> Tensor:
    """Give the labels of the voxels in question, (cells, factor^3), of (N, D, H, W)."""
    return fold(labels[:, None], factor).movedim(1, -1).reshape(-1, factor**3).index_select(0, found.cells)
