"""Mean and covariance of codes: what codes are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

JITTER = 1e-6
"""What is added to a covariance's diagonal, as a share of its mean, so that it has a root."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of codes of one kind."""

    mean: Tensor  # (code,)
    covariance: Tensor  # (code, code)

    @staticmethod
    def pooled(moments: Sequence[tuple["Moments", int]]) -> "Moments":
        """Give the moments of all sites' codes together, by each site's moments and its number of scans."""
        total = sum(count for _, count in moments)
        mean = sum(count / total * one.mean for one, count in moments)
        assert isinstance(mean, Tensor)
        spread = torch.zeros_like(moments[0][0].covariance)
        for one, count in moments:
            apart = one.mean - mean
            spread = spread + count / total * (one.covariance + torch.outer(apart, apart))
        return Moments(mean, spread)

    def to(self, device: torch.device) -> "Moments":
        """Give the same moments on another device."""
        return Moments(self.mean.to(device), self.covariance.to(device))

    def draw(self, draws: torch.Generator, scale: float = 1.0) -> Tensor:
        """Draw a code (code,) from the normal distribution with these moments, its deviations times `scale`."""
        noise = torch.randn(len(self.mean), generator=draws).to(self.mean)
        return self.mean + scale * (self._root @ noise)

    @cached_property
    def _root(self) -> Tensor:
        diagonal = self.covariance.diagonal()
        raised = self.covariance + torch.diag(torch.full_like(diagonal, JITTER) * diagonal.mean() + 1e-9)
        # In float64, and by its eigenvalues: a covariance may miss being positive by a rounding.
        values, vectors = torch.linalg.eigh(raised.double())
        root: Tensor = (vectors * values.clamp(min=0).sqrt()).to(self.mean)
        return root
