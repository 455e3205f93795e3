"""An atlas's labels, finer than the grid: what flows carry, at places between the grid's, and how they travel."""

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.errors import DataError
from configs.structures import PAPER, Row, table_of
from sst_models.volume.grid import block_vote
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.warp import warp_labels

SHAPE, FINER = (6, 7, 8), 3


def parts() -> Tensor:
    """Blobs of several classes, with parts of background between them, up to the border."""
    draws = torch.Generator().manual_seed(1)
    coarse = torch.randint(0, 5, (1, 1, 9, 9, 9), generator=draws).float()
    fine = torch.nn.functional.interpolate(coarse, size=[side * FINER for side in SHAPE], mode="nearest")
    return fine[0, 0].to(torch.uint8) * 7


def flow(*voxels: float) -> Tensor:
    """Give one that points as far everywhere, (1, 3, D, H, W)."""
    return torch.tensor(voxels).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE).contiguous()


def moved(labels: Tensor, steps: tuple[int, int, int]) -> Tensor:
    """Give what lies `steps` parts further on, background beyond."""
    wide = torch.nn.functional.pad(labels, (12,) * 6)
    d, h, w = (slice(12 + step, 12 + step + side) for step, side in zip(steps, labels.shape, strict=True))
    return wide[d, h, w]


@pytest.mark.parametrize("steps", [(0, 0, 0), (1, 0, 0), (0, -2, 4), (-5, 1, 0), (12, -12, 12)])
def test_a_flow_between_voxels_carries_what_most_of_the_box_there_is(steps: tuple[int, int, int]) -> None:
    """So many thirds of a voxel on: as if the atlas had been moved first and then brought to the grid."""
    labels, there = AtlasLabels(parts(), FINER), moved(parts(), steps)
    thirds = flow(*(step / FINER for step in steps))
    for _ in range(2):  # the second time from what was counted before
        assert torch.equal(labels.propagate(thirds), block_vote(there, FINER).long())
    found = labels.probabilities(thirds)
    wanted = torch.stack(
        [torch.nn.functional.avg_pool3d((there == c)[None].float(), FINER)[0] for c in range(PAPER.classes)]
    )
    torch.testing.assert_close(found, wanted)
    assert torch.equal(labels.on_grid, block_vote(parts(), FINER).long()) and labels.shape == SHAPE


def test_labels_on_the_grid_itself_are_interpolated_linearly() -> None:
    """One part a voxel is what `warp_labels` was made for."""
    whole = block_vote(parts(), FINER)
    labels, odd = AtlasLabels(whole), flow(0.4, -0.3, 1.2)
    assert torch.equal(labels.propagate(odd), warp_labels(whole[None], odd)[0].long())
    found = labels.probabilities(odd)
    torch.testing.assert_close(found.sum(0), torch.ones(SHAPE))
    inner = (slice(1, -2), slice(1, -1), slice(0, -2))  # beyond the border there is background, or no word at all
    likeliest = found.gather(0, labels.propagate(odd)[None])[0]
    torch.testing.assert_close(likeliest[inner], found.amax(0)[inner])


def test_a_sheet_thinner_than_a_voxel_keeps_its_volume() -> None:
    """A third of a voxel of fluid is never most of a box; its shares are still there, wherever a flow puts it."""
    sheet = torch.zeros([side * FINER for side in SHAPE], dtype=torch.uint8)
    sheet[8] = 10
    labels = AtlasLabels(sheet, FINER)
    for third in range(-3, 4):
        carried = flow(third / FINER, 0.0, 0.0)
        assert float(labels.probabilities(carried)[10].sum()) == pytest.approx(SHAPE[1] * SHAPE[2] / FINER)
        assert not labels.propagate(carried).any()


def test_packed_labels_come_back_and_take_little_room() -> None:
    """What hub and site exchange is what was packed, and of the run's grid."""
    labels = AtlasLabels(parts(), FINER)
    packed = labels.packed()
    assert packed.dtype == np.uint8 and packed.ndim == 1 and len(packed) < parts().numel() / 5
    assert torch.equal(AtlasLabels.unpack(packed, SHAPE, FINER)[0].parts, labels.parts)


def test_labels_of_several_atlases_travel_together() -> None:
    """They come back in their order, and are not taken for those of more or fewer atlases."""
    first, second = AtlasLabels(parts(), FINER), AtlasLabels(parts().flip(0), FINER)
    packed = first.packed(second)
    found = AtlasLabels.unpack(packed, SHAPE, FINER, 2)
    assert [torch.equal(ours.parts, own.parts) for ours, own in zip(found, (first, second), strict=True)] == [True] * 2
    for count in (1, 3):
        with pytest.raises(DataError, match="hub and site need the same preset"):
            AtlasLabels.unpack(packed, SHAPE, FINER, count)


def test_labels_of_another_table_have_its_classes() -> None:
    """Of three structures or of 254, as many as a byte holds: shares, votes and what travels agree with the table."""
    for structures in (3, 254):
        table = table_of(tuple(Row(n, f"s{n}", f"s{n}", n, (0, 0, 0)) for n in range(1, structures + 1)))
        fine = (parts().long() * 13 % table.classes).to(torch.uint8)
        fine[:3, :3, :3] = structures
        labels = AtlasLabels(fine, FINER, table)
        shares = labels.probabilities(torch.zeros(1, 3, *SHAPE))
        assert shares.shape == (table.classes, *SHAPE) and torch.equal(shares.argmax(0), labels.on_grid)
        assert torch.equal(labels.on_grid, block_vote(fine, FINER).long()) and labels.on_grid[0, 0, 0] == structures
        (found,) = AtlasLabels.unpack(labels.packed(), SHAPE, FINER, table=table)
        assert torch.equal(found.parts, fine) and found.table == table
    with pytest.raises(DataError, match="hub and site need the same preset"):
        AtlasLabels.unpack(labels.packed(), SHAPE, FINER)


def test_labels_that_are_damaged_or_of_another_grid_are_refused() -> None:
    """Cut short, changed, of another size, or with a class that nobody knows."""
    packed = AtlasLabels(parts(), FINER).packed()
    changed = packed.copy()
    changed[len(changed) // 2] ^= 255
    strange = AtlasLabels(torch.full((3, 3, 3), PAPER.classes)).packed()
    for wrong, shape, finer in (
        (packed[:-8], SHAPE, FINER),
        (changed, SHAPE, FINER),
        (packed, SHAPE, 1),
        (packed, (6, 7, 7), FINER),
        (packed, (6, 7, 9), FINER),
        (np.zeros(9, np.uint8), SHAPE, FINER),
        (strange, (3, 3, 3), 1),
    ):
        with pytest.raises(DataError, match="labels"):
            AtlasLabels.unpack(wrong, shape, finer)
    with pytest.raises(ValueError, match="not 2 parts"):
        AtlasLabels(torch.zeros(4, 4, 4), 2)
