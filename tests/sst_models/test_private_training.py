"""Training that hides each person: what a step sums, what it adds, and whom it takes."""

import math
import os
import warnings
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from configs.dp_sgd import DpSgd
from configs.phases import averaging, training
from material import Blobs, blob, learner, nets_for, preset
from sst_models.training.learner import Losses, Span, train
from sst_models.training.private import (
    CLIP,
    People,
    PrivateLearner,
    Separable,
    _Total,
    normals,
    randomness,
    uniforms,
)

SEPARABLE = [phase.name for phase in training() if phase.separable]


class Toy:
    """A small network that learns from volumes one by one, each with a weight; a step moves weights by the gradient."""

    def __init__(self, scales: tuple[float, ...]) -> None:
        """Draw weights and volumes."""
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 27, 2))
        self.nets: dict[str, nn.Module] = {"net": net}
        self.optimisers: dict[str, torch.optim.Optimizer] = {"net": torch.optim.SGD(net.parameters(), lr=1.0)}
        self.own: dict[str, Tensor] = {}
        self.volumes, self.scales = torch.rand(len(scales), 1, 5, 5, 5), scales

    def step(self, draws: torch.Generator) -> Losses:
        """It is not asked for."""
        raise AssertionError("a private learner goes by terms alone")

    def terms(self, index: int, draws: torch.Generator) -> Mapping[str, Tensor]:
        """Give the loss of one volume."""
        return {"net": self.scales[index] * self.nets["net"](self.volumes[index, None]).square().sum()}


def grads(toy: Toy) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in toy.nets["net"].parameters() if p.grad is not None])


def stepped(toy: Toy, multiplier: float = 0.0, rate: float = 1.0, words: str = "words") -> Tensor:
    """The gradient of one step of private training, one person a volume."""
    names = [str(number) for number in range(len(toy.scales))]
    PrivateLearner(toy, DpSgd(multiplier, rate, 1, words), names).step(torch.Generator())
    return grads(toy)


SCALES = (0.001, 0.01, 0.1, 1.0, 100.0, 1e5)  # gradients of some are shortened, of some are not


def test_a_step_without_noise_is_the_mean_of_shortened_gradients() -> None:
    """All examples at once, by vmap: each gradient over all weights is shortened to one length."""
    toy = Toy(SCALES)
    net, weights = toy.nets["net"], dict(toy.nets["net"].named_parameters())

    def loss(own: dict[str, Tensor], volume: Tensor, scale: Tensor) -> Tensor:
        return scale * torch.func.functional_call(net, own, (volume[None],)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, toy.volumes, torch.tensor(SCALES))
    rows = torch.cat([each[name].flatten(1) for name in weights], 1).double()
    lengths = rows.norm(dim=1, keepdim=True)
    assert (lengths < CLIP).any() and (lengths > CLIP).any()
    wanted = (rows * (CLIP / lengths.clamp(min=CLIP))).mean(0).float()
    torch.testing.assert_close(stepped(Toy(SCALES)), wanted, rtol=1e-4, atol=1e-7)


