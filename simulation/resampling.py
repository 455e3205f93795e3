"""From the grid of an anatomy to the grid of a scanner: averaging over voxels, and the orientation in the file."""

import numpy as np
from numpy.typing import NDArray

from simulation.phantom import Labels
from simulation.shapes import Floats

Matrix = NDArray[np.float64]


def averaging(count: int, spacing: float, voxel: float) -> Floats:
    """Matrix (m, count) that turns samples `spacing` mm apart into means over voxels of `voxel` mm, same centre."""
    m = int(round(count * spacing / voxel))
    within = (np.arange(8) + 0.5) / 8 - 0.5
    at = ((np.arange(m) - (m - 1) / 2)[:, None] + within) * voxel / spacing + (count - 1) / 2
    tent = np.maximum(0, 1 - np.abs(np.clip(at, 0, count - 1)[..., None] - np.arange(count)))
    return np.asarray(tent.mean(axis=1), dtype=np.float32)


def resample(volume: Floats, mats: list[Floats]) -> Floats:
    """Apply one averaging matrix to each axis of a volume."""
    for axis, matrix in enumerate(mats):
        volume = np.moveaxis(np.tensordot(matrix, volume, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(volume, dtype=np.float32)


def resampled_labels(labels: Labels, mats: list[Floats]) -> Labels:
    """The class that fills most of each voxel; a class is looked at only where it is."""
    best = resample((labels == 0).astype(np.float32), mats)
    winner = np.zeros(best.shape, np.uint8)
    for index in np.unique(labels[labels > 0]):
        share = labels == index
        old, new, part = [], [], []
        for axis, matrix in enumerate(mats):
            used = np.flatnonzero(share.any(axis=tuple({0, 1, 2} - {axis})))
            old.append(slice(used[0], used[-1] + 1))
            hit = np.flatnonzero(matrix[:, old[-1]].any(axis=1))
            new.append(slice(hit[0], hit[-1] + 1))
            part.append(matrix[new[-1], old[-1]])
        here = resample(share[tuple(old)].astype(np.float32), part)
        target, value = winner[tuple(new)], best[tuple(new)]
        target[here > value] = index
        np.maximum(value, here, out=value)
    return winner


_ARRAY_AXIS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def stored(image: Floats, labels: Labels, affine: Matrix, axes: str) -> tuple[Floats, Labels, Matrix]:
    """Turn RAS arrays into the orientation `axes`, the affine with them."""
    order = [_ARRAY_AXIS[letter][0] for letter in axes]
    flipped = [i for i, letter in enumerate(axes) if _ARRAY_AXIS[letter][1] < 0]
    turn = np.zeros((4, 4))
    turn[3, 3] = 1.0
    for i, source in enumerate(order):
        turn[source, i] = -1.0 if i in flipped else 1.0
        turn[source, 3] = image.shape[source] - 1 if i in flipped else 0.0
    image = np.ascontiguousarray(np.flip(np.transpose(image, order), tuple(flipped)))
    labels = np.ascontiguousarray(np.flip(np.transpose(labels, order), tuple(flipped)))
    return image, labels, affine @ turn
