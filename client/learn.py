"""The phases in which a site learns: take the hub's weights, train on own scans, give back what is declared."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from client import alignments, scans
from client.cases import Cases, OnDevice
from client.progress import Progress
from client.site import Site
from client.withheld import Withheld
from configs.errors import DataError, FederationError, TooFewError
from configs.phases import Phase, phase_of
from configs.schema import Experiment, from_json
from sst_models.networks.build import build, first
from sst_models.phases.material import Material, make_learner
from sst_models.phases.moments import StyleMoments
from sst_models.phases.style import encode_all
from sst_models.training.device import choose, place
from sst_models.training.learner import Learner, Span, memory, recall, train
from sst_models.training.private import PrivateLearner, Separable
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply


def learn(request: PhaseRequest, site: Site) -> SiteReply:
    """Train one round of a phase.

    What is the site's own (optimisers, queue, key encoder) is read from the last round's file and written to this
    round's: a request that is asked again starts from the same place and gives the same reply. A part that the phase
    uses and the hub did not send is as it begins: the gate lets only `adapt` go without.

    Where the gate says so (`Site.dp_sgd`), training hides people, nothing that was learnt here without noise is part of
    it, and it is another reply each time.

    Raises:
        DataError: the site has not joined, or the weights do not fit the preset.
        FederationError: the phase cannot be trained so that it hides people.
        TooFewError: it has fewer training scans than its policy asks for.
    """
    experiment, phase, folder = from_json(request.experiment), phase_of(request.phase), site.folder(request.run)
    device = choose(site.device)
    own = scans.cases(folder, "train")
    material = _material(request, own, folder, experiment, device)
    if site.policy.trains and len(own) < site.policy.min_scans:
        raise TooFewError(f"{len(own)} training scans; the policy asks for {site.policy.min_scans} or more")
    withheld = Withheld(site, request.run, experiment)
    untrained = {part: weights.parameters(first(part, experiment)) for part in phase.uses if part not in request.arrays}
    ours = {} if site.dp_sgd else withheld.before(phase.name, request.round)
    arrays = {**untrained, **request.arrays, **ours}
    nets = load_nets(arrays, phase.learns + phase.uses, experiment, device)
    if phase.labels:  # it aligns the atlas
        kept = alignments.KeptAlignments.of(folder, own, nets, experiment)
        material = replace(material, alignments=kept)
    learner = make_learner(phase.name, nets, experiment, material)
    if site.dp_sgd:
        learner = _private(learner, site, scans.people(folder, "train"))
    if request.round > 1:
        recall(learner, weights.load(_memory_file(folder, phase, request.round - 1, site)))
    steps = experiment.phases.of(phase.name).steps
    span = Span(site.seed(experiment.seed), (site.name, phase.name), (request.round - 1) * steps, steps)
    history = train(learner, span, Progress(site, request, steps).learnt)
    weights.save(memory(learner), _memory_file(folder, phase, request.round, site))
    learnt = {part: weights.parameters(learner.nets[part]) for part in phase.learns}
    withheld.keep(phase.name, request.round, learnt)
    if phase.labels and request.round == experiment.phases.rounds(phase.name):
        alignments.remove(folder)
    return SiteReply(
        site.name,
        phase.name,
        request.round,
        len(own),
        arrays=_released(learnt, phase, site, material, nets),
        metrics=history.last if site.policy.releases_curves else {},
        series=history.series if site.policy.releases_curves else {},
    )


def load_nets(
    arrays: Mapping[str, Arrays], parts: tuple[str, ...], experiment: Experiment, device: torch.device
) -> dict[str, nn.Module]:
    """Build the networks of `parts` and give them the hub's weights.

    Raises:
        DataError: a part is missing, or its weights do not fit the preset.
    """
    nets: dict[str, nn.Module] = {}
    for part in parts:
        if part not in arrays:
            raise DataError(f"the request holds no weights of {part}; hub and site need the same version")
        net = build(part, experiment)
        weights.load_parameters(net, arrays[part], part)
        nets[part] = place(net, device)
    return nets


def _material(
    request: PhaseRequest, own: Cases, folder: Path, experiment: Experiment, device: torch.device
) -> Material:
    if not len(own):
        raise DataError(f"no scan to train on in {folder}")
    foreign = tuple(
        StyleMoments(torch.from_numpy(arrays["mean"].copy()), torch.from_numpy(arrays["std"].copy()))
        for part, arrays in sorted(request.arrays.items())
        if part.startswith("moments.")
    )
    held = own if device.type == "cpu" else OnDevice(own, device)
    sent = request.arrays.get("atlas", {})
    if "labels" not in sent:
        return Material(held, scans.atlas_volumes(folder)[0].to(device), foreign)
    (atlas, labels), *further = scans.atlases(folder, sent["labels"], experiment, device)
    return Material(held, atlas, foreign, labels, tuple(further))


def _released(
    learnt: dict[str, dict[str, np.ndarray]], phase: Phase, site: Site, material: Material, nets: dict[str, nn.Module]
) -> dict[str, dict[str, np.ndarray]]:
    released = {part: arrays for part, arrays in learnt.items() if not site.policy.withholds(part)}
    if phase.moments and site.policy.releases_moments and len(material.scans) >= max(2, site.policy.min_cases):
        moments = StyleMoments.of(encode_all(nets["E"], material.scans, material.atlas.device))
        released["moments"] = {"mean": moments.mean.cpu().numpy(), "std": moments.std.cpu().numpy()}
    return released


def _private(learner: Learner, site: Site, whose: list[str]) -> PrivateLearner:
    if site.dp_sgd is None or not isinstance(learner, Separable):
        raise FederationError("this phase cannot be trained with noise here; hub and site need the same version")
    return PrivateLearner(learner, site.dp_sgd, whose)


def _memory_file(folder: Path, phase: Phase, number: int, site: Site) -> Path:
    """Optimisers that followed gradients without noise are no base for a round with it: each kind has its own file."""
    return folder / "own" / f"{phase.name}{'-private' if site.dp_sgd else ''}-{number}.safetensors"
