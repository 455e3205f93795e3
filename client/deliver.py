"""Phases 7 and 8 at a site: test a segmenter on held-out labelled scans, and keep the one that is the site's."""

import json
import math

import torch

from client import alignments, scans
from client.bids import of_nobody
from client.cases import Cases
from client.expected import Expected, shares
from client.gate.release import DIGITS
from client.learn import load_nets
from client.model import AS_IT_BEGINS, Model, open_model, write_model
from client.progress import Progress
from client.quality import histogram, usual
from client.segment import predictor
from client.site import Site
from client.withheld import Withheld
from configs.errors import TooFewError
from configs.schema import from_json
from sst_models.propagation.predict import Prediction, segment
from sst_models.training.device import choose
from sst_models.volume.metrics import dice_per_group
from sst_models.wire.exchange import PhaseRequest, SiteReply

PEOPLE = 12
"""Training scans that say what is usual at a site, at most; each takes seconds to segment."""


def evaluate(request: PhaseRequest, site: Site) -> SiteReply:
    """Test a segmenter: mean Dice (0 to 1) per group over the site's labelled test scans leaves, and their count.

    A site without labels answers with a count of 0 and no figures.

    Raises:
        TooFewError: a mean over so few people would say much of each of them.
    """
    experiment, device = from_json(request.experiment), choose(site.device)
    parts = dict(request.arrays)
    if request.settings.get("style") == site.name and (
        own := Withheld(site, request.run, experiment).last("segmenter")
    ):
        parts["segmenter"] = own  # the one that it will be delivered; the hub has an older one
    net = load_nets(parts, ("segmenter",), experiment, device)["segmenter"].eval()
    held_out = scans.cases(site.folder(request.run), "test")
    people = len(set(scans.people(site.folder(request.run), "test")))
    if 0 < people < site.policy.min_test_people:
        raise TooFewError(f"{people} people to test on; the policy asks for {site.policy.min_test_people} or more")
    progress = Progress(site, request, len(held_out))
    rows: list[list[float]] = []
    groups = experiment.table.groups
    for position in range(len(held_out)):
        truth = held_out.labels(position)
        if truth is not None:
            found = segment(net, held_out.image(position).to(device), Prediction.of(experiment))
            dice = dice_per_group(found.cpu(), truth, experiment.table)
            rows.append([dice[group] for group in groups])
        progress.learnt(position + 1, 0.0)
    means = torch.tensor(rows).nanmean(dim=0).tolist() if rows else []
    metrics = {group: round(value, DIGITS) for group, value in zip(groups, means, strict=bool(means)) if value == value}
    return SiteReply(site.name, request.phase, request.round, len(rows), metrics=metrics)


def deliver(request: PhaseRequest, site: Site) -> SiteReply:
    """Keep the site's model as one folder, see `client.model`.

    Raises:
        DataError: the weights do not fit the preset, or the site has not joined the run.
    """
    experiment, folder, device = from_json(request.experiment), site.folder(request.run), choose(site.device)
    withheld = Withheld(site, request.run, experiment)
    mine = {part: kept for part in ("segmenter", "A") if (kept := withheld.last(part))}
    parts = {**request.arrays, **mine}
    load_nets(parts, ("segmenter",), experiment, torch.device("cpu"))
    own = scans.cases(folder, "train")
    found = usual([histogram(own.image(position)) for position in range(len(own))])
    about: dict[str, object] = {
        "run": request.run,
        "site": site.name,
        "sites": json.loads(str(request.settings.get("sites", "[]"))),
        "figures": json.loads(str(request.settings.get("figures", "{}"))),
        "histogram": [round(float(value), 6) for value in found],
    }
    if experiment.segmenter.fuse_registration:
        about["registration"] = "trained" if {"E", "F"} <= set(parts) else AS_IT_BEGINS
    further = scans.atlas_volumes(folder)[1:]
    if any(map(of_nobody, site.data)):
        about["simulated"] = True

    def write() -> None:
        write_model(folder / "model", parts, scans.frame(folder), experiment, about, further)

    write()  # opened again as whoever uses it will
    about["expected"] = _expected(open_model(folder / "model"), own, Progress(site, request, len(own)), device).card
    write()
    alignments.remove(folder)  # where `adapt` did not come to its end
    return SiteReply(site.name, request.phase, request.round, 0)


def _expected(model: Model, own: Cases, progress: Progress, device: torch.device) -> Expected:
    """Say what is usual at the site: of at most `PEOPLE` of its training scans, evenly apart, as its model has them."""
    predict, table = predictor(model, device, compare=False), model.experiment.table
    people = []
    for position in range(0, len(own), max(1, math.ceil(len(own) / PEOPLE))):
        image = own.image(position)
        people.append(shares(predict(image).probabilities.argmax(dim=0).cpu(), image[0] > 0, table))
        progress.learnt(position + 1, 0.0)
    return model.expect(people)
