"""The replies of one round: each checked as it comes, kept on disk, and folded into one when all are there.

Memory holds one reply and one mean, whatever the number of sites. What fails a check is left out under one word.
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

from configs.errors import FederationError
from configs.schema import Experiment
from server import vet
from server.aggregate import RunningMean
from server.state import MOMENTS, OWN
from sst_models import weights
from sst_models.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.phases import SitePhase

FAR = 10.0
"""How many times further than the other sites' median a reply may have moved the weights that it was sent.

Far beyond what sites of different sizes differ by: it stands against a training that blew up, and against poison that
does not hide. It needs two others to compare with."""

TRIM = 0.2
"""Share of the sites that a trimmed mean leaves out at either end, for each weight (Yin et al. 2018)."""


@dataclass
class Fold:
    """The replies of one round of one phase."""

    phase: SitePhase
    experiment: Experiment
    requests: Mapping[str, PhaseRequest]  # by site
    spool: Path  # folder for the replies of this round; emptied at both ends
    series: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)  # by site, of replies that count
    failed: dict[str, str] = field(default_factory=dict)  # site -> code
    bad: set[str] = field(default_factory=set)  # sites whose reply failed a check of the hub
    _counts: dict[str, int] = field(default_factory=dict)
    _moved: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Forget what an interrupted round left."""
        shutil.rmtree(self.spool, ignore_errors=True)

    def add(self, reply: SiteReply) -> None:
        """Take one reply in, or leave it out under its error or under what is wrong with it."""
        if reply.error:
            self.failed[reply.site] = reply.error
            return
        request = self.requests[reply.site]
        if word := vet.fault(reply, request, self.phase, self.experiment.style.code):
            self._leave_out(reply.site, word)
            return
        tensors = {f"{p}/{n}": torch.from_numpy(np.array(a)) for p, own in reply.arrays.items() for n, a in own.items()}
        weights.save(tensors, self._path(reply.site))
        self._counts[reply.site], self.series[reply.site] = reply.count, dict(reply.series)
        self._moved[reply.site] = _distance(reply, request, self.phase)

    def close(self, quorum: float, sites: int) -> dict[str, Arrays]:
        """Fold the replies that count into what the round brought, by part.

        Args:
            quorum: share of the sites whose reply the round needs.
            sites: how many take part.

        Raises:
            FederationError: fewer than the quorum.
        """
        for site in self._far():
            self._leave_out(site, "far")
            del self.series[site], self._counts[site]
        if len(self.series) < max(1.0, quorum * sites):
            why = ", ".join(f"{site}: {code}" for site, code in sorted(self.failed.items()))
            raise FederationError(
                f"phase {self.phase.name}: {len(self.series)} of {sites} sites answered ({why}); "
                "see site.log at those sites, then start the run again"
            )
        parts = self._own() | (self._mean() if self.experiment.federation.mean == "mean" else self._robust())
        shutil.rmtree(self.spool, ignore_errors=True)
        return parts

    def _leave_out(self, site: str, word: str) -> None:
        self.failed[site] = word
        self.bad.add(site)

    def _far(self) -> list[str]:
        found = []
        for site, moved in self._moved.items():
            others = [value for name, value in self._moved.items() if name != site]
            if len(others) > 1 and moved > FAR * median(others) > 0:
                found.append(site)
        return found

    def _shared(self, part: str) -> bool:
        return part != MOMENTS and not (part == OWN and self.experiment.federation.style == "weights")

    def _own(self) -> dict[str, Arrays]:
        kept = ((site, part, arrays) for site, parts in self._replies() for part, arrays in parts.items())
        return {f"{part}.{site}": arrays for site, part, arrays in kept if not self._shared(part)}

    def _mean(self) -> dict[str, Arrays]:
        means: dict[str, RunningMean] = {}
        for site, parts in self._replies():
            for part, arrays in parts.items():
                if self._shared(part):
                    means.setdefault(part, RunningMean()).add(arrays, self._counts[site])
        return {part: mean.arrays() for part, mean in means.items()}

    def _robust(self) -> dict[str, Arrays]:
        """Take each weight's median or trimmed mean over the sites, which count alike; one array in memory at once."""
        how = self.experiment.federation.mean
        found: dict[str, dict[str, np.ndarray]] = {}
        for part in filter(self._shared, self.phase.learns):
            asked = next(iter(self.requests.values())).arrays[part]
            for name in asked:
                key = f"{part}/{name}"
                stack = np.stack([weights.load(self._path(site))[key].numpy() for site in self._counts])
                middle = np.median(stack, axis=0) if how == "median" else trim_mean(stack, TRIM, axis=0)
                found.setdefault(part, {})[name] = np.asarray(middle, dtype=np.float32)
        return dict(found)

    def _replies(self) -> Iterator[tuple[str, dict[str, Arrays]]]:
        for site in self._counts:
            parts: dict[str, dict[str, np.ndarray]] = {}
            for key, tensor in weights.load(self._path(site)).items():
                part, name = key.split("/", 1)
                parts.setdefault(part, {})[name] = tensor.numpy()
            yield site, {part: dict(sorted(arrays.items())) for part, arrays in sorted(parts.items())}

    def _path(self, site: str) -> Path:
        return self.spool / f"{site}.safetensors"


def _distance(reply: SiteReply, request: PhaseRequest, phase: SitePhase) -> float:
    """Give how far a reply's weights are from those that the site was sent, Euclidean."""
    total = 0.0
    for part in phase.learns:
        for name, array in reply.arrays[part].items():
            total += float(np.square(array.astype(np.float64) - request.arrays[part][name]).sum())
    return math.sqrt(total)
