"""Parameters of networks as named arrays, and tensors on disk as safetensors (never pickle)."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs.errors import DataError, RunError
from sst_models.wire.exchange import Arrays


def parameters(net: nn.Module) -> dict[str, np.ndarray]:
    """Copy the named parameters of a network, sorted by name; never its buffers (ARCHITECTURE.md, "What holds", 2)."""
    named = sorted(net.named_parameters())
    return {name: np.array(value.detach().cpu().numpy(), order="C") for name, value in named}


def load_parameters(net: nn.Module, arrays: Arrays, part: str = "the network") -> None:
    """Put named arrays into a network.

    Raises:
        DataError: names or shapes are not those of the network.
    """
    named = dict(net.named_parameters())
    if set(named) != set(arrays):
        odd = sorted(set(named) ^ set(arrays))[0]
        raise DataError(f"weights of {part}: parameter '{odd}' is on one side only; use weights of the same preset")
    with torch.no_grad():
        for name, value in named.items():
            array = torch.from_numpy(np.array(arrays[name]))
            if array.shape != value.shape:
                raise DataError(f"weights of {part}: '{name}' has shape {tuple(array.shape)}, not {tuple(value.shape)}")
            value.copy_(array)


def save(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to `path` as safetensors, whole or not at all.

    Raises:
        RunError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    whole = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    try:
        save_file(whole, name)
        os.replace(name, path)
    except SafetensorError as error:  # what it makes of a full disk
        raise RunError(f"cannot write {path}; make room, or give another folder") from error
    finally:
        Path(name).unlink(missing_ok=True)


def load(path: Path) -> dict[str, Tensor]:
    """Read what `save` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path.name} cannot be read as safetensors; it is missing or damaged") from error


def optimiser_state(optimiser: torch.optim.Optimizer, net_names: list[str]) -> dict[str, Tensor]:
    """Flatten an Adam's state to tensors named "PARAMETER/MOMENT"."""
    state = optimiser.state_dict()["state"]
    return {f"{net_names[i]}/{key}": torch.as_tensor(value) for i, own in state.items() for key, value in own.items()}


def load_optimiser(optimiser: torch.optim.Optimizer, net_names: list[str], tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimiser_state` gave; parameters without a state keep none."""
    whole = optimiser.state_dict()
    found: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, moment = key.rsplit("/", 1)
        found.setdefault(net_names.index(name), {})[moment] = value
    optimiser.load_state_dict({**whole, "state": found})
