"""The box that a brain fills in its scan, a third of a usual file: what is beyond it need not be worked on."""

import numpy as np

Box = tuple[slice, slice, slice]


def box_of(inside: np.ndarray) -> Box:
    """Give the smallest box that holds all of a mask (i, j, k) bool; the whole of it where it is empty."""
    over_i, over_k = np.any(inside, axis=0), np.any(inside, axis=2)
    found = [np.flatnonzero(np.any(one, axis=axis)) for one, axis in ((over_k, 1), (over_k, 0), (over_i, 0))]
    if not len(found[0]):
        found = [np.arange(side) for side in inside.shape]
    i, j, k = (slice(int(span[0]), int(span[-1]) + 1) for span in found)
    return i, j, k
