"""The replies of one round: each checked as it comes, kept on disk, and folded into one when all are there.

Memory holds one reply and one mean, whatever the number of sites. What fails a check is left out with an error code;
how much of the mean one site can be is in `server.bounds`.
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
from server import bounds, vet
from server.aggregate import RunningMean
from server.state import MOMENTS, STATISTICS, Stored, store
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.payload import distance

FAR = 10.0
"""How many times further than the other sites' median a reply may have moved the weights that it was sent.

Far beyond what sites of different sizes differ by: it stands against a training that blew up, and against poison that
does not hide. It needs two others to compare with. What is nearer, but further than is usual, is shortened."""

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
    announced: Mapping[str, int] = field(default_factory=dict)  # scans that each site has said to train on, at join
    before: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # by part, as `RunState.moved`
    clipped: dict[str, float] = field(default_factory=dict)  # by site, the least share of its change that counts
    moved: dict[str, float] = field(default_factory=dict)  # by shared part, how far this round moved it
    series: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)  # by site, of replies that count
    _counts: dict[str, int] = field(default_factory=dict)
    _distances: dict[str, dict[str, float]] = field(default_factory=dict)  # by site and shared part

    def __post_init__(self) -> None:
        """Forget what an interrupted round left."""
        shutil.rmtree(self.spool, ignore_errors=True)

    @property
    def averages(self) -> bool:
        """Whether anything is averaged; otherwise nobody's weights touch another's."""
        return any(map(self._shared, self.phase.learns))

    def add(self, reply: SiteReply) -> str:
        """Take one reply in; give an error code where it must be left out."""
        request = self.requests[reply.site]
        if code := vet.fault(reply, request, self.phase, self.experiment):
            return code
        return self.take(reply)

    def take(self, reply: SiteReply) -> str:
        """Take in a reply that was checked."""
        request = self.requests[reply.site]
        announced = self.announced.get(reply.site, reply.count)
        if reply.count > announced or (reply.count < announced and not self.phase.statistics):  # these count people
            return "count"
        tensors = {f"{p}/{n}": torch.from_numpy(np.array(a)) for p, own in reply.arrays.items() for n, a in own.items()}
        weights.save(tensors, self._path(reply.site))
        self._counts[reply.site], self.series[reply.site] = reply.count, dict(reply.series)
        self._distances[reply.site] = {
            part: distance(reply.arrays[part], request.arrays[part])
            for part in filter(self._shared, self.phase.learns)
            if part in reply.arrays
        }
        return ""

    def drop_outliers(self) -> dict[str, str]:
        """Drop the replies that moved the weights much further than the others did; give an error code by site."""
        far = self._far()
        for site in far:
            del self.series[site], self._counts[site], self._distances[site]
        return dict.fromkeys(far, "far")

    def close(self) -> dict[str, Arrays]:
        """Fold the replies that count into what the round brought, by part; in the order of the sites' names.

        Raises:
            FederationError: they are too few for the preset's kind of mean.
        """
        how = bounds.average(self.experiment, len(self._counts)) if self.averages else "mean"
        self._clip()
        shared = self._mean() if how == "mean" else self._robust(how)
        sent = next(iter(self.requests.values())).arrays
        self.moved = {part: distance(arrays, sent[part]) for part, arrays in sorted(shared.items())}
        parts = self._own() | shared
        shutil.rmtree(self.spool, ignore_errors=True)
        return parts

    def _far(self) -> list[str]:
        found: list[str] = []
        moved = {site: math.hypot(*parts.values()) for site, parts in self._distances.items()}
        for site, own in moved.items():
            others = [value for name, value in moved.items() if name != site]
            if len(others) > 1 and own > FAR * median(others) > 0:
                found.append(site)
        return found

    def _clip(self) -> None:
        """Shorten what a reply changes in a shared part where that is beyond the part's limit.

        A site that is alone in a run can harm nobody, and its reply stays as it is.
        """
        if len(self.requests) < 2:
            return
        sent = next(iter(self.requests.values())).arrays
        for part in filter(self._shared, self.phase.learns):
            every = {site: own[part] for site, own in self._distances.items() if part in own}
            most = bounds.reach(self.experiment, self.phase.name, sent[part])
            limit = bounds.limit(every.values(), self.before.get(part, ()), most)
            for site in sorted(site for site, own in every.items() if own > limit):
                share = limit / every[site]
                self.clipped[site] = min(share, self.clipped.get(site, 1.0))
                self._shorten(site, part, share, sent[part])

    def _shorten(self, site: str, part: str, share: float, sent: Arrays) -> None:
        tensors = weights.load(self._path(site))
        for name, start in sent.items():
            change = tensors[f"{part}/{name}"].numpy().astype(np.float64) - start
            tensors[f"{part}/{name}"] = torch.from_numpy((start + share * change).astype(np.float32))
        weights.save(tensors, self._path(site))

    def _shared(self, part: str) -> bool:
        if part == "A" and self.experiment.federation.style == "moments":
            return True
        return part not in (MOMENTS, STATISTICS) and part not in self.phase.kept

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
        known = {site: self.announced[site] for site in self.requests if self.announced.get(site)} | self._counts
        weigh = bounds.weights_of(known, self._counts)
        for site, parts in self._replies():
            for part, arrays in parts.items():
                if self._shared(part):
                    means.setdefault(part, RunningMean()).add(arrays, weigh[site])
        return {part: mean.arrays() for part, mean in means.items()}

    def _robust(self, how: str) -> dict[str, Arrays]:
        """Take each weight's median or trimmed mean over the sites, which count alike; one array in memory at once."""
        found: dict[str, dict[str, np.ndarray]] = {}
        replies = [Stored(self._path(site)) for site in sorted(self._counts)]
        for part in filter(self._shared, self.phase.learns):
            asked = next(iter(self.requests.values())).arrays[part]
            given = [reply for reply in replies if any(key.startswith(f"{part}/") for key in reply)]
            for name in asked if given else ():
                stack = np.stack([reply[f"{part}/{name}"] for reply in given])
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
