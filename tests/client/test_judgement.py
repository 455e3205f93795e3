"""What is said of a segmentation without any truth to compare it with."""

import math
from dataclasses import replace

import pytest
import torch

from client.expected import Expected
from client.judgement import BAD, DOUBTFUL, FARTHEST, Evidence, agreement, brighter, evidence, judge, predicted_dice
from client.quality import Quality
from client.segmented import Structure
from configs.structures import PAPER

WELL = Evidence(agreement=0.9, confidence=0.97, grey_white=0.95, fluid_grey=0.97)
FITS = Quality(overlap=0.97, similarity=0.8, distance=0.01)
USUAL = Expected(
    9,
    {structure.name: (0.002, 0.008) for structure in PAPER.structures},
    {"Left-Hippocampus": (-0.3, 0.3), "Right-Hippocampus": (-0.3, 0.3)},
)


def found(**fractions: float) -> list[Structure]:
    """Structures of usual size, 4 ml of a litre, but for those named (Left_Hippocampus=0.0003)."""
    rows = []
    for one in PAPER.structures:
        share = fractions.get(one.name.replace("-", "_"), 0.004)
        rows.append(Structure(one.id, one.name, 1, 1000 * share, share, 0.0, 0.9, (2.0, 8.0)))
    return rows


def test_nothing_is_said_against_a_result_that_is_as_usual() -> None:
    """Two ways agree, tissues are in their order, sizes are in the middle: green, and no concern."""
    said = judge(WELL, FITS, USUAL, found())
    assert (said.light, said.concerns) == ("green", ()) and said.dice > DOUBTFUL


def test_the_less_two_ways_agree_the_lower_is_the_dice_that_is_predicted() -> None:
    """Down to where it is not to be used, and the first concern says so."""
    rows = [replace(WELL, agreement=share / 20) for share in range(20, -1, -1)]
    said = [judge(row, FITS, USUAL, found()) for row in rows]
    dice = [one.dice for one in said]
    assert dice == sorted(dice, reverse=True) and 0 <= dice[-1] < BAD < DOUBTFUL < dice[0] <= 1
    lights = list(dict.fromkeys(one.light for one in said))
    assert lights == ["green", "yellow", "red"]
    assert "likely wrong" in said[-1].concerns[0]


def test_a_result_of_the_demo_s_model_on_a_real_scan_is_not_to_be_used() -> None:
    """As it was once written without a word: a hippocampus of 0.3 ml, and two ways that agree by a third."""
    said = judge(replace(WELL, agreement=0.35, confidence=0.6), FITS, USUAL, found(Left_Hippocampus=0.0003))
    assert said.light == "red"
    assert any("Left-Hippocampus 0.3 ml (2 to 8)" in concern for concern in said.concerns)


def test_unusual_sizes_are_named_the_farthest_first() -> None:
    """Four of them, then how many more there are; each with what is usual."""
    tiny = {name: share for name, share in zip(
        ("Left_Hippocampus", "Right_Hippocampus", "CSF", "Brain_Stem", "Left_Caudate", "Left_Putamen"),
        (0.0004, 0.0003, 0.0002, 0.03, 0.0005, 0.0),
        strict=True,
    )}  # fmt: skip
    said = judge(WELL, FITS, USUAL, found(**tiny))
    assert said.light != "green"
    told = next(concern for concern in said.concerns if concern.startswith("unusual sizes"))
    assert told.index("Left-Putamen") < told.index("CSF") < told.index("Right-Hippocampus")
    assert told.endswith("and 2 more")


