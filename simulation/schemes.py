"""What each site is in one part of a run, and the federations that the part is made of."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import Experiment, Sharing
from simulation.arms.arm import (
    ALL,
    ALONE_SOURCE,
    ALONE_TARGET,
    FEDERATED,
    MOMENTS,
    PLAIN,
    POOLED,
    SOURCE,
    TARGET,
    UNSEEN,
    Arm,
)


@dataclass(frozen=True)
class Roles:
    """What each site is, as long as the atlas is that of one."""

    source: str  # atlas and flow side are of it
    targets: tuple[str, ...]  # the others that take part
    unseen: tuple[str, ...] = ()  # kept out, and tested as hospitals that come later

    @property
    def name(self) -> str:
        """Name of what is kept of this part of the run."""
        return self.source

    @property
    def members(self) -> tuple[str, ...]:
        """The sites that take part."""
        return (self.source, *self.targets)

    def of(self, *roles: str) -> tuple[str, ...]:
        """List the sites that have one of these roles, role by role."""
        sites = {SOURCE: (self.source,), TARGET: self.targets, UNSEEN: self.unseen}
        return tuple(site for role in roles for site in sites[role])


@dataclass(frozen=True)
class Scheme:
    """One federation: which sites take part, with which settings, and who gets a segmenter."""

    name: str
    experiment: Experiment
    sites: tuple[str, ...]
    segment: tuple[str, ...]
    common: bool = False  # the hub trains one in all sites' styles, too

    def hub(self, folder: Path, roles: Roles) -> Path:
        """Give the hub's folder of this federation in a run's folder."""
        return folder / "federations" / roles.name / self.name

    def run(self, roles: Roles) -> str:
        """Give the name of this federation, under which its sites keep their state."""
        return f"{roles.name}-{self.name}"


def called(scheme: str, roles: Roles, site: str) -> str:
    """Give the name of a federation that an arm needs where it is tested at a site: one site's own has its name."""
    whose = {ALONE_SOURCE: roles.source, ALONE_TARGET: site}.get(scheme)
    return scheme if whose is None else f"alone-{whose}"


def schemes_for(arms: Iterable[Arm], roles: Roles, experiment: Experiment) -> list[Scheme]:
    """List the federations that the chosen arms need, in the order in which they run."""
    needs = [need for arm in arms for need in (*arm.needs, *arm.trained_as.needs)]
    other: Sharing = "weights" if experiment.federation.style == "moments" else "moments"
    shared = replace(
        experiment,
        federation=replace(experiment.federation, style=other),
        generation=replace(experiment.generation, styles="moments"),
    )
    plain = replace(experiment, appearance=replace(experiment.appearance, weight=0.0))
    table = {
        FEDERATED: (experiment, roles.members),
        MOMENTS: (shared, roles.members),
        PLAIN: (plain, roles.members),
        **{called(ALONE_TARGET, roles, site): (experiment, (site,)) for site in roles.members},
        POOLED: (experiment, (POOLED,)),
    }
    schemes = []
    for name, (preset, sites) in table.items():
        wanted = {need.segmenter for need in needs if name in {called(need.scheme, roles, s) for s in roles.targets}}
        segment = roles.of(*(role for role in (SOURCE, TARGET) if role in wanted))
        pooled = [POOLED] if ALL in wanted and name == POOLED else []
        if wanted:
            common = ALL in wanted and name != POOLED
            schemes.append(Scheme(name, preset, sites, (*segment, *pooled), common))
    return schemes
