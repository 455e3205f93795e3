"""Training that hides each person: DP-SGD (Abadi et al. 2016, CCS, "Deep learning with differential privacy", Alg. 1).

A step takes each person with a probability, by herself (Poisson sampling), and of each who is taken one scan. The
gradient of her scan over all weights together is shortened to the length `CLIP`. The sum of these gets Gaussian noise
of `multiplier * CLIP` on each weight, is divided by the number of people that are expected in a step, and is what the
learner's optimisers go by. A step that nobody is part of has noise alone. Whatever is made of noisy sums afterwards,
Adam's moments and weights, says no more of a person than they do.

Who is part of a step is drawn from the same randomness as the noise, as the promise rests on nobody knowing it: at a
hospital the operating system's, and never a seed that a hub may know.

Limits. Noise is a Gaussian in double precision (Box and Muller 1958), 8.6 standard deviations at most, added to a sum
in double precision and then rounded to single: unlike the discrete noise on statistics (`client.gate.noise`) it is not
proof against an attack by the digits of floats (Mironov 2012, CCS, "On significance of the least significant bits").
How long a step takes says how many people were in it. Nothing is done against either.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from configs.dp_sgd import DpSgd
from sst_models.training.learner import Learner, Losses

CLIP = 0.1
"""Length that the gradient of one scan has at most, over all weights of a learner together. It is below what T's has on
made-up brains (0.05 to 0.8), as Adam makes up for gradients that are all too short, and nothing for noise."""

Bits = Callable[[int], bytes]
"""Gives so many random bytes."""


@runtime_checkable
class Separable(Learner, Protocol):
    """A learner whose loss is a mean of terms, each of one scan alone."""

    def terms(self, index: int, draws: torch.Generator) -> Mapping[str, Tensor]:
        """Give what each part is to lower by the scan of this index: by part, a scalar with its gradient.

        Parts that lower the same have the same tensor. Nothing of another scan may be in it.
        """
        ...


def randomness(words: str = "") -> Bits:
    """Give the operating system's randomness, or with words that which belongs to them, for simulated sites alone."""
    return np.random.default_rng(list(sha256(words.encode()).digest())).bytes if words else os.urandom


def uniforms(bits: Bits, count: int) -> NDArray[np.float64]:
    """Draw numbers from [0, 1), whole multiples of 2**-53."""
    whole = np.frombuffer(bits(8 * count), np.uint64) >> np.uint64(11)
    drawn: NDArray[np.float64] = whole.astype(np.float64) * 2.0**-53
    return drawn


def normals(bits: Bits, count: int) -> NDArray[np.float64]:
    """Draw numbers from N(0, 1)."""
    half = (count + 1) // 2
    length, angle = uniforms(bits, 2 * half).reshape(2, half)
    length, angle = np.sqrt(-2 * np.log1p(-length)), 2 * math.pi * angle
    return np.concatenate([length * np.cos(angle), length * np.sin(angle)])[:count]


@dataclass(frozen=True)
class People:
    """Whose each scan is, to draw from."""

    scans: tuple[tuple[int, ...], ...]  # of each person, the places of her scans

    @classmethod
    def of(cls, whose: Sequence[str]) -> "People":
        """Read it off the person of each scan, in the order of the scans."""
        return cls(tuple(tuple(n for n, one in enumerate(whose) if one == name) for name in sorted(set(whose))))

    def draw(self, rate: float, bits: Bits) -> list[int]:
        """Take each person with a probability, and of each who is taken one scan; give its places."""
        taken, which = uniforms(bits, 2 * len(self.scans)).reshape(2, -1)
        chosen = zip(self.scans, taken, which, strict=True)
        return [own[int(place * len(own))] for own, chance, place in chosen if chance < rate]


class PrivateLearner:
    """Train what another learner trains, so that each person is hidden.

    Args:
        learner: its networks, optimisers and terms are taken; its own `step` is never called.
        dp_sgd: how much noise, and how probable it is to be part of a step.
        whose: the person of each scan, in the order of the scans.
    """

    def __init__(self, learner: Separable, dp_sgd: DpSgd, whose: Sequence[str]) -> None:
        self.nets, self.optimisers, self.own = learner.nets, learner.optimisers, learner.own
        self.people, self.dp_sgd, self._terms = People.of(whose), dp_sgd, learner.terms
        self._bits = randomness(dp_sgd.words)

    def step(self, draws: torch.Generator) -> Losses:
        """Do one step. `draws` is for what says nothing of who is in it, such as a critic's draws of its prior.

        Returns:
            The mean of the terms' losses, without noise: it must not leave the site.
        """
        total, loss = _Total(self.nets), 0.0
        for index in self.people.draw(self.dp_sgd.rate, self._bits):
            terms = self._terms(index, draws)
            total.add(terms)
            loss += sum(float(term.detach()) for term in {id(term): term for term in terms.values()}.values())
        expected = self.dp_sgd.rate * len(self.people.scans)
        total.put(self.dp_sgd.multiplier * CLIP, expected, self._bits)
        for optimiser in self.optimisers.values():
            optimiser.step()
        return {"total": torch.tensor(loss / expected)}


class _Total:
    """The sum of shortened gradients over all weights of some networks, in double precision."""

    def __init__(self, nets: Mapping[str, nn.Module]) -> None:
        self.weights = {part: list(net.parameters()) for part, net in nets.items()}
        self.sums = {
            part: [torch.zeros_like(one, dtype=torch.float64) for one in own] for part, own in self.weights.items()
        }

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add one scan's gradient, no longer than `CLIP`; one that is not finite counts as none."""
        found: dict[str, list[Tensor]] = {}
        for term in {id(term): term for term in terms.values()}.values():
            parts = [part for part in self.weights if terms.get(part) is term]
            wanted = [weight for part in parts for weight in self.weights[part]]
            slopes = iter(torch.autograd.grad(term, wanted, allow_unused=True, materialize_grads=True))
            found |= {part: [next(slopes).double() for _ in self.weights[part]] for part in parts}
        squared = sum(float(slope.square().sum()) for own in found.values() for slope in own)
        if not math.isfinite(squared):
            return
        share = (1 - 1e-12) * CLIP / max(math.sqrt(squared), CLIP)
        for part, own in found.items():
            for held, slope in zip(self.sums[part], own, strict=True):
                held.add_(slope, alpha=share)

    def put(self, deviation: float, expected: float, bits: Bits) -> None:
        """Make of the sum each weight's gradient: with noise, over the number of people that are expected."""
        for part, own in self.weights.items():
            for weight, held in zip(own, self.sums[part], strict=True):
                if deviation:
                    noise = torch.from_numpy(normals(bits, held.numel())).view(held.shape)
                    held.add_(noise.to(held.device), alpha=deviation)
                weight.grad = (held / expected).to(weight.dtype)
