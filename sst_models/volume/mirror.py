"""Mirror images: a head's left for its right, so that every scan and every atlas counts twice.

A brain and its mirror image are both likely brains, and the errors that a method makes of the two differ. The axes of a
run's grid are RAS (`sst_models.volume.grid`), so the first one runs from left to right.

Where two sides of a structure meet, labels have customs and heads have tilts that a mirror turns round: of one atlas
that was looked at, the vermis of the cerebellum is labelled left up to 3 mm beyond the middle. So a mirror image says
which structure a voxel is, and the image itself, where it sees the same structure, on which side that is (LEARNING.md).
"""

import torch
from torch import Tensor

from configs.structures import PAPER, LabelTable
from sst_models.volume.groups import group_probabilities, groups

SIDE = -3
"""Axis of a volume or a label map, (..., D, H, W), that runs from left to right."""

LEAN = 0.1
"""Weight of the mirror image's labels in telling left from right, beside the image's."""


def mirror_image(volume: Tensor) -> Tensor:
    """Mirror a volume (..., D, H, W)."""
    return volume.flip(SIDE)


def mirror_labels(labels: Tensor, table: LabelTable = PAPER) -> Tensor:
    """Mirror class indices (..., D, H, W), of any integer type: what was a left structure is a right one."""
    return _values(table.mirrored, labels)[labels.flip(SIDE).long()]


def mirror_pair(image: Tensor, labels: Tensor, table: LabelTable = PAPER) -> tuple[Tensor, Tensor]:
    """Mirror an image (1, D, H, W) and its labels (D, H, W); a structure that stays in its place keeps its side."""
    mirrored, group = mirror_labels(labels, table), _values(table.group_of, labels)
    same = group[mirrored.long()] == group[labels.long()]
    return mirror_image(image), torch.where(same, labels, mirrored)


def mirror_probabilities(probabilities: Tensor, table: LabelTable = PAPER) -> Tensor:
    """Mirror the probabilities of each class, (classes, D, H, W)."""
    assert len(probabilities) == table.classes, probabilities.shape
    return probabilities.flip(SIDE)[list(table.mirrored)]


def mean_with_mirror(own: Tensor, mirrored: Tensor, table: LabelTable = PAPER) -> Tensor:
    """Give the mean of two opinions on one scan.

    Args:
        own: probabilities of each class, (classes, D, H, W), predicted from the scan.
        mirrored: predicted from its mirror image, and mirrored back (`mirror_probabilities`).
        table: of labels.

    Returns:
        Probabilities (classes, D, H, W): the mean for each structure, its sides mostly by `own`.
    """
    group = groups(own.device, table)
    ours, theirs = group_probabilities(own, table), group_probabilities(mirrored, table)
    side = (own + LEAN * mirrored) / (ours + LEAN * theirs).clamp(min=1e-9)[group]
    return (ours + theirs)[group] / 2 * side


def _values(values: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)
