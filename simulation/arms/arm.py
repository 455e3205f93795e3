"""What an arm of the comparison is: one value that says everything about it.

An arm is a method that is compared on test scans. Its families are files of this folder; a new baseline is one more
value there, or one more file in `FAMILIES` of this package. Nothing heavy is imported before an arm is used, so that
`sst simulate --help` stays quick.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import Experiment
    from simulation.bench import Bench, Predict
    from simulation.stage import Stage
    from sst_models.phases.segment import Pairs

SOURCE, TARGET, ALL = "source", "target", "all sites"
"""Which site of a direction: that of the atlas, the one to which style is adapted, or one site that has all scans."""

FEDERATED, STATISTICS, PLAIN = "federated", "statistics", "no-appearance"
ALONE_SOURCE, ALONE_TARGET, POOLED = "alone-source", "alone-target", "pooled"
"""The federations that an arm may need, see `simulation.schemes`."""


@dataclass(frozen=True)
class Need:
    """A federation that an arm needs, and whose segmenter it has to make."""

    scheme: str
    segmenter: str = ""  # of the SOURCE, the TARGET, or ALL; "": none


@dataclass(frozen=True)
class Arm:
    """One method that is compared."""

    name: str
    meaning: str  # for a reader, in plain words
    predict: "Callable[[Bench, Arm, str], Predict]"  # from bench, arm and tested site to what it makes of a scan
    needs: tuple[Need, ...] = ()
    tested: tuple[str, ...] = (TARGET,)
    base: str = ""  # the arm whose labels it refines, or which it fuses with F
    pairs: "Callable[[Bench], Pairs] | None" = None  # labelled pairs, for a segmenter that no federation makes
    zscore: bool = False  # that segmenter sees z-scores and small affines, whatever the preset has
    applies: "Callable[[Experiment], bool]" = lambda _: True  # whether it differs from its base under a preset
    flows: bool = False  # it is registration: the report shows it among its like

    @property
    def trained_as(self) -> str:
        """The name of the arm whose segmenter it uses."""
        return self.base or self.name


def sites(stage: "Stage", arm: Arm) -> list[str]:
    """Give the names of the sites that an arm is tested at in a direction."""
    names = {SOURCE: stage.direction.source, TARGET: stage.direction.target}
    return [names[role] for role in arm.tested]
