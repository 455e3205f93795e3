"""Bayesian segmentation: it learns from unlabelled scans of another contrast, by the likelihood that it says."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from configs.structures import PAPER
from simulation.arms import bayesian as arms
from simulation.arms.arm import Lesson
from simulation.baselines import bayesian
from simulation.baselines.bayesian import COST, Gaussians, label_prior, negative_log_likelihood, with_air
from simulation.control import random_flow
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.metrics import mean_dice
from sst_models.volume.warp import warp

SHAPE, SPACING = (32, 32, 16), 2.4
KINDS = len(PAPER.groups) + 2  # with tissue that has no label, and air
CORTEX, WHITE, VENTRICLES, THALAMI = (2, 18), (1, 17), (3, 19), (6, 22)


def _head() -> tuple[Tensor, Tensor]:
    """Labels (D, H, W) of a few structures, left and right, and the brain (D, H, W) around them."""
    far = [(torch.arange(side) - (side - 1) / 2) / (side / 2) for side in SHAPE]
    x, y, z = torch.meshgrid(*far, indexing="ij")
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    for side, sign in enumerate((-1, 1)):
        half = x * sign > 0
        for classes, size, (a, b, c) in (
            (CORTEX, 0.85, (0.0, 0.0, 0.0)),
            (WHITE, 0.65, (0.0, 0.0, 0.0)),
            (THALAMI, 0.25, (0.25, 0.2, 0.0)),
            (VENTRICLES, 0.22, (0.25, -0.3, 0.0)),
        ):
            near = ((x * sign - a) ** 2 + (y - b) ** 2 + (z - c) ** 2).sqrt() < size
            labels[half & near] = classes[side]
    return labels, (x**2 + y**2 + z**2).sqrt() < 0.95


def _painted(labels: Tensor, brain: Tensor, brightness: dict[tuple[int, int], float], draws: torch.Generator) -> Tensor:
    """An image (1, D, H, W) of labels, noisy, 0 outside of the brain."""
    table = torch.full((29,), 0.2)
    for classes, value in brightness.items():
        table[list(classes)] = value
    noise = 0.03 * torch.randn(labels.shape, generator=draws)
    return ((table[labels.long()] + noise).clamp(0.02, 1) * brain)[None]


def test_learning_from_unlabelled_scans_of_another_contrast_puts_labels_in_their_place(tmp_path: Path) -> None:
    """Flow and posterior are both better than the atlas as it lies, though white matter is dark at the site."""
    draws = torch.Generator().manual_seed(3)
    labels, brain = _head()
    atlas_labels = AtlasLabels(labels)
    atlas = _painted(labels, brain, {CORTEX: 0.6, WHITE: 0.9, VENTRICLES: 0.3, THALAMI: 0.75}, draws)
    way = 1.2 * random_flow(SHAPE, SPACING, draws)
    people = []
    for _ in range(12):
        flow = (0.6 + 0.8 * float(torch.rand(1, generator=draws))) * way
        truth, own = atlas_labels.propagate(flow), warp(brain[None, None].float(), flow)[0, 0] > 0.5
        image = _painted(truth, own, {CORTEX: 0.7, WHITE: 0.45, VENTRICLES: 0.95, THALAMI: 0.58}, draws)
        people.append((image, truth))

    class Scans:
        def __len__(self) -> int:
            return 8

        def image(self, index: int) -> Tensor:
            return people[index][0]

    settings = SimpleNamespace(
        seed=1,
        table=PAPER,
        grid=SimpleNamespace(spacing=SPACING),
        propagation=SimpleNamespace(em_weight=0.7),
        segmenter=SimpleNamespace(normalise="minmax", test_time_augmentation="none"),
        bf16_cpu=False,
    )
    bench = cast(Any, SimpleNamespace(atlas=(atlas, atlas_labels), experiment=settings, device=torch.device("cpu")))
    bench.scans = lambda site: Scans()
    seen: list[int] = []
    lesson = Lesson(round(80 * COST), tmp_path, lambda step, loss: seen.append(step))
    learnt = arms.BAYESIAN.learn(bench, "there", lesson)  # type: ignore[misc]
    bench.learnt = lambda arm, site: learnt
    assert seen[-1] == lesson.steps  # told of in steps of a U-Net

    segmenter = bayesian.BayesianSegmenter(learnt, bench)
    scores = []
    for image, truth in people[8:]:
        _, flow = segmenter.posterior(image)
        found = [arm.predict(bench, arm, "there")(image) for arm in arms.ARMS]
        assert all(one.folded < 1 for one in found)
        maps = [atlas_labels.on_grid, atlas_labels.propagate(flow), *(one.labels for one in found)]
        scores.append([mean_dice(one, truth) for one in maps])
    before, bent, posterior, refined = torch.tensor(scores).mean(0).tolist()
    assert bent > before + 0.1 and min(posterior, refined) > bent + 0.1, (before, bent, posterior, refined)


def test_the_loss_is_the_likelihood_of_the_mixture() -> None:
    """It is that of torch's own mixture of normals, weighed by the prior of each voxel."""
    draws = torch.Generator().manual_seed(1)
    prior = torch.rand(KINDS, 50, generator=draws).square()
    prior /= prior.sum(0)
    gaussians = Gaussians(torch.rand(KINDS, generator=draws), 0.05 + 0.1 * torch.rand(KINDS, generator=draws))
    values = torch.rand(50, generator=draws)
    each = Normal(gaussians.mean, gaussians.variance.sqrt())
    mixture = MixtureSameFamily(Categorical(prior.T), Normal(each.loc.expand(50, -1), each.scale.expand(50, -1)))
    expected = -float(mixture.log_prob(values).mean())  # type: ignore[no-untyped-call]
    assert float(negative_log_likelihood(values, prior, gaussians)) == pytest.approx(expected, abs=2e-4)


def test_an_eighth_of_the_voxels_sees_what_the_whole_warp_puts_there() -> None:
    """A step's voxels lie where they lie in the volume, whichever corner of each cube they are."""
    draws = torch.Generator().manual_seed(1)
    volume, flow = torch.rand(1, 2, *SHAPE, generator=draws), 2 * torch.randn(1, 3, *SHAPE, generator=draws)
    whole = warp(volume, flow)
    for corner in ([0, 0, 0], [1, 0, 1], [0, 1, 1]):
        part = warp(volume, bayesian._on_eighth(flow, corner))
        assert torch.allclose(part, whole[..., corner[0] :: 2, corner[1] :: 2, corner[2] :: 2], atol=1e-4)


def test_the_prior_knows_air_from_tissue_without_a_name() -> None:
    """What has no label is tissue in the brain and air around it, and each voxel's probabilities sum to 1."""
    labels, brain = _head()
    prior = with_air(label_prior(brain[None].float(), AtlasLabels(labels), SPACING))
    assert torch.allclose(prior.sum(0), torch.ones(SHAPE), atol=1e-5)
    rim = brain & (labels == 0)
    assert float(prior[0][rim].mean()) > 0.3 > 0.05 > float(prior[0][16, 16, 8])
    assert float(prior[-1][0, 0, 0]) == pytest.approx(1.0) and float(prior[-1][16, 12, 8]) < 1e-3
