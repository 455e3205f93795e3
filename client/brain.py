"""Where the brain is: in a stripped scan, by a mask beside it, or by a stripper that the site names; its bias field.

Nothing is guessed: a scan that is evidently not stripped and has no mask is refused.
"""

# mypy: untyped-calls-exclude="SimpleITK,nibabel"

import shlex
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from client.box import box_of
from client.nifti import Turn, affine_of, array_of, read_mask, to_sitk
from client.preparation import Stripping
from configs.errors import DataError

LITRES = (0.3, 2.4)
"""Volume of a brain with its fluid, from a new-born's to beyond the largest adult's; a whole head has 3.5 or more."""

EVEN = 0.5
"""Least share of the voxels on the faces of a stripped volume that have one value, its background."""

N4_MM, N4_STEPS = 4.0, (50, 50, 50)
"""Voxel side at which the bias field is sought, and N4's iterations at each of its levels (Tustison et al. 2010)."""

STRIP_SECONDS = 1800.0
"""Time that a stripper has for one scan; those that learn take a minute on two cores."""


def brain_of(image: sitk.Image, mask: Path | None, stripping: Stripping, where: str) -> np.ndarray:
    """Find the brain of a scan.

    Args:
        image: the scan.
        mask: a mask on its voxels, where the site has one.
        stripping: what to do with a scan that is not stripped.
        where: names the scan.

    Returns:
        (i, j, k) bool.

    Raises:
        DataError: the scan is not stripped (`not-stripped:`), or what is left is no brain (`brain:`).
    """
    if mask is not None:
        return _of_a_brain(read_mask(mask, image), image, f"the mask {mask}")
    voxels = array_of(image)
    background = _background(voxels)
    if background is not None:
        inside = voxels != background
        if _litres(inside, image) <= LITRES[1]:
            return _of_a_brain(inside, image, where)
    if stripping.built_in:
        return _of_a_brain(_deepbet(image, where), image, f"what deepbet left of {where}")
    if stripping.command:
        return _of_a_brain(_strip(image, stripping, where), image, f"what the stripper left of {where}")
    raise DataError(
        f"not-stripped: {where} holds more than a brain and has no mask; let its skull be taken off (--strip deepbet, "
        "or another stripper's command), or put a mask beside it (*_desc-brain_mask.nii.gz, or --mask-pattern)"
    )


def unbias(image: sitk.Image, inside: np.ndarray) -> np.ndarray:
    """Divide a scan by its bias field (N4, Tustison et al. 2010), sought at `N4_MM` and applied to every voxel.

    Args:
        image: the scan, float32.
        inside: the brain, (i, j, k) bool.

    Returns:
        (i, j, k) float32, 0 outside the brain; the scan itself where N4 finds nothing to hold on to.
    """
    turn = Turn.of(affine_of(image))
    affine, within = turn.affine(affine_of(image), inside.shape), turn.straight(inside)
    return turn.back(_unbiased(turn.straight(array_of(image)), within, affine))


def _unbiased(scan: np.ndarray, inside: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Work on the brain's box; the field alone spans the scan, as N4 has it."""
    box = box_of(inside)
    within, voxels = inside[box], np.zeros(scan.shape, np.float32)
    brain = voxels[box] = np.where(within, scan[box], 0).astype(np.float32)
    whole = to_sitk(scan, affine)
    factors = [max(1, round(N4_MM / side)) for side in whole.GetSpacing()]
    small, mask = sitk.Shrink(whole, factors), sitk.Shrink(to_sitk(inside.astype(np.uint8), affine), factors)
    lift = (min(float(brain[within].min()), 0.0), 1e-3 * float(brain.max()))  # N4 takes logarithms
    lifted = sitk.GetImageFromArray(_lifted(sitk.GetArrayFromImage(small), sitk.GetArrayFromImage(mask) > 0, *lift))
    lifted.CopyInformation(small)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(N4_STEPS)
    try:
        n4.Execute(lifted, mask)
        field = n4.GetLogBiasFieldAsImage(whole)
    except RuntimeError:
        return voxels
    logarithm = sitk.GetArrayViewFromImage(field).transpose(2, 1, 0)[box]  # in the memory of `field`
    voxels[box] = np.where(within, brain / np.exp(logarithm), 0)
    return voxels


def _lifted(voxels: np.ndarray, inside: np.ndarray, lowest: float, more: float) -> np.ndarray:
    return np.where(inside, voxels - lowest + more, 0).astype(np.float32)


def _background(voxels: np.ndarray) -> float | None:
    """Give the one value that most voxels on the volume's faces have, or None: a whole head stands in noise."""
    faces = np.concatenate([voxels.take(end, axis).ravel() for axis in range(3) for end in (0, -1)])
    values, counts = np.unique(faces, return_counts=True)
    most = int(counts.argmax())
    return float(values[most]) if counts[most] >= EVEN * faces.size else None


def _of_a_brain(inside: np.ndarray, image: sitk.Image, where: str) -> np.ndarray:
    litres = _litres(inside, image)
    if not LITRES[0] <= litres <= LITRES[1]:
        raise DataError(f"brain: {where} holds {litres:.2f} litres; a brain has {LITRES[0]} to {LITRES[1]}")
    return inside


def _litres(inside: np.ndarray, image: sitk.Image) -> float:
    return float(inside.sum() * np.prod(image.GetSpacing()) / 1e6)


@cache
def _networks() -> Any:
    from deepbet.bet import BrainExtraction

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its weights are TorchScript
        return BrainExtraction(no_gpu=True)


def _deepbet(image: sitk.Image, where: str) -> np.ndarray:
    """Let deepbet find the brain: two U-Nets, the first for where it is, some seconds and 1.1 GB on a CPU."""
    scan = nib.Nifti1Image(array_of(image), affine_of(image))
    try:
        _, mask, _ = _networks().run(scan)
    except (AssertionError, ValueError, RuntimeError) as error:  # its own checks, and an image without foreground
        raise DataError(f"strip: deepbet finds no brain in {where}; strip it by other means") from error
    return np.asarray(mask.dataobj) > 0


def _strip(image: sitk.Image, stripping: Stripping, where: str) -> np.ndarray:
    """Let the site's stripper make a mask, in a folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="sst-strip-") as name:
        paths = {field: Path(name) / f"{field}.nii.gz" for field in ("in", "out", "mask")}
        sitk.WriteImage(image, str(paths["in"]))
        words = [word.format(**{k: str(p) for k, p in paths.items()}) for word in shlex.split(stripping.command)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=STRIP_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DataError(f"strip: {words[0]} could not strip {where}: {type(error).__name__}") from error
        if done.returncode or not paths["mask"].is_file():
            said = (done.stderr.strip().splitlines() or ["it wrote no mask"])[-1]
            raise DataError(f"strip: {words[0]} could not strip {where} (exit {done.returncode}): {said}")
        return read_mask(paths["mask"], image)
