"""DataAug: the atlas is bent as one scan is and coloured as another, its labels stay on it, and it ends on time."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.schema import load
from server.segmenters import segmenter_of
from simulation.arms.arm import Lesson
from simulation.arms.dataaug import DATAAUG
from simulation.baselines import dataaug
from simulation.control import random_flow
from sst_models.losses.structural import lncc
from sst_models.networks.registration import RegistrationUNet
from sst_models.training.seeds import generator
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import mean_dice
from sst_models.volume.warp import warp

TONES = torch.tensor([0.0, 0.5, 0.8, 0.3, 0.65])


class _Volumes:
    """Scans in memory."""

    def __init__(self, volumes: Sequence[Tensor]) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def image(self, index: int) -> Tensor:
        return self.volumes[index]


def _labels(shape: tuple[int, int, int]) -> Tensor:
    """A head of four structures, (D, H, W) uint8, off the middle so that left and right differ."""
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in shape], indexing="ij")
    labels = torch.zeros(shape, dtype=torch.uint8)
    for index, (size, at) in enumerate(((0.7, 0.0), (0.5, 0.05), (0.25, 0.2), (0.2, -0.25)), start=1):
        labels[((x - at) ** 2 + y**2 + (z + at / 2) ** 2).sqrt() < size] = index
    return labels


class _Known(nn.Module):
    """Registers by what the test knows: scan n is the atlas moved by `SHIFTS[n]` voxels along the last axis."""

    def __init__(self, scans: Sequence[Tensor]) -> None:
        super().__init__()
        self.scans = scans

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        flow = torch.zeros(1, 3, *fixed.shape[2:])
        for scan, shift in zip(self.scans, SHIFTS, strict=True):
            flow[:, 2] += shift * (float(torch.equal(moving[0], scan)) - float(torch.equal(fixed[0], scan)))
        return flow


SHIFTS = (-3, 4)


def test_a_pair_has_the_look_of_one_scan_and_the_shape_of_another() -> None:
    """Labels lie where the drawn flow puts them, colours are a scan's, and all combinations of the two are drawn."""
    labels = _labels((16, 32, 32))
    atlas = TONES[labels.long()][None]
    looks = torch.tensor([[0.0, 0.2, 0.5, 0.7, 0.9], [0.0, 0.9, 0.5, 0.2, 0.4]])
    scans = [look[labels.long()].roll(shift, 2)[None] for look, shift in zip(looks, SHIFTS, strict=True)]
    registered = dataaug.Registered(_Known(scans), atlas, _Volumes(scans), seed=1)
    torch.manual_seed(1)
    net = dataaug.AppearanceUNet()
    learner = dataaug.AppearanceLearner({"appearance": net}, labels, registered)
    for number in range(80):
        learner.step(generator(1, "appearance", number))
    pairs, seen = dataaug.augmented_pairs(net, AtlasLabels(labels), registered), set()
    for number in range(20):
        image, found = pairs(generator(1, "pair", number))
        shape = [torch.equal(found, labels.roll(shift, 2).long()) for shift in SHIFTS].index(True)
        assert float(image[0][found == 0].max()) < 0.01
        errors = torch.stack([(image[0] - look[found]).square().mean() for look in looks])
        untouched = torch.stack([(TONES[found] - look[found]).square().mean() for look in looks])
        assert int((errors < 0.4 * untouched).sum()) == 1, (errors, untouched)
        seen.add((shape, int(errors.argmin())))
    assert len(seen) == 4


