"""Tissue intensity matching: give the atlas's tissues the intensities that a scan has in them.

A first alignment propagates the atlas's labels onto a scan. Where most of them lie right, the mean of each tissue near
a place says how bright it is there in that scan, coil and all; the atlas is shifted by the difference. What the two
scanners order differently, deep grey against white matter say, no curve of intensities can match, and correlation in a
window that holds three tissues neither. Ours; its use and its width were chosen on validation scans (LEARNING.md).
"""

from torch import Tensor
from torch.nn import functional as F

from configs.structures import PAPER, LabelTable
from sst_models.volume.groups import count, groups, one_hot
from sst_models.volume.separable import blur

RIM = 0.7
"""Voxels by which the edges of tissues are softened, so that partial volume at the atlas's edges stays what it is."""

CORE, CORE_SIGMA = 0.5, 1.0
"""A voxel tells of its tissue if more than this share of its neighbourhood (a Gaussian, sigma in voxels) is of it: the
edges are where a first alignment is wrong."""

DOUBT = 0.05
"""Intensity by which a difference is made smaller before it counts, as no first alignment is right everywhere."""

FEW = 0.01
"""Share of a neighbourhood that a tissue must fill for its mean there to count as much as its mean in the brain."""


def match_tissues(
    atlas: Tensor, labels: Tensor, scan: Tensor, propagated: Tensor, reach: float, table: LabelTable = PAPER
) -> Tensor:
    """Shift each tissue of an atlas to the intensity that it has near the same place in a scan.

    Args:
        atlas: (1, 1, D, H, W) in [0, 1], background 0.
        labels: its class indices (D, H, W).
        scan: (1, 1, D, H, W), roughly aligned to the atlas; flows of a few voxels do not matter.
        propagated: the atlas's labels on the scan, (D, H, W).
        reach: voxels, the Gaussian of what is near.
        table: of labels.

    Returns:
        (1, 1, D, H, W) in [0, 1], background 0. A tissue that the scan or the atlas lacks stays as it is.
    """
    inside = (atlas > 0).to(atlas.dtype)
    ours = _groups(labels, inside, table)
    theirs = _groups(propagated, (scan > 0).to(scan.dtype), table)
    here, there = _core(ours), _core(theirs)
    shift = _near(there, scan, reach) - _near(here, atlas, reach)
    shift = shift - shift.clamp(-DOUBT, DOUBT)
    known = (here.sum((2, 3, 4), keepdim=True) > 0) & (there.sum((2, 3, 4), keepdim=True) > 0)
    shift = F.interpolate(shift * known, atlas.shape[2:], mode="trilinear")
    soft = blur(ours[0], RIM)[None]
    change = (soft * shift).sum(1, keepdim=True) / soft.sum(1, keepdim=True).clamp(min=1e-6)
    return (atlas + change).clamp(0, 1) * inside


def _groups(labels: Tensor, inside: Tensor, table: LabelTable) -> Tensor:
    """Give what each voxel is: (1, groups, D, H, W), the groups and the unlabelled inside of the brain."""
    return one_hot(groups(labels.device, table)[labels.long()], count(table), inside.dtype)[None] * inside


def _core(groups: Tensor) -> Tensor:
    return groups * (blur(groups[0], CORE_SIGMA) > CORE)


def _near(groups: Tensor, image: Tensor, reach: float) -> Tensor:
    """Give each group's mean intensity near each place, on a grid of half the sides; far from it, its mean overall."""
    share, signal = (F.avg_pool3d(maps, 2) for maps in (groups, groups * image))
    overall = signal.sum((2, 3, 4), keepdim=True) / share.sum((2, 3, 4), keepdim=True).clamp(min=1e-6)
    return (blur(signal[0], reach / 2) + FEW * overall) / (blur(share[0], reach / 2) + FEW)
