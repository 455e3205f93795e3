import numpy as np
import pytest
import torch

from configs.errors import DataError
from configs.structures import PAPER, Row, table_of
from sst_models.volume.grid import Grid, block_mean, block_vote, check_geometry, to_classes
from sst_models.volume.intensity import closest_to_mean, match_quantiles, robust_scale

RED = (255, 0, 0)


def test_robust_scale_matches_numpy_percentiles() -> None:
    """The scaling is the slow obvious one: numpy's percentiles over non-zero voxels."""
    volume = torch.randn(8, 9, 10, generator=torch.Generator().manual_seed(0)) * 50 + 300
    volume[:3] = 0
    low, high = np.percentile(volume[3:].numpy(), [0.5, 99.5])
    expected = np.where(volume.numpy() != 0, np.clip((volume.numpy() - low) / (high - low), 0, 1), 0)
    torch.testing.assert_close(robust_scale(volume), torch.from_numpy(expected).float(), rtol=0, atol=1e-5)


def test_robust_scale_ignores_the_scanner_unit() -> None:
    """Doubling all intensities changes nothing."""
    volume = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(robust_scale(volume), robust_scale(volume * 2))


def test_robust_scale_is_bounded_and_keeps_background_at_zero() -> None:
    """Outliers are clamped to [0, 1] and voxels outside the mask are 0."""
    volume = torch.rand(8, 8, 8, generator=torch.Generator().manual_seed(2))
    volume[0, 0, 0] = 1e6
    mask = torch.ones(8, 8, 8, dtype=torch.bool)
    mask[4:] = False
    scaled = robust_scale(volume, mask)
    assert scaled.min() == 0 and scaled.max() == 1 and not scaled[4:].any()


def test_matched_quantiles_undo_another_scanners_curve() -> None:
    """A scan and the same scan by a rising curve: one becomes the other, and the background stays what it is."""
    scan = torch.rand(12, 12, 12, generator=torch.Generator().manual_seed(3))
    scan[:4] = 0
    other = 0.2 + 0.7 * scan.square()
    other[:4] = 0
    matched = match_quantiles(other, scan)
    assert (matched - scan).abs().max() < 0.01
    assert not matched[:4].any()


def test_matching_to_an_empty_volume_changes_nothing() -> None:
    """Nor does an empty volume take anything on."""
    scan, empty = torch.rand(4, 4, 4), torch.zeros(4, 4, 4)
    assert torch.equal(match_quantiles(scan, empty), scan)
    assert torch.equal(match_quantiles(empty, scan), empty)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_robust_scale_of_an_empty_or_flat_volume_is_zero(value: float) -> None:
    """Nothing to scale gives zeros, not NaN."""
    assert not robust_scale(torch.full((4, 4, 4), value)).any()


def test_closest_to_mean_finds_the_middle_scan() -> None:
    """Of 0, 1, 2 and 9 the mean is 3, the closest 2."""
    assert closest_to_mean([np.full((2, 2, 2), v, dtype=np.float32) for v in (0, 1, 2, 9)]) == 2


def test_closest_to_mean_refuses_no_scans() -> None:
    """There is no closest of none."""
    with pytest.raises(ValueError, match="no volumes"):
        closest_to_mean([])


def test_a_finer_grid_covers_the_same_box() -> None:
    """The outer faces of the first voxel stay where they were."""
    grid = Grid((4, 5, 6), 2.4, (-10.0, 3.0, 7.0))
    fine = grid.finer(3)
    assert fine.shape == (12, 15, 18)
    np.testing.assert_allclose(np.array(fine.origin) - fine.spacing / 2, np.array(grid.origin) - grid.spacing / 2)


def test_block_vote_takes_the_majority() -> None:
    """Five voxels of eight decide; a tie goes to the lower class."""
    labels = torch.zeros(2, 2, 4, dtype=torch.uint8)
    labels[..., :2] = torch.tensor([[[28, 28], [28, 28]], [[28, 3], [3, 3]]], dtype=torch.uint8)
    labels[0, :, 2:] = 5
    assert block_vote(labels, 2).tolist() == [[[28, 0]]]
    torch.testing.assert_close(block_mean(labels.float(), 2)[0, 0, 1], torch.tensor(2.5))


def test_to_classes_maps_drops_and_refuses() -> None:
    """Ids of the table become indices, other aseg ids background, any other id an error that names it."""
    assert to_classes(np.array([0, 2, 60, 5, 77, 251]), "f").tolist() == [0, 1, 28, 0, 0, 0]
    for bad in (999, 2.5, -3, float("nan"), 1e9):
        with pytest.raises(DataError, match="^unknown-label: .* in seg.nii"):
            to_classes(np.array([0, 2, bad]), "seg.nii")


def test_to_classes_of_another_table_drops_what_it_names_alone() -> None:
    """Of some of the usual structures, other ids of FreeSurfer are background; an id of another organ is a mistake."""
    hippocampi = table_of((Row(17, "Left-Hippocampus", "H", 53, (1, 1, 1)), Row(53, "Right-Hippocampus", "H", 17, RED)))
    assert to_classes(np.array([0, 17, 53, 2, 77]), "f", hippocampi).tolist() == [0, 1, 2, 0, 0]
    organs = table_of((Row(17, "Liver", "Liver", 17, RED), Row(9, "couch", "background", 9, RED)))
    assert to_classes(np.array([0, 17, 9]), "f", organs).tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="id 2 in f is not in the label table; add it, with the group 'background'"):
        to_classes(np.array([0, 2]), "f", organs)


def test_to_classes_takes_a_numbering_of_its_own() -> None:
    """With a table, an id is translated first, and one that it lacks is refused."""
    assert to_classes(np.array([0, 1]), "f", PAPER, {0: 0, 1: 60}).tolist() == [0, 28]
    with pytest.raises(DataError, match="id 2 in f"):
        to_classes(np.array([0, 2]), "f", PAPER, {0: 0, 1: 60})


@pytest.mark.parametrize(("sides", "code"), [((1, 1, 0.01), "spacing"), ((1, 1, 30), "spacing"), ((1, 1, 0), "affine")])
def test_check_geometry_refuses_absurd_voxels(sides: tuple[float, ...], code: str) -> None:
    """Voxels out of 0.2 to 10 mm, and affines without an inverse, are no head scans."""
    with pytest.raises(DataError, match=f"^{code}: .*scan.nii"):
        check_geometry(np.diag([*map(float, sides), 1.0]), "scan.nii")