def test_a_step_without_noise_is_that_of_opacus() -> None:
    """Another implementation, where it is installed: it brings packages named benchmarks and examples of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        opacus = pytest.importorskip("opacus")
        from opacus.optimizers import DPOptimizer
    ours, theirs = Toy(SCALES), Toy(SCALES)
    net = opacus.GradSampleModule(theirs.nets["net"], loss_reduction="sum")
    optimiser = DPOptimizer(
        theirs.optimisers["net"], noise_multiplier=0.0, max_grad_norm=CLIP, expected_batch_size=len(SCALES)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hooks on an input without a gradient
        (net(theirs.volumes).square().sum(1) * torch.tensor(SCALES)).sum().backward()
    lengths = torch.stack([g.grad_sample.flatten(1).square().sum(1) for g in net.parameters()]).sum(0).sqrt()
    assert (lengths < CLIP).any() and (lengths > CLIP).any()
    optimiser.pre_step()
    found = stepped(ours)
    torch.testing.assert_close(found, grads(theirs), rtol=1e-4, atol=1e-7)


def test_with_everybody_in_it_and_no_noise_a_step_is_the_plain_one() -> None:
    """Where no gradient is long: the mean over people, and the optimiser goes by it."""
    toy, plain = Toy((1e-3, 2e-3, 3e-3)), Toy((1e-3, 2e-3, 3e-3))
    before = torch.cat([p.detach().flatten().clone() for p in toy.nets["net"].parameters()])
    (sum(plain.terms(n, torch.Generator())["net"] for n in range(3)) / 3).backward()
    found = stepped(toy)
    torch.testing.assert_close(found, grads(plain), rtol=1e-4, atol=1e-8)
    after = torch.cat([p.detach().flatten() for p in toy.nets["net"].parameters()])
    torch.testing.assert_close(after, before - found)


@settings(deadline=None, max_examples=30)
@given(st.floats(-1e30, 1e30), st.integers(0, 3))
def test_no_one_moves_the_sum_by_more_than_the_longest_gradient(scale: float, place: int) -> None:
    """Be her loss a million, or 1e30; over all weights together, as rounding to single precision lets it be."""
    scales = [1e-3, 1.0, 50.0, 2.0]
    without = stepped(Toy(tuple(0.0 if n == place else s for n, s in enumerate(scales)))) * 4
    scales[place] = scale
    moved = (stepped(Toy(tuple(scales))) * 4 - without).norm()
    assert float(moved) <= CLIP * (1 + 1e-5)
    if abs(scale) > 1e3:
        assert float(moved) == pytest.approx(CLIP, rel=1e-4)


@pytest.mark.parametrize("scale", [math.nan, math.inf, 3e38])
def test_a_gradient_that_is_not_finite_counts_as_none(scale: float) -> None:
    """It can be shortened to nothing else."""
    odd, without = stepped(Toy((1.0, scale, 2.0))), stepped(Toy((1.0, 0.0, 2.0)))
    assert torch.isfinite(odd).all() and float((odd - without).norm()) * 3 <= CLIP * (1 + 1e-5)


def test_two_parts_are_shortened_together() -> None:
    """An encoder and a critic that lower different things: one length over both, not one each."""
    nets = {part: nn.Linear(3, 1, bias=False) for part in ("one", "two")}
    total, given_volume = _Total(nets), torch.tensor([30.0, 0.0, 40.0])
    total.add({"one": nets["one"](given_volume).sum(), "two": 2 * nets["two"](given_volume).sum()})
    lengths = [float(total.sums[part][0].norm()) for part in ("one", "two")]
    assert math.hypot(*lengths) == pytest.approx(CLIP) and lengths[1] == pytest.approx(2 * lengths[0])


def test_noise_has_its_deviation_over_the_people_that_are_expected() -> None:
    """On every weight, also of a step that nobody is part of: one that is never taken gets noise alone."""
    toy = Toy((1.0,) * 4)
    drawn = torch.cat([stepped(toy, 3.0, 1e-12, f"words {n}") for n in range(20)])
    expected = 3.0 * CLIP / (4 * 1e-12)
    assert float(drawn.std()) == pytest.approx(expected, rel=0.05) and abs(float(drawn.mean())) < 0.05 * expected
    quiet, noisy = stepped(Toy((1.0,) * 4)), stepped(Toy((1.0,) * 4), 0.5)
    assert float((noisy - quiet).std()) == pytest.approx(0.5 * CLIP / 4, rel=0.2)


def test_numbers_are_normal_and_even() -> None:
    """Mean, spread, kurtosis and tails; an odd count, too."""
    drawn = normals(randomness("normal"), 200_001)
    assert drawn.shape == (200_001,) and np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01 and abs((drawn**4).mean() - 3) < 0.1
    assert np.mean(np.abs(drawn) > 1.96) == pytest.approx(0.05, abs=0.003)
    assert abs(np.corrcoef(drawn[:100_000], drawn[100_001:])[0, 1]) < 0.02
    even = uniforms(randomness("even"), 100_000)
    assert even.min() >= 0 and even.max() < 1 and np.histogram(even, 10, (0, 1))[0] == pytest.approx(10_000, rel=0.05)


def test_randomness_is_the_operating_systems_unless_words_are_given() -> None:
    """A hospital's cannot be drawn again."""
    assert randomness() is os.urandom
    first, again = (normals(randomness("words"), 9) for _ in range(2))
    assert np.array_equal(first, again) and not np.array_equal(first, normals(randomness("others"), 9))
    assert not np.array_equal(normals(randomness(), 9), normals(randomness(), 9))


