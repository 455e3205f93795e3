"""How much of a scan a hub can draw out of one approved round, by matching the gradients of the weights that it gets.

    python benchmarks/reconstruction.py --site oasis=FOLDER --atlas IMAGE LABELS --work RUN

The hub is hostile, and the gate of the site holds: first weights and hyper-parameters are those of the approved preset,
and each round is answered once. It knows the preset, the atlas, and the weights before and after the round. In a second
round it sends crafted weights, as far from the last ones as the gate lets weights lie (`client.gate.bounds`), in the
direction in which the loss on the atlas rises fastest, so that gradients are large. It searches
volumes, beginning from the atlas, whose gradient points where the weights went (Geiping et al. 2020, cosine distance
with total variation). How near they come to the site's training scans is told beside how near they come to strangers:
people of the same site that did not train, as PSNR in the brain (dB, intensities from 0 to 1) and as correlation. All
brains that were aligned to one atlas are alike, so that correlation is also told without the mean of all others.

The same search on the exact gradient of one volume shows what it can do where nothing stands in its way.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn

from client import scans
from client.gate.bounds import FAR, reach
from client.gate.policy import Policy
from client.site import Site
from configs.schema import Experiment, load
from server.atlas import Atlas, load_atlas, published
from sst_models.losses.contrastive import info_nce
from sst_models.networks.build import build
from sst_models.phases.material import Material, make_learner
from sst_models.phases.moments import draw_prior_codes
from sst_models.training.learner import Span, train
from sst_models.wire import weights
from sst_models.wire.payload import distance

KINDS = ("training", "stranger")

Gradient = Callable[[Tensor], list[Tensor]]
"""Gives the gradient of a part's weights for volumes (N, 1, D, H, W); can itself be differentiated."""


@dataclass(frozen=True)
class Victim:
    """Who trains, and who does not."""

    training: Tensor  # (N, 1, D, H, W)
    strangers: Tensor  # (M, 1, D, H, W)
    atlas: Tensor  # (1, 1, D, H, W)


class Listed(list[Tensor]):
    """Volumes in memory as a site's scans."""

    def image(self, index: int) -> Tensor:
        """Give one volume, (1, D, H, W)."""
        return self[index]


def prepared(name: str, data: Path, atlas: Atlas, work: Path, split: str) -> list[Tensor]:
    """Prepare a site's scans, and give those of one split."""
    site = Site(name, (data,), work / name, Policy())
    scans.keep_atlas(published(atlas), atlas.digest, site.folder("run"))
    scans.prepare_scans(site, "run", load("real-cpu"))
    names = (split,) if split else ("train", "val", "test")
    return [
        cases.image(i) for one in names for cases in [scans.cases(site.folder("run"), one)] for i in range(len(cases))
    ]


@dataclass(frozen=True)
class Round:
    """The weights of one part before a round at the site, and after it."""

    before: dict[str, np.ndarray]
    after: dict[str, np.ndarray]


def trained(
    phase: str, part: str, nets: dict[str, nn.Module], experiment: Experiment, victim: Victim, gradient: Gradient
) -> tuple[Round, Round]:
    """Train two rounds as the site does, with a seed that the hub does not know; it crafts the second one's weights.

    Args:
        phase: of the rounds.
        part: that is crafted.
        nets: with first weights.
        experiment: the preset.
        victim: the site.
        gradient: of the part's weights in `nets`.
    """
    learner = make_learner(phase, nets, experiment, Material(Listed(victim.training), victim.atlas[0]))
    steps, found = experiment.phases.of(phase).steps, []
    for number in range(2):
        before = weights.parameters(learner.nets[part])
        train(learner, Span(987_654_321, ("site", phase), number * steps, steps))
        found.append(Round(before, weights.parameters(learner.nets[part])))
        if not number:
            with twice_differentiable():
                slopes = gradient(victim.atlas.repeat(2, 1, 1, 1, 1))
            names = [name for name, _ in learner.nets[part].named_parameters()]
            rise = {name: slope for name, slope in zip(names, slopes, strict=True) if slope is not None}
            weights.load_parameters(
                learner.nets[part], crafted(found[0], rise, reach(part, [(phase, 1)], experiment)), part
            )
    return found[0], found[1]


def crafted(last: Round, rise: dict[str, Tensor], most: float) -> dict[str, np.ndarray]:
    """Give weights that lie from the last ones as far as a site lets them, where the loss rises fastest.

    Args:
        last: the round before: they may lie `bounds.FAR` times as far from those it began with as it moved them.
        rise: the gradient of the loss.
        most: that a single weight may have moved by.
    """
    length = FAR * distance(last.after, last.before)
    whole = sum(float(one.square().sum()) for one in rise.values()) ** 0.5
    steps = {name: length / whole * slope.detach().cpu().numpy() for name, slope in rise.items()}
    moved = {name: np.clip(step, -most, most).astype(np.float32) for name, step in steps.items()}
    return {name: array + moved.get(name, np.float32(0)) for name, array in last.before.items()}


