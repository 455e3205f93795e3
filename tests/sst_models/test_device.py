"""In which precision networks run, and who chooses."""

import platform
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from sst_models.training import device


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


FAULTS = """
import resource, sys, torch
from sst_models.training.memory import keep_freed
if sys.argv[1] == "keep":
    keep_freed()
for count in range(40):
    if count == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(2**24)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_is_kept_costs_no_pages_again() -> None:
    """Once it has some, twenty maps fault in next to no new page; without it each of them does."""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "as it is")
    )
    assert kept < 0.1 * given_back