def test_people_are_taken_by_themselves_and_each_by_one_scan() -> None:
    """With the probability that was asked for, however many scans they have; each scan as often as her others."""
    whose = ["ann", "bea", "ann", "ann", "cid", "bea"]
    people, bits = People.of(whose), randomness("lot")
    assert people.scans == ((0, 2, 3), (1, 5), (4,))
    drawn = [people.draw(0.3, bits) for _ in range(8_000)]
    assert all(len({whose[place] for place in one}) == len(one) for one in drawn)
    counts = np.bincount([place for one in drawn for place in one], minlength=6) / len(drawn)
    assert counts == pytest.approx([0.1, 0.15, 0.1, 0.1, 0.3, 0.15], abs=0.02)
    sizes = np.bincount([len(one) for one in drawn], minlength=4) / len(drawn)
    assert sizes == pytest.approx([0.343, 0.441, 0.189, 0.027], abs=0.02)
    assert people.draw(1.0, bits)[2] == 4 and people.draw(0.0, bits) == []


@pytest.mark.parametrize("phase", [phase.name for phase in averaging()])
def test_a_phase_is_declared_to_be_what_its_learner_is(phase: str) -> None:
    """Terms of one scan each, or none."""
    experiment = preset()
    made = learner(phase, nets_for(phase, experiment), experiment, Blobs(), blob(0))
    assert isinstance(made, Separable) == (phase in SEPARABLE)


class Noted(Blobs):
    """Scans that note which of them were read."""

    def image(self, index: int) -> Tensor:
        """Give one volume, (1, D, H, W)."""
        READ.append(index)
        return super().image(index)


READ: list[int] = []


@pytest.mark.parametrize("phase", SEPARABLE)
def test_a_term_reads_one_scan_and_no_other(phase: str) -> None:
    """T's moving volume is then always the atlas; a scan whose flow is known already is not read again."""
    experiment = preset()
    made = learner(phase, nets_for(phase, experiment), experiment, Noted(), blob(0))
    assert isinstance(made, Separable)
    for index in (2, 0):
        READ.clear()
        made.terms(index, torch.Generator().manual_seed(1))
        assert set(READ) == {index}


@pytest.mark.parametrize("phase", SEPARABLE)
def test_every_part_of_a_phase_trains_with_noise(phase: str) -> None:
    """And a step says nothing but one loss."""
    experiment = preset()
    nets = nets_for(phase, experiment)
    made = learner(phase, nets, experiment, Blobs(), blob(0))
    assert isinstance(made, Separable)
    before = {part: [p.detach().clone() for p in nets[part].parameters()] for part in made.nets}
    own = PrivateLearner(made, DpSgd(1.0, 0.5, 2, "words"), ["ann", "ann", "bea", "cid"])
    assert set(train(own, Span(1, ("x",), 0, 2)).series) == {"total"}
    for part, old in before.items():
        assert not any(torch.equal(a, b) for a, b in zip(old, made.nets[part].parameters(), strict=True)), part
