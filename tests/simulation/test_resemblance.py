"""Comparing generated pairs with scans: what the figures say of draws that are good, tame, blurred or copied."""

import pytest
import torch

from configs.structures import PAPER
from simulation.resemblance import compare, separability
from sst_models.volume.separable import blur

SIDES = (32, 32, 32)
AXES = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, side) for side in SIDES], indexing="ij"))


def person(seed: int, vary: float = 1.0, bright: tuple[float, float] = (0.8, 0.5)) -> tuple[torch.Tensor, torch.Tensor]:
    """A ball of white matter in one of cortex, each of a person's own size."""
    draws = torch.Generator().manual_seed(seed)
    inner, outer = 0.55 + 0.04 * vary * torch.randn(1, generator=draws), 0.9 + 0.01 * torch.randn(1, generator=draws)
    radius = AXES.square().sum(0).sqrt()
    labels = (radius < outer).long() * 2
    labels[radius < inner] = 1
    levels = torch.tensor([0.0, *bright])
    image = levels[labels] + 0.05 * torch.randn(SIDES, generator=draws)
    return (image.clamp(0.01, 1) * (labels > 0))[None], labels


SCANS = [person(seed) for seed in range(10)]


def test_draws_like_the_scans_are_said_to_be_like_them() -> None:
    """At chance, as varied, ordered alike, none nearer than a scan to another."""
    found = compare([person(seed) for seed in range(50, 70)], SCANS)
    assert 0.2 < found.auc < 0.8 and found.order == 1.0
    assert 0.5 < found.variation["Cerebral-WM"] < 1.6
    assert found.size["Cerebral-WM"] == pytest.approx(1.0, abs=0.15)
    assert set(found.variation) == set(PAPER.groups)
    assert found.nearest < found.nearest_scans + 0.02


def test_draws_that_do_not_vary_are_blurred_or_swapped_are_told() -> None:
    """Each fault shows in its own figure."""
    tame = compare([person(seed, vary=0.1) for seed in range(50, 70)], SCANS)
    assert tame.variation["Cerebral-WM"] < 0.4
    soft = [blur(image, 1.0) * (image > 0) for image, _ in (person(seed) for seed in range(50, 70))]
    assert separability(soft, [image for image, _ in SCANS]) > 0.95
    assert compare([person(seed, bright=(0.5, 0.8)) for seed in range(50, 60)], SCANS).order == 0.0


def test_a_copy_of_a_scan_is_found() -> None:
    """It is nearer to a scan than any two scans are to each other."""
    found = compare([*(person(seed) for seed in range(50, 60)), SCANS[3]], SCANS)
    assert found.nearest == pytest.approx(1.0) and found.nearest_scans < 0.99
