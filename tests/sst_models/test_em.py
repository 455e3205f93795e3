"""Labels refined by a scan's own intensities."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from configs.schema import load
from configs.structures import PAPER
from material import CORTEX, VENTRICLE, WHITE, brain
from sst_models.propagation.align import Aligner, Alignment
from sst_models.propagation.em import (
    expectation_maximisation,
    mean_log_likelihood,
    propagate_labels,
    propagated_probabilities,
    refine_labels,
)
from sst_models.propagation.fusion import REGISTRATION_WEIGHT, fused_probabilities, registration_weight
from sst_models.propagation.predict import Prediction, probabilities, segment
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import mean_dice
from sst_models.volume.separable import blur
from sst_models.volume.warp import warp_labels

SIDES = (32, 32, 32)
NUCLEUS = 9


def two_sided(labels: Tensor) -> Tensor:
    """The same brain with a left and a right half."""
    half = labels.clone()
    half[16:] = torch.tensor(PAPER.mirrored)[half[16:].long()]
    return half


def off(voxels: float) -> Tensor:
    """A flow that is wrong by so many voxels along one axis."""
    flow = torch.zeros(1, 3, 32, 32, 32)
    flow[:, 0] = voxels
    return flow


def test_a_wrong_flow_is_corrected_where_the_scan_shows_it() -> None:
    """Most of what a flow of one voxel off costs comes back."""
    labels, image = brain(SIDES)
    carried = warp_labels(labels[None], off(1.0))[0]
    found = refine_labels(image[None, None], AtlasLabels(labels), off(1.0), 0.7, 2.4)
    before, after = mean_dice(carried, labels), mean_dice(found, labels)
    assert 1 - after < 0.4 * (1 - before)


def test_a_scan_without_contrast_keeps_its_labels() -> None:
    """Where a scan says nothing, the flow does."""
    labels, _ = brain(SIDES)
    image = 0.5 * (labels > 0).float()
    found = refine_labels(image[None, None], AtlasLabels(labels), off(0.0), 0.7, 2.4)
    assert mean_dice(found, labels) > 0.97


def test_intensities_are_told_near_each_place() -> None:
    """A coil that makes one side half as bright again costs next to nothing."""
    labels, image = brain(SIDES)
    coil = torch.linspace(0.7, 1.2, 32).view(32, 1, 1)
    flat, bright = (
        refine_labels(one[None, None], AtlasLabels(labels), off(1.0), 0.7, 2.4) for one in (image, image * coil)
    )
    assert mean_dice(bright, labels) > mean_dice(flat, labels) - 0.03


def test_no_structure_appears_that_the_atlas_has_not() -> None:
    """Nor is a flow that carries everything out of the volume an error."""
    labels, image = brain(SIDES)
    found = refine_labels(image[None, None], AtlasLabels(labels), off(1.0), 0.7, 2.4)
    assert set(found.unique().tolist()) <= {0, WHITE, CORTEX, VENTRICLE}
    assert not refine_labels(image[None, None], AtlasLabels(labels), off(99.0), 0.7, 2.4).any()


def test_what_no_label_is_near_is_background_however_bright() -> None:
    """A scan's skull, say, that was not stripped whole; and what is near labels is told as without it."""
    labels, image = brain(SIDES)
    skull = image.clone()
    skull[:2, :2] = image.max()
    bare, found = (refine_labels(one[None, None], AtlasLabels(labels), off(0.0), 0.7, 2.4) for one in (image, skull))
    assert not labels[:6, :6].any() and not found[:2, :2].any()
    assert mean_dice(found, bare) > 0.99


