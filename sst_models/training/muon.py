"""Muon: steps of even strength in every direction for convolutions, Adam for the rest.

Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural networks") take the momentum of a weight matrix,
make all its singular values about 1, and step by that: directions that the gradient favours do not drown the others.
Here a step is a share of the weight's own length, as in LARS (You et al. 2017): the segmenter's convolutions are
followed by a normalisation, to which only the direction of a weight matters. It reaches in 160 steps what Adam
reaches in 500 (benchmarks/LEARNING.md), at the same cost.

torch's own Muon takes matrices only, and steps by a length that does not know the weight's.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.9
SHARE = 5.0
"""Length of a step over the weight's, in units of the rate: 0.05 at a rate of 1e-2, chosen on validation scans."""

POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Of the Newton-Schulz iteration: Jordan's, steep at 0, which leaves singular values between 0.7 and 1.2."""

ITERATIONS = 5
BETAS, EPS = (0.9, 0.999), 1e-8  # of Adam, the paper's


class Muon(torch.optim.Optimizer):
    """Optimise convolutions by Muon and all other parameters by Adam.

    Args:
        params: parameters; those with five dimensions, (out, in, k, k, k), and k > 1 are convolutions that a
            normalisation follows. A last layer of single voxels has none: its length matters.
        rate: Adam's; Muon's step is `SHARE` times it, as a share of the weight's length.
    """

    def __init__(self, params: Iterable[Tensor], rate: float) -> None:
        super().__init__(params, {"lr": rate})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do one step by the gradients that are there."""
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                own: dict[str, Any] = self.state[weight]
                if weight.ndim == 5 and weight.shape[-1] > 1:
                    self._turn(weight, own, group["lr"])
                else:
                    self._adam(weight, own, group["lr"])

    def _turn(self, weight: Tensor, own: dict[str, Any], rate: float) -> None:
        momentum = own.setdefault("momentum", torch.zeros_like(weight))
        gradient = weight.grad
        assert gradient is not None
        momentum.mul_(MOMENTUM).add_(gradient)
        step = even((gradient + MOMENTUM * momentum).flatten(1)).view(weight.shape)
        weight.sub_(step * (SHARE * rate * weight.norm() / step.norm().clamp(min=EPS)))

    def _adam(self, weight: Tensor, own: dict[str, Any], rate: float) -> None:
        if not own:
            own.update(step=torch.zeros(()), mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        own["step"] += 1
        count, (one, two) = int(own["step"]), BETAS
        own["mean"].lerp_(weight.grad, 1 - one)
        own["square"].mul_(two).addcmul_(weight.grad, weight.grad, value=1 - two)
        spread = (own["square"] / (1 - two**count)).sqrt_().add_(EPS)
        weight.addcdiv_(own["mean"], spread, value=-rate / (1 - one**count))


def even(matrix: Tensor) -> Tensor:
    """Give (M, N) with the same singular vectors and singular values of about 1, by Newton-Schulz."""
    a, b, c = POLYNOMIAL
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
