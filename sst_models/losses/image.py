"""The image term of cycle, identity and reconstruction (eqs. 3, 5 and 8), which the paper calls SSIM-L1."""

from torch import Tensor

from sst_models.losses.structural import ms_ssim


def ssim_l1(
    u: Tensor, v: Tensor, levels: int | None = None, window: int = 7, *, l1: float = 0.5, ssim: float = 0.5
) -> Tensor:
    """Distance of two volumes in intensity and in structure: `l1 * mean|u - v| + ssim * (1 - MS-SSIM)` (eq. 4).

    Args:
        u: (N, 1, D, H, W), intensities in [0, 1].
        v: as `u`.
        levels: scales of MS-SSIM; None for as many as every side allows.
        window: side of MS-SSIM's window in voxels, odd.
        l1: weight of the mean absolute difference. Eq. 4 prints 1 and 1; the released models were trained with one
            half each, on intensities in [0, 1], which the paper's lambdas presuppose.
        ssim: weight of the structural part.

    Returns:
        A scalar, 0 for equal volumes, float32 at least.

    Raises:
        ValueError: shapes differ, the window is even, or a side is too small for `levels` scales.
    """
    structure = ms_ssim(u, v, levels, window)
    return l1 * (u.to(structure.dtype) - v.to(structure.dtype)).abs().mean() + ssim * (1 - structure)
