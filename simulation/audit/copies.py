"""Whether generated pairs hold copies of scans that trained: nearest neighbours by MS-SSIM.

A pair that is as like a training scan as it is like a scan that was never used copies neither (as Carlini et al. 2023,
USENIX Security, "Extracting training data from diffusion models", look for memorised images by nearest neighbours).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from client.audit.membership import Membership, measure
from simulation.audit.finished import Everybody
from simulation.resemblance import alike


@dataclass(frozen=True)
class Copies:
    """How like generated images are to scans; 1 is an exact copy."""

    pairs: int  # that were generated
    nearest_trained: float  # highest MS-SSIM with a scan that trained
    nearest_other: float  # with one that did not
    membership: Membership  # a scan's score: its highest MS-SSIM with a generated image


def find(images: Sequence[Tensor], everybody: Everybody, watch: Callable[[int], None] | None = None) -> Copies:
    """Look for copies of a site's scans among generated images.

    Args:
        images: (1, D, H, W) in [0, 1] each.
        everybody: the site's scans.
        watch: called with the number of scans done.
    """
    scores = []
    for index in range(len(everybody.cases)):
        scan = everybody.cases.image(index)
        scores.append(max(alike(image, scan) for image in images))
        if watch:
            watch(index + 1)
    found, member = np.array(scores), everybody.member
    measured = measure(found, member, everybody.person)
    return Copies(len(images), float(found[member].max()), float(found[~member].max()), measured)
