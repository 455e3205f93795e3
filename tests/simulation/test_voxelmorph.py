"""VoxelMorph as an arm: it learns to bend the atlas onto a site's scans, whose labels it never sees."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

pytest.importorskip("voxelmorph")

from simulation.arms.arm import Arm, Lesson
from simulation.arms.voxelmorph import ARMS
from simulation.baselines import voxelmorph as method
from simulation.control import random_flow
from sst_models.losses.structural import lncc
from sst_models.training.seeds import generator
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import mean_dice
from sst_models.volume.warp import warp

OWN, REFINED = ARMS
CPU = torch.device("cpu")
STEPS = 45


class _Scans:
    def __init__(self, *volumes: Tensor) -> None:
        self.volumes = volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def image(self, index: int) -> Tensor:
        return self.volumes[index]


def _atlas(shape: tuple[int, int, int], noise: float) -> tuple[Tensor, AtlasLabels]:
    """Draw nested and neighbouring balls, each of its own brightness: image (1, D, H, W), and labels."""
    far = [(torch.arange(side) - side / 2) / (side / 2) for side in shape]
    x, y, z = torch.meshgrid(*far, indexing="ij")
    labels = torch.zeros(shape, dtype=torch.uint8)
    for index, (size, at) in enumerate(((0.8, 0.0), (0.6, 0.05), (0.25, 0.2), (0.2, -0.25)), start=1):
        labels[((x - at) ** 2 + y**2 + (z + at / 2) ** 2).sqrt() < size] = index
    image = torch.tensor([0.0, 0.6, 0.9, 0.3, 0.75])[labels.long()][None]
    return _noisy(image, noise, 9), AtlasLabels(labels)


def _noisy(image: Tensor, noise: float, seed: int) -> Tensor:
    grain = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + noise * grain * (image > 0)).clamp(0, 1)


def test_it_learns_to_propagate_labels_and_is_refined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a scan of another brightness labels come to lie better, and better still by EM, in the time of a U-Net."""
    monkeypatch.setattr(method, "RATE", 3e-3)  # a run has more steps
    image, labels = _atlas((16, 16, 16), noise=0.02)
    bent = 1.5 * random_flow((16, 16, 16), 2.4, torch.Generator().manual_seed(0))
    scan, truth = _noisy(0.9 * warp(image[None], bent)[0] ** 1.5, 0.02, 1), labels.propagate(bent)
    bench = SimpleNamespace(
        atlas=(image, labels),
        atlases=[(image, labels)],
        scans=lambda site: _Scans(scan),
        experiment=SimpleNamespace(
            seed=1, grid=SimpleNamespace(spacing=2.4), propagation=SimpleNamespace(em_weight=0.7)
        ),
        device=CPU,
    )
    told: list[int] = []
    assert OWN.learn is not None
    learnt = OWN.learn(cast(Any, bench), "here", Lesson(STEPS, tmp_path, lambda step, _: told.append(step)))
    bench.learnt = lambda arm, site: learnt

    def dice(arm: Arm) -> float:
        found = arm.predict(cast(Any, bench), arm, "here")(scan)
        assert found.folded < 1
        return mean_dice(found.labels, truth)

    before, own, refined = mean_dice(labels.on_grid, truth), dice(OWN), dice(REFINED)
    assert own > before + 0.1 and refined > own + 0.02, (before, own, refined)
    assert abs(told[-1] - STEPS) <= 1


def test_its_flow_is_this_projects_and_its_loss_is_the_papers() -> None:
    """The loss is eq. 4 with eq. 6 and 7, of the atlas warped by `flow_of` as everything here warps."""
    image, _ = _atlas((16, 32, 48), noise=0.02)
    scan = image.flip(2)
    net = method.make(1, CPU)
    draws = torch.Generator().manual_seed(4)
    for name, value in net.named_parameters():
        if name.startswith("flow_layer"):
            value.data = torch.randn(value.shape, generator=draws)
    flow = method.flow_of(net, image, scan)
    assert flow.abs().amax((0, 2, 3, 4)).min() > 0.5
    roughness = sum(flow.diff(dim=axis).square().mean() for axis in (2, 3, 4)) / 3
    expected = 1 - lncc(scan[None], warp(image[None], flow), window=9) + roughness
    found = method.VoxelMorphLearner(net, image, _Scans(scan)).step(generator(1, 1))["total"]
    assert float(found.detach()) == pytest.approx(float(expected), abs=1e-4)


def test_it_learns_from_the_atlas_itself() -> None:
    """In-site the atlas may be among the scans: neurite's NCC raises in float32 where volumes are equal and flat."""
    image, _ = _atlas((32, 32, 32), noise=0.0)
    learner = method.VoxelMorphLearner(method.make(1, CPU), image, _Scans(image))
    assert torch.isfinite(learner.step(generator(1, 1))["total"])
