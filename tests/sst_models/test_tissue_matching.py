"""Tissues of the atlas take the intensities that they have in a scan."""

import pytest
import torch
from torch import Tensor

from configs.structures import PAPER
from sst_models.propagation.tissue_matching import DOUBT, match_tissues

SIDE = 24
WHITE, THALAMUS, CAUDATE = (
    next(s.index for s in PAPER.structures if s.name == name)
    for name in ("Left-Cerebral-WM", "Left-Thalamus-Proper", "Left-Caudate")
)


def labels(shift: int = 0) -> Tensor:
    """White matter with two nuclei in it, in a border of background."""
    made = torch.zeros(SIDE, SIDE, SIDE, dtype=torch.int64)
    made[2:-2, 2:-2, 2:-2] = WHITE
    made[5 + shift : 11 + shift, 5:11, 5:11] = THALAMUS
    made[13:19, 13:19, 13:19] = CAUDATE
    return made


def painted(where: Tensor, white: float, thalamus: float, caudate: float) -> Tensor:
    """Paint each tissue in one intensity."""
    table = torch.zeros(64)
    table[WHITE], table[THALAMUS], table[CAUDATE] = white, thalamus, caudate
    return table[where][None, None]


def test_an_order_of_tissues_that_no_curve_can_make_is_matched() -> None:
    """The nuclei change places about white matter, and the result is the scan's order, to the margin of doubt."""
    atlas, scan = painted(labels(), 0.6, 0.4, 0.8), painted(labels(), 0.6, 0.8, 0.3)
    found = match_tissues(atlas, labels(), scan, labels(), 3.0)[0, 0]
    for place, expected in (((8, 8, 8), 0.8 - DOUBT), ((16, 16, 16), 0.3 + DOUBT), ((3, 20, 3), 0.6)):
        assert abs(float(found[place]) - expected) < 0.02, place
    assert bool((found[labels() == 0] == 0).all())


def test_a_scan_of_the_same_contrast_changes_nothing() -> None:
    """Differences within the margin of doubt are taken for errors of the alignment."""
    atlas, scan = painted(labels(), 0.6, 0.4, 0.8), painted(labels(), 0.63, 0.42, 0.77)
    assert torch.allclose(match_tissues(atlas, labels(), scan, labels(), 3.0), atlas, atol=1e-6)


def test_an_alignment_that_is_off_by_a_voxel_does_no_harm() -> None:
    """Edges do not count, so that a nucleus that lies beside its label still has its own intensity."""
    atlas, scan = painted(labels(), 0.6, 0.4, 0.8), painted(labels(1), 0.6, 0.8, 0.8)
    found = match_tissues(atlas, labels(), scan, labels(), 3.0)[0, 0]
    assert abs(float(found[8, 8, 8]) - (0.8 - DOUBT)) < 0.06


def test_a_bias_field_is_followed() -> None:
    """White matter that is brighter on one side of the scan becomes so in the atlas."""
    slope = torch.linspace(0.4, 0.8, SIDE)[:, None, None].expand(SIDE, SIDE, SIDE)
    where = torch.where(labels() > 0, WHITE, 0)
    atlas, scan = painted(where, 0.6, 0, 0), (slope * (where > 0))[None, None]
    found = match_tissues(atlas, where, scan, where, 2.0)[0, 0]
    assert float(found[4, 12, 12]) < 0.55 < 0.65 < float(found[19, 12, 12])


def test_a_tissue_that_the_scan_lacks_stays() -> None:
    """Nothing is known of it, so nothing is changed."""
    carried = torch.where(labels() == CAUDATE, WHITE, labels())
    atlas = painted(labels(), 0.6, 0.4, 0.8)
    found = match_tissues(atlas, labels(), painted(carried, 0.6, 0.4, 0), carried, 3.0)[0, 0]
    assert abs(float(found[16, 16, 16]) - 0.8) < 0.02