def contrastive(net: nn.Module, experiment: Experiment) -> Gradient:
    """Give E's gradient of eq. 1; the second half of the volumes are the positive keys of the first."""
    draws = torch.Generator().manual_seed(0)
    queue = draw_prior_codes(experiment.style.queue, experiment.style.code, draws)

    def gradient(volumes: Tensor) -> list[Tensor]:
        query, key = net(volumes).chunk(2)
        loss = info_nce(query, key.detach(), queue, experiment.style.temperature)
        return list(torch.autograd.grad(loss, list(net.parameters()), create_graph=True, allow_unused=True))

    return gradient


def appearance(net: nn.Module, encoder: nn.Module) -> Gradient:
    """Give A's gradient of eq. 3 and 5, with functions that can be differentiated twice."""

    def gradient(volumes: Tensor) -> list[Tensor]:
        codes = encoder(volumes).detach()
        styled, same = net(torch.cat([volumes, volumes]), torch.cat([codes.roll(1, 0), codes])).chunk(2)
        loss = _plain_distance(volumes, net(styled, codes)) + _plain_distance(volumes, same)
        return list(torch.autograd.grad(loss, list(net.parameters()), create_graph=True))

    return gradient


def _plain_distance(one: Tensor, other: Tensor) -> Tensor:
    """Give half of L1 and half of 1 - SSIM at one scale, as eq. 4 in PyTorch's own functions."""
    one_mean, other_mean, squares, product = (
        nn.functional.avg_pool3d(each, 7, stride=1) for each in (one, other, one**2 + other**2, one * other)
    )
    spread, cross = squares - one_mean**2 - other_mean**2 + 9e-4, 2 * (product - one_mean * other_mean) + 9e-4
    bright = (2 * one_mean * other_mean + 1e-4) / (one_mean**2 + other_mean**2 + 1e-4)
    return 0.5 * (one - other).abs().mean() + 0.5 * (1 - (cross / spread * bright).mean())


