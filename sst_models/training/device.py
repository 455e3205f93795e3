"""Where and in which precision the networks run."""

import ctypes
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of two settings of glibc's allocator (`malloc.h`, mallopt(3))."""


def keep_freed() -> None:
    """Have this process keep the memory that it frees for what it asks for next; for a command that soon ends.

    glibc asks the system for each large block and gives it back when it is freed, so that every map of a volume pays
    for its pages again: a twelfth of `sst segment` at 64 x 80 x 80, a third at 128 x 160 x 160 (LEARNING.md). Its peak
    stays what it is; that of learning grows by a tenth to a third. Where the C library has no such settings, nothing
    happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never


def choose(wish: str = "auto") -> torch.device:
    """Give the device to use: what is wished for ("cpu", "cuda"), or with "auto" a GPU when there is one."""
    if wish != "auto":
        return torch.device(wish)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half(device: torch.device, bf16_cpu: bool = False) -> AbstractContextManager[object]:
    """Open bfloat16 autocast on a GPU that has it, or on a CPU if it is wished for, and nothing elsewhere.

    A CPU must multiply bfloat16 in tiles (AMX: Intel servers from 2023 on): others are two to four times slower in it
    than in float32. Its results are then the same bytes on CPUs with AMX only.

    Only the appearance model and the segmenter run under it: an intensity survives eight bits of mantissa, a flow of
    several voxels with differences of a hundredth does not.
    """
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    if device.type == "cpu" and bf16_cpu and has_amx():
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


def has_amx() -> bool:
    """Whether this machine's CPU multiplies bfloat16 in tiles, and the system lets it."""
    return bool(torch.cpu._is_amx_tile_supported())  # torch says it nowhere else


def place(net: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to its device, in the memory layout that its convolutions are fastest in (2 to 5x on CPU)."""
    return net.to(device=device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]
