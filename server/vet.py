"""What a reply must be before it counts: the hub folds in what was asked for, whole and finite, and nothing else.

A site checks its own reply before it leaves (`client.gate.release`); the hub checks again, as a site may be broken,
old or hostile. What fails is left out with an error code, and the round goes on with the others. What the hub shows or
keeps of a reply has passed here, or is its error code, which `server.messages` has compared with those of a site.
"""

import json
import math
from pathlib import Path

import numpy as np

from configs.phases import Phase
from configs.schema import Experiment
from configs.statistics import lengths, shapes
from sst_models.secure_sum.fixed_point import VALUE_BYTES
from sst_models.wire import grammar
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.files import write_json

MOMENTS = ("mean", "std")

MOST_NOISE = 100.0
"""Largest standard deviation of the noise on statistics: beyond it they say nothing."""

SURE = 8.0
"""Standard deviations of the noise by which the mean of people's numbers may be longer than each of them can be."""

MOST = 3
"""Replies of a site that may fail a check before it is not asked any more."""


class Strikes:
    """How often each site's reply failed a check of the hub, kept in the hub's folder over restarts.

    An operator lets a site back in by taking it out of the file.
    """

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one."""
        self._path = path
        self._counts: dict[str, int] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @property
    def out(self) -> set[str]:
        """The sites that are in quarantine."""
        return {site for site, count in self._counts.items() if count >= MOST}

    def add(self, site: str) -> bool:
        """Count one more; say whether this puts the site into quarantine."""
        self._counts[site] = self._counts.get(site, 0) + 1
        write_json(self._counts, self._path)
        return self._counts[site] == MOST


def fault(reply: SiteReply, request: PhaseRequest, phase: Phase, experiment: Experiment, masked: int = 0) -> str:
    """Give an error code for what is wrong with a reply; "" where nothing is.

    Args:
        reply: what a site answered, without an error.
        request: what it was asked; a part comes back with the names and shapes that it was sent with.
        phase: what it may hold.
        experiment: the run's preset.
        masked: how many values are masked, in a run of secure sums; 0 in any other.

    Returns:
        A code of `sst_models.wire.grammar`, or "count", "missing", "names", "shape", "type", "not-finite" or "range".
    """
    if found := grammar.fault(reply, phase, experiment.table.groups):
        return found.code
    if phase.has_rounds and reply.count < 1:
        return "count"
    needed = _needed(phase, bool(masked))
    if not needed <= set(reply.arrays):
        return "missing"
    for part, arrays in sorted(reply.arrays.items()):
        if part in ("masked", "sums"):
            if part == "masked" and not masked:
                return "undeclared"
            if code := _bytes_fault(arrays, part, masked):
                return code
            continue
        if masked and part not in phase.kept:
            return "undeclared"  # in the clear
        if part == "statistics":
            asked = shapes(experiment.table)
        elif part == "moments":
            asked = _moments(experiment.style.code)
        else:
            asked = {name: array.shape for name, array in request.arrays[part].items()}
        if code := _fault(arrays, asked) or (_odd(arrays) if part == "statistics" else ""):
            return code
    return ""


def _needed(phase: Phase, masked: bool) -> set[str]:
    """Give the parts that a reply must hold; what is a site's own may stay there."""
    if phase.statistics:
        return {"statistics"}
    if phase.sums:
        return {"sums"}
    return {"masked"} if masked and phase.averaged else set(phase.averaged)


def _bytes_fault(arrays: Arrays, part: str, masked: int) -> str:
    """Say what is wrong with bytes that the hub adds up, or relays."""
    name = "values" if part == "masked" else "said"
    if set(arrays) != {name}:
        return "names"
    if arrays[name].dtype != np.uint8:
        return "type"
    wanted = (masked * VALUE_BYTES,) if part == "masked" else (arrays[name].size,)
    return "" if arrays[name].shape == wanted else "shape"


def _odd(statistics: Arrays) -> str:
    """Give "range" for statistics that no people can have; a hub draws from them."""
    noise = float(statistics["noise"][0])
    if not 0 <= noise <= MOST_NOISE:
        return "range"
    length = float(np.linalg.norm(statistics["mean"].astype(np.float64)))
    numbers = statistics["mean"].size
    most = sum(lengths(numbers))  # of the rough mean, and of what is added to it (`client.gate.noise`)
    return "" if length <= most * (1 + 1e-6) + SURE * noise * math.sqrt(numbers) else "range"


def _moments(code_length: int) -> dict[str, tuple[int, ...]]:
    return dict.fromkeys(MOMENTS, (code_length,))


def _fault(arrays: Arrays, asked: dict[str, tuple[int, ...]]) -> str:
    if set(arrays) != set(asked):
        return "names"
    for name, array in arrays.items():
        if array.shape != asked[name]:
            return "shape"
        if array.dtype != np.float32:
            return "type"
        if not np.isfinite(array).all():
            return "not-finite"
    return ""
