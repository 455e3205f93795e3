"""The training loop, the same for every phase, at a site and at the hub."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sst_models.training.seeds import generator
from sst_models.wire import weights

Losses = Mapping[str, Tensor]
"""Every loss of a step by name, "total" among them; scalars without gradient."""


class Scans(Protocol):
    """A site's prepared training scans, read as they are needed."""

    def __len__(self) -> int:
        """Give the number of scans."""
        ...

    def image(self, index: int) -> Tensor:
        """Give one volume, (1, D, H, W) float32 in [0, 1]."""
        ...


class Learner(Protocol):
    """What one phase trains: its networks, their optimisers, and one step."""

    nets: dict[str, nn.Module]  # by part: those that learn
    optimisers: dict[str, torch.optim.Optimizer]  # by part
    own: dict[str, Tensor]  # what persists beside weights and optimisers, and never travels: queue, key encoder

    def step(self, draws: torch.Generator) -> Losses:
        """Do one training step with randomness from `draws` alone."""
        ...


@dataclass(frozen=True)
class Span:
    """Which steps to do: `steps` of them from the number `first`; `names` seed each step together with its number."""

    seed: int
    names: tuple[str, ...]
    first: int
    steps: int


@dataclass(frozen=True)
class History:
    """Loss curves of one call of `train`: for each loss, its mean over consecutive chunks of steps."""

    series: dict[str, tuple[float, ...]]

    @property
    def last(self) -> dict[str, float]:
        """Give the last chunk's mean of each loss."""
        return {name: values[-1] for name, values in self.series.items() if values}


Watch = Callable[[int, float], None]
"""Called with the steps done so far and the last total loss."""


def train(learner: Learner, span: Span, watch: Watch | None = None, points: int = 10) -> History:
    """Do the steps of a span.

    Step n draws from a generator of its own, so that a run that stopped between two calls equals one that did not.
    """
    learnt: dict[str, list[Tensor]] = {}
    last = time.monotonic()
    for done in range(span.steps):
        losses = learner.step(generator(span.seed, *span.names, span.first + done))
        for name, value in losses.items():
            learnt.setdefault(name, []).append(value.detach())
        if watch and (time.monotonic() - last > 0.5 or done + 1 == span.steps):
            last = time.monotonic()
            watch(done + 1, float(losses["total"].detach()))
    return History({name: _chunk_means(values, points) for name, values in learnt.items()})


def _chunk_means(values: list[Tensor], points: int) -> tuple[float, ...]:
    chunks = torch.stack(values).float().cpu().tensor_split(min(points, len(values)))
    return tuple(float(chunk.mean()) for chunk in chunks)


def adam(net: nn.Module, rate: float, first_beta: float = 0.9) -> torch.optim.Adam:
    """Make the paper's optimiser: Adam (0.9, 0.999); critics take 0.5 as first beta (Sec. 4)."""
    return torch.optim.Adam(net.parameters(), lr=rate, betas=(first_beta, 0.999), foreach=True)


def memory(learner: Learner) -> dict[str, Tensor]:
    """Gather what a site keeps between rounds: optimisers and the learner's own tensors, never the shared weights."""
    kept = {f"own/{name}": value for name, value in learner.own.items()}
    for part, optimiser in learner.optimisers.items():
        state = weights.optimiser_state(optimiser, _names(learner.nets[part]))
        kept |= {f"adam/{part}/{name}": value for name, value in state.items()}
    return kept


def recall(learner: Learner, kept: Mapping[str, Tensor]) -> None:
    """Put back what `memory` gave."""
    for name, value in learner.own.items():
        value.copy_(kept[f"own/{name}"])
    for part, optimiser in learner.optimisers.items():
        start = f"adam/{part}/"
        own = {key.removeprefix(start): value for key, value in kept.items() if key.startswith(start)}
        weights.load_optimiser(optimiser, _names(learner.nets[part]), own)


def _names(net: nn.Module) -> list[str]:
    return [name for name, _ in net.named_parameters()]


def freeze(nets: Iterable[nn.Module]) -> None:
    """Make networks that a phase only uses keep their weights."""
    for net in nets:
        net.requires_grad_(False)
        net.eval()
