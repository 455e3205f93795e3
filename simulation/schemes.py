"""The federations that a direction is made of, and what each one's folder is called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.schema import Experiment, Sharing
from simulation.measured import unrefined

FEDERATED, STATISTICS, PLAIN = "federated", "statistics", "no-appearance"
ALONE_SOURCE, ALONE_TARGET, POOLED = "alone-source", "alone-target", "pooled"


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


def schemes_for(arms: Sequence[str], direction: Direction, experiment: Experiment) -> list[Scheme]:
    """List the federations that the chosen arms of a direction need, in the order in which they run."""
    source, target = direction.source, direction.target
    named = set(map(unrefined, arms))
    segment = tuple(
        site
        for site, wanted in (
            (source, {"U-Net w/o adaptation", "U-Net in-site"}),
            (target, {"U-Net w/ adaptation", "U-Net federated"}),
        )
        if wanted & named
    )
    other: Sharing = "weights" if experiment.federation.style == "statistics" else "statistics"
    shared = replace(
        experiment,
        federation=replace(experiment.federation, style=other),
        generation=replace(experiment.generation, styles="moments"),
    )
    plain = replace(experiment, appearance=replace(experiment.appearance, weight=0.0))
    both = (source, target)
    table = (
        (Scheme(FEDERATED, experiment, both, segment), {"T", "F", *_OF_FEDERATED}),
        (Scheme(STATISTICS, shared, both, (target,)), {"U-Net w/ adaptation (statistics)"}),
        (Scheme(PLAIN, plain, both, ()), {"F w/o appearance"}),
        (Scheme(ALONE_SOURCE, experiment, (source,), (source,)), {"U-Net alone"}),
        (Scheme(ALONE_TARGET, experiment, (target,), ()), {"U-Net alone"}),
        (Scheme(POOLED, experiment, (POOLED,), (POOLED,)), {"U-Net pooled"}),
    )
    return [scheme for scheme, wanted in table if wanted & named]


_OF_FEDERATED = ("U-Net w/o adaptation", "U-Net w/ adaptation", "U-Net in-site", "U-Net federated")
