"""Where and in which precision the networks run."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from configs.errors import ConfigError


def choose(wish: str = "auto") -> torch.device:
    """Give the device to use: what is wished for ("cpu", "cuda"), or with "auto" a GPU when there is one.

    Raises:
        ConfigError: a GPU is wished for and there is none that torch can use.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no GPU here; give cpu or auto as the device, or install a torch built for CUDA")
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
