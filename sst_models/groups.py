"""The 16 groups of structures, left and right together, as tensors."""

import torch
from torch import Tensor

from configs.structures import GROUP_OF, GROUPS

COUNT = len(GROUPS) + 1
"""Number of groups; 0 is what belongs to none."""


def groups(device: torch.device) -> Tensor:
    """Give the group of each class, (29,) int64."""
    return torch.tensor(GROUP_OF, device=device)


def group_chances(chances: Tensor) -> Tensor:
    """Give the chances of each group, (17, D, H, W), by those of each class, (29, D, H, W)."""
    empty = chances.new_zeros(COUNT, *chances.shape[1:])
    return empty.index_add_(0, groups(chances.device), chances)
