"""What a site measures of its people, and what a hub makes of it: numbers of each person, of which a mean leaves.

The atlas is aligned to each training scan, its labels are refined by the scan's own intensities, and how bright each
structure is beside the atlas's is read off.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from configs.statistics import count
from sst_models.propagation.align import Aligner, Alignments
from sst_models.statistics import prior
from sst_models.statistics.intensity import Look, Rendering
from sst_models.statistics.moments import Moments
from sst_models.training.learner import Scans


def looks_of(released: Mapping[str, np.ndarray], rendering: Rendering) -> Moments:
    """Give what intensity codes of a site's people are drawn from, by what it released: a mean of numbers, with noise.

    Sites' means are normal around the atlas, and people around their site's (`prior`); noise is normal, too, and so is
    what it leaves to be known (the Kalman gain of a single observation). Looks are drawn between the atlas and that.

    Args:
        released: the arrays of `configs.statistics.shapes`; none says nothing, as noise without end would.
        rendering: of the atlas.
    """
    table = rendering.labels.table
    apart, numbers = prior.sites(table).double(), count(table)
    mean = torch.zeros(len(apart), dtype=torch.float64)
    if released:
        noise = (prior.UNIT * float(released["noise"][0])) ** 2 * torch.eye(numbers, dtype=torch.float64)
        gain = torch.linalg.solve(apart[:numbers, :numbers] + noise, apart[:numbers]).T
        mean = prior.TOWARDS * gain @ (prior.UNIT * torch.from_numpy(np.array(released["mean"], np.float64)))
        apart = apart - gain @ apart[:numbers]
    spread = (prior.people(table) + apart).to(rendering.atlas)
    return Moments(prior.centre(rendering) + mean.to(rendering.atlas), spread)


def measure(
    scans: Scans, aligner: Aligner, watch: Callable[[int], None] | None = None, kept: Alignments | None = None
) -> Tensor:
    """Measure each of a site's scans, (N, `configs.statistics.count`), in standard units.

    Args:
        scans: the site's training scans.
        aligner: finds the flow from the atlas to a scan, with the atlas's labels.
        watch: called with the number of scans done.
        kept: where the alignments go, for a later phase.
    """
    assert aligner.labels is not None
    rendering = Rendering(aligner.atlas, aligner.labels, aligner.how.spacing)
    rows: list[Tensor] = []
    for index in range(len(scans)):
        scan = scans.image(index)[None].to(aligner.atlas)
        flow, mirrored = aligner.flows(scan)
        labels = aligner.labels_on(scan, flow, mirrored)
        if kept:
            kept.save(index, flow.half(), labels.to(torch.uint8))
        apart = Look.of(rendering.code(scan, labels)).mean - rendering.own.mean
        rows.append((apart / prior.UNIT).clamp(-prior.FAR, prior.FAR))
        if watch:
            watch(index + 1)
    return torch.stack(rows)
