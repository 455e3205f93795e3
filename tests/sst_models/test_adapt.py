"""Pairs on a site's own scans: which image goes with which labels (eq. 2, 6 and 7 with the atlas as base image)."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from configs.errors import DataError
from configs.schema import Experiment
from material import learner, preset
from sst_models.networks.build import build
from sst_models.phases.adapt import AdaptLearner
from sst_models.phases.material import Material, make_learner
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.warp import warp_labels

SIDES = (32, 32, 32)
BRIGHTNESS = (0.5, 0.25)  # of the two scans; exact in half precision, in which pairs are kept
SHIFT = {0.5: 2.0, 0.25: 4.0}  # voxels along the first axis that F finds for each


def atlas() -> tuple[Tensor, Tensor]:
    """An image (1, 32, 32, 32) and its labels: a box with a bright half, all levels exact in half precision."""
    image = torch.zeros(1, *SIDES)
    image[:, 8:24, 8:24, 8:24] = 0.5
    image[:, 8:16, 8:24, 8:24] = 1.0
    return image, torch.where(image[0] == 1.0, 5, torch.where(image[0] == 0.5, 7, 0))


class Scans:
    """Two scans: flat boxes of different brightness."""

    def __len__(self) -> int:
        return len(BRIGHTNESS)

    def image(self, index: int) -> Tensor:
        """Give one volume, (1, D, H, W)."""
        return BRIGHTNESS[index] * (atlas()[0] > 0)


class Brightness(nn.Module):
    """E: the brightness of a volume is its style."""

    def forward(self, volume: Tensor) -> Tensor:
        """Give codes (N, 1)."""
        return volume.amax(dim=(2, 3, 4))


class Dimmer(nn.Module):
    """A: a volume times its style."""

    def forward(self, volume: Tensor, code: Tensor) -> Tensor:
        """Give the restyled volume."""
        return volume * code[:, :, None, None, None]


class Shift(nn.Module):
    """F: a shift by what the fixed volume says."""

    def forward(self, _: Tensor, fixed: Tensor) -> Tensor:
        """Give a flow (1, 3, D, H, W)."""
        flow = torch.zeros(1, 3, *SIDES)
        flow[:, 0] = SHIFT[float(fixed.max())]
        return flow


def flow_of(index: int) -> Tensor:
    """The flow from the atlas to a scan."""
    return Shift()(atlas()[0], Scans().image(index))


def made(**changes: object) -> AdaptLearner:
    """The learner with toy networks, on labels as F propagates them."""
    alone = {"em_weight": 0.0, "mirror": False}
    experiment: Experiment = preset(**{**alone, **changes})  # type: ignore[arg-type]
    nets = {"segmenter": build("segmenter", experiment), "E": Brightness(), "A": Dimmer(), "F": Shift()}
    image, labels = atlas()
    adapting = learner("adapt", nets, experiment, Scans(), image, labels=AtlasLabels(labels))
    assert isinstance(adapting, AdaptLearner)
    return adapting


def drawn(adapting: AdaptLearner, count: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Some pairs."""
    return [adapting.pair(torch.Generator().manual_seed(number)) for number in range(count)]


def which(found: tuple[Tensor, Tensor], allowed: Mapping[Any, tuple[Tensor, Tensor]]) -> Any:
    """The key of the pair that was made; exactly one fits."""
    (key,) = (key for key, pair in allowed.items() if all(map(torch.equal, pair, found)))
    return key


def test_a_real_pair_is_a_scan_with_the_labels_that_its_own_flow_carries() -> None:
    """Eq. 7: t_seg = F(b, t) o b_seg, beside t itself; both scans are drawn."""
    labels = atlas()[1]
    allowed = {i: (Scans().image(i), warp_labels(labels[None], flow_of(i))[0]) for i in range(2)}
    assert {which(pair, allowed) for pair in drawn(made(real_probability=1.0))} == {0, 1}


def middle(volume: Tensor) -> float:
    """The centre of mass along the first axis, voxels."""
    places = torch.arange(32.0)[:, None, None]
    return float((volume * places).sum() / volume.sum())