def test_background_of_a_scan_does_not_darken_the_tissue_that_labels_put_there() -> None:
    """A scan that was stripped too far: what is left of white matter says how bright it is."""
    where = torch.where(labels() > 0, WHITE, 0)
    scan = painted(where, 0.8, 0, 0)
    scan[:, :, :9] = 0
    found = match_tissues(painted(where, 0.6, 0, 0), where, scan, where, 3.0)[0, 0]
    assert abs(float(found[15, 12, 12]) - (0.8 - DOUBT)) < 0.01
    assert abs(float(found[10, 12, 12]) - (0.8 - DOUBT)) < 0.02


def test_far_from_a_tissue_its_mean_in_the_whole_brain_counts() -> None:
    """A nucleus that the scan has elsewhere only: the atlas's takes the scan's intensity of it all the same."""
    scan_labels = torch.where(labels() == THALAMUS, WHITE, labels())
    scan_labels[14:20, 4:10, 14:20] = THALAMUS
    scan = painted(scan_labels, 0.6, 0.9, 0.8)
    found = match_tissues(painted(labels(), 0.6, 0.4, 0.8), labels(), scan, scan_labels, 1.0)[0, 0]
    assert abs(float(found[8, 8, 8]) - (0.9 - DOUBT)) < 0.03


def halves(left: float, right: float) -> Tensor:
    """A volume without background, of one intensity in each half."""
    image = torch.full((1, 1, 32, 32, 32), left)
    image[:, :, 16:] = right
    return image


def test_the_mean_near_a_place_is_a_gaussians() -> None:
    """Of white matter alone, 0.3 in one half and 0.6 in the other: from 0.3 to 0.6 as the Gaussian of the reach adds
    up, less the margin of doubt; and a hundredth of the mean of the whole brain."""
    white = torch.full((32, 32, 32), WHITE)
    reach, at = 4.0, 16
    found = match_tissues(torch.full((1, 1, 32, 32, 32), 0.2), white, halves(0.3, 0.6), white, reach)[0, 0, :, at, at]
    places = torch.arange(32) + 0.5 - 16
    near = 0.3 + 0.3 * torch.distributions.Normal(0.0, reach).cdf(places)
    expected = (near + 0.01 * 0.45) / 1.01 - DOUBT
    torch.testing.assert_close(found[8:24], expected[8:24], rtol=0, atol=0.004)
    sharp = match_tissues(torch.full((1, 1, 32, 32, 32), 0.2), white, halves(0.3, 0.6), white, 1.0)[0, 0]
    assert float(sharp[8, at, at]) == pytest.approx((0.3 + 0.01 * 0.45) / 1.01 - DOUBT, abs=2e-4)


def test_a_tissue_is_known_by_a_core_of_one_voxel() -> None:
    """The smallest that has one: a cube of three without its corners."""
    small = torch.where(labels() == THALAMUS, WHITE, labels())
    small[7:10, 7:10, 7:10] = THALAMUS
    for corner in torch.cartesian_prod(*[torch.tensor([7, 9])] * 3).tolist():
        small[tuple(corner)] = WHITE
    found = match_tissues(painted(small, 0.6, 0.4, 0.8), small, painted(small, 0.6, 0.8, 0.8), small, 3.0)[0, 0]
    assert float(found[8, 8, 8]) > 0.5


def test_intensities_stay_in_range() -> None:
    """And background stays background, where the scan's tissue is brighter than anything in the atlas."""
    atlas, scan = painted(labels(), 0.99, 0.9, 0.02), painted(labels(), 0.8, 1.0, 0.0)
    atlas[atlas > 0.98] = 1.0
    found = match_tissues(atlas, labels(), scan + 0.001 * (labels() > 0), labels(), 3.0)
    assert float(found.min()) >= 0 and float(found.max()) <= 1
    assert not found[0, 0][labels() == 0].any()
