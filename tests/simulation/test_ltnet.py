"""LT-Net as an arm: its flows bring labels onto scans, forth undoes back, and a stopped training goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from simulation.arms.arm import Lesson
from simulation.arms.ltnet import ARMS, LT_NET
from simulation.baselines.ltnet import STEP_COST, Cycle, consistency, cycle, network
from simulation.control import random_flow
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import mean_dice
from sst_models.volume.warp import compose, warp
from sst_models.wire.exchange import Arrays

SPACING = 2.4


def _brain(shape: tuple[int, int, int]) -> tuple[Tensor, AtlasLabels]:
    """Make a brain of four structures: image (1, *shape), and labels."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in shape], indexing="ij")
    labels = torch.zeros(shape, dtype=torch.uint8)
    for index, (size, at) in enumerate(((0.8, 0.0), (0.6, 0.05), (0.25, 0.2), (0.2, -0.25)), start=1):
        labels[((axes[0] - at) ** 2 + axes[1] ** 2 + (axes[2] + at / 2) ** 2).sqrt() < size] = index
    image = torch.tensor([0.0, 0.6, 0.9, 0.3, 0.75])[labels.long()]
    return image[None], AtlasLabels(labels)


class _Scans:
    """Bent and recoloured brains, (1, D, H, W) each, with the labels that they hide."""

    def __init__(self, image: Tensor, labels: AtlasLabels, count: int) -> None:
        draws = torch.Generator().manual_seed(3)
        flows = [1.2 * random_flow(labels.shape, SPACING, draws) for _ in range(count)]
        self.images = [0.9 * warp(image[None], flow)[0] ** 1.3 for flow in flows]
        self.truths = [labels.propagate(flow) for flow in flows]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Tensor:
        return self.images[index]


def _bench(shape: tuple[int, int, int], count: int) -> Any:
    atlas = _brain(shape)
    experiment = SimpleNamespace(
        seed=1, grid=SimpleNamespace(spacing=SPACING), propagation=SimpleNamespace(em_weight=0.7)
    )
    scans = _Scans(*atlas, count)
    learnt: dict[tuple[str, str], Arrays] = {}
    return SimpleNamespace(
        atlas=atlas,
        atlases=[atlas],
        experiment=experiment,
        device=torch.device("cpu"),
        scans=lambda site: scans,
        kept=learnt,
        learnt=lambda arm, site: learnt[arm.trained_as.name, site],
    )


def test_it_learns_to_bend_the_atlas_onto_a_scan_and_back(tmp_path: Path) -> None:
    """Labels come to lie better on the scan, refined ones too; forth and back is nearer to the identity than forth."""
    bench = _bench((16, 32, 32), 1)
    learn = cast(Any, LT_NET.learn)
    bench.kept["LT-Net", "here"] = learn(bench, "here", Lesson(round(45 * STEP_COST), tmp_path))
    scans, (atlas, labels) = bench.scans("here"), bench.atlas
    image, truth = scans.images[0], scans.truths[0]
    found, refined = (arm.predict(bench, arm, "here")(image) for arm in ARMS)
    before, after, better = (mean_dice(one, truth) for one in (labels.on_grid, found.labels, refined.labels))
    with torch.no_grad():
        done = cycle(network(bench, bench.kept["LT-Net", "here"]), atlas[None], image[None])
    brain = (atlas > 0).expand(1, 3, *labels.shape)
    forth, both = (float(flow[brain].abs().mean()) for flow in (done.forward, compose(done.forward, done.backward)))
    assert before < 0.5 and after > before + 0.2, (before, after)
    assert better > after and found.folded == refined.folded < 1, (after, better)
    assert both < 0.9 * forth, (forth, both)


def test_consistency_is_that_of_the_composed_flow_and_of_labels_moved_by_it() -> None:
    """The terms are 0 for a flow and its inverse, and otherwise what a slow computation by hand says."""
    atlas, labels = _brain((16, 16, 16))
    shares = torch.nn.functional.avg_pool3d(labels.probabilities(torch.zeros(1, 3, 16, 16, 16))[None, 1:], 2)
    where = torch.arange(16.0).view(16, 1, 1).expand(1, 1, 16, 16, 16)
    forward, shift = torch.zeros(1, 3, 16, 16, 16), torch.zeros(1, 3, 16, 16, 16)
    forward[:, :1], shift[:, 0] = 0.1 * (where - 7.5), 4.0

    def terms(there: Tensor, back: Tensor) -> dict[str, float]:
        warped = warp(atlas[None], there)
        found = consistency(Cycle(there, back, warped, warp(warped, back)), atlas[None], shares)
        return {name: float(value) for name, value in found.items()}

    undone = terms(shift, -shift)
    assert undone["anatomy"] == pytest.approx(0, abs=1e-5) and undone["difference"] == pytest.approx(0, abs=1e-5)
    assert undone["flow"] == pytest.approx(1e-3**0.9)

    x = np.arange(0.5, 16, 2)
    on_axis = 4 + 0.1 * (np.minimum(x + 4, 14.5) - 7.5)  # the forward flow is known to the last voxel's centre
    penalty = (((on_axis**2 + 1e-6) ** 0.45).mean() + 2 * 1e-6**0.45) / 3
    assert terms(forward, shift)["flow"] == pytest.approx(penalty, rel=1e-4)

    ours = shares[0].numpy()
    moved = np.zeros_like(ours)
    moved[:, :-2] = ours[:, 2:]
    pairs = [(a, b) for a, b in zip(ours, moved, strict=True) if a.any()]
    lost = sum(1 - 2 * (a * b).sum() / ((a**2).sum() + (b**2).sum()) for a, b in pairs)
    alone = terms(0 * shift, shift)
    assert len(pairs) == 4 and alone["anatomy"] == pytest.approx(lost / len(ours), abs=1e-4)
    assert alone["difference"] == pytest.approx(float(abs(moved - ours).sum() / ours.sum()), rel=1e-4)
    image = np.zeros((16, 16, 16))
    image[:-4] = atlas[0, 4:].numpy()
    assert alone["image"] == pytest.approx(float(abs(image - atlas[0].numpy()).mean()), rel=1e-4)


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """The rate's fall and the critic are kept, too; steps are counted in those of a U-Net, to the last."""
    bench, steps = _bench((16, 16, 16), 2), 4
    learn = cast(Any, LT_NET.learn)
    seen: list[int] = []
    whole = learn(bench, "here", Lesson(steps, tmp_path / "whole", lambda step, loss: seen.append(step)))

    def stop(step: int, loss: float) -> None:
        if step > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(bench, "here", Lesson(steps, tmp_path / "parts", stop))
    assert [path.stem for path in (tmp_path / "parts").rglob("*.safetensors")] == ["quarter-2"]
    again = learn(bench, "here", Lesson(steps, tmp_path / "parts"))
    assert seen[-1] == steps and all(np.array_equal(whole[name], again[name]) for name in whole)
