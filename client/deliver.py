"""Phases 7 and 8 at a site: test a segmenter on held-out labelled scans, and keep the one that is the site's."""

import json

import torch

from client import scans
from client.learn import load_nets
from client.model import write_model
from client.progress import Progress
from client.quality import histogram, usual
from client.site import Site
from configs.schema import from_json
from configs.structures import GROUPS
from sst_models.propagation.predict import Prediction, segment
from sst_models.training.device import choose
from sst_models.volume.metrics import dice_per_group
from sst_models.wire.exchange import PhaseRequest, SiteReply


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
            found = segment(net, held_out.image(position).to(device), Prediction.of(experiment))
            dice = dice_per_group(found.cpu(), truth)
            rows.append([dice[group] for group in GROUPS])
        progress.learnt(position + 1, 0.0)
    means = torch.tensor(rows).nanmean(dim=0).tolist() if rows else []
    metrics = {group: value for group, value in zip(GROUPS, means, strict=bool(means)) if value == value}
    return SiteReply(site.name, request.phase, request.round, len(rows), metrics=metrics)


def deliver(request: PhaseRequest, site: Site) -> SiteReply:
    """Keep the site's model as one folder, see `client.model`.

    Raises:
        DataError: the weights do not fit the preset, or the site has not joined the run.
    """
    experiment, folder = from_json(request.experiment), site.folder(request.run)
    load_nets(request.arrays, ("segmenter",), experiment, torch.device("cpu"))
    own = scans.cases(folder, "train")
    found = usual([histogram(own.image(position)) for position in range(len(own))])
    about = {
        "run": request.run,
        "site": site.name,
        "sites": json.loads(str(request.settings.get("sites", "[]"))),
        "figures": json.loads(str(request.settings.get("figures", "{}"))),
        "histogram": [round(float(value), 6) for value in found],
    }
    write_model(folder / "model", request.arrays, scans.frame(folder), experiment, about)
    return SiteReply(site.name, request.phase, request.round, 0)