def _plain_norm(x: Tensor, std: Tensor, mean: Tensor, mask: Tensor, slope: float, eps: float = 1e-5) -> Tensor:
    """Give what `normalise_activate` gives, in PyTorch's own functions."""
    count = mask.sum(dim=(2, 3, 4), keepdim=True).clamp(min=1)
    centre = (x * mask).sum(dim=(2, 3, 4), keepdim=True) / count
    spread = ((x - centre) ** 2 * mask).sum(dim=(2, 3, 4), keepdim=True) / count
    shaped = (x - centre) / (spread + eps).sqrt() * std[..., None, None, None] + mean[..., None, None, None]
    return nn.functional.leaky_relu(shaped, slope)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Let A's normalisation be PyTorch's own functions; a mask is always there."""
    with patch("sst_models.networks.appearance.normalise_activate", _plain_norm):
        yield


@twice_differentiable()
def search(wanted: Sequence[Tensor], gradient: Gradient, start: Tensor, steps: int) -> Tensor:
    """Search volumes whose gradient has the direction of `wanted`; the best that was met."""
    inside = (start[:1] > 0).to(start)
    volumes = (start + 0.02 * torch.randn(start.shape, generator=torch.Generator().manual_seed(1))) * inside
    volumes.requires_grad_(True)
    optimiser = torch.optim.Adam([volumes], lr=0.01)
    best, found = float("inf"), volumes.detach().clone()
    for step in range(steps):
        distance = _distance(gradient(volumes), wanted)
        total = distance + 1e-3 * _variation(volumes)
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        with torch.no_grad():
            volumes.mul_(inside).clamp_(0.0, 1.0)
        if float(distance.detach()) < best:
            best, found = float(distance.detach()), volumes.detach().clone()
        if step % 50 == 0:
            print(f"  step {step}: cosine distance {float(distance.detach()):.4f}", flush=True)
    return found


def _distance(found: Sequence[Tensor | None], wanted: Sequence[Tensor]) -> Tensor:
    pairs = [
        (f.flatten(), w.flatten()) for f, w in zip(found, wanted, strict=True) if f is not None and w.abs().sum() > 0
    ]
    return torch.stack([1 - nn.functional.cosine_similarity(f, w, dim=0) for f, w in pairs]).mean()


def _variation(volumes: Tensor) -> Tensor:
    return torch.stack([volumes.diff(dim=axis).abs().mean() for axis in (2, 3, 4)]).mean()


def nearness(found: Tensor, victim: Victim) -> dict[str, list[float]]:
    """Give how like the found volumes are to the training scans, and to strangers, within the atlas's brain.

    For each person the best of the found volumes counts. "own" is what remains of a volume and of a person's without
    the mean of all other people of the site.
    """
    inside = victim.atlas[0, 0] > 0
    people = torch.stack([one[0][inside] for one in (*victim.training, *victim.strangers)])
    rows: dict[str, list[float]] = {f"{what}{kind}": [] for what in ("dB ", "", "own ") for kind in KINDS}
    for number, person in enumerate(people):
        kind = KINDS[number >= len(victim.training)]
        mean = (people.sum(dim=0) - person) / (len(people) - 1)
        here = [volume[0][inside] for volume in found]
        rows[f"dB {kind}"].append(max(_psnr(one, person) for one in here))
        rows[kind].append(max(_correlation(one, person) for one in here))
        rows[f"own {kind}"].append(max(_correlation(one - mean, person - mean) for one in here))
    return rows


def _psnr(one: Tensor, other: Tensor) -> float:
    return -10 * math.log10(max(float((one - other).square().mean()), 1e-12))


def _correlation(one: Tensor, other: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([one, other]))[0, 1])


def run(victim: Victim, experiment: Experiment, steps: int) -> dict[str, dict[str, list[float]]]:
    """Carry out the attacks, and their controls."""
    results: dict[str, dict[str, list[float]]] = {}
    start = {"E": victim.atlas.repeat(2, 1, 1, 1, 1), "A": victim.atlas}
    rounds: dict[str, tuple[Round, Round]] = {}
    for phase, part in (("style", "E"), ("joint", "A")):
        nets = {name: build(name, experiment) for name in ("T", "E", "D_style", "A", "F")}
        gradient = gradients_of(part, {"E": nets["E"], "A": nets["A"]}, experiment)
        rounds[part] = trained(phase, part, nets, experiment, victim, gradient)
    fresh = {part: build(part, experiment) for part in ("E", "A")}
    for part, count in (("E", 2), ("A", 1)):
        gradient = gradients_of(part, fresh, experiment)
        print(f"control: exact gradient of {part} on {count} training scans", flush=True)
        with twice_differentiable():
            exact = [g.detach() for g in gradient(victim.training[:count])]
        found = search(exact, gradient, start[part], steps)
        others = torch.cat([victim.training[count:], victim.strangers])
        results[f"exact gradient of {part}, {count} scan(s)"] = nearness(
            found, Victim(victim.training[:count], others, victim.atlas)
        )
    for part, own in rounds.items():
        for which, one in zip(("first", "crafted"), own, strict=True):
            print(f"attack: {part} after a round from {which} weights", flush=True)
            weights.load_parameters(fresh[part], one.before, part)
            names = [name for name, _ in fresh[part].named_parameters()]
            wanted = [torch.from_numpy(one.before[name] - one.after[name]) for name in names]
            found = search(wanted, gradients_of(part, fresh, experiment), start[part], steps)
            results[f"{part} after a round from {which} weights"] = nearness(found, victim)
    return results


def gradients_of(part: str, nets: dict[str, nn.Module], experiment: Experiment) -> Gradient:
    """Give the gradient of E or of A."""
    return contrastive(nets["E"], experiment) if part == "E" else appearance(nets["A"], nets["E"])


def main() -> None:
    """Prepare, attack, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", required=True, metavar="NAME=DIR")
    parser.add_argument("--atlas", required=True, nargs=2, type=Path, metavar=("IMAGE", "LABELS"))
    parser.add_argument("--preset", default="real-cpu")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    experiment = load(given.preset, ["bf16_cpu=false", "federation.foreign_negatives=0"])
    grid = experiment.grid
    image, labels = given.atlas
    atlas = load_atlas(image, labels, grid.shape, grid.spacing, grid.label_oversampling)
    name, _, data = given.site.partition("=")
    own = [prepared(name, Path(data), atlas, given.work, split) for split in ("train", "val", "test")]
    strangers = [*own[1], *own[2]]
    victim = Victim(torch.stack(own[0]), torch.stack(strangers), atlas.image[None])
    print(f"{len(own[0])} training scans, {len(strangers)} strangers", flush=True)
    results = run(victim, experiment, given.steps)
    (given.work / "reconstruction.json").write_text(json.dumps(results, indent=1))
    print("mean, most | dB: training | strangers | correlation: training | strangers | without the mean: both")
    for what, rows in results.items():
        print(f"{what} | " + " | ".join(f"{np.mean(rows[key]):.3f}, {max(rows[key]):.3f}" for key in rows))


if __name__ == "__main__":
    main()