def test_a_rendered_pair_has_the_shape_of_one_scan_and_the_look_of_another() -> None:
    """Eq. 2 and 6 with a measured look: as bright as one, labels where F puts them on the other; all four of two."""
    _, labels = atlas()
    found = set()
    for image, carried in drawn(made(real_probability=0.0, flow_mixing=0.0), 32):
        shift = middle((labels > 0).float()) - middle((carried > 0).float())
        (where,) = (i for i in range(2) if abs(shift - SHIFT[BRIGHTNESS[i]]) < 0.5)
        level = float(image[0][carried > 0].median())
        (look,) = (j for j in range(2) if abs(level - BRIGHTNESS[j]) < 0.06)
        found.add((where, look))
    assert found == {(i, j) for i in range(2) for j in range(2)}


def test_a_blend_of_two_flows_carries_image_and_labels_alike() -> None:
    """A shape between those of two scans, and not always the same share of them."""
    _, labels = atlas()
    shifts = set()
    for found, carried in drawn(made(real_probability=0.0, flow_mixing=1.0), 24):
        shift = middle((labels > 0).float()) - middle((found[0] > 0).float())
        assert 1.8 <= shift <= 4.2
        assert middle((labels > 0).float()) - middle((carried > 0).float()) == pytest.approx(shift, abs=0.6)
        shifts.add(round(shift, 3))
    assert len(shifts) > 6


def test_of_several_atlases_each_is_rendered_by_the_flow_to_it() -> None:
    """The second has its labels the other way round and half of the box: pairs are of either, in both shapes."""
    experiment: Experiment = preset(em_weight=0.0, mirror=False, real_probability=0.0, flow_mixing=0.0)
    nets = {"segmenter": build("segmenter", experiment), "E": Brightness(), "A": Dimmer(), "F": Shift()}
    image, labels = atlas()
    half = torch.where(torch.arange(32)[:, None] < 16, labels, 0)
    material = Material(Scans(), image, (), AtlasLabels(labels), ((image * (half > 0), AtlasLabels(half)),))
    adapting = make_learner("adapt", nets, experiment, material)
    assert isinstance(adapting, AdaptLearner)
    found = set()
    for _, carried in drawn(adapting, 32):
        shift = middle((labels > 0).float()) - middle((carried > 0).float())
        (where,) = (i for i in range(2) if abs(shift - SHIFT[BRIGHTNESS[i]]) < 0.5)
        found.add((where, int((carried > 0).sum()) < 0.75 * int((labels > 0).sum())))
    assert found == {(i, j) for i in range(2) for j in (False, True)}


def test_without_the_atlas_labels_there_is_nothing_to_learn() -> None:
    """A hub of another version that does not send them is told so."""
    experiment = preset()
    nets = {"segmenter": build("segmenter", experiment), "E": Brightness(), "A": Dimmer(), "F": Shift()}
    with pytest.raises(DataError, match="no labels of the atlas"):
        learner("adapt", nets, experiment, Scans(), atlas()[0])


def test_the_scans_mirror_image_has_its_say_on_the_labels() -> None:
    """F errs by two or four voxels, towards one end of a scan and of its mirror image: their mean is in between."""
    _, labels = atlas()
    for image, carried in drawn(made(real_probability=1.0, mirror=True)):
        assert middle(image[0]) == pytest.approx(15.5)
        assert middle((carried > 0).float()) == pytest.approx(15.5, abs=0.5)
    alone = [middle((carried > 0).float()) for _, carried in drawn(made(real_probability=1.0))]
    assert max(alone) < 14


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 4, 20), (1.0, 24, 24)])
def test_as_many_pairs_are_real_as_the_preset_says(share: float, low: int, high: int) -> None:
    """A real pair's image has one level beside background, a rendered one has noise."""
    pairs = drawn(made(real_probability=share, flow_mixing=0.0), 24)
    real = sum(len(image.unique()) == 2 for image, _ in pairs)
    assert low <= real <= high
