"""Shadow networks: who trained a network is told by many others, of which it is known who trained them (LiRA).

Half of a site's people, drawn at random, train a part as the run's settings say, from the weights that the run began
with; the other half train another one. So often that of each person it is known what the loss of her scans is where she
was in, and where she was not (Carlini et al. 2022, IEEE S&P, "Membership inference attacks from first principles",
Sec. IV). Each network is attacked in its turn by all others: members and others are alike by construction, and there
are as many decisions as networks times people.

The networks are those that a site trains by itself. A mean with other sites' says less of its people.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from client.audit.membership import Flags, Floats, Membership, Shadows, measure
from client.cases import Cases
from configs.phases import phase_of
from configs.schema import Experiment
from simulation.audit.finished import Everybody, Federation
from simulation.audit.networks import Loss, begun, loss_of, network
from simulation.audit.releases import Release
from sst_models.phases.material import Material, make_learner
from sst_models.training.device import place
from sst_models.training.learner import Span, train
from sst_models.wire import weights

LEAST = 6
"""Fewest networks: without one and the other half's, each person has to be in, and out, at two."""

Train = Callable[[Sequence[int], int], nn.Module]
"""Trains a network on some scans, by their positions; the number is that of the shadow site, and seeds it."""

Watch = Callable[[int], None]
"""Called with how many networks are done."""


class Found:
    """The alignments of a site's scans, found once for all shadow sites, as `sst_models.propagation.align.Alignments`.

    Args:
        known: by the position of a scan; what is found is put there.
        scans: the positions of those that one shadow site has.
    """

    def __init__(self, known: dict[int, tuple[Tensor, Tensor]], scans: Sequence[int]) -> None:
        self._known, self._scans = known, scans

    def load(self, index: int) -> tuple[Tensor, Tensor] | None:
        """Give flow and labels of a shadow site's scan, if they are known."""
        return self._known.get(self._scans[index])

    def save(self, index: int, flow: Tensor, labels: Tensor) -> None:
        """Keep them for all."""
        self._known[self._scans[index]] = (flow.cpu(), labels.cpu())


@dataclass(frozen=True)
class Training:
    """How a part was trained in a run, to do it again with other people."""

    federation: Federation
    site: str
    release: Release  # of T, or of the segmenter
    cases: Cases  # all scans of the site
    alignments: dict[int, tuple[Tensor, Tensor]]  # of these, as far as they are known

    @property
    def experiment(self) -> Experiment:
        """The preset."""
        return self.federation.stage.experiment

    def trained(self, scans: Sequence[int], number: int) -> nn.Module:
        """Train the part on some scans, (positions), with the draws of a shadow site."""
        stage, state, part = self.federation.stage, self.federation.state, self.release.part
        phase, device = phase_of(self.release.phase), stage.device
        begin = begun(part, self.experiment, state, self.site, self.release.times)
        used = {each: network(each, state.of(each, self.site), self.experiment, device) for each in phase.uses}
        nets = {part: place(begin, device), **used}
        own = Cases.of([self.cases.paths[index] for index in scans])
        (atlas, labels), *more = ((image.to(device), own_labels.to(device)) for image, own_labels in stage.atlas.each)
        material = Material(own, atlas, alignments=Found(self.alignments, scans))
        if phase.labels:
            material = replace(material, labels=labels, further=tuple(more))
        learner = make_learner(phase.name, nets, self.experiment, material)
        settings = self.experiment.phases.of(phase.name)
        train(
            learner,
            Span(self.experiment.seed, ("shadow", str(number), phase.name), 0, settings.rounds * settings.steps),
        )
        return learner.nets[part].eval()


def attack(
    training: Training, everybody: Everybody, propagated: Tensor, sites: int, path: Path, watch: Watch
) -> Membership:
    """Train shadow networks of a part, as far as they were not trained before, and attack them.

    Args:
        training: of the part.
        everybody: the site's scans.
        propagated: (scans, D, H, W), the atlas's labels on each.
        sites: how many networks; even, and at least `LEAST`.
        path: keeps what the losses were, network by network.
        watch: is told how far it is.
    """
    loss = loss_of(training.release.part, training.federation.stage, everybody, propagated)
    losses = losses_of(training.trained, loss, everybody, sites, path, watch)
    return infer(losses, halves(len(losses.T), sites))


def halves(people: int, sites: int) -> Flags:
    """Say who is in at which shadow site, (sites, people): a half drawn at random, then the other half, and so on.

    More sites leave those that are there as they are.
    """
    drawn = [np.random.default_rng(pair).permutation(people) < people // 2 for pair in range(sites // 2)]
    return np.array([half for one in drawn for half in (one, ~one)])


def losses_of(train_one: Train, loss: Loss, everybody: Everybody, sites: int, path: Path, watch: Watch) -> Floats:
    """Give the mean loss of each person's scans under each shadow network, (sites, people)."""
    people = int(everybody.person.max()) + 1
    member = halves(people, sites)
    kept = list(weights.load(path)["losses"]) if path.exists() else []
    for number in range(len(kept), sites):
        scans = np.flatnonzero(member[number][everybody.person]).tolist()
        net = train_one(scans, number)
        with torch.no_grad():
            each = np.array([float(loss(net, index)) for index in range(len(everybody.person))])
        kept.append(torch.from_numpy(np.array([each[everybody.person == one].mean() for one in range(people)])))
        weights.save({"losses": torch.stack(kept)}, path)
        watch(number + 1)
    found: Floats = torch.stack(kept[:sites]).numpy()
    return found


def infer(losses: Floats, member: Flags) -> Membership:
    """Attack each network by all others but the one that the other half trained.

    Without that one each person was in as often as out in what the attacker knows, wherever she was in the network that
    is attacked. In and out have one standard deviation for each person: with few networks two would be too rough.

    Args:
        losses: (sites, people).
        member: (sites, people), from `halves`.
    """
    sites, people = losses.shape
    ratios = np.zeros_like(losses)
    for number in range(sites):
        others = [each for each in range(sites) if each // 2 != number // 2]
        fit = Shadows.of(-losses[others], member[others])
        spread = np.sqrt((np.square(fit.spread_in) + np.square(fit.spread_out)) / 2)
        ratios[number] = replace(fit, spread_in=spread, spread_out=spread).ratio(-losses[number : number + 1])[0]
    return measure(ratios.ravel(), member.ravel(), np.tile(np.arange(people), sites))
