"""A real site's scans as another scanner would have taken them (`benchmarks/rescan.py`)."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.rescan import rescanned
from simulation.scanner import CANDI, OASIS, Scanner

TISSUES = ("CSF", "Cerebral-CX", "Cerebral-WM")


def _brain() -> np.ndarray:
    """Three slabs of fluid, grey and white matter, 100, 240 and 400 with noise of 10, in air."""
    voxels = np.zeros((34, 24, 24), np.float32)
    for number, value in enumerate((100, 240, 400)):
        voxels[2 + 10 * number : 12 + 10 * number, 2:-2, 2:-2] = value
    return np.where(voxels > 0, voxels + 10 * np.random.default_rng(1).standard_normal(voxels.shape), 0)


@pytest.mark.parametrize("scanner", [CANDI, OASIS])
def test_tissues_have_the_other_scanners_contrast(scanner: Scanner) -> None:
    """Each tissue is as bright against white matter as that scanner shows it; air stays 0, and nothing else is."""
    before = _brain()
    plain = replace(scanner, centre=0.0, bias=0.0)
    after = rescanned(before.astype(np.float32), np.ones(3), plain, seed=1)
    assert ((after > 0) == (before > 0)).all()
    found = [float(np.median(after[2 + 10 * n : 12 + 10 * n, 2:-2, 2:-2])) for n in range(3)]
    wanted = [dict(scanner.tissue)[group] ** scanner.gamma for group in TISSUES]
    assert np.array(found) / found[2] == pytest.approx(np.array(wanted) / wanted[2], abs=0.02)


def test_noise_is_less_in_larger_voxels() -> None:
    """Two millimetres hold the noise of the scanner's own voxels, averaged."""
    plain = replace(CANDI, centre=0.0, bias=0.0)
    quiet = np.rint(_brain() / 80).astype(np.float32) * 80
    spread = [float(rescanned(quiet, np.full(3, edge), plain, 1)[23:31, 3:21, 3:21].std()) for edge in (1.0, 2.0)]
    assert spread[1] < 0.7 * spread[0]
