"""Attacks on networks and on generated images: what memorised, or is a copy, is found; what did not, is not."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from client.cases import Cases
from configs.schema import load
from server.state import RunState
from simulation.audit import copies
from simulation.audit.finished import Everybody
from simulation.audit.networks import infer, registration_loss, segmentation_loss, versions
from sst_models.networks.build import build
from sst_models.training.learner import adam
from sst_models.volume.separable import blur
from sst_models.wire import weights

SIDES = (32, 32, 32)
TINY = load("tiny")
TINY = replace(TINY, grid=replace(TINY.grid, shape=SIDES), segmenter=replace(TINY.segmenter, location_prior=0.0))
MEMBERS, OTHERS = 4, 8
EVERYBODY = Everybody(Cases(()), np.arange(MEMBERS + OTHERS) < MEMBERS, np.arange(MEMBERS + OTHERS))


@cache
def scan(number: int) -> Tensor:
    """A ball of a person's own texture, (1, D, H, W)."""
    draws = torch.Generator().manual_seed(number)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, side) for side in SIDES], indexing="ij")
    texture = blur(torch.randn(1, *SIDES, generator=draws), 1.5)
    inside = sum(axis.square() for axis in axes) < 0.8
    return (0.5 + texture).clamp(0.05, 1) * inside


def labels(number: int) -> Tensor:
    """Two structures that lie anywhere: to know them is to have seen this scan."""
    draws = torch.Generator().manual_seed(1000 + number)
    return (blur(torch.randn(1, *SIDES, generator=draws), 2.0)[0] > 0).long() + 1


def test_a_segmenter_that_memorised_its_scans_is_found() -> None:
    """The planted leak: a network that learns four scans by heart, and no rule, as there is none."""
    every = torch.stack([labels(number) for number in range(MEMBERS + OTHERS)])
    loss = segmentation_loss(TINY, scan, every)
    before, after = build("segmenter", TINY), build("segmenter", TINY)
    optimiser = adam(after, 1e-2)
    for step in range(60):
        optimiser.zero_grad()
        loss(after, step % MEMBERS).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    found = infer(loss, (before, after), EVERYBODY)
    assert found.auc.value >= 0.9 and found.tpr_5.value >= 0.75
    assert not found.conclusive  # twelve decisions are twelve


@pytest.mark.parametrize("part", ["T", "segmenter"])
def test_a_network_that_saw_no_scan_is_not_accused(part: str) -> None:
    """Weights that moved at random: chance lies within the interval."""
    every = torch.stack([labels(number) for number in range(MEMBERS + OTHERS)])
    loss = registration_loss(TINY, scan(99), scan) if part == "T" else segmentation_loss(TINY, scan, every)
    before, after = build(part, TINY), build(part, TINY)
    draws = torch.Generator().manual_seed(0)
    moved = {
        name: array + 0.02 * torch.randn(array.shape, generator=draws).numpy()
        for name, array in weights.parameters(before).items()
    }
    weights.load_parameters(after, moved)
    found = infer(loss, (before, after), EVERYBODY)
    assert found.auc.low <= 0.5 <= found.auc.high


def test_losses_are_held_against_those_of_the_version_before() -> None:
    """A scan that was easy before is no member for that: what counts is what training changed."""

    class Level(torch.nn.Module):
        def __init__(self, losses: list[float]) -> None:
            super().__init__()
            self.losses = losses

    def loss(net: torch.nn.Module, index: int) -> Tensor:
        assert isinstance(net, Level)
        return torch.tensor(net.losses[index])

    easy_others = [1.0] * MEMBERS + [0.1] * OTHERS
    learnt = [0.8] * MEMBERS + [0.1] * OTHERS
    assert infer(loss, (Level(easy_others), Level(learnt)), EVERYBODY).auc.value == 1.0
    assert infer(loss, (Level(easy_others), Level(easy_others)), EVERYBODY).auc.value == 0.5


def test_a_segmenter_is_held_against_the_hubs_and_others_against_first_weights() -> None:
    """Of four versions two are the hub's; a site that began with the common one is held against that."""

    def level(value: float, part: str = "segmenter") -> dict[str, np.ndarray]:
        return {name: np.full_like(array, value) for name, array in weights.parameters(build(part, TINY)).items()}

    def values(nets: tuple[torch.nn.Module, torch.nn.Module]) -> list[float]:
        return [float(next(net.parameters()).detach().flatten()[0]) for net in nets]

    rounds = tuple(level(value) for value in (1.0, 2.0, 3.0, 4.0))
    parts = {"segmenter.north": rounds[-1], "segmenter": level(9.0), "T": level(5.0, "T")}
    state = RunState(4, parts, trained={"north": rounds})
    assert values(versions("segmenter", TINY, state, "north", 2)) == [2.0, 4.0]
    assert values(versions("segmenter", TINY, state, "north", 4)) == [9.0, 4.0]
    assert values(versions("T", TINY, state, "north", 3)) == [values((build("T", TINY),) * 2)[0], 5.0]


class Scans(Cases):
    """Scans in memory."""

    def __len__(self) -> int:
        return MEMBERS + OTHERS

    def image(self, position: int) -> Tensor:
        """Give a scan."""
        return scan(position)


def test_a_copy_of_a_training_scan_is_found_among_generated_images() -> None:
    """One image is a scan that trained: it is nearer to that than any is to a scan that did not."""
    everybody = replace(EVERYBODY, cases=Scans(()))
    made = [scan(number) for number in range(50, 54)]
    clean, leak = (copies.find(images, everybody) for images in (made, [*made, scan(2)]))
    assert leak.nearest_trained == pytest.approx(1.0) and leak.nearest_other < 0.9
    assert clean.nearest_trained == pytest.approx(clean.nearest_other, abs=0.1)
    assert (clean.pairs, leak.pairs, leak.membership.people) == (4, 5, MEMBERS + OTHERS)
