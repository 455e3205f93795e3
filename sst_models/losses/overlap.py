"""What the segmenter learns by: soft Dice and cross-entropy, MONAI's DiceCELoss with a backward pass of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

SMOOTH = 1e-5
"""Added to both sides of the Dice quotient; MONAI's."""


def dice_ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over voxels plus 1 - mean soft Dice over volumes and classes, background left out.

    Value and gradient are those of `monai.losses.DiceCELoss(to_onehot_y=True, softmax=True,
    include_background=False)`. That one writes the one-hot labels and a product of them for every pass; here the
    classes' sums come from the labels themselves, and the gradient is one product: half of its time on a CPU.

    Args:
        logits: (N, C, D, H, W), float32.
        labels: (N, D, H, W) int64, 0 to C - 1.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes do not fit.
    """
    if logits.shape[:1] + logits.shape[2:] != labels.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit")
    loss: Tensor = _DiceCE.apply(logits, labels)  # type: ignore[no-untyped-call]
    return loss


class _DiceCE(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        chance = logits.softmax(dim=1)
        where = labels[:, None]
        own = chance.gather(1, where)
        shared, truth = (chance.new_zeros(chance.shape[:2]) for _ in range(2))
        shared.scatter_add_(1, labels.flatten(1), own.flatten(1))
        truth.scatter_add_(1, labels.flatten(1), torch.ones_like(own.flatten(1)))
        both = chance.sum(dim=(2, 3, 4)) + truth + SMOOTH
        dice = (2 * shared + SMOOTH) / both
        ctx.save_for_backward(chance, where, own, both, dice)
        entropy = -own.clamp(min=torch.finfo(own.dtype).tiny).log().mean()
        return entropy + 1 - dice[:, 1:].mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        chance, where, own, both, dice = ctx.saved_tensors
        terms = dice.shape[0] * (dice.shape[1] - 1)
        for_all, for_own = (
            dice / both / terms,
            -2 / both / terms,
        )  # d(1 - Dice) by a class's chance: anywhere, and at home
        for_all[:, 0] = for_own[:, 0] = 0
        share = 1 / own.numel()
        at_home = for_own.gather(1, where.flatten(1)).view_as(own) * own
        mean = torch.einsum("nc,ncdhw->ndhw", for_all, chance)[:, None] + at_home
        gradient = chance * (for_all[..., None, None, None] - mean + share)
        gradient.scatter_add_(1, where, at_home - share)
        return gradient * outer, None
