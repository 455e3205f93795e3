"""Dice against MONAI's and against counts by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from configs.structures import PAPER
from sst_models.volume.metrics import dice_per_class, dice_per_group, mean_dice, mean_hd95


def labels(classes: int, seed: int, size: tuple[int, int, int] = (16, 12, 10)) -> Tensor:
    """Random class indices (D, H, W)."""
    return torch.randint(0, classes, size, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), present=st.integers(1, 8), predicted=st.integers(1, 8))
def test_dice_per_class_is_monais(seed: int, present: int, predicted: int) -> None:
    """Every class agrees with MONAI where the truth holds it."""
    from monai.metrics import compute_dice

    truth, prediction = labels(present, seed, (4, 5, 3)), labels(predicted, seed + 1, (4, 5, 3))
    one_hot = [functional.one_hot(m, 8).movedim(-1, 0).unsqueeze(0).float() for m in (prediction, truth)]
    expected = compute_dice(*one_hot, include_background=True, ignore_empty=False)[0]
    in_both_empty = (one_hot[0].sum((0, 2, 3, 4)) + one_hot[1].sum((0, 2, 3, 4))) == 0
    expected = torch.where(in_both_empty, torch.nan, expected)
    torch.testing.assert_close(dice_per_class(prediction, truth, 8), expected, equal_nan=True)


def test_dice_per_class_by_hand() -> None:
    """Two of four and so on; nan where both are empty, 0 where one is."""
    prediction, truth = torch.tensor([0, 1, 1, 1, 3]), torch.tensor([0, 0, 1, 1, 4])
    dice = dice_per_class(prediction, truth, 6).tolist()
    assert dice[0] == pytest.approx(2 / 3) and dice[1] == pytest.approx(4 / 5)
    assert math.isnan(dice[2]) and dice[3:5] == [0, 0] and math.isnan(dice[5])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_dice_per_class_takes_any_integer_type(dtype: torch.dtype) -> None:
    """The type of the labels makes no difference, nor does a mixture of them."""
    prediction, truth = labels(5, 0), labels(5, 1)
    assert torch.equal(dice_per_class(prediction.to(dtype), truth, 5), dice_per_class(prediction, truth, 5))


def test_dice_refuses_what_does_not_fit() -> None:
    """Unequal shapes and labels that are no class index each say so."""
    truth = labels(PAPER.classes, 0)
    with pytest.raises(ValueError, match="shape"):
        dice_per_class(truth[:-1], truth, PAPER.classes)
    for wrong in (truth + 1, truth - 1):
        with pytest.raises(ValueError, match="class indices 0 to 28"):
            dice_per_group(wrong, truth)


def test_dice_per_group_is_the_mean_of_its_members() -> None:
    """Left and right are averaged, in the order of the paper's table."""
    prediction, truth = labels(PAPER.classes, 0), labels(PAPER.classes, 1)
    dice = dice_per_class(prediction, truth, PAPER.classes)
    groups = dice_per_group(prediction, truth)
    assert tuple(groups) == PAPER.groups
    for group, members in PAPER.members.items():
        assert groups[group] == pytest.approx(sum(float(dice[m]) for m in members) / len(members))
    assert mean_dice(prediction, truth) == pytest.approx(sum(groups.values()) / len(PAPER.groups))


def test_dice_of_the_truth_itself_is_one() -> None:
    """A perfect prediction has 1 everywhere, even where a structure is missing from both."""
    truth = labels(PAPER.classes, 2)
    truth[truth == PAPER.structures[6].index] = 0
    assert all(dice == 1 for dice in dice_per_group(truth, truth).values())
    assert mean_dice(truth, truth) == 1


def test_swapped_sides_are_an_error() -> None:
    """A prediction with left and right exchanged has Dice 0 in every group that has sides."""
    truth = labels(PAPER.classes, 3)
    swap = torch.arange(PAPER.classes)
    for members in PAPER.members.values():
        if len(members) == 2:
            swap[list(members)] = torch.tensor(members[::-1])
    dice = dice_per_group(swap[truth], truth)
    assert all(dice[group] == (0 if len(members) == 2 else 1) for group, members in PAPER.members.items())


def test_groups_in_neither_map_are_nan_and_left_out() -> None:
    """A missing group says nothing; with no structure at all there is no mean."""
    truth = torch.zeros(4, 4, 4, dtype=torch.long)
    assert all(math.isnan(dice) for dice in dice_per_group(truth, truth).values())
    assert math.isnan(mean_dice(truth, truth))
    truth[0] = PAPER.members["Brain-Stem"][0]
    assert mean_dice(truth, truth) == 1 and math.isnan(dice_per_group(truth, truth)["Caudate"])


def test_hd95_is_the_shift_of_a_structure_in_mm_and_a_lost_structure_has_none() -> None:
    """A cube that is moved by two voxels of 2.4 mm is 4.8 mm off; a class of one map alone is left out."""
    truth = torch.zeros(24, 24, 24, dtype=torch.int64)
    truth[6:14, 6:14, 6:14] = 3
    found = truth.roll(2, dims=0)
    assert mean_hd95(found, truth, 2.4) == pytest.approx(4.8)
    found[20:22, 20:22, 20:22] = 5
    assert mean_hd95(found, truth, 2.4) == pytest.approx(4.8)
    assert math.isnan(mean_hd95(torch.zeros_like(truth), truth, 2.4))
