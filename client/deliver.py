"""Phases 6 and 7 at a site: test a segmenter on held-out labelled scans, and keep the one that is the site's."""

import json

import torch

from client import scans
from client.learn import load_nets
from client.progress import Progress
from client.site import Site
from configs.schema import from_json
from configs.structures import GROUPS
from sst_models import weights
from sst_models.device import choose
from sst_models.exchange import PhaseRequest, SiteReply
from sst_models.files import write_json
from sst_models.metrics import dice_per_group
from sst_models.steps.segment import segment


def evaluate(request: PhaseRequest, site: Site) -> SiteReply:
    """Test a segmenter: mean Dice (0 to 1) per group over the site's labelled test scans leaves, and their count.

    A site without labels answers with a count of 0 and no figures.
    """
    experiment, device = from_json(request.experiment), choose(site.device)
    net = load_nets(request.arrays, ("segmenter",), experiment, device)["segmenter"].eval()
    held_out = scans.cases(site.folder(request.run), "test")
    progress = Progress(site, request, len(held_out))
    rows: list[list[float]] = []
    for position in range(len(held_out)):
        truth = held_out.labels(position)
        if truth is not None:
            found = segment(net, held_out.image(position).to(device), experiment.segmenter.normalise)
            dice = dice_per_group(found.cpu(), truth)
            rows.append([dice[group] for group in GROUPS])
        progress.learnt(position + 1, 0.0)
    means = torch.tensor(rows).nanmean(dim=0).tolist() if rows else []
    metrics = {group: value for group, value in zip(GROUPS, means, strict=bool(means)) if value == value}
    return SiteReply(site.name, request.phase, request.round, len(rows), metrics=metrics)


def deliver(request: PhaseRequest, site: Site) -> SiteReply:
    """Keep the site's segmenter as one folder: safetensors and a card of what it was made with."""
    experiment = from_json(request.experiment)
    folder = site.folder(request.run) / "model"
    net = load_nets(request.arrays, ("segmenter",), experiment, torch.device("cpu"))["segmenter"]
    weights.save(dict(net.named_parameters()), folder / "segmenter.safetensors")
    card = {"run": request.run, "site": site.name, "experiment": json.loads(request.experiment)}
    write_json(card, folder / "card.json")
    return SiteReply(site.name, request.phase, request.round, 0)
