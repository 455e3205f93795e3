"""StyleSeg as an arm: its style transfer, its error map, its weak supervision, and a training that was stopped."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from configs.schema import load
from simulation.arms.arm import Lesson
from simulation.arms.styleseg import STYLESEG
from simulation.baselines import styleseg
from simulation.control import random_flow
from sst_models.training.seeds import generator
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import dice_per_class
from sst_models.volume.mirror import SIDE
from sst_models.volume.warp import warp

SHAPE = (32, 32, 32)


class _Scans:
    """Scans in memory."""

    def __init__(self, images: list[Tensor]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Tensor:
        return self.images[index]


def _nested() -> Tensor:
    """Labels (D, H, W) of three balls in one another."""
    z, y, x = torch.meshgrid(*(torch.arange(side) - side / 2 for side in SHAPE), indexing="ij")
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    for index, (radius, at) in enumerate(((13.0, 0.0), (9.0, 1.0), (5.0, -1.0)), start=1):
        labels[(z.square() + (y - at).square() + (x + at).square()).sqrt() < radius] = index
    return labels


def test_style_is_the_low_amplitudes_of_the_scan_on_the_phases_of_the_atlas() -> None:
    """Against the whole spectrum, frequency by frequency; where the atlas holds nothing, nothing comes."""
    draws = torch.Generator().manual_seed(1)
    image, scan = (0.4 + 0.2 * torch.rand(1, *SHAPE, generator=draws) for _ in range(2))
    image[:, :4] = 0
    ours, theirs = (np.fft.fftn(volume[0].double().numpy()) for volume in (image, scan * 0.7))
    amplitude = np.abs(ours)
    reach = int(styleseg.LOW * 32)  # cycles a side
    for a in range(-reach, reach + 1):
        for b in range(-reach, reach + 1):
            for c in range(-reach, reach + 1):
                amplitude[a, b, c] = 0.25 * np.abs(ours[a, b, c]) + 0.75 * np.abs(theirs[a, b, c])
    whole = np.fft.ifftn(amplitude * np.exp(1j * np.angle(ours)))
    assert np.abs(whole.imag).max() < 1e-12
    expected = whole.real.clip(0, 1) * (image[0].numpy() > 0)
    styled = styleseg.transfer_style(image, scan * 0.7, 0.75)
    assert np.allclose(styled[0].numpy(), expected, atol=1e-5)
    assert float((styled - image).abs().max()) > 0.05


class _Slopes(nn.Module):
    """A flow along the fixed volume's slopes, as right for a mirror image; but wrong in one place of the grid."""

    def __init__(self, where: tuple[slice, slice, slice]) -> None:
        super().__init__()
        self.where = where

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        flow = torch.stack(torch.gradient(fixed[:, 0], dim=(1, 2, 3)), dim=1)
        i, j, k = self.where
        flow[:, 1, i, j, k] += 2
        return flow


def test_a_scan_is_pasted_in_where_its_mirror_image_is_registered_alike() -> None:
    """An error of 2 voxels on one side costs both sides their trust, as nobody can tell which is wrong; elsewhere 1."""
    scan = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(2))
    where = (slice(3, 9), slice(10, 20), slice(4, 12))
    atlas = (scan.flip(2), AtlasLabels(_nested()))
    found = styleseg.align(_Slopes(where), atlas, scan)
    expected = torch.ones(SHAPE)
    expected[where] = float(np.exp(-2 / styleseg.ERROR))
    expected = torch.minimum(expected, expected.flip(SIDE))
    assert torch.allclose(found.trust.float(), expected, atol=1e-3)
    levels = [(number + 0.5) / 100 for number in range(100)]
    taken = [styleseg.paste(torch.ones_like(scan), torch.zeros_like(scan), found.trust, level) for level in levels]
    assert torch.allclose(torch.stack(taken).mean(0)[0], expected, atol=0.011)


class _Free(nn.Module):
    """A flow that can be anything smooth, whatever the volumes show."""

    def __init__(self) -> None:
        super().__init__()
        self.knots = nn.Parameter(torch.zeros(1, 3, 8, 8, 8))

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        flow = nn.functional.interpolate(200 * self.knots, SHAPE, mode="trilinear")
        return flow.expand(len(fixed), -1, -1, -1, -1)


def _moved_ball(shown: bool, given: bool) -> float:
    """Give the Dice of a ball that lies 3 voxels from the atlas's, after training; seen in the image, or in labels."""
    parts = _nested()
    inner = AtlasLabels(torch.where(parts == 3, parts, 0)).propagate(
        torch.tensor([0.0, -3.0, 0.0]).view(1, 3, 1, 1, 1).expand(1, 3, *SHAPE)
    )
    truth = torch.where(inner == 3, 3, parts.clamp(max=2).long())
    image, scan = (
        torch.tensor([0.0, 0.5, 0.5, 0.8 if shown else 0.5])[labels.long()][None] for labels in (parts, truth)
    )
    atlas, labels_of = (image, AtlasLabels(parts)), (lambda index: truth) if given else None
    learner = styleseg.Registering(_Free(), atlas, _Scans([0.7 * scan.square()]), 0.01, labels_of)
    for step in range(32):
        learner.step(generator(1, step))
    found = styleseg.align(learner.nets["registration"], atlas, scan).labels
    return float(dice_per_class(found, truth, 4)[3])


def test_the_atlas_follows_what_images_show_and_what_labels_of_scans_say() -> None:
    """The ball comes to lie where a scan in another look shows it, or only its labels have it; else it stays."""
    assert _moved_ball(shown=False, given=False) < 0.7
    assert _moved_ball(shown=True, given=False) > 0.9
    assert _moved_ball(shown=False, given=True) > 0.9


def test_a_training_that_was_stopped_goes_on_to_the_same_segmenter(tmp_path: Path) -> None:
    """In the second iteration, of the registration or of the segmenter; steps are counted up to the time there is."""
    experiment = replace(load("tiny"), grid=replace(load("tiny").grid, shape=SHAPE))
    labels = AtlasLabels(_nested())
    image = torch.tensor([0.0, 0.5, 0.8, 0.3])[labels.parts.long()][None]
    scans = _Scans([0.8 * warp(image[None], random_flow(SHAPE, 5.0, generator(4, number)))[0] for number in range(3)])
    bench = cast(
        Any,
        SimpleNamespace(
            experiment=experiment, atlas=(image, labels), device=torch.device("cpu"), scans=lambda site: scans
        ),
    )
    counted: list[int] = []

    def learnt(folder: str, stop: float = float("inf")) -> dict[str, np.ndarray]:
        def watch(step: int, loss: float) -> None:
            counted.append(step)
            if step >= stop:
                raise KeyboardInterrupt

        assert STYLESEG.learn is not None
        return dict(STYLESEG.learn(bench, "here", Lesson(8, tmp_path / folder, watch)))

    whole = learnt("whole")
    assert counted == sorted(counted) and abs(counted[-1] - 8) <= 1, counted
    for stop in (4, 6):
        with pytest.raises(KeyboardInterrupt):
            learnt("parts", stop)
    again = learnt("parts")
    assert whole.keys() == again.keys() and all(np.array_equal(whole[name], again[name]) for name in whole)
