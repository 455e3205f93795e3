"""What the hub asks and what a site answers, free of any transport.

The Flower edges translate these to and from messages; no algorithm sees a message. A site's handler is a plain
function from `PhaseRequest` to `SiteReply`, and the hub's loop sees nothing else of a site.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Arrays = Mapping[str, np.ndarray]
"""Parameters of one part, or statistics: name -> array. Names are stable and sorted."""


@dataclass(frozen=True)
class Delta:
    """How a part came from an earlier version of itself, coded (`sst_models.wire.payload`)."""

    base: str  # digest of the version that it starts from
    digest: str  # of the version that it leads to
    arrays: Arrays  # "values" (N,) float16, all tensors in the order of their names; "exponents" (tensors,) int16


@dataclass(frozen=True)
class PhaseRequest:
    """One thing that the hub asks of one site.

    `arrays` maps a part ("T", "E", "D_style", "A", "F", "encoder", "decoder", "D_flow", "atlas", "segmenter", or
    "moments.SITE") to its arrays. `settings` holds scalars and strings; `experiment` is the whole preset as JSON, the
    same at every site of a run.
    """

    run: str
    phase: str  # one of `configs.phases` that is asked of sites
    round: int  # from 1
    site: str  # the name under which the hub knows the site that is asked
    experiment: str
    arrays: Mapping[str, Arrays] = field(default_factory=dict)
    settings: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    payload: str = "full"  # how parts travel, both ways: "full" or "half" (`federation.payload`)
    deltas: Mapping[str, Delta] = field(default_factory=dict)  # by part, as far as the hub knows them; stays there


@dataclass(frozen=True)
class SiteReply:
    """What one site releases in answer to one request.

    `count` is the number of scans behind the reply: the weight of its arrays in the mean. `metrics` are means over
    the site's steps or scans, never a value of one scan. A site that could not answer sets `error` to a code (one
    word, no text from an exception) and releases nothing else.
    """

    site: str
    phase: str
    round: int
    count: int
    arrays: Mapping[str, Arrays] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # loss curves: mean loss per chunk of steps
    settings: Mapping[str, int | float | str | bool] = field(default_factory=dict)
    error: str = ""

    @property
    def bytes(self) -> int:
        """Bytes of all arrays in the reply, before they are coded."""
        return sum(a.nbytes for part in self.arrays.values() for a in part.values())
