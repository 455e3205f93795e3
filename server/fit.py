"""Whether a label map is that of its scan: an atlas with another person's labels teaches every site the wrong anatomy.

Two things are looked at on the scan's own voxels. Labels lie in the brain, and fill most of it. And where two labels
meet, intensities change more than within a label: `contrast` is by how much. Of a right pair it falls to less than half
when the labels are moved by 4 mm; of a wrong one it stays, because its borders lie nowhere in particular.

Measured on 65 labelled people of three real sites and 20 simulated ones at 3 and 6 mm, each with its own labels, with
those of another person brought onto the same box, and with its own moved (`moved` below):

    own labels      0.16 to 0.45; 0.54 to 0.70 at 6 mm, which is too coarse
    another's       0.77 and more
    moved by 4 mm   2.2 and more; by 2 mm 0.60 to 1.02: the least of those pass

Where a label table has a few structures alone, as hippocampus and amygdala, what has no label is looked at, too, as far
as `AROUND` them. Of 24 of these people, with three or four such tables: own labels 0.14 to 0.59, another's 0.61 and
more, of which three of 88 pass; 16 of them moved by 4 mm along one axis: 2.2 and more.
"""

from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from configs.errors import DataError
from configs.structures import PAPER, LabelTable
from server.atlas import read_labelled

INSIDE, COVERED = 0.95, 0.5
"""Least share of the labels that lies in the brain (0.989 and more in right pairs), and of the brain that has a label
(0.80 and more; a scan with its skull has less than half)."""

MOVED = 0.65
"""Most contrast that labels moved by `STEP` may have, over that of the labels where they are."""

STEP = 4.0
"""By how many mm labels are moved for comparison, at least one voxel."""

AROUND = 2
"""How many voxels around the structures of a label map that covers less than `COVERED` are looked at with them."""

Image = NDArray[np.float32]  # (i, j, k)
Classes = NDArray[np.integer]  # (i, j, k), 0 is no structure


def check_pair(image: Path, labels: Path, table: LabelTable = PAPER) -> None:
    """See that a label map belongs to its scan.

    Args:
        image: skull-stripped, background 0.
        labels: on the same voxels, with the ids of the table.
        table: of labels.

    Raises:
        DataError: it does not look so.
    """
    volume, classes, affine = read_labelled(image, labels, table)
    voxel = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    inside, covered = overlap(volume, classes)
    told = f"atlas labels {labels} do not belong to {image}"
    few = covered < COVERED
    if few and table == PAPER:
        raise DataError(
            f"{told}: they cover {100 * covered:.0f} % of its voxels that are not 0; is it skull-stripped, with 0 "
            "outside of the brain? Else give the labels of this very scan, or --unchecked if you know better"
        )
    if inside < INSIDE:
        raise DataError(
            f"{told}: {100 * (1 - inside):.0f} % of them lie outside of the brain; give the labels of this very scan, "
            "or --unchecked if you know better"
        )
    if (found := moved(volume, classes, voxel, AROUND if few else 0)) > MOVED:
        raise DataError(
            f"{told}: their borders do not lie on edges of the scan (moved by {STEP:.0f} mm they fit {found:.2f} times "
            f"as well, at most {MOVED} is usual); give the labels of this very scan, or --unchecked if you know better"
        )


def overlap(volume: Image, classes: Classes) -> tuple[float, float]:
    """Give the share of the labels in the brain, and of the brain that has a label."""
    brain, labelled = volume != 0, classes > 0
    both = float((brain & labelled).sum())
    return both / max(1, int(labelled.sum())), both / max(1, int(brain.sum()))


def moved(volume: Image, classes: Classes, voxel: NDArray[np.floating], around: int = 0) -> float:
    """Give the largest contrast of the labels moved along an axis, over that where they are; infinite if that is 0."""
    scaled = _scaled(volume)
    here = contrast(scaled, classes, around)
    if here <= 0:
        return float("inf")
    steps = [max(1, round(STEP / float(side))) for side in voxel]
    ways = [
        tuple(sign * steps[axis] * (axis == other) for other in range(3)) for axis, sign in product(range(3), (-1, 1))
    ]
    return max(contrast(*_apart(scaled, classes, way), around) for way in ways) / here


def contrast(volume: Image, classes: Classes, around: int = 0) -> float:
    """Give how much more neighbours differ where two labels meet than within one: means of absolute differences.

    Args:
        volume: skull-stripped, background 0.
        classes: of the same voxels.
        around: how many voxels around the labels count, too, as one more label.
    """
    labelled = classes > 0
    on = (volume != 0) & (binary_dilation(labelled, iterations=around) if around else labelled)
    total, count = np.zeros(2), np.zeros(2)
    for axis in range(3):
        near, far = _shifted(axis, slice(None, -1)), _shifted(axis, slice(1, None))
        both = on[near] & on[far]
        differ = np.abs(volume[near] - volume[far])[both]
        border = (classes[near] != classes[far])[both].astype(np.intp)
        total += np.bincount(border, differ, minlength=2)
        count += np.bincount(border, minlength=2)
    within, across = total / np.maximum(count, 1)
    return float(across - within)


def _scaled(volume: Image) -> Image:
    """Intensities of the brain from 0 to 1, outliers cut, the brain's own zeros a little above the background's."""
    brain = volume != 0
    low, high = np.percentile(volume[brain], [1, 99])
    scaled = np.clip((volume - low) / max(float(high - low), 1e-6), 0, 1) + 1e-6
    return np.where(brain, scaled, 0).astype(np.float32)


def _apart(volume: Image, classes: Classes, way: tuple[int, ...]) -> tuple[Image, Classes]:
    """Cut both to where they lie on each other after the labels were moved."""
    here = tuple(slice(max(0, step), min(n, n + step)) for step, n in zip(way, volume.shape, strict=True))
    there = tuple(slice(max(0, -step), min(n, n - step)) for step, n in zip(way, volume.shape, strict=True))
    return volume[here], classes[there]


def _shifted(axis: int, part: slice) -> tuple[slice, ...]:
    return tuple(part if other == axis else slice(None) for other in range(3))
