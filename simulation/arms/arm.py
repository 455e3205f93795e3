"""What an arm of the comparison is: one value that says everything about it.

An arm is a method that is compared on test scans. Its families are files of this folder; a new baseline is one more
value there, or one more file in `FAMILIES` of this package. Nothing heavy is imported before an arm is used, so that
`sst simulate --help` stays quick.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from configs.schema import Experiment
    from sst_models.phases.segment import Pairs
    from sst_models.propagation.align import Aligner
    from sst_models.propagation.predict import Prediction
    from sst_models.training.learner import Scans, Watch
    from sst_models.volume.labels import AtlasLabels, LabelledVolume
    from sst_models.wire.exchange import Arrays

SOURCE, TARGET, UNSEEN, ALL = "source", "target", "unseen", "all sites"
"""What sites are: that of the atlas; the others that take part; those that are kept out and come later; and all that
take part together, as one site that has all scans, or whose styles a segmenter learns."""

EVERYWHERE = (SOURCE, TARGET, UNSEEN)

FEDERATED, MOMENTS, PLAIN = "federated", "moments", "no-appearance"
ALONE_SOURCE, ALONE_TARGET, POOLED = "alone-source", "alone-target", "pooled"
"""The federations that an arm may need, see `simulation.schemes`."""


@dataclass(frozen=True)
class Need:
    """A federation that an arm needs, and whose segmenter it has to make."""

    scheme: str
    segmenter: str = ""  # of the SOURCE, the tested TARGET, or ALL; "": none


@dataclass(frozen=True)
class Predicted:
    """What an arm makes of one scan."""

    labels: "Tensor"  # (D, H, W) class indices
    folded: float = math.nan  # % of voxels where its flow folds; NaN where it has none


Predict = Callable[["Tensor"], Predicted]
"""From a test scan (1, D, H, W) to its segmentation, both on the run's device."""


@dataclass(frozen=True)
class Lesson:
    """For how long an arm learns what no federation makes, and where."""

    steps: int  # of a U-Net at the preset's batch: all that an arm learns has their time
    folder: Path  # in which a training that was stopped goes on
    watch: "Watch | None" = None  # told of U-Net steps done, and the loss

    def steps_of(self, cost: float, share: float = 1.0) -> int:
        """Give how many steps have a share of the time, when one costs as much as `cost` steps of a U-Net."""
        return max(1, round(share * self.steps / cost))

    def counted(self, cost: float, before: float = 0.0) -> "Watch | None":
        """Give what is told of the steps of one training, each of which costs `cost` steps of a U-Net.

        Args:
            cost: as of `steps_of`.
            before: steps of a U-Net that earlier trainings took.
        """
        watch = self.watch
        if watch is None:
            return None
        return lambda step, loss: watch(min(self.steps, round(before + step * cost)), loss)


class Bench(Protocol):
    """What arms are made of: `simulation.bench`, as they see it."""

    @property
    def experiment(self) -> "Experiment":
        """The preset of the run."""

    @property
    def atlas(self) -> "tuple[Tensor, AtlasLabels]":
        """The volume (1, D, H, W) of the atlas, of several the first, and its labels, on the run's device."""

    @property
    def atlases(self) -> "list[LabelledVolume]":
        """All atlases, that of `atlas` first."""

    @property
    def source(self) -> str:
        """The site of the atlas, of several the first one's."""

    @property
    def device(self) -> "torch.device":
        """Where the run computes."""

    def scans(self, site: str) -> "Scans":
        """Give a site's training scans, without labels."""

    def learnt(self, arm: "Arm", site: str) -> "Arrays":
        """Give what `Arm.learn` gave for a site."""

    def net(self, scheme: str, part: str, site: str) -> "nn.Module":
        """Give a network of a federation as a site has it."""

    def aligner(self, scheme: str, site: str) -> "Aligner":
        """Give the alignment of the atlas to a site's scans by a federation's E, A and F."""

    def segmenter(self, arm: "Arm", site: str) -> "nn.Module":
        """Give the U-Net of an arm that is tested at a site."""

    def prediction(self, arm: "Arm") -> "Prediction":
        """Give how an arm's segmenter predicts."""

    def labelled_pairs(self, site: str) -> "Pairs":
        """Give a site's real labelled training scans."""

    def generated_pairs(self, flows: str, styles: str, site: str) -> "Pairs":
        """Give generated pairs: flow codes of one federation, a site's style of another."""


@dataclass(frozen=True)
class Arm:
    """One method that is compared."""

    name: str
    meaning: str  # for a reader, in plain words
    predict: "Callable[[Bench, Arm, str], Predict]"  # from bench, arm and tested site to what it makes of a scan
    needs: tuple[Need, ...] = ()
    tested: tuple[str, ...] = (TARGET,)
    base: "Arm | None" = None  # the arm whose labels it refines, or which it fuses with F
    pairs: "Callable[[Bench, str], Pairs] | None" = None  # of bench and site, for a segmenter that no federation makes
    learn: "Callable[[Bench, str, Lesson], Arrays] | None" = None  # instead of `pairs`, where it is more than that
    labels: str = ""  # the SOURCE or the tested TARGET, of whose labelled scans it learns
    scans: str = ""  # the tested TARGET, of whose scans it learns, without their labels
    zscore: bool = False  # that segmenter sees z-scores and small affines, whatever the preset has
    applies: "Callable[[Experiment], bool]" = lambda _: True  # whether it differs from its base under a preset
    flows: bool = False  # it is registration: the report shows it among its like
    package: str = ""  # that has to be installed for it, beside what the project needs
    atlases: int = 1  # that a run has to have for it, or more

    @property
    def trained_as(self) -> "Arm":
        """The arm whose segmenter it uses."""
        return self.base or self

    @property
    def trains(self) -> bool:
        """Whether it learns something that no federation makes."""
        return self.pairs is not None or self.learn is not None

    @property
    def by_site(self) -> bool:
        """Whether what it learns, and no federation makes, is another thing at each tested site."""
        return TARGET in (self.labels, self.scans) or any(need.scheme == ALONE_TARGET for need in self.needs)
