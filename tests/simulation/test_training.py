"""Training of what no federation makes: a run that was stopped goes on to the same weights."""

from pathlib import Path

import pytest
import torch
from torch import nn

from simulation.training import fit
from sst_models.training.learner import Losses, adam


class _Line:
    """Fit a line to draws; with a moment of Adam and a tensor of its own, as real learners have."""

    def __init__(self, stop_at: int = -1) -> None:
        torch.manual_seed(1)
        self.nets: dict[str, nn.Module] = {"line": nn.Linear(1, 1)}
        self.optimisers: dict[str, torch.optim.Optimizer] = {"line": adam(self.nets["line"], 0.1)}
        self.count = torch.zeros((), dtype=torch.int64)
        self.own = {"count": self.count}
        self.stop_at = stop_at

    def step(self, draws: torch.Generator) -> Losses:
        if int(self.count) == self.stop_at:
            raise KeyboardInterrupt
        at = torch.rand(8, 1, generator=draws)
        loss = (self.nets["line"](at) - 3 * at).square().mean()
        self.optimisers["line"].zero_grad()
        loss.backward()
        self.optimisers["line"].step()
        self.count += 1
        return {"total": loss}


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    """What the last quarter kept is all that the next one needs, and nothing is done twice."""
    whole, stopped, again, once_more = _Line(), _Line(stop_at=8), _Line(), _Line(stop_at=11)
    seen: list[int] = []
    fit(whole, "line", 3, 11, tmp_path / "whole", lambda step, loss: seen.append(step))
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, "line", 3, 11, tmp_path / "parts")
    fit(again, "line", 3, 11, tmp_path / "parts")
    fit(once_more, "line", 3, 11, tmp_path / "parts")  # finds all of it done
    assert int(whole.count) == int(again.count) == int(once_more.count) == 11 and seen[-1] == 11
    for other in (again, once_more):
        for ours, theirs in zip(whole.nets["line"].parameters(), other.nets["line"].parameters(), strict=True):
            assert torch.equal(ours, theirs)
    fewer = _Line()
    fit(fewer, "line", 3, 1, tmp_path / "one")
    assert int(fewer.count) == 1
