"""Approving runs at sites for tests, as a hospital's IT does by `sst site approve`."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from client.consent import policy_text
from client.gate.approval import Approval, first_folder, parts_of
from client.gate.approve import write_approval
from configs.schema import Experiment, from_dict
from server.atlas import Atlas, _digest, published
from simulation import engines
from sst_models.volume.grid import Affine
from sst_models.volume.labels import AtlasLabels
from sst_models.wire.exchange import Arrays

ATLAS = "0" * 64
NO_PARTS = {"image": ATLAS, "labels": ATLAS}

SMALL: Mapping[str, Any] = {
    "grid": {"shape": [32, 32, 32], "spacing": 6.0},
    "registration": {"widths": [4, 4]},
    "style": {"widths": [4, 4], "code": 8, "queue": 4},
    "appearance": {"width": 4},
    "flow_codes": {"widths": [4, 4], "latent": 2},
    "segmenter": {"widths": [4, 4, 4]},
}
"""Tables of a preset whose networks are small."""

TOY: Mapping[str, Any] = {
    **SMALL,
    "name": "toy",
    "federation": {"payload": "full"},
    "registration": {"widths": [2, 2]},
    "phases": {"register": {"rounds": 3, "steps": 100, "rate": 1.0}, "adapt": {"rounds": 1}},
}
"""A preset whose register phase may move each weight by some hundreds in a round: room for toy phases."""


def toy(**changes: Any) -> Experiment:
    """The toy preset with other tables."""
    return from_dict({**TOY, **changes}, "toy")


def approve(
    state: Path,
    experiment: Experiment,
    run: str = "run",
    atlas: Atlas | None = None,
    begins: Mapping[str, Arrays] | None = None,
) -> None:
    """Approve a run at a site whose gate is in its state folder.

    Args:
        state: the site's state folder.
        experiment: the preset.
        run: its name.
        atlas: the hub's; without one its digest is 0...0.
        begins: first weights of toy parts, instead of those of the preset's networks.
    """
    parts = parts_of(published(atlas), {"labels": atlas.labels.packed()}) if atlas else NO_PARTS
    write_approval(Approval(run, experiment.to_json(), atlas.digest if atlas else ATLAS, **parts), state / "gate")
    (state / "gate" / "salt").write_bytes(b"")
    for part, arrays in (begins or {}).items():
        save_file(dict(arrays), first_folder(state / "gate", run) / f"{part}.safetensors")


def blank_atlas(experiment: Experiment) -> Atlas:
    """An atlas of a preset's grid with one structure in its middle."""
    grid = experiment.grid
    image, parts = torch.zeros(grid.shape), torch.zeros(grid.shape, dtype=torch.uint8)
    middle = tuple(slice(side // 4, 3 * side // 4) for side in grid.shape)
    image[middle], parts[middle] = 0.5, 1
    oversampled = parts.repeat_interleave(grid.label_oversampling, 0)
    for axis in (1, 2):
        oversampled = oversampled.repeat_interleave(grid.label_oversampling, axis)
    labels = AtlasLabels(oversampled, grid.label_oversampling)
    side = grid.spacing
    affine: Affine = ((side, 0.0, 0.0, 0.0), (0.0, side, 0.0, 0.0), (0.0, 0.0, side, 0.0), (0.0, 0.0, 0.0, 1.0))
    return Atlas(image[None], labels, affine, side, _digest(image, labels, affine), "blank.nii.gz")


def first(state: Path, part: str = "T", run: str = "run") -> dict[str, np.ndarray]:
    """The weights with which a part of an approved run begins."""
    return dict(load_file(first_folder(state / "gate", run) / f"{part}.safetensors"))


def open_policy(folder: Path, more: str = "") -> Path:
    """Write a policy without floors, which toy phases of one scan need, of a site that trains networks with others.

    The key of `more` replaces that of the policy.
    """
    path = folder / "policy.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [line for line in engines.open_policy("networks").splitlines() if line.split(" =")[0] != more.split(" =")[0]]
    path.write_text("\n".join([*kept, more, ""]))
    return path


def usual_policy(level: str) -> str:
    """The policy that a site begins with, but for its level."""
    return re.sub('^level = ".*"', f'level = "{level}"', policy_text(), flags=re.MULTILINE)


def moved(arrays: Mapping[str, np.ndarray], by: float) -> dict[str, np.ndarray]:
    """Arrays with `by` added to each value."""
    return {name: (array + np.float32(by)).astype(np.float32) for name, array in arrays.items()}