def test_sides_that_differ_are_told() -> None:
    """Where each size by itself is usual."""
    rows = [replace(one, asymmetry=0.5) if one.name == "Left-Hippocampus" else one for one in found()]
    assert judge(WELL, FITS, USUAL, rows).concerns == ("its sides differ by more than is usual: Left-Hippocampus",)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (replace(WELL, grey_white=0.3), "white matter is hardly brighter than cortex (0.30; by chance 0.5)"),  # FLAIR
        (replace(WELL, fluid_grey=0.1), "cortex is hardly brighter than fluid (0.10; by chance 0.5)"),  # T2
    ],
)
def test_tissues_out_of_their_order_are_told(seen: Evidence, said: str) -> None:
    """Another contrast, by the labels that were found; where the order is not known nothing is said of it."""
    (concern,) = judge(seen, FITS, USUAL, found()).concerns
    assert concern.startswith(said) and "T1-weighted" in concern
    unknown = replace(WELL, grey_white=math.nan, fluid_grey=math.nan)
    assert judge(unknown, FITS, USUAL, found()).light == "green"


def test_an_unusual_scanner_is_told_where_the_result_is_not_known_to_be_good() -> None:
    """Intensities that are off what is usual doubt no result that all else speaks for, unless they are far off."""
    off, far = replace(FITS, distance=0.1), replace(FITS, distance=0.2)
    assert judge(WELL, off, USUAL, found()).light == "green"
    assert "intensities" in judge(replace(WELL, agreement=0.6), off, USUAL, found()).concerns[-1]
    assert "intensities" in judge(replace(WELL, agreement=math.nan), off, USUAL, found()).concerns[-1]
    assert judge(WELL, far, USUAL, found()).light == "red"


def test_a_model_without_a_registration_predicts_nothing() -> None:
    """Its Dice is not known, and only what else is measured speaks."""
    seen = replace(WELL, agreement=math.nan)
    assert math.isnan(predicted_dice(seen, USUAL, found()))
    assert judge(seen, FITS, USUAL, found()).light == "green"
    assert judge(seen, FITS, USUAL, found(CSF=0.0)).light == "yellow"
    assert judge(seen, replace(FITS, overlap=0.5), USUAL, found()).light == "red"


def test_a_missing_structure_counts_as_far_but_not_infinitely() -> None:
    """One of 28 that is not found does not alone decide the Dice that is predicted."""
    whole, lacking = (predicted_dice(WELL, USUAL, rows) for rows in (found(), found(CSF=0.0)))
    assert 0 <= whole - lacking < FARTHEST / 28 * 2


def test_one_set_is_brighter_than_another_as_the_area_under_a_curve_has_it() -> None:
    """Apart: 1; the same: a half; of 0.2 and 0.8 against 0.5: a half; of none nothing is known."""
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([0.6, 0.9])
    assert brighter(high, low) == 1 and brighter(low, high) == 0 and brighter(low, low) == 0.5
    assert brighter(torch.tensor([0.2, 0.8]), torch.tensor([0.5])) == 0.5
    assert math.isnan(brighter(low, torch.tensor([])))


def test_what_is_measured_of_a_segmentation() -> None:
    """Confidence is a mean over groups, whatever their sizes; order is by the labels that were found."""
    by_name = {structure.name: structure.index for structure in PAPER.structures}
    labels = torch.zeros(4, 4, 4, dtype=torch.int64)
    labels[0], labels[1], labels[2] = (by_name[n] for n in ("Left-Cerebral-WM", "Left-Cerebral-CX", "CSF"))
    sure = torch.full((4, 4, 4), 0.9)
    sure[2] = 0.6
    probabilities = torch.zeros(PAPER.classes, 4, 4, 4).scatter_(0, labels[None], sure[None])
    image = torch.zeros(4, 4, 4)
    image[0], image[1], image[2] = 0.9, 0.6, 0.1
    seen = evidence(image, probabilities, 0.7, PAPER)
    assert (seen.agreement, seen.grey_white, seen.fluid_grey) == (0.7, 1.0, 1.0)
    assert seen.confidence == pytest.approx((0.9 + 0.9 + 0.6) / 3)
    assert math.isnan(evidence(image, probabilities, 0.7, PAPER, "T2w").grey_white)
    assert agreement(probabilities, probabilities, PAPER) == 1
    shifted = probabilities.roll(1, dims=1)
    assert agreement(probabilities, shifted, PAPER) == 0
