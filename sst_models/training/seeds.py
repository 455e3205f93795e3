"""Random numbers that depend on names alone: the same seed and names give the same draws, in any order of calls."""

import hashlib

import torch


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Make a CPU generator for one purpose, such as `generator(1, "oasis", "joint", 17)` for one step."""
    text = "/".join(str(name) for name in (seed, *names))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def below(limit: int, draws: torch.Generator) -> int:
    """Draw one integer from 0 to `limit` - 1."""
    return int(torch.randint(limit, (1,), generator=draws))


def chance(share: float, draws: torch.Generator) -> bool:
    """Draw true with the probability `share`."""
    return bool(torch.rand(1, generator=draws) < share)
