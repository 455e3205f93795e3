"""The 3D U-Net that each site ends with (paper, Sec. 3.6; MONAI's DynUNet)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sst_models.networks.blocks import check_sides, fold, unfold
from sst_models.separable import apply, bands, gaussian

COARSE = 4
"""Voxels of the grid along a side of one voxel of the spatial prior: it is smooth, and travels with the weights."""

FLOOR = 1e-4
"""Least probability of a class anywhere: what the image says must be able to win."""

SOFTEN = 0.2
"""Scale of the last layer's first weights under a prior, so that the segmenter starts at the prior and not at noise."""


class Segmenter(nn.Module):
    """MONAI's DynUNet, at full resolution, or at half with all voxels folded into channels on both ends.

    Folding (stem 2) keeps every voxel of input and output and costs about a quarter of the time.

    Args:
        widths: channels of each level, from the finest; each level but the first halves the sides.
        classes: classes of the output, background included.
        stem: 1 or 2.
        prior: sides of the spatial prior, which `start` fills; None: the logits are the U-Net's alone.
    """

    def __init__(
        self, widths: tuple[int, ...], classes: int, stem: int = 1, prior: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        from monai.networks.nets import DynUNet  # here, since the import takes seconds and few phases need it

        self.stem, self.classes = stem, classes
        halvings = [2] * (len(widths) - 1)
        kernels, strides = [3] * len(widths), [1, *halvings]
        self.unet = DynUNet(3, stem**3, classes * stem**3, kernels, strides, halvings, filters=list(widths))

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
            last.bias.copy_((count / count.sum()).log().repeat_interleave(self.stem**3))
            return
        chance = torch.stack([(labels == index).float().mean(dim=0) for index in range(self.classes)])
        blurred = apply(bands(chance, gaussian(2 * round(2.5 * sigma) + 1, sigma, same=True)), chance)
        self.prior.copy_((F.avg_pool3d(blurred, COARSE) + FLOOR).log()[None])
        last.weight.mul_(SOFTEN)
        last.bias.zero_()

    def forward(self, volume: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) to logits (N, classes, D, H, W)."""
        check_sides(volume)
        logits = self.unet(fold(volume, self.stem))
        return unfold(logits if self.prior is None else self._at_place(logits, self.prior), self.stem)

    def _at_place(self, logits: Tensor, prior: Tensor) -> Tensor:
        """Add the prior to folded logits (N, classes * stem^3, d, h, w); the voxels of a fold share its value."""
        near = F.interpolate(prior, size=logits.shape[2:], mode="trilinear", align_corners=False)
        by_class = logits.view(len(logits), self.classes, -1, *logits.shape[2:])
        return (by_class + near[:, :, None]).reshape(logits.shape)
