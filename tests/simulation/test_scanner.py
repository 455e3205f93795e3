"""The scanners: a real gap of style, files in their own orientation, labels that stay on the image."""

from dataclasses import replace

import numpy as np
import pytest

from configs.structures import PAPER
from simulation.phantom import Anatomy, draw_anatomy
from simulation.resampling import averaging, resample, resampled_labels, stored
from simulation.scanner import CANDI, OASIS, Scanner, scan

REAL = {
    "Thalamus-Proper": (0.88, 0.95),
    "Cerebral-CX": (0.57, 0.79),
    "Lateral-Vent": (0.11, 0.54),
    "Caudate": (0.75, 0.88),
    "Putamen": (0.83, 0.94),
    "Pallidum": (0.94, 1.07),
    "Hippocampus": (0.66, 0.83),
}
"""Lowest and highest median over white matter's among nine people of IBSR v2.0."""

GAPS = {"Thalamus-Proper": 0.06, "Putamen": 0.09, "Caudate": 0.09, "Hippocampus": 0.13, "Cerebral-CX": 0.10}
"""By how much the same of nine people of IBSR is above that of nine of OASIS-1, in the middle."""


@pytest.fixture(scope="module")
def person() -> Anatomy:
    """One small brain, drawn coarsely."""
    return draw_anatomy(3, 17.0, spacing=3.0)


def ratio(image: np.ndarray, labels: np.ndarray, group: str) -> float:
    """Mean intensity of a group over white matter's."""
    mean = [float(image[np.isin(labels, PAPER.members[g])].mean()) for g in (group, "Cerebral-WM")]
    return mean[0] / mean[1]


@pytest.mark.parametrize("scanner", [CANDI, OASIS], ids=lambda s: s.name)
def test_image_and_labels_share_a_grid(person: Anatomy, scanner: Scanner) -> None:
    """Whole int16 numbers, zero outside of the brain, every label on the image, in the scanner's orientation."""
    image, labels, affine = scan(person, scanner, seed=1)
    assert image.shape == labels.shape and image.dtype == np.float32 and labels.dtype == np.uint8
    assert np.array_equal(image, np.rint(image)) and image.min() >= 0 and image.max() < 32767
    assert image[labels > 0].min() > 0 and 0.5 < (image == 0).mean() < 0.95
    axes = "".join("RAS"[r] if affine[r, c] > 0 else "LPI"[r] for c, r in enumerate(np.abs(affine[:3, :3]).argmax(0)))
    assert axes == scanner.axes != "RAS"


def test_labels_stay_in_place(person: Anatomy) -> None:
    """The centre of a structure in mm is where the anatomy has it, whatever the orientation of the file."""
    _, labels, affine = scan(person, CANDI, seed=1)
    for index in (1, 6, 16, 27):
        there = np.argwhere(person.labels == index).mean(0) @ person.affine[:3, :3].T + person.affine[:3, 3]
        here = np.argwhere(labels == index).mean(0) @ affine[:3, :3].T + affine[:3, 3]
        assert np.abs(here - there).max() < 1.5


def test_style_gap_is_that_of_real_sites(person: Anatomy) -> None:
    """The same brain is brighter in its grey matter at the children's site, about as much as real scans there are."""
    candi, oasis = (scan(person, scanner, seed=1)[:2] for scanner in (CANDI, OASIS))
    for group, gap in GAPS.items():
        assert 0.5 * gap < ratio(*candi, group) - ratio(*oasis, group) < 1.5 * gap, group
    assert ratio(*oasis, "Cerebral-CX") < 0.72
    assert candi[0].max() < 0.5 * oasis[0].max()


def test_the_childrens_site_looks_as_a_real_one_does() -> None:
    """Medians over white matter's, in the mean of three children, lie where those of nine real people do."""
    seen: dict[str, list[float]] = {}
    for number, age in enumerate((5.0, 11.0, 16.0)):
        image, labels, _ = scan(draw_anatomy(40 + number, age, spacing=2.0), CANDI, seed=number)
        white = np.median(image[np.isin(labels, PAPER.members["Cerebral-WM"])])
        for group in REAL:
            seen.setdefault(group, []).append(np.median(image[np.isin(labels, PAPER.members[group])]) / white)
    for group, (low, high) in REAL.items():
        assert low < np.mean(seen[group]) < high, (group, seen[group])


def test_seed_is_the_scan(person: Anatomy) -> None:
    """The same seed gives the same bytes; another one other noise on the same labels."""
    one, again, other = (scan(person, OASIS, seed) for seed in (1, 1, 2))
    assert one[0].tobytes() == again[0].tobytes()
    assert not np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_a_perfect_scanner_shows_tissue_values(person: Anatomy) -> None:
    """Without bias, noise, texture and variation, pure white matter has the gain as its value."""
    perfect = replace(OASIS, bias=0.0, noise=0.0, texture=0.0, variation=0.0, gain=1000.0)
    image, labels, _ = scan(person, perfect, seed=1)
    assert image[np.isin(labels, PAPER.members["Cerebral-WM"])].max() == 1000


def test_averaging_keeps_constants_and_identity() -> None:
    """Rows of an averaging matrix sum to one; labels on the same grid come back as they were."""
    matrix = averaging(12, 1.5, 1.0)
    assert matrix.shape == (18, 12) and np.allclose(matrix.sum(axis=1), 1)
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:6, 2:6, 2:6] = 3
    labels[6, 2:6, 2:6] = 9
    assert np.array_equal(resampled_labels(labels, [np.eye(8, dtype=np.float32)] * 3), labels)
    assert np.allclose(resample(np.full((12, 12, 12), 2.0, np.float32), [matrix] * 3), 2.0)


@pytest.mark.parametrize("axes", ["RAS", "LAS", "ASR", "PIL"])
def test_stored_moves_voxels_with_their_affine(axes: str) -> None:
    """A marked voxel keeps its place in mm in any orientation."""
    image = np.zeros((4, 5, 6), np.float32)
    image[1, 2, 4] = 1
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = (-7, 5, 9)
    turned, _, moved = stored(image, image.astype(np.uint8), affine, axes)
    where = np.append(np.argwhere(turned == 1)[0], 1)
    assert np.allclose(moved @ where, affine @ [1, 2, 4, 1])