def test_a_small_structure_keeps_its_size() -> None:
    """Under a flow that is a voxel off, a nucleus of 56 voxels in white matter does not take those around it."""
    draws = torch.Generator().manual_seed(1)
    places = torch.stack(torch.meshgrid(*[torch.arange(32.0) - 15.5] * 3, indexing="ij"))
    radius = places.square().sum(0).sqrt()
    labels = torch.where(radius < 2.5, NUCLEUS, torch.where(radius < 14, WHITE, 0))
    image = blur(torch.where(labels == WHITE, 0.8, 0.0)[None] + 0.5 * (labels == NUCLEUS), 0.6)[0]
    image = (image + 0.02 * torch.randn(SIDES, generator=draws)).clamp(0.01, 1.0) * (labels > 0)
    found = refine_labels(image[None, None], AtlasLabels(labels), off(1.0), 0.7, 2.4)
    assert 0.95 < float((found == NUCLEUS).sum() / (labels == NUCLEUS).sum()) < 1.05


def two_tissues(narrow: float, wide: float) -> tuple[Tensor, Tensor]:
    """Two halves of a box, of 0.3 and 0.7: labels, and an image in which each value is one spread above or below."""
    labels = torch.zeros(SIDES, dtype=torch.int64)
    labels[4:28, 4:16, 4:28], labels[4:28, 16:28, 4:28] = WHITE, NUCLEUS
    axis = torch.arange(32)
    sign = 1 - 2 * ((axis[:, None, None] + axis[:, None] + axis) % 2)
    level = torch.where(labels == WHITE, 0.3 + narrow * sign, 0.7 + wide * sign)
    return labels, level * (labels > 0)


@pytest.mark.parametrize(("narrow", "wide"), [(0.02, 0.1), (0.1, 0.02), (0.05, 0.05)])
def test_structures_near_a_place_share_one_width(narrow: float, wide: float) -> None:
    """So a voxel beside their border is of the structure whose mean is nearer to its intensity, whatever the spreads.

    With widths of their own, the wider one would take the voxel of its side that is two tenths beyond its mean.
    """
    labels, image = two_tissues(narrow, wide)
    first, second = (16, 15, 16), (16, 16, 16)  # on either side of the border
    for level, nearer in ((0.4, WHITE), (0.6, NUCLEUS)):
        image[first] = image[second] = level
        found = refine_labels(image[None, None], AtlasLabels(labels), off(0.0), 0.7, 2.4)
        assert (int(found[first]), int(found[second])) == (nearer, nearer)


@pytest.mark.parametrize(("narrow", "wide"), [(0.02, 0.1), (0.1, 0.02), (0.02, 0.15)])
def test_at_the_midpoint_of_two_means_intensities_decide_nothing(narrow: float, wide: float) -> None:
    """With one width both densities are equal there, so that each voxel stays what it was, whatever the spreads."""
    labels, image = two_tissues(narrow, wide)
    first, second = (16, 15, 16), (16, 16, 16)
    image[first] = image[second] = 0.5
    found = refine_labels(image[None, None], AtlasLabels(labels), off(0.0), 0.7, 2.4)
    assert (int(found[first]), int(found[second])) == (WHITE, NUCLEUS)


@pytest.mark.parametrize("spread", [0.05, 0.08])
def test_the_shared_width_is_the_structures_spread_and_a_least_one(spread: float) -> None:
    """Closed form: at places that mirror one another the priors cancel, and the log-odds of two structures add up to
    twice weight * ((x - 0.7)^2 - (x - 0.3)^2) / (2 (spread^2 + 0.03^2))."""
    labels, image = two_tissues(spread, spread)
    first, second, x = (16, 15, 16), (16, 16, 16), 0.49
    image[first] = image[second] = x
    prior = propagated_probabilities(AtlasLabels(labels), off(0.0))
    found = expectation_maximisation(image[None, None], prior, 0.5, 2.4)
    odds = sum(float((found[WHITE] / found[NUCLEUS])[place].log()) for place in (first, second))
    expected = 2 * 0.5 * ((x - 0.7) ** 2 - (x - 0.3) ** 2) / (2 * (spread**2 + 0.03**2))
    assert odds == pytest.approx(expected, rel=0.15)


