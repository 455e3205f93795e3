# mypy: untyped-calls-exclude="nibabel"
"""A brain for tests that knows left from right, and a model of it."""

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import nn

from client.model import ATLAS, Model, open_model, write_model
from client.prepare import AtlasFrame
from client.quality import histogram
from configs.schema import load
from configs.structures import PAPER
from sst_models.networks.build import build
from sst_models.volume.grid import Grid, sample_image
from sst_models.volume.intensity import robust_scale
from sst_models.volume.labels import AtlasLabels
from sst_models.wire import weights

TINY = load("tiny")
LEFT, RIGHT = 4, 49
"""Ids of the two bodies: Left-Lateral-Vent and Right-Thalamus-Proper."""

_LEVELS = np.zeros(64, np.float32)
_LEVELS[[2, 3, LEFT, RIGHT]] = 900.0, 600.0, 200.0, 750.0


CUBES = (3.0, 3.0, 3.0)
"""Sides of a voxel, mm."""


def egg(points: np.ndarray) -> np.ndarray:
    """Give the id at each point (..., 3), RAS mm: a shell, a core, and two unlike bodies, left and right."""
    x, y, z = np.moveaxis(points, -1, 0)
    ids = np.zeros(x.shape, np.int16)
    ids[(x / 45) ** 2 + (y / 62) ** 2 + (z / (50 - 0.2 * y)) ** 2 < 1] = 3
    ids[(x / 33) ** 2 + (y / 50) ** 2 + (z / 36) ** 2 < 1] = 2
    ids[((x + 14) / 12) ** 2 + ((y - 12) / 22) ** 2 + (z / 14) ** 2 < 1] = LEFT
    ids[((x - 16) / 11) ** 2 + ((y + 20) / 14) ** 2 + ((z - 6) / 14) ** 2 < 1] = RIGHT
    return ids


def sample(affine: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Give image (float32) and ids (int16) of the egg on any grid."""
    voxels = np.stack(np.meshgrid(*(np.arange(side) for side in shape), indexing="ij"), axis=-1)
    ids = egg(voxels @ affine[:3, :3].T + affine[:3, 3])
    noise = np.random.default_rng(0).normal(0, 10, shape).astype(np.float32)
    return np.where(ids > 0, _LEVELS[ids] + noise, 0).astype(np.float32), ids


def affine_for(axes: str, sides: tuple[float, float, float], turn: float = 0.0) -> tuple[np.ndarray, tuple[int, ...]]:
    """Give the affine and the shape of a grid of 150 mm around the egg.

    Args:
        axes: e.g. "RAS" or "PSR".
        sides: of a voxel, mm, in the order of the file's axes.
        turn: radians about the axis from foot to head: an oblique scan.
    """
    target = nib.orientations.axcodes2ornt(tuple(axes))
    matrix = np.zeros((3, 3))
    for place, (axis, flip) in enumerate(target):
        matrix[int(axis), place] = flip * sides[place]
    spin = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = spin @ matrix
    shape = tuple(int(round(150 / side)) for side in sides)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine, shape


def write_scan(path: Path, axes: str = "RAS", sides: tuple[float, float, float] = CUBES, turn: float = 0.0) -> Path:
    """Write the egg as a scan."""
    affine, shape = affine_for(axes, sides, turn)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(sample(affine, shape)[0], affine), path)
    return path


class Remembers(nn.Module):
    """A segmenter that finds each structure where the atlas has it: what is tested is the way there and back."""

    def __init__(self, labels: torch.Tensor) -> None:
        """Keep the atlas's class indices, (D, H, W)."""
        super().__init__()
        self.labels = labels.long()

    def forward(self, volume: torch.Tensor) -> torch.Tensor:
        """Give logits (N, classes, D, H, W) that are as good as certain."""
        sure = 9.0 * nn.functional.one_hot(self.labels, PAPER.classes).permute(3, 0, 1, 2)[None].float()
        return sure.expand(len(volume), -1, -1, -1, -1)


def remember(model: Model, device: torch.device) -> nn.Module:
    """Take the place of `Model.segmenter`."""
    return Remembers(weights.load(model.folder / ATLAS)["labels"])


def make_model(folder: Path, generator: bool = True, registration: bool = False, simulated: bool = False) -> Model:
    """Write and open a model of preset "tiny" whose atlas is the egg; its networks have their first weights."""
    grid = TINY.grid
    affine = np.diag([grid.spacing] * 3 + [1.0])
    affine[:3, 3] = [-grid.spacing * (side - 1) / 2 for side in grid.shape]
    fine, shape = affine_for("RAS", CUBES)
    place = Grid(grid.shape, grid.spacing, tuple(affine[:3, 3].tolist()))
    image = robust_scale(sample_image(sample(fine, shape)[0], fine, place)).numpy()
    ids = sample(affine, grid.shape)[1]
    classes = np.vectorize(lambda id_: PAPER.index_of.get(int(id_), 0))(ids).astype(np.uint8)
    rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
    frame = AtlasFrame(image, grid.shape, grid.spacing, rows, "d" * 64)
    packed = AtlasLabels(torch.from_numpy(classes)).packed()
    arrays = {"segmenter": weights.parameters(build("segmenter", TINY)), "atlas": {"labels": packed}}
    if generator:
        arrays |= {part: weights.parameters(build(part, TINY)) for part in ("A", "decoder")}
        code = TINY.style.code
        arrays["moments"] = {"mean": np.eye(code, dtype=np.float32)[0], "std": np.full(code, 0.1, np.float32)}
    if registration:
        arrays |= {part: weights.parameters(build(part, TINY)) for part in ("E", "F")}
    found = histogram(torch.from_numpy(frame.image))
    about = {"run": "r", "site": "here", "sites": ["here"], "figures": {}, "histogram": found.tolist()}
    if simulated:
        about["simulated"] = True
    write_model(folder, arrays, frame, TINY, about)
    return open_model(folder)