def test_the_registration_learns_to_bend_the_atlas_onto_a_scan_and_back() -> None:
    """Where a scan lies otherwise, and is darker, labels come to lie better, and the scan itself on the atlas."""
    shape, draws = (16, 32, 32), torch.Generator().manual_seed(2)
    labels = AtlasLabels(_labels(shape))
    atlas = TONES[labels.parts.long()][None]
    flow = 0.3 * random_flow(shape, 2.4, draws) + torch.tensor([0.0, 2.0, 2.0]).view(1, 3, 1, 1, 1)
    scan, truth = warp(0.7 * atlas[None], flow)[0], labels.propagate(flow)
    torch.manual_seed(1)
    net = RegistrationUNet(dataaug.WIDTHS, dataaug.HALF)
    learner = dataaug.SpatialLearner({"spatial": net}, atlas, _Volumes([scan]))
    for number in range(50):
        learner.step(generator(1, "spatial", number))
    kept = dataaug.Registered(net, atlas, _Volumes([scan]), seed=1)[0]
    before, after = mean_dice(labels.on_grid, truth), mean_dice(labels.propagate(kept.flow.float()), truth)
    assert before < 0.6 and after > 0.8, (before, after)
    alike = [float(lncc(one, atlas[None])) for one in (scan[None], kept.aligned.float())]
    assert alike[1] > alike[0] + 0.08, alike


def test_a_change_may_jump_at_the_borders_of_labels_and_nowhere_else() -> None:
    """(1 - c) |grad psi| is what plain loops make of it, and nothing for a change that is even in each structure."""
    labels = torch.randint(3, (4, 5, 6), generator=torch.Generator().manual_seed(1)).repeat_interleave(3, 0)
    change = torch.randn(2, 1, *labels.shape, generator=torch.Generator().manual_seed(2))
    psi, sides = change[:, 0].double().numpy(), labels.shape
    sums, counts = np.zeros(3), np.zeros(3)
    for place in np.ndindex(*sides):
        steps = [tuple(place[a] + s * (a == axis) for a in range(3)) for axis in range(3) for s in (-1, 1)]
        near = [step for step in steps if all(0 <= at < side for at, side in zip(step, sides, strict=True))]
        border = any(labels[step] != labels[place] for step in near)
        for axis in range(3):
            step = tuple(place[a] + (a == axis) for a in range(3))
            if step in near:
                sums[axis] += 0 if border else np.abs(psi[(slice(None), *step)] - psi[(slice(None), *place)]).sum()
                counts[axis] += 2
    found = dataaug.change_roughness(change, dataaug.boundaries(labels))
    assert sums.sum() > 0
    assert float(found) == pytest.approx((sums / counts).mean(), rel=1e-5)
    head = _labels((16, 16, 16))
    even = TONES[head.long()][None, None]
    assert float(dataaug.change_roughness(even, dataaug.boundaries(head))) == 0


def test_a_lesson_that_was_stopped_goes_on_to_the_same_segmenter_in_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stages are counted as steps of a U-Net, together what the lesson gives, and none is done twice."""
    monkeypatch.setattr(dataaug, "WIDTHS", (4, 8))
    experiment = load("tiny", ["grid.shape=[32, 32, 32]"])
    labels = _labels(experiment.grid.shape)
    atlas = TONES[labels.long()][None]
    scans = _Volumes([atlas.roll(shift, 3) for shift in (-2, 1)])
    bench = cast(
        Any,
        SimpleNamespace(
            experiment=experiment,
            atlas=(atlas, AtlasLabels(labels)),
            device=torch.device("cpu"),
            scans=lambda site: scans,
        ),
    )
    seen: list[int] = []

    def stop(step: int, loss: float) -> None:
        seen.append(step)
        if step > 2:  # the changes of intensity are being learnt
            raise KeyboardInterrupt

    assert DATAAUG.learn is not None
    with pytest.raises(KeyboardInterrupt):
        DATAAUG.learn(bench, "here", Lesson(8, tmp_path / "parts", stop))
    stopped = seen.pop()
    learnt = DATAAUG.learn(bench, "here", Lesson(8, tmp_path / "parts", lambda step, loss: seen.append(step)))
    torch.manual_seed(7)  # nothing may depend on it
    whole = DATAAUG.learn(bench, "here", Lesson(8, tmp_path / "whole"))
    assert stopped == 3 and seen == sorted(seen) and seen[-1] in (7, 8)
    assert all(np.array_equal(learnt[name], whole[name]) for name in whole)
    assert segmenter_of(learnt, experiment, torch.device("cpu"))(atlas[None]).shape[1] == 29
