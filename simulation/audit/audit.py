"""Audits a finished run: every part that left a site, and what the attacks on it reach. Read `audit` first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.audit import statistics
from client.audit.membership import Flags, Membership
from client.audit.statistics import Attacked
from configs.phases import phase_of
from server.generators import generator_of
from server.state import SEGMENTER, STATISTICS
from simulation.audit import attributes, copies, networks, shadows
from simulation.audit.attributes import Inferred
from simulation.audit.copies import Copies
from simulation.audit.finished import Everybody, Federation, federations
from simulation.audit.people import Measured, kept_in, measured
from simulation.audit.releases import UNKNOWN, UNTESTED, Noise, Release, noise_of, released
from simulation.pictures import DRAWS
from simulation.progress import Progress
from simulation.results import read
from sst_models.phases.generate import Recipe

FOLDER = "audit"
"""In the run's folder: what was measured for an audit, and what it found."""

LIRA = "LiRA with shadow sites"
"""The attack on statistics that stands for them; the others are beside it."""


@dataclass(frozen=True)
class Part:
    """What left in one phase, and what an attack on it reached."""

    release: Release
    attack: str = ""  # which was carried out; "": none
    membership: Membership | None = None  # what it reached
    untested: str = ""  # why there is none


@dataclass(frozen=True)
class SiteAudit:
    """One site in a run's federation with one atlas."""

    atlas: str  # the site that it is of
    site: str
    level: str  # of sharing
    people: int  # all of them, also those who are tested on
    trained: int  # of these
    noise: Noise
    parts: tuple[Part, ...]
    statistics: tuple[Attacked, ...]  # by epsilon, the run's own first; empty where no statistics left
    inferred: tuple[Inferred, ...]  # likewise: what of one person can be worked out
    copies: Copies | None  # among pairs that are drawn by what left; None where nothing did


@dataclass(frozen=True)
class Audit:
    """All that an audit found."""

    run: Mapping[str, str]  # what it was, by name, as in results.json
    sites: tuple[SiteAudit, ...]


def audit(run: Path, device: torch.device, progress: Progress, atlas: str = "", shadow_networks: int = 0) -> Audit:
    """Attack what the sites of a run released.

    Args:
        run: folder of a finished simulation; what takes long is kept in its folder `audit`.
        device: to compute on.
        progress: the display.
        atlas: only what has the atlas of this site; "": all.
        shadow_networks: how many shadow networks to train of each part that can be attacked so, at each site; 0: none.

    Raises:
        RunError: the folder holds no finished run, or a ledger was altered.
        DataError: a prepared scan is damaged.
    """
    found = federations(run, device, atlas)
    facts = read(run).run
    subjects = [
        (each, site, Everybody.of(each.stage, site), released(each.ledger(site), each.name))
        for each in found
        for site in each.scheme.sites
    ]
    how = _How(run / FOLDER, progress, shadow_networks)
    plans = [(_where(each, site), how.plan(each, who, left)) for each, site, who, left in subjects]
    progress.plan({f"{where}: {what}": units for where, plan in plans for what, units in plan})
    return Audit(facts, tuple(_site(*subject, how) for subject in subjects))


ATTACK = 20.0
"""Work units of the attacks on rows, where measuring a scan is 5."""


@dataclass(frozen=True)
class _How:
    """What an audit of each site needs to know."""

    folder: Path  # what takes long is kept there
    progress: Progress
    shadows: int  # networks of each part

    def plan(
        self, federation: Federation, everybody: Everybody, left: Sequence[Release]
    ) -> Iterator[tuple[str, float]]:
        """Give the stages of one site's audit, with their work units."""
        scans = len(everybody.cases)
        yield "measure", 5.0 * scans
        yield "attack", ATTACK
        for release in self.trained_again(left):
            yield _again(release), self.shadows * self.units(federation, release)
        yield "look for copies", 1.0 * scans

    def trained_again(self, left: Sequence[Release]) -> list[Release]:
        """Choose what shadow networks are trained of."""
        return [release for release in left if self.shadows and release.part in networks.TESTED]

    def units(self, federation: Federation, release: Release) -> float:
        """Give the work units of one shadow network."""
        settings = federation.stage.experiment.phases.of(release.phase)
        return settings.rounds * settings.steps * settings.batch * phase_of(release.phase).cost


def _again(release: Release) -> str:
    return f"shadow networks of {release.part}"


def _where(federation: Federation, site: str) -> str:
    return f"{federation.stage.where}, {site}"