def test_a_weight_of_0_gives_the_softened_prior() -> None:
    """Labels alone, whatever the scan."""
    labels, image = two_tissues(0.02, 0.1)
    prior = propagated_probabilities(AtlasLabels(labels), off(0.0))
    found = expectation_maximisation(image[None, None], prior, 0.0, 2.4, edge=2.4)
    soft = blur(prior, 1.0)
    torch.testing.assert_close(found, soft / soft.sum(0, keepdim=True), rtol=0, atol=5e-4)


def test_contrast_may_be_the_other_way_round_elsewhere() -> None:
    """Two structures that exchange their intensities halfway along the head are told apart at both of its ends: a flow
    that is a voxel off is corrected there as it is where they do not."""
    labels, image = two_tissues(0.02, 0.02)
    turned = image.clone()
    turned[16:] = torch.where(labels == 0, 0.0, 1.0 - image)[16:]
    flow = torch.zeros(1, 3, *SIDES)
    flow[:, 1] = 1.0
    wrong, inside = warp_labels(labels[None], flow)[0], slice(8, 24)
    for scan in (image, turned):
        found = refine_labels(scan[None, None], AtlasLabels(labels), flow, 2.0, 2.4)
        for ends in (slice(6, 12), slice(20, 26)):
            assert torch.equal(found[ends, inside, inside], labels[ends, inside, inside])
            assert not torch.equal(wrong[ends, inside, inside], labels[ends, inside, inside])


def test_the_fit_of_labels_is_the_mean_log_density_in_closed_form() -> None:
    """Intensities one spread about the mean of their structure: -(s^2 / v + log v) / 2 with v = s^2 + 0.03^2."""
    for spread in (0.02, 0.1):
        labels, image = two_tissues(spread, spread)
        variance = torch.tensor(spread**2 + 0.03**2)
        expected = -0.5 * (spread**2 / variance + variance.log())
        assert mean_log_likelihood(image[None, None], labels, 2.4) == pytest.approx(float(expected), abs=0.02)


def test_near_voxels_count_beside_twenty_of_the_whole_brain() -> None:
    """One structure of 0.3 in one half and 0.6 in the other, at a spacing of which 7.2 mm are a voxel: near a place are
    (2 pi)^1.5 = 15.7 voxels of one level, and 20 of the mean of both."""
    labels = torch.full(SIDES, WHITE)
    image = torch.full(SIDES, 0.3)
    image[16:] = 0.6
    near, brain = 15.75, 20.0
    mean = (near * 0.3 + brain * 0.45) / (near + brain)
    variance = (near * 0.09 + brain * (0.09 + 0.36) / 2) / (near + brain) - mean**2 + 0.03**2
    expected = -0.5 * ((0.3 - mean) ** 2 / variance + float(torch.tensor(variance).log()))
    assert mean_log_likelihood(image[None, None], labels, 7.2) == pytest.approx(expected, abs=0.06)


def test_background_keeps_a_width_of_its_own() -> None:
    """Air at 0 and a scalp at 0.9 widen it, and take no voxel of structures whose spread is small."""
    labels, image = two_tissues(0.02, 0.02)
    scan = image.clone()
    scan[:, 29:] = 0.9
    plain, found = (refine_labels(one[None, None], AtlasLabels(labels), off(0.0), 0.7, 2.4) for one in (image, scan))
    assert torch.equal(plain > 0, found > 0) and torch.equal(plain, labels)


@pytest.mark.parametrize("air", [3, 10])
def test_an_organ_in_tissue_without_a_label_is_told_from_it_however_near_air_is(air: int) -> None:
    """Where a table names little of a scan, what it does not name is tissue, not a mean of tissue and air."""
    labels, image = torch.zeros(SIDES, dtype=torch.long), torch.zeros(SIDES)
    image[air:] = 0.5
    labels[12:20, 10:22, 10:22] = NUCLEUS
    image[labels > 0] = 0.7
    carried = warp_labels(labels[None], off(1.0))[0]
    found = refine_labels(image[None, None], AtlasLabels(labels), off(1.0), 0.7, 2.4)
    before, after = (mean_dice(one, labels) for one in (carried, found))
    assert 1 - after < 0.4 * (1 - before)


