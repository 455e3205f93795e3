"""How far weights from the hub may lie from those that the site knows: crafted ones read scans (docs/threat-model.md).

A part begins with weights that follow from the approved preset; the site made them when the run was approved. From then
on the hub may send what an honest mean can be: sites trained it for the rounds of the schedule between two requests,
and none of them can have moved a weight further than its optimiser's steps reach. What the site itself moved in a
round, as a Euclidean length, is the finer measure wherever it took part.

Not bounded are segmenters: the hub trains one on pairs that no site can make again, by an optimiser whose steps have
no useful bound. What a site learns on top of one does not leave it (`Policy.segmenter`).
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from client.gate.approval import Approval
from configs.errors import RefusalError
from configs.phases import phase_of
from configs.schema import Experiment
from sst_models.wire.exchange import Arrays, PhaseRequest
from sst_models.wire.files import replace_file, write_json
from sst_models.wire.payload import distance

FAR = 4.0
"""How many times further than this site moved a part in a round the mean of all sites may: a hub clips each site's
update to as many times the median of all (`server.fold`)."""

BETAS: Mapping[bool, tuple[float, float]] = {False: (0.9, 0.999), True: (0.5, 0.999)}
"""Of Adam, by whether a part is a critic (Sec. 4); a step is at most rate * (1 - first) / sqrt(1 - second) (Kingma and
Ba 2015, Sec. 2.1)."""

ROUNDING = 1e-3
"""Share by which the coding of differences (11 bits) and other processors' sums may differ."""

CLOSE = 1e-5
"""By how much first weights may differ between kinds of processors, beside their largest value."""

UNBOUNDED = frozenset({"segmenter"})

STARTS = {"F": "T"}
"""Parts that begin as another part is at that time (Sec. 3.3)."""


@dataclass
class Seen:
    """What a site remembers of the parts of one run."""

    folder: Path
    first: Path  # folder of the first weights
    places: dict[str, int] = field(default_factory=dict)  # part -> index of the round in which it was sent last
    moved: dict[str, float] = field(default_factory=dict)  # part -> the longest way that the site moved it in a round
    answered: list[str] = field(default_factory=list)  # rounds in which the site learnt, "phase round"

    @classmethod
    def of(cls, folder: Path, first: Path) -> "Seen":
        """Read what is remembered; nothing yet is a beginning."""
        try:
            kept = json.loads((folder / "seen.json").read_text(encoding="utf-8"))
            return cls(folder, first, dict(kept["places"]), dict(kept["moved"]), list(kept["answered"]))
        except OSError:
            return cls(folder, first)
        except (ValueError, KeyError, TypeError) as error:
            raise RefusalError("what the site remembers of this run is damaged: it takes part no more") from error

    def last(self, part: str) -> Arrays:
        """Give a part as it was sent last, or as it must begin.

        Raises:
            RefusalError: the file is damaged.
        """
        path = self.folder / f"{part}.safetensors" if part in self.places else self.first / f"{part}.safetensors"
        try:
            found: Arrays = load(path.read_bytes())
        except (OSError, SafetensorError, ValueError) as error:
            raise RefusalError(f"the weights of {part} that the site remembers cannot be read") from error
        return found

    def remember(self, request: PhaseRequest, approval: Approval) -> None:
        """Keep the parts of a request that passed.

        Raises:
            OSError: the disk is full.
        """
        here = approval.preset.schedule.index((request.phase, request.round))
        for part in _bounded(request):
            replace_file(self.folder / f"{part}.safetensors", save(_plain(request.arrays[part])))
            self.places[part] = here
        self._save()

    def learn(self, request: PhaseRequest, arrays: Mapping[str, Arrays]) -> None:
        """Note that this site answered a round, and how far it moved each part that it learnt."""
        self.answered = [*dict.fromkeys([*self.answered, f"{request.phase} {request.round}"])]
        for part in set(arrays) & set(request.arrays) - UNBOUNDED:
            way = distance(arrays[part], request.arrays[part])
            self.moved[part] = max(way, self.moved.get(part, 0.0))
        self._save()

    def _save(self) -> None:
        kept = {"places": self.places, "moved": self.moved, "answered": self.answered}
        write_json(kept, self.folder / "seen.json")


