"""Whether a flow is smooth (eq. 9) and whether it folds space."""

import torch
from torch import Tensor


def gradient_l1(flow: Tensor) -> Tensor:
    """Penalise a flow that changes from voxel to voxel: its mean absolute forward difference (eq. 9).

    Args:
        flow: (N, 3, D, H, W) in voxels, sides of 2 voxels at least.

    Returns:
        A scalar in voxels per voxel: the mean of the three axes' means, 0 for a constant flow.
    """
    differences = [flow.diff(dim=axis).abs().mean(dtype=torch.float32) for axis in (2, 3, 4)]
    return torch.stack(differences).mean()


def gradient_l2(flow: Tensor) -> Tensor:
    """Penalise a flow likewise by its mean squared forward difference, as VoxelMorph does (Balakrishnan et al. 2019).

    Args:
        flow: as of `gradient_l1`.

    Returns:
        A scalar: the mean of the three axes' means.
    """
    return torch.stack([flow.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).mean()


@torch.no_grad()
def folded_fraction(flow: Tensor) -> Tensor:
    """Share of voxels at which x + flow(x) turns space inside out: a negative Jacobian determinant.

    Forward differences, at the voxels that have a neighbour on each axis: unlike central ones they see a fold between
    two neighbours. A measure, not a loss: it has no gradient.

    Args:
        flow: (N, 3, D, H, W) in voxels, sides of 2 voxels at least.

    Returns:
        A scalar in [0, 1], over the whole batch.
    """
    flow = flow.float()
    core = flow[:, :, :-1, :-1, :-1]
    along = (flow[:, :, 1:, :-1, :-1], flow[:, :, :-1, 1:, :-1], flow[:, :, :-1, :-1, 1:])
    columns = []
    for axis, moved in enumerate(along):
        column = moved - core
        column[:, axis] += 1
        columns.append(column)
    determinant = (torch.linalg.cross(columns[0], columns[1], dim=1) * columns[2]).sum(dim=1)
    return torch.lt(determinant, 0).float().mean()