def test_a_second_flow_to_the_mirror_image_corrects_the_first() -> None:
    """Both are wrong by a voxel, towards opposite ends of the scan; a third of what one of them costs comes back."""
    labels, image = brain(SIDES)
    labels = two_sided(labels)
    flat = 0.5 * (image[None, None] > 0).float()  # nothing but the flows to go by
    alone = refine_labels(flat, AtlasLabels(labels), off(1.0), 0.7, 2.4)
    both = refine_labels(flat, AtlasLabels(labels), off(1.0), 0.7, 2.4, mirrored=off(1.0))
    assert 1 - mean_dice(both, labels) < 0.7 * (1 - mean_dice(alone, labels))


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_weight_of_a_preset_chooses(weight: float) -> None:
    """0 gives the labels as the flow propagates them, to the voxel."""
    labels, image = brain(SIDES)
    found = propagate_labels(image[None, None], AtlasLabels(labels), off(0.5), weight, 5.0)
    assert torch.equal(found, warp_labels(labels[None], off(0.5))[0]) == (weight == 0.0)


class Off(torch.nn.Module):
    """A segmenter that is sure of every voxel, and wrong by so many voxels along one axis."""

    def __init__(self, labels: Tensor, voxels: float = 1.0) -> None:
        super().__init__()
        self.word = (
            10 * one_hot(warp_labels(labels[None], off(voxels))[0].long(), PAPER.classes).movedim(-1, 0)[None].float()
        )

    def forward(self, volume: Tensor) -> Tensor:
        """Give logits (N, 29, 32, 32, 32)."""
        return self.word.expand(len(volume), -1, -1, -1, -1)


def test_a_segmenter_is_corrected_where_the_scan_shows_it() -> None:
    """As the preset says: without `propagation.em_weight`, its own labels stand."""
    labels, image = brain(SIDES)
    labels = two_sided(labels)
    net = Off(labels)  # it does not see the scan, so it cannot be shifted
    preset = replace(Prediction.of(load("real-cpu")), test_time_augmentation="mirror")
    alone = replace(preset, em_weight=0.0)
    before = mean_dice(segment(net, image[None], alone), labels)
    assert before == pytest.approx(mean_dice(warp_labels(labels[None], off(1.0))[0], labels))
    assert 1 - mean_dice(segment(net, image[None], preset), labels) < 0.5 * (1 - before)
    assert probabilities(net, image[None], preset).sum(0).sub(1).abs().max() < 1e-5


class Still(torch.nn.Module):
    """A flow network that finds nothing to move, and an encoder and appearance model that change nothing."""

    def forward(self, volume: Tensor, _: Tensor | None = None) -> Tensor:
        """Give a flow of zeros for F, and the volume for E and A."""
        return volume


class Astray(torch.nn.Module):
    """F of two images that lie on each other already, whose flow is wrong by so many voxels along one axis."""

    def __init__(self, voxels: float = 0.0) -> None:
        super().__init__()
        self.voxels = voxels

    def forward(self, _moving: Tensor, _fixed: Tensor) -> Tensor:
        """Give a flow (1, 3, 32, 32, 32)."""
        return off(self.voxels)


FUSED = Alignment.of(load("tiny"))
PLAIN = replace(FUSED, settings=replace(FUSED.settings, mirror=False, em_weight=0.0))