def _site(federation: Federation, site: str, everybody: Everybody, left: Sequence[Release], how: _How) -> SiteAudit:
    stage, progress = federation.stage, how.progress
    names = {release.part for release in left}
    noise = noise_of(federation.gate(site), federation.name)
    found = None
    if names & {STATISTICS, SEGMENTER}:
        progress.stage(f"{_where(federation, site)}: measure", 5.0 * len(everybody.cases))
        path = kept_in(how.folder, stage, site)
        found = measured(path, stage, everybody, lambda done: progress.advance(5.0 * done, scans=done))
    progress.stage(f"{_where(federation, site)}: attack", ATTACK)
    by_epsilon: tuple[Attacked, ...] = ()
    inferred: tuple[Inferred, ...] = ()
    if found and STATISTICS in names:
        rows = found.people(everybody)
        by_epsilon = _statistics(rows, everybody.trained, noise)
        inferred = _inferred(
            rows, attributes.attributes_of(stage.data[site], everybody.names), everybody.trained, noise
        )
    parts = [_part(federation, site, everybody, found, release) for release in left]
    parts = [_with_statistics(part, by_epsilon) for part in parts]
    parts += _by_shadows(federation, site, everybody, found, left, how)
    progress.stage(f"{_where(federation, site)}: look for copies", 1.0 * len(everybody.cases))
    near = _copies(federation, site, everybody, progress)
    counts = len(set(everybody.person.tolist())), everybody.trained
    said = stage.roles.name, site, stage.level(site), *counts, noise
    return SiteAudit(*said, tuple(parts), by_epsilon, inferred, near)


def _statistics(rows: np.ndarray, drawn: int, noise: Noise) -> tuple[Attacked, ...]:
    """Attack the rows at the run's epsilon, and at others to compare with."""
    return tuple(statistics.attack(rows, drawn, epsilon, noise.delta) for epsilon in _epsilons(noise))


def _inferred(rows: np.ndarray, known: Mapping[str, Flags], drawn: int, noise: Noise) -> tuple[Inferred, ...]:
    """Work out people's numbers and attributes at the same epsilons."""
    return tuple(attributes.infer(rows, known, drawn, epsilon, noise.delta) for epsilon in _epsilons(noise))


def _epsilons(noise: Noise) -> Sequence[float]:
    return tuple(dict.fromkeys((noise.epsilon, *statistics.EPSILONS)))


def _with_statistics(part: Part, by_epsilon: Sequence[Attacked]) -> Part:
    if part.release.part != STATISTICS or not by_epsilon:
        return part
    return replace(part, attack=LIRA, membership=by_epsilon[0].membership, untested="")


def _part(federation: Federation, site: str, everybody: Everybody, found: Measured | None, release: Release) -> Part:
    """Attack a network whose loss can be had from a scan; say of what else there is why it is not attacked."""
    part, stage = release.part, federation.stage
    if part not in networks.TESTED:
        return Part(release, untested=UNTESTED.get(part, UNKNOWN))
    pair = networks.versions(part, stage.experiment, federation.state, site, release.times)
    propagated = found.labels if found else torch.empty(0)
    reached = networks.attack(part, stage, pair, everybody, propagated)
    return Part(release, networks.TESTED[part], reached)


def _by_shadows(
    federation: Federation,
    site: str,
    everybody: Everybody,
    found: Measured | None,
    left: Sequence[Release],
    how: _How,
) -> Iterator[Part]:
    """Attack networks by others that are trained anew for it, where that was asked for."""
    propagated = found.labels if found else torch.empty(0)
    alignments: dict[int, tuple[Tensor, Tensor]] = {}
    for release in how.trained_again(left):
        units = how.units(federation, release)

        def watch(done: int, units: float = units) -> None:
            how.progress.advance(units * done, networks=done)

        how.progress.stage(f"{_where(federation, site)}: {_again(release)}", how.shadows * units)
        training = shadows.Training(federation, site, release, everybody.cases, alignments)
        path = how.folder / federation.stage.roles.name / f"shadows-{release.part}-{site}.safetensors"
        reached = shadows.attack(training, everybody, propagated, how.shadows, path, watch)
        yield Part(release, f"LiRA with {how.shadows} shadow networks", reached)


def _copies(federation: Federation, site: str, everybody: Everybody, progress: Progress) -> Copies | None:
    """Look for copies among pairs in a site's style, where something left that they can be drawn by."""
    state, stage = federation.state, federation.stage
    if f"{STATISTICS}.{site}" not in state.parts and "decoder" not in state.parts:
        return None
    counts = {name: len(stage.cases(name, "train")) for name in stage.roles.members}
    generator = generator_of(stage.experiment, stage.atlas, state, site, counts, stage.device)
    recipes = [Recipe(stage.experiment.seed, number, number, site) for number in range(DRAWS)]
    images: list[Tensor] = [generator.pair(recipe).image.cpu() for recipe in recipes]
    return copies.find(images, everybody, lambda done: progress.advance(1.0 * done, scans=done))
