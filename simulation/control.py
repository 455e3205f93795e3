"""The control: pairs made of the atlas alone, in which nothing is learnt.

Random smooth flows and random intensities cost nothing and need no site. What the method adds is what it reaches over
a segmenter that learnt from these, in as many steps (docs/decisions.md, "Controls").
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from sst_models.phases.segment import Pairs
from sst_models.training.seeds import below
from sst_models.volume.labels import LabelledVolume
from sst_models.volume.warp import warp

KNOTS = 28.8
"""Millimetres between the knots of a random flow: it bends structures, and leaves their edges alone."""

REACH = 4.8
"""Standard deviation of a flow at its knots, mm; larger ones fold."""


def control_pairs(atlases: Sequence[LabelledVolume], spacing: float) -> Pairs:
    """Give pairs of a randomly bent and randomly coloured atlas, of several one that is drawn.

    The affine of `segmenter.affine_probability` comes on top. Bias fields, monotone intensity maps, gamma and noise are
    MONAI's, at about twice the strength of its defaults.

    Args:
        atlases: one or more, on one grid.
        spacing: of the grid, mm.
    """
    from monai.transforms import Compose, RandAdjustContrast, RandBiasField, RandGaussianNoise, RandHistogramShift

    colour = Compose(
        [
            RandHistogramShift(num_control_points=(4, 8), prob=0.8),
            RandAdjustContrast(prob=0.8, gamma=(0.5, 2.0)),
            RandBiasField(prob=0.8, coeff_range=(0.0, 0.2)),
            RandGaussianNoise(prob=0.8, std=0.08),
        ]
    )

    def pairs(draws: torch.Generator) -> tuple[Tensor, Tensor]:
        atlas, labels = atlases[below(len(atlases), draws) if len(atlases) > 1 else 0]
        flow = random_flow(tuple(atlas.shape[1:]), spacing, draws).to(atlas)
        image = warp(atlas[None], flow)[0]
        seed = int(torch.randint(2**31, (1,), generator=draws))
        coloured = torch.as_tensor(colour.set_random_state(seed)(image.cpu())).to(atlas)
        coloured = (coloured - coloured.min()) / (coloured.max() - coloured.min()).clamp(min=1e-3)
        return coloured * (image > 0), labels.propagate(flow)

    return pairs


def random_flow(shape: tuple[int, ...], spacing: float, draws: torch.Generator) -> Tensor:
    """Draw a smooth flow (1, 3, *shape) in voxels of `spacing` mm."""
    knots = [side // round(KNOTS / spacing) + 2 for side in shape]
    coarse = REACH / spacing * torch.randn(1, 3, *knots, generator=draws)
    return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
