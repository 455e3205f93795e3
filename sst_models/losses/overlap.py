"""What the segmenter learns by: soft Dice and cross-entropy, MONAI's DiceCELoss with a backward pass of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMOOTH = 1e-5
"""Added to both sides of the Dice quotient; MONAI's."""


def dice_ce(logits: Tensor, labels: Tensor, counts: Sequence[int], voxels: int | None = None) -> Tensor:
    """Mean cross-entropy over voxels plus 1 - mean soft Dice over volumes and classes, background left out.

    Value and gradient are those of `monai.losses.DiceCELoss(to_onehot_y=True, softmax=True,
    include_background=False)` on whole volumes. Here only voxels in question are given, those that lie in the brain;
    all others are background, and known to be, so that they add nothing. That, and a class's sums from the labels
    themselves instead of one-hot volumes, is a sixth of its time on a CPU.

    Args:
        logits: (V, C), float32: one row a voxel, volume after volume.
        labels: (V,) int64, 0 to C - 1.
        counts: rows of each volume; they sum to V.
        voxels: of all volumes, those not given too, which cross-entropy is the mean of; None: V.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit.
    """
    if logits.ndim != 2 or logits.shape[:1] != labels.shape or sum(counts) != len(labels):
        raise ValueError(f"logits {tuple(logits.shape)}, labels {tuple(labels.shape)} and {list(counts)} do not fit")
    loss: Tensor = _DiceCE.apply(logits, labels, tuple(counts), voxels or len(labels))  # type: ignore[no-untyped-call]
    return loss


def soft_dice(found: Tensor, truth: Tensor) -> Tensor:
    """Give the mean Dice of maps (N, C, D, H, W) in [0, 1], squares below the line (V-Net, Milletari et al. 2016)."""
    below_line = (found.square() + truth.square()).sum((2, 3, 4)) + SMOOTH
    return ((2 * (found * truth).sum((2, 3, 4)) + SMOOTH) / below_line).mean()


class _DiceCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, counts: tuple[int, ...], voxels: int) -> Tensor:
        probability = logits.softmax(dim=1)
        where = labels[:, None]
        own = probability.gather(1, where)
        both = torch.stack([part.sum(0) for part in torch.split(probability, list(counts))])
        classes = logits.shape[1]
        shared = torch.zeros_like(both)
        for row, (at, part) in enumerate(
            zip(*(torch.split(rows, list(counts)) for rows in (labels, own)), strict=True)
        ):
            shared[row].scatter_add_(0, at, part[:, 0])
            both[row] += torch.bincount(at, minlength=classes)
        both += SMOOTH
        dice = (2 * shared + SMOOTH) / both
        ctx.save_for_backward(probability, where, own, both, dice)
        ctx.counts, ctx.voxels = counts, voxels
        entropy = -own.clamp(min=torch.finfo(own.dtype).tiny).log().sum() / voxels
        return entropy + 1 - dice[:, 1:].mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        probability, where, own, both, dice = ctx.saved_tensors
        terms = dice.shape[0] * (dice.shape[1] - 1)
        # d(1 - Dice) by a class's probability: anywhere, and at home
        for_all, for_own = dice / both / terms, -2 / both / terms
        for_all[:, 0] = for_own[:, 0] = 0
        share = 1 / ctx.voxels
        gradient = torch.empty_like(probability)
        start = 0
        for row, count in enumerate(ctx.counts):
            here = slice(start, start + count)
            at, ours = where[here], own[here]
            at_home = for_own[row].gather(0, at[:, 0])[:, None] * ours
            mean = (probability[here] @ for_all[row])[:, None] + at_home
            torch.mul(probability[here], for_all[row] + (share - mean), out=gradient[here])
            gradient[here].scatter_add_(1, at, at_home - share)
            start += count
        return gradient.mul_(outer), None, None, None
