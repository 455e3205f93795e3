"""In which precision networks run, and who chooses."""

import pytest
import torch
from torch.nn import functional as F

from sst_models import device


@pytest.mark.parametrize(("wish", "has", "expected"), [
    (False, True, torch.float32), (True, False, torch.float32), (True, True, torch.bfloat16),
])  # fmt: skip
def test_a_cpu_computes_in_half_only_if_asked_and_fast_in_it(
    monkeypatch: pytest.MonkeyPatch, wish: bool, has: bool, expected: torch.dtype
) -> None:
    """A preset that does not ask for it gives the same bytes on every CPU of one kind, AMX or not."""
    monkeypatch.setattr(device, "has_amx", lambda: has)
    with device.half(torch.device("cpu"), wish):
        assert F.linear(torch.ones(2, 3), torch.ones(4, 3)).dtype == expected
