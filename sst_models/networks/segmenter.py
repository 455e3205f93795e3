"""The 3D U-Net that each site ends with (paper, Sec. 3.6; MONAI's BasicUNet)."""

from torch import Tensor, nn

from sst_models.networks.blocks import check_sides, fold


def unfold(x: Tensor, factor: int) -> Tensor:
    """Undo `blocks.fold`: (N, C * factor^3, D, H, W) -> (N, C, D * f, H * f, W * f)."""
    if factor == 1:
        return x
    f = factor
    n, c, d, h, w = x.shape
    cubes = x.reshape(n, c // f**3, f, f, f, d, h, w)
    return cubes.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, c // f**3, d * f, h * f, w * f)


class Segmenter(nn.Module):
    """MONAI's BasicUNet, at full resolution, or at half with all voxels folded into channels on both ends.

    Folding (stem 2) keeps every voxel of input and output and costs a quarter of the time at 64 x 80 x 80.

    Args:
        widths: channels of BasicUNet's first, second, third, and both deepest levels.
        classes: classes of the output, background included.
        stem: 1 or 2.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, stem: int = 1) -> None:
        super().__init__()
        from monai.networks.nets import BasicUNet  # here, since the import takes seconds and few phases need it

        self.stem = stem
        features = (*widths, *[widths[-1]] * (5 - len(widths)), widths[0])
        self.unet = BasicUNet(3, stem**3, classes * stem**3, features=features)

    def forward(self, volume: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) to logits (N, classes, D, H, W)."""
        check_sides(volume)
        return unfold(self.unet(fold(volume, self.stem)), self.stem)
