# mypy: untyped-calls-exclude="nibabel"
"""Whole heads: the stripper that comes along, on simulated people with fluid, skull and scalp around their brains."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

import client.preparation
from client.brain import brain_of
from client.nifti import read_image
from client.preparation import DEEPBET, Stripping
from configs.errors import ConfigError, DataError
from simulation.phantom import draw_anatomy
from simulation.scanner import CANDI, OASIS, Scanner, scan

MM = 3.0


def write_head(path: Path, scanner: Scanner) -> np.ndarray:
    """Write a simulated person's whole head, noise all around it; give the brain, (i, j, k) bool."""
    image, _, affine = scan(draw_anatomy(3, 30.0, MM), scanner, 4)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    margin = np.ceil(25 / sides).astype(int)
    image = np.pad(image, [(side, side) for side in margin]).astype(np.float32)
    affine[:3, 3] -= affine[:3, :3] @ margin
    inside = ndimage.binary_fill_holes(image > 0)
    away = ndimage.distance_transform_edt(~inside, sampling=sides)  # mm from the brain
    white, rng = float(np.percentile(image[inside], 85)), np.random.default_rng(1)
    around = np.select([away <= 3, away <= 9, away <= 16], [0.25 * white, 0.12 * white, white], 0.0)
    noise = rng.normal(0, 0.03 * white, (2, *image.shape))
    whole = np.hypot(np.where(inside, image, around) + noise[0], noise[1])
    nib.save(nib.Nifti1Image(whole.astype(np.float32), affine), path)
    return np.asarray(inside)


@pytest.mark.parametrize("scanner", [OASIS, CANDI])
def test_deepbet_takes_a_skull_off_without_another_program(tmp_path: Path, scanner: Scanner) -> None:
    """In the scan's own voxel order, and without its window toolkit."""
    truth = write_head(tmp_path / "head.nii.gz", scanner)
    image = read_image(tmp_path / "head.nii.gz")
    with pytest.raises(DataError, match="^not-stripped: .*--strip deepbet"):
        brain_of(image, None, Stripping(), "x")
    found = brain_of(image, None, Stripping(DEEPBET), "x")
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.93
    assert "customtkinter" not in sys.modules


def test_deepbet_that_finds_no_brain_sets_the_scan_aside(tmp_path: Path) -> None:
    """A few centimetres of noise are no head."""
    noise = np.abs(np.random.default_rng(1).normal(100, 20, (40, 40, 40))).astype(np.float32)
    nib.save(nib.Nifti1Image(noise, np.diag([1.5, 1.5, 1.5, 1.0])), tmp_path / "noise.nii.gz")
    with pytest.raises(DataError, match="^(strip: deepbet finds no brain|brain: what deepbet left)"):
        brain_of(read_image(tmp_path / "noise.nii.gz"), None, Stripping(DEEPBET), "x")


def test_deepbet_that_is_not_installed_is_said_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(client.preparation, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"deepbet is not installed; pip install .*requirements-strip.lock"):
        Stripping(DEEPBET)
