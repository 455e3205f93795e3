"""The groups of structures of a label table, left and right together, as tensors."""

import torch
from torch import Tensor

from configs.structures import PAPER, LabelTable


def count(table: LabelTable = PAPER) -> int:
    """Give the number of groups, 0 among them: what belongs to none."""
    return len(table.groups) + 1


def groups(device: torch.device, table: LabelTable = PAPER) -> Tensor:
    """Give the group of each class, (classes,) int64."""
    return torch.tensor(table.group_of, device=device)


def one_hot(labels: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    """Give a map of each of `count` labels, (count, D, H, W), 1 where (D, H, W) says so.

    Channels come first in memory, too, where `torch.nn.functional.one_hot` has them last: made in a tenth of the time,
    and smoothed in half.
    """
    empty = torch.zeros(count, *labels.shape, dtype=dtype, device=labels.device)
    return empty.scatter_(0, labels[None].long(), 1.0)


def group_probabilities(probabilities: Tensor, table: LabelTable = PAPER) -> Tensor:
    """Give the probabilities of each group, (groups, D, H, W), by those of each class, (classes, D, H, W)."""
    empty = probabilities.new_zeros(count(table), *probabilities.shape[1:])
    return empty.index_add_(0, groups(probabilities.device, table), probabilities)
