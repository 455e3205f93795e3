"""Style codes as distributions: their prior, and the moments by which a site's style can be shared."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class StyleMoments:
    """Mean and spread of a site's style codes: what a site shares of its style where A is averaged."""

    mean: Tensor  # (code,)
    std: Tensor  # (code,)

    @staticmethod
    def of(codes: Tensor) -> "StyleMoments":
        """Measure codes (N, code), N >= 2."""
        return StyleMoments(codes.mean(dim=0), codes.std(dim=0))

    def draw(self, count: int, draws: torch.Generator) -> Tensor:
        """Draw unit codes (count, code) from the normal distribution with these moments."""
        noise = torch.randn(count, len(self.mean), generator=draws).to(self.mean)
        return F.normalize(self.mean + self.std * noise, dim=1)


def draw_prior_codes(count: int, code: int, draws: torch.Generator) -> Tensor:
    """Draw style codes (count, code) from their prior: standard normal vectors, scaled to length 1.

    Codes are unit vectors, which N(0, I) never is (docs/decisions.md, "Style prior").
    """
    return F.normalize(torch.randn(count, code, generator=draws), dim=1)