def test_a_segmenter_and_f_together_are_better_than_the_worse_of_them() -> None:
    """F is right here and the segmenter off by a voxel: half of what that costs comes back, without the intensities."""
    labels, image = brain(SIDES)
    labels = two_sided(labels)
    net, preset = Off(labels), Prediction.of(load("tiny"))
    aligner = Aligner({"E": Still(), "A": Still(), "F": Astray()}, image[None], AtlasLabels(labels), FUSED)
    together = fused_probabilities(net, image[None], aligner, preset)
    assert together.sum(0).sub(1).abs().max() < 1e-4
    alone = mean_dice(segment(net, image[None], preset), labels)
    assert 1 - mean_dice(together.argmax(0), labels) < 0.5 * (1 - alone)


def test_f_counts_for_less_where_it_went_astray() -> None:
    """Four voxels off, it leaves a segmenter that is right as sure as it was; agreeing, it counts for half."""
    labels, image = brain(SIDES)
    labels = two_sided(labels)

    def sure(voxels: float) -> float:
        aligner = Aligner({"E": Still(), "A": Still(), "F": Astray(voxels)}, image[None], AtlasLabels(labels), FUSED)
        together = fused_probabilities(Off(labels, 0.0), image[None], aligner, Prediction.of(load("tiny")))
        return float(together.gather(0, labels[None].long())[0, labels > 0].mean())

    assert sure(4.0) > 0.9
    assert sure(0.0) > 0.99


def test_the_weight_of_registration_falls_with_the_agreement() -> None:
    """Half at a cosine of 0.95 and more, a quarter at 0.9, none at 0.85 and less: vectors (1, 0) and (q, 1 - q)."""
    for cosine, weight in ((0.97, 0.5), (0.95, 0.5), (0.9, 0.25), (0.87, 0.1), (0.85, 0.0), (0.5, 0.0)):
        slope = (1 / cosine**2 - 1) ** 0.5
        one, other = torch.zeros(2, PAPER.classes, 8, 8, 8)
        one[WHITE], other[WHITE], other[CORTEX] = 1.0, 1 / (1 + slope), slope / (1 + slope)
        found = registration_weight(one, other, torch.ones(1, 8, 8, 8) > 0, 2.4)
        torch.testing.assert_close(found, torch.full((1, 8, 8, 8), weight), atol=1e-4, rtol=0)


def test_fusion_is_the_mean_where_both_agree_in_the_brain_whatever_lies_outside() -> None:
    """A segmenter of (0.8, 0.2) and F's (1, 0) give (0.9, 0.1), also beside background that they call differently."""
    labels, image = brain(SIDES)
    labels = torch.where(image > 0, WHITE, 0)
    predicted = torch.zeros(PAPER.classes, *SIDES)
    predicted[WHITE] = torch.where(image > 0, 0.8, 0.5)
    predicted[CORTEX] = 1 - predicted[WHITE]
    how = replace(Prediction.of(load("tiny")), em_weight=0.0, test_time_augmentation="none")
    aligner = Aligner({"F": Astray()}, image[None], AtlasLabels(labels), replace(PLAIN, restyle=False))
    found = fused_probabilities(Says(predicted), image[None], aligner, how)
    assert (found[WHITE][image > 0] - 0.9).abs().max() < 1e-4
    assert (found[CORTEX][image > 0] - 0.1).abs().max() < 1e-4


class Says(torch.nn.Module):
    """A segmenter that says this of any volume."""

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()
        self.logits = probabilities.clamp(min=1e-9).log()[None]

    def forward(self, volume: Tensor) -> Tensor:
        """Give logits (N, 29, D, H, W)."""
        return self.logits.expand(len(volume), -1, -1, -1, -1)


def test_the_weight_of_registration_is_full_where_both_say_the_same() -> None:
    """And none where they have no structure in common."""
    labels, _ = brain(SIDES)
    one = one_hot(labels.long(), PAPER.classes).movedim(-1, 0).float()
    everywhere = (labels >= 0)[None]
    assert registration_weight(one, one, everywhere, 2.4).sub(REGISTRATION_WEIGHT).abs().max() < 1e-5
    other = one_hot((labels + 3).long(), PAPER.classes).movedim(-1, 0).float()
    assert registration_weight(one, other, everywhere, 2.4).max() == 0
