"""What a process does with memory that it frees. Light to import: a command asks for it first."""

import ctypes
import math
from collections.abc import Sequence

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of two settings of glibc's allocator (`malloc.h`, mallopt(3))."""


def keep_freed() -> None:
    """Have this process keep the memory that it frees for what it asks for next; for a command that soon ends.

    glibc asks the system for each large block and gives it back when it is freed, so that every map of a volume pays
    for its pages again: a twelfth of `sst segment` at 64 x 80 x 80, a third at 128 x 160 x 160 (LEARNING.md). Its peak
    stays what it is; that of learning grows by a tenth to a third. Where the C library has no such settings, nothing
    happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)  # never


SMALL = 64 * 80 * 80
"""Voxels of a grid on which learning keeps the memory that it frees: a ninth of its time for 0.3 to 0.8 GB
(LEARNING.md). At 128 x 160 x 160 a joint step would take more than the 3 GB that a laptop is to have for it."""


def keep_freed_on(grid: Sequence[int]) -> None:
    """Do so in a process that learns on a grid of this shape, in voxels, if it is small enough."""
    if math.prod(grid) <= SMALL:
        keep_freed()
