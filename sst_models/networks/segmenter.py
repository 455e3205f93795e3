"""The 3D U-Net that each site ends with (paper, Sec. 3.6; MONAI's DynUNet)."""

import torch
from torch import Tensor, nn

from sst_models.networks.blocks import check_sides, fold, unfold


class Segmenter(nn.Module):
    """MONAI's DynUNet, at full resolution, or at half with all voxels folded into channels on both ends.

    Folding (stem 2) keeps every voxel of input and output and costs about a quarter of the time.

    Args:
        widths: channels of each level, from the finest; each level but the first halves the sides.
        classes: classes of the output, background included.
        stem: 1 or 2.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, stem: int = 1) -> None:
        super().__init__()
        from monai.networks.nets import DynUNet  # here, since the import takes seconds and few phases need it

        self.stem, self.classes = stem, classes
        halvings = [2] * (len(widths) - 1)
        kernels, strides = [3] * len(widths), [1, *halvings]
        self.unet = DynUNet(3, stem**3, classes * stem**3, kernels, strides, halvings, filters=list(widths))

    def start(self, labels: Tensor) -> None:
        """Set the last bias to the log of the classes' shares in (D, H, W) class indices.

        Half of the volume is background and some structures are a thousandth of it; without this the first hundreds
        of steps go into learning that (the initialisation of RetinaNet, Lin et al. 2017, Sec. 4.1).
        """
        count = torch.bincount(labels.flatten(), minlength=self.classes).float() + 1
        with torch.no_grad():
            self.unet.output_block.conv.conv.bias.copy_((count / count.sum()).log().repeat_interleave(self.stem**3))

    def forward(self, volume: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) to logits (N, classes, D, H, W)."""
        check_sides(volume)
        return unfold(self.unet(fold(volume, self.stem)), self.stem)