def check(request: PhaseRequest, approval: Approval, seen: Seen, most_missed: int) -> None:
    """Refuse weights that no honest mean can be.

    Args:
        request: with its parts.
        approval: of its run.
        seen: what the site remembers of the parts.
        most_missed: rounds of a part that the site may not have taken part in; each leaves the hub more room.

    Raises:
        RefusalError: a part has other names, shapes or types than its network, is not finite, lies too far away, or was
            learnt in more rounds without this site.
    """
    for part in _bounded(request):
        arrays = request.arrays[part]
        _check_form(part, arrays, seen)
        base, rounds = _base(part, request, approval, seen)
        if not rounds:
            _check_same(part, arrays, base, part in seen.places)
            continue
        missed = [f"{phase} {number}" for phase, number in rounds if f"{phase} {number}" not in seen.answered]
        if len(missed) > most_missed:
            raise RefusalError(
                f"{part} was learnt in {len(missed)} round(s) that this site did not answer ({missed[0]}); the policy "
                f"allows {most_missed} (most_missed_rounds)"
            )
        _check_steps(part, arrays, base, reach(part, rounds, approval.preset))
        if part in seen.moved and distance(arrays, base) > FAR * len(rounds) * seen.moved[part] * (1 + ROUNDING):
            raise RefusalError(f"{part} came back further away than sites can have moved it in {len(rounds)} round(s)")


def _bounded(request: PhaseRequest) -> list[str]:
    """List the parts of a request that are compared; `check_parts` has seen to it that none is missing."""
    found = phase_of(request.phase)
    wanted = dict.fromkeys((*found.learns, *found.uses))
    return [part for part in wanted if part not in UNBOUNDED and part in request.arrays]


def _base(part: str, request: PhaseRequest, approval: Approval, seen: Seen) -> tuple[Arrays, list[tuple[str, int]]]:
    """Give what a part is compared with, and the rounds of the schedule that may have moved it since."""
    here = approval.preset.schedule.index((request.phase, request.round))
    start = STARTS.get(part)
    if part in seen.places or start is None:
        return seen.last(part), _training(approval.preset.schedule[seen.places.get(part, 0) : here], part)
    own = _training(approval.preset.schedule[:here], part)
    if start in request.arrays:  # it stands where it stood when its own rounds ended
        return request.arrays[start], own
    return seen.last(start), _training(approval.preset.schedule[seen.places.get(start, 0) : here], start) + own


def _training(rounds: list[tuple[str, int]], part: str) -> list[tuple[str, int]]:
    return [(phase, number) for phase, number in rounds if part in phase_of(phase).learns]


def _check_form(part: str, arrays: Arrays, seen: Seen) -> None:
    wanted = {name: array.shape for name, array in seen.last(part).items()}
    if {name: array.shape for name, array in arrays.items()} != wanted:
        raise RefusalError(f"the weights of {part} are not those of the approved preset's network")
    for array in arrays.values():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise RefusalError(f"the weights of {part} are not finite float32")


def _check_same(part: str, arrays: Arrays, base: Arrays, sent: bool) -> None:
    for name, array in arrays.items():
        near = 0.0 if sent else CLOSE * max(1.0, float(np.abs(base[name]).max(initial=0.0)))
        if float(np.abs(array.astype(np.float64) - base[name]).max(initial=0.0)) > near:
            why = "changed though no round trained them" if sent else "are not those with which the preset begins"
            raise RefusalError(f"the weights of {part} {why}")


def _check_steps(part: str, arrays: Arrays, base: Arrays, reach: float) -> None:
    for name, array in arrays.items():
        if float(np.abs(array.astype(np.float64) - base[name]).max(initial=0.0)) > reach * (1 + ROUNDING):
            raise RefusalError(f"the weights of {part} moved further than the approved steps and rates reach")


def reach(part: str, rounds: list[tuple[str, int]], experiment: Experiment) -> float:
    """Give how far Adam's steps of some rounds can move a single weight."""
    first, second = BETAS[part.startswith("D_")]
    stride = max(1.0, (1 - first) / math.sqrt(1 - second))
    return stride * sum(experiment.phases.of(phase).steps * _rate(part, phase, experiment) for phase, _ in rounds)


def _rate(part: str, phase: str, experiment: Experiment) -> float:
    if part.startswith("D_"):
        return experiment.phases.critic_rate
    if part == "A":
        return experiment.phases.joint.appearance_rate
    return experiment.phases.of(phase).rate


def _plain(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: np.asarray(array, order="C") for name, array in arrays.items()}
