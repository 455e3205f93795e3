"""Mean and covariance of codes: all that "statistics" says of a site's scans, and what codes are drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

SHRINKAGE = 0.2
"""Share of a covariance that is given to its diagonal (Ledoit and Wolf 2004): a dozen scans say little of the rest, and
draws are to leave the plane that they span."""

JITTER = 1e-6
"""What is added to the diagonal beside it, as a share of its mean, so that it has a root."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of codes of one kind."""

    mean: Tensor  # (code,)
    covariance: Tensor  # (code, code)

    @staticmethod
    def of(codes: Tensor) -> "Moments":
        """Measure codes (N, code), N >= 2."""
        return Moments(codes.mean(0), torch.cov(codes.T))

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
        shrunk = (1 - SHRINKAGE) * self.covariance + torch.diag(SHRINKAGE * diagonal + JITTER * diagonal.mean() + 1e-9)
        # In float64, and by its eigenvalues: moments that come from a site may miss being positive by a rounding.
        values, vectors = torch.linalg.eigh(shrunk.double())
        root: Tensor = (vectors * values.clamp(min=0).sqrt()).to(self.mean)
        return root
