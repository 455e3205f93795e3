"""The replies of one round: each checked as it comes, kept on disk, and folded into one when all are there.

Memory holds one reply and one mean, whatever the number of sites. What fails a check is left out with an error code.
"""

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import torch
from scipy.stats import trim_mean

from configs.phases import Phase
from configs.schema import Experiment
from server import vet
from server.aggregate import RunningMean
from server.state import MOMENTS, store
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply

FAR = 10.0
"""How many times further than the other sites' median a reply may have moved the weights that it was sent.

Far beyond what sites of different sizes differ by: it stands against a training that blew up, and against poison that
does not hide. It needs two others to compare with."""

TRIM = 0.2
"""Share of the sites that a trimmed mean leaves out at either end, for each weight (Yin et al. 2018)."""


@dataclass
class Fold:
    """The replies of one round of one phase."""

    phase: Phase
    experiment: Experiment
    requests: Mapping[str, PhaseRequest]  # by site
    spool: Path  # folder for the replies of this round; emptied at both ends
    library: Path  # folder for each site's own A, where it stays
    series: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)  # by site, of replies that count
    _counts: dict[str, int] = field(default_factory=dict)
    _moved: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Forget what an interrupted round left."""
        shutil.rmtree(self.spool, ignore_errors=True)

    def add(self, reply: SiteReply) -> str:
        """Take one reply in; give an error code where it must be left out."""
        request = self.requests[reply.site]
        if code := vet.fault(reply, request, self.phase, self.experiment.style.code):
            return code
        tensors = {f"{p}/{n}": torch.from_numpy(np.array(a)) for p, own in reply.arrays.items() for n, a in own.items()}
        weights.save(tensors, self._path(reply.site))
        self._counts[reply.site], self.series[reply.site] = reply.count, dict(reply.series)
        self._moved[reply.site] = _distance(reply, request, self.phase)
        return ""

    def drop_outliers(self) -> dict[str, str]:
        """Drop the replies that moved the weights much further than the others did; give an error code by site."""
        far = self._far()
        for site in far:
            del self.series[site], self._counts[site], self._moved[site]
        return dict.fromkeys(far, "far")

    def close(self) -> dict[str, Arrays]:
        """Fold the replies that count into what the round brought, by part; in the order of the sites' names."""
        parts = self._own() | (self._mean() if self.experiment.federation.aggregation == "mean" else self._robust())
        shutil.rmtree(self.spool, ignore_errors=True)
        return parts

    def _far(self) -> list[str]:
        found: list[str] = []
        if not any(map(self._shared, self.phase.learns)):
            return found  # nothing is averaged, so nobody's weights touch another's
        for site, moved in self._moved.items():
            others = [value for name, value in self._moved.items() if name != site]
            if len(others) > 1 and moved > FAR * median(others) > 0:
                found.append(site)
        return found

    def _shared(self, part: str) -> bool:
        if part == "A" and self.experiment.federation.style == "statistics":
            return True
        return part != MOMENTS and part not in self.phase.kept

    def _own(self) -> dict[str, Arrays]:
        own: dict[str, Arrays] = {}
        for site, parts in self._replies():
            for part, arrays in parts.items():
                if part in self.phase.kept and not self._shared(part):
                    own[f"{part}.{site}"] = store(arrays, self.library)
                elif not self._shared(part):
                    # A copy: what was loaded is a view of the file, which would stay mapped for as long as it is kept.
                    own[f"{part}.{site}"] = {name: array.copy() for name, array in arrays.items()}
        return own

    def _mean(self) -> dict[str, Arrays]:
        means: dict[str, RunningMean] = {}
        for site, parts in self._replies():
            for part, arrays in parts.items():
                if self._shared(part):
                    means.setdefault(part, RunningMean()).add(arrays, self._counts[site])
        return {part: mean.arrays() for part, mean in means.items()}

    def _robust(self) -> dict[str, Arrays]:
        """Take each weight's median or trimmed mean over the sites, which count alike; one array in memory at once."""
        how = self.experiment.federation.aggregation
        found: dict[str, dict[str, np.ndarray]] = {}
        for part in filter(self._shared, self.phase.learns):
            asked = next(iter(self.requests.values())).arrays[part]
            for name in asked:
                key = f"{part}/{name}"
                stack = np.stack([weights.load(self._path(site))[key].numpy() for site in sorted(self._counts)])
                middle = np.median(stack, axis=0) if how == "median" else trim_mean(stack, TRIM, axis=0)
                found.setdefault(part, {})[name] = np.asarray(middle, dtype=np.float32)
        return dict(found)

    def _replies(self) -> Iterator[tuple[str, dict[str, Arrays]]]:
        for site in sorted(self._counts):
            parts: dict[str, dict[str, np.ndarray]] = {}
            for key, tensor in weights.load(self._path(site)).items():
                part, name = key.split("/", 1)
                parts.setdefault(part, {})[name] = tensor.numpy()
            yield site, {part: dict(sorted(arrays.items())) for part, arrays in sorted(parts.items())}

    def _path(self, site: str) -> Path:
        return self.spool / f"{site}.safetensors"


def _distance(reply: SiteReply, request: PhaseRequest, phase: Phase) -> float:
    """Give how far a reply's weights are from those that the site was sent, Euclidean."""
    total = 0.0
    for part in phase.learns:
        for name, array in reply.arrays[part].items():
            total += float(np.square(array.astype(np.float64) - request.arrays[part][name]).sum())
    return math.sqrt(total)
