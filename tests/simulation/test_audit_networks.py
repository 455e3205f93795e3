"""Attacks on networks and on generated images: what memorised, or is a copy, is found; what did not, is not."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from client.cases import Cases
from configs.schema import load
from server.state import RunState
from simulation.audit import copies, shadows
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
PEOPLE = 8  # at shadow sites
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


class Mean(torch.nn.Module):
    """What leaks as much as can be: the mean of the scans that it was trained on."""

    def __init__(self, scans: Sequence[int]) -> None:
        super().__init__()
        self.mean = torch.stack([scan(number) for number in scans]).mean(0)


def distance(net: torch.nn.Module, index: int) -> Tensor:
    """How far a scan lies from what the network has."""
    assert isinstance(net, Mean)
    return (net.mean - scan(index)).square().mean()


def test_shadow_networks_find_who_was_learnt_by_heart_and_are_trained_once(tmp_path: Path) -> None:
    """The planted leak, by LiRA; more networks later leave those that are there as they are."""
    everybody = Everybody(Cases(()), np.ones(PEOPLE, bool), np.arange(PEOPLE))
    trained: list[tuple[tuple[int, ...], int]] = []

    def train_one(scans: Sequence[int], number: int) -> torch.nn.Module:
        trained.append((tuple(scans), number))
        return Mean(scans)

    path = tmp_path / "losses.safetensors"
    losses = shadows.losses_of(train_one, distance, everybody, 6, path, lambda done: None)
    member = shadows.halves(PEOPLE, 6)
    assert [set(scans) for scans, _ in trained] == [set(np.flatnonzero(who)) for who in member]
    found = shadows.infer(losses, member)
    assert found.auc.value >= 0.9 and found.members + found.others == 6 * PEOPLE
    again = shadows.losses_of(train_one, distance, everybody, 8, path, lambda done: None)
    assert [number for _, number in trained] == list(range(8)) and (again[:6] == losses).all()


def test_shadow_networks_that_learnt_nothing_accuse_nobody() -> None:
    """Losses that have nothing to do with who was in: chance lies within the interval, as often as it says."""
    member, draws = shadows.halves(30, 16), np.random.default_rng(0)
    found = [shadows.infer(draws.normal(3, 1, member.shape), member) for _ in range(40)]
    assert np.mean([each.auc.value for each in found]) == pytest.approx(0.5, abs=0.01)
    assert sum(each.auc.low <= 0.5 <= each.auc.high for each in found) >= 34


def test_everybody_is_in_and_out_as_often_at_shadow_sites() -> None:
    """Halves: of two sites in a row one has whom the other has not; more sites do not change the first."""
    member = shadows.halves(7, 10)
    assert (member[::2] ^ member[1::2]).all() and (member.sum(0) == 5).all()
    assert (shadows.halves(7, 6) == member[:6]).all() and set(member.sum(1)) == {3, 4}
