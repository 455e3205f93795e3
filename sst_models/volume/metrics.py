"""How well a label map agrees with the truth: Dice by class, by group and in one figure; distance of surfaces."""

import math
import warnings

import torch
from torch import Tensor

from configs.structures import PAPER, LabelTable


def dice_per_class(prediction: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Dice of each class, twice the overlap over the sum of both volumes.

    Args:
        prediction: class indices, any integer type and shape.
        truth: class indices of the same shape.
        classes: number of classes, background included.

    Returns:
        (classes,) float32 on the inputs' device, index 0 the background: in [0, 1], nan where neither holds the class
        and 0 where only one does.

    Raises:
        ValueError: shapes differ or a label lies outside [0, classes).
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and truth {tuple(truth.shape)} differ in shape")
    prediction, truth = prediction.reshape(-1), truth.reshape(-1)
    volumes = _counts(prediction, classes) + _counts(truth, classes)
    overlap = _counts(prediction[prediction == truth], classes)
    # 0 / 0 is nan: a class that is in neither says nothing about the prediction.
    return 2 * overlap / volumes


def dice_per_group(prediction: Tensor, truth: Tensor, table: LabelTable = PAPER) -> dict[str, float]:
    """Dice of each group, as in the paper's Table 1: the mean over its members, left and right.

    Left and right are compared apart and then averaged, so that a swap of sides counts as an error. A member that
    neither map holds is left out of its group's mean.

    Args:
        prediction: class indices of the table, any integer type and shape.
        truth: class indices of the same shape.
        table: of labels.

    Returns:
        Group -> Dice in [0, 1], in the table's order; nan where neither map holds any member.

    Raises:
        ValueError: shapes differ or a label is none of the table.
    """
    dice = dice_per_class(prediction, truth, table.classes).cpu()
    return {group: float(dice[list(members)].nanmean()) for group, members in table.members.items()}


def mean_dice(prediction: Tensor, truth: Tensor, table: LabelTable = PAPER) -> float:
    """Mean Dice over the groups that at least one of the two maps holds, the paper's headline figure for a scan.

    Args:
        prediction: as for `dice_per_group`.
        truth: as for `dice_per_group`.
        table: of labels.

    Returns:
        In [0, 1]; nan where both maps are background only.

    Raises:
        ValueError: shapes differ or a label is none of the table.
    """
    known = [dice for dice in dice_per_group(prediction, truth, table).values() if not math.isnan(dice)]
    return sum(known) / len(known) if known else math.nan


def mean_hd95(prediction: Tensor, truth: Tensor, spacing: float) -> float:
    """Mean distance between the surfaces of each structure, by its 95th percentile (MONAI's HD95).

    Args:
        prediction: (D, H, W) class indices.
        truth: likewise.
        spacing: voxel side, mm.

    Returns:
        mm, the mean over the structures that both maps hold; nan where they share none. A structure that only one map
        holds has no distance: its Dice of 0 counts it.
    """
    from monai.metrics import compute_hausdorff_distance

    classes = 1 + max(int(labels.max()) if labels.numel() else 0 for labels in (prediction, truth))
    volumes = _counts(prediction.reshape(-1), classes) * _counts(truth.reshape(-1), classes)
    shared = [label for label in volumes.nonzero().flatten().tolist() if label]
    if not shared:
        return math.nan
    one, other = (torch.stack([labels == label for label in shared])[None] for labels in (prediction, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI warns of an argument that it passes to itself
        found = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)
    return float(found.nanmean())


def _counts(labels: Tensor, classes: int) -> Tensor:
    """(classes,) number of voxels of each class."""
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        found = f"{int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"labels must be class indices 0 to {classes - 1}, found {found}")
    return torch.bincount(labels, minlength=classes)
