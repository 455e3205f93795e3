"""The affine that brings a scan, or a further atlas, to the atlas, sought by SimpleITK."""

# mypy: untyped-calls-exclude="SimpleITK"

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import SimpleITK as sitk
import torch

from client.box import box_of
from client.nifti import LPS, to_sitk
from configs.errors import DataError
from sst_models.volume.grid import Grid
from sst_models.volume.intensity import robust_scale

_LEVELS_MM = (9.6, 4.8, 2.4)
"""Voxel sizes at which the affine is sought; 12 parameters gain nothing from finer ones, and it costs seconds."""

_TILT, _STEP = 45.0, 15.0
"""How far about each axis a head may be tilted for a start to be near, and how far apart starts are, degrees."""

_SEED = 1  # of the metric's voxel sampling: the same scan is prepared to the same bytes


@contextmanager
def one_thread() -> Iterator[None]:
    """The metric sums over threads; their number would change the last bits, and with them the affine."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def from_array(array: np.ndarray, grid: Grid) -> sitk.Image:
    """(D, H, W) on a grid as a SimpleITK image."""
    return to_sitk(array, np.array(grid.affine))


def scaled(image: sitk.Image) -> sitk.Image:
    """The scan's own grid, intensities in [0, 1]: outliers would empty the bins of mutual information."""
    voxels = sitk.GetArrayViewFromImage(image)
    box = box_of(voxels != 0)
    within = np.zeros(voxels.shape, np.float32)
    within[box] = robust_scale(torch.from_numpy(voxels[box].copy())).numpy()
    unit = sitk.GetImageFromArray(within)
    unit.CopyInformation(image)
    return unit


def _coarse(image: sitk.Image) -> sitk.Image:
    """Average to about the working resolution.

    ITK's Shrink would take one voxel of each block, for even factors half a voxel beside its centre, on one side or on
    the other as the last bits of the affine fall.
    """
    factors = [max(1, int(_LEVELS_MM[-1] / side + 0.3)) for side in image.GetSpacing()]
    averaged: sitk.Image = sitk.BinShrink(image, factors)
    return averaged


def _brain(image: sitk.Image, margin_mm: float) -> sitk.Image:
    """The brain and a margin: the outline says most about scale, far background says nothing."""
    radius = [max(1, round(margin_mm / side)) for side in image.GetSpacing()]
    grown: sitk.Image = sitk.BinaryDilate(sitk.Cast(image > 0, sitk.sitkUInt8), radius)
    return grown


def _search(fixed: sitk.Image, levels: Sequence[float]) -> sitk.ImageRegistrationMethod:
    """Begin a search by mutual information within the brain of `fixed`; `levels` are voxel sizes, mm."""
    factors = [max(1, round(level / fixed.GetSpacing()[0])) for level in levels]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricFixedMask(_brain(fixed, 8.0))
    method.SetInterpolator(sitk.sitkLinear)
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([0.5 * (factor - 1) * fixed.GetSpacing()[0] for factor in factors])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    return method


def _improve(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform, levels: Sequence[float], share: float
) -> None:
    """Maximise mutual information over the parameters of `start`, in place; `levels` in mm, `share` of the voxels."""
    method = _search(fixed, levels)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, _SEED)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 60, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(fixed, moving)


def _look_around(fixed: sitk.Image, moving: sitk.Image, start: sitk.Euler3DTransform) -> None:
    """Turn `start`, in place, to where mutual information is largest of all poses on a grid of angles.

    A head that lies tilted by more than some twenty degrees is out of reach of what follows.
    """
    method = _search(fixed, _LEVELS_MM[:1])
    steps = round(_TILT / _STEP)
    method.SetOptimizerAsExhaustive([steps, steps, steps, 0, 0, 0], stepLength=math.radians(_STEP))
    method.SetOptimizerScales([1.0] * 6)
    method.SetInitialTransform(start, inPlace=True)  # ends at the best; ITK would swallow a Ctrl-C in a callback
    method.Execute(fixed, moving)


def register(fixed: sitk.Image, moving: sitk.Image, where: str) -> sitk.AffineTransform:
    """Affine from the atlas's world to the scan's: centres and moments, then rigid, then 12 parameters.

    Args:
        fixed: the atlas, float32 in [0, 1].
        moving: the scan, float32 in [0, 1], any grid.
        where: names the scan.

    Raises:
        DataError: the two cannot be brought together (`registration:`).
    """
    try:
        fixed, moving = _coarse(fixed), _coarse(moving)
        centred = sitk.CenteredTransformInitializer(
            fixed, moving, sitk.Euler3DTransform(), sitk.CenteredTransformInitializerFilter.MOMENTS
        )
        rigid = sitk.Euler3DTransform(centred)
        _look_around(fixed, moving, rigid)
        _improve(fixed, moving, rigid, _LEVELS_MM[:2], 0.5)
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(rigid.GetMatrix())
        affine.SetTranslation(rigid.GetTranslation())
        affine.SetCenter(rigid.GetCenter())
        _improve(fixed, moving, affine, _LEVELS_MM[:2], 0.5)
        _improve(fixed, moving, affine, _LEVELS_MM[2:], 0.15)
    except RuntimeError as error:
        raise DataError(f"registration: {where} does not overlap the atlas; check its orientation and mask") from error
    return affine


def to_matrix(transform: sitk.AffineTransform) -> np.ndarray:
    """The transform as one 4 x 4 between RAS worlds, mm: x -> A (x - c) + t + c, axes turned from SimpleITK's LPS."""
    matrix, centre = np.eye(4), np.array(transform.GetCenter())
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
    return np.asarray(LPS @ matrix @ LPS)
