"""The federations that a direction is made of, and what each one's folder is called."""

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
    Arm,
)


@dataclass(frozen=True)
class Direction:
    """Atlas and flow side from `source`, style of `target`, tested on `target`."""

    source: str
    target: str

    @property
    def name(self) -> str:
        """Name of the direction's folder."""
        return f"{self.source}-to-{self.target}"


@dataclass(frozen=True)
class Scheme:
    """One federation of a direction: which sites take part, with which settings, and who gets a segmenter."""

    name: str
    experiment: Experiment
    sites: tuple[str, ...]
    segment: tuple[str, ...]

    def hub(self, folder: Path, direction: Direction) -> Path:
        """Give the hub's folder of this federation in a run's folder."""
        return folder / "federations" / direction.name / self.name

    def run(self, direction: Direction) -> str:
        """Give the name of this federation, under which its sites keep their state."""
        return f"{direction.name}-{self.name}"


def schemes_for(arms: Iterable[Arm], direction: Direction, experiment: Experiment) -> list[Scheme]:
    """List the federations that the chosen arms of a direction need, in the order in which they run."""
    needs = [need for arm in arms for need in (*arm.needs, *arm.trained_as.needs)]
    source, target = direction.source, direction.target
    both, names = (source, target), {SOURCE: source, TARGET: target, ALL: POOLED}
    other: Sharing = "weights" if experiment.federation.style == "moments" else "moments"
    shared = replace(
        experiment,
        federation=replace(experiment.federation, style=other),
        generation=replace(experiment.generation, styles="moments"),
    )
    plain = replace(experiment, appearance=replace(experiment.appearance, weight=0.0))
    table = (
        (FEDERATED, experiment, both),
        (MOMENTS, shared, both),
        (PLAIN, plain, both),
        (ALONE_SOURCE, experiment, (source,)),
        (ALONE_TARGET, experiment, (target,)),
        (POOLED, experiment, (POOLED,)),
    )
    schemes = []
    for name, preset, sites in table:
        wanted = {need.segmenter for need in needs if need.scheme == name}
        segment = tuple(names[role] for role in (SOURCE, TARGET, ALL) if role in wanted)
        if wanted:
            schemes.append(Scheme(name, preset, sites, segment))
    return schemes
