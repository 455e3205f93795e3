"""Bayesian segmentation without labels of the site: a label prior that a network bends onto each scan.

Dalca, Yu, Golland, Fischl, Sabuncu & Iglesias 2019, "Unsupervised deep learning for Bayesian brain MRI segmentation"
(MICCAI). A scan's labels are drawn from a probabilistic atlas that a diffeomorphism bends, its intensities from one
Gaussian for each kind of structure. A network sees the scan and the atlas and gives the flow and the Gaussians; it
learns by how likely they make the scans of a site, whose contrast therefore need not be the atlas's. A scan is
segmented by Bayes' rule.

Where it differs from the paper, and why:

- the prior is one labelled scan, softened, as there is one: the authors' is the mean of many labelled heads;
- left and right share a Gaussian, and no other structures do: the 16 groups of this project;
- what is not named has two parts: air, whose Gaussian is known as scans are stripped of the skull, and tissue;
- the flow has half resolution, and a step sees one voxel of each cube of eight, another one each time: the gradient is
  that of all voxels in the mean, at an eighth of its cost;
- an intensity that no class expects has a small density of its own, so that single voxels do not rule the loss;
- the Gaussians begin with what EM makes of a few scans under the prior as it lies, so that a short training need not
  find them; their means and variances are bounded to what intensities in [0, 1] can have.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs.structures import LabelTable
from simulation.arms.arm import Bench, Lesson
from simulation.training import fit
from sst_models.networks.blocks import activate, check_sides, conv, double, fold
from sst_models.networks.build import seeded
from sst_models.propagation.em import EDGE, SPREAD
from sst_models.training.device import place
from sst_models.training.learner import Losses, Scans, adam
from sst_models.training.seeds import below
from sst_models.volume.groups import count, group_probabilities
from sst_models.volume.intensity import brain_mask
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.separable import blur
from sst_models.volume.warp import integrate, resize_flow, warp
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays

SOFT = EDGE
"""Millimetres, sigma by which the atlas's labels are softened to a prior: that of labels that flows propagate. Of bent
phantoms of spheres it gave 0.971 Dice, and 2.4 mm 0.960, by flows fitted alone."""

SMOOTHNESS = 0.3
"""Weight of the squared gradient of the flow against the mean log-likelihood of a voxel, lambda of the paper. Of 0.03,
0.3 and 3, 0.3 gave most Dice on the same phantoms: 0.970, 0.971 and 0.940."""

LEAST_VARIANCE = SPREAD**2
"""Of a Gaussian's intensities, and air's own."""

MOST_VARIANCE = 0.25
"""Likewise: nothing in [0, 1] varies more."""

OUTLIERS = 1e-4
"""Share of voxels whose intensity can be any in [0, 1], whatever their class."""

SQUARINGS = 7
"""Of the velocity; VoxelMorph's."""

WIDTHS = (16, 32, 32, 32)
"""Channels of the network from half resolution down, VoxelMorph's."""

RATE = 1e-3
"""Learning rate of Adam: that of this project's registration at so few steps; VoxelMorph's is 1e-4."""

COST = 0.19
"""Steps of a U-Net that one of these takes: of medians of 5 steps each, in turn, in one process of one thread, by the
preset real-cpu-statistics (64 x 80 x 80 voxels, batch 2) on a phantom of 27 % brain."""

FIRST_SCANS = 8
"""Scans from which the Gaussians begin."""

FIRST_PASSES = 10
"""Iterations of EM for them."""


def kinds(table: LabelTable) -> list[int]:
    """Give the Gaussian of each class, and of air, which comes after those of unnamed tissue and of the groups."""
    return [*table.group_of, count(table)]


@dataclass(frozen=True)
class Gaussians:
    """How bright each kind of voxel is in a scan: tissue without a name, the K groups, air."""

    mean: Tensor  # (K + 2,), in intensities of [0, 1]
    variance: Tensor  # (K + 2,)

    def log_density(self, intensities: Tensor) -> Tensor:
        """Give the log-density of intensities (...) in each kind, (K + 2, ...)."""
        mean, variance = (of.view(-1, *[1] * intensities.ndim) for of in (self.mean, self.variance))
        return -0.5 * ((intensities - mean).square() / variance + (2 * math.pi * variance).log())


def label_prior(atlas: Tensor, labels: AtlasLabels, spacing: float) -> Tensor:
    """Give the probability of each class in the atlas, softened.

    Args:
        atlas: (1, D, H, W) in [0, 1], background 0.
        labels: its labels.
        spacing: of the grid, mm.

    Returns:
        (classes, D, H, W): tissue without a name, and the structures. What they lack to 1 is air (`with_air`).
    """
    shares = labels.probabilities(atlas.new_zeros(1, 3, *atlas.shape[1:]))
    shares[0] *= brain_mask(atlas[None])[0, 0]
    return blur(shares, SOFT / spacing)


def with_air(prior: Tensor) -> Tensor:
    """Append the probability of air to those of all else, (C, ...): beyond the atlas, too, there is nothing else."""
    return torch.cat([prior, (1 - prior.sum(0, keepdim=True)).clamp(min=0)])


def negative_log_likelihood(intensities: Tensor, prior: Tensor, gaussians: Gaussians) -> Tensor:
    """Give minus the mean log-likelihood of intensities (...) under the mixture that a prior (K + 2, ...) weighs."""
    mixture = (prior * gaussians.log_density(intensities).exp()).sum(0)
    return -(mixture + OUTLIERS).log().mean()


def squared_gradient(flow: Tensor) -> Tensor:
    """Give the mean over voxels of the squared norm of the gradient of a flow (N, 3, D, H, W), by differences."""
    return 3 * torch.stack([flow.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).sum()


class BayesianNetwork(nn.Module):
    """See a scan and the prior, and give a velocity at half resolution and the scan's Gaussians.

    Args:
        groups: K + 1, tissue without a name among them.
        gaussians: with which it begins; air's stay as they are.
        widths: channels from half resolution down; each level halves the sides.
    """

    def __init__(self, groups: int, gaussians: Gaussians | None = None, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.enter = conv(8 + groups, widths[0])
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(conv(a + b, b) for a, b in zip(widths[::-1], widths[-2::-1], strict=False))
        self.refine = conv(widths[0], widths[0])
        self.velocity = conv(widths[0], 3)
        nn.init.normal_(self.velocity.weight, std=1e-5)  # VoxelMorph's: learning starts at the identity
        nn.init.zeros_(self.velocity.bias)  # type: ignore[arg-type]
        self.moments = nn.Linear(widths[0], 2 * groups)
        nn.init.zeros_(self.moments.weight)
        if gaussians is not None:
            shares = torch.cat(
                [gaussians.mean[:groups], (gaussians.variance[:groups] - LEAST_VARIANCE) / MOST_VARIANCE]
            )
            self.moments.bias.data.copy_(shares.clamp(1e-3, 1 - 1e-3).logit())

    def forward(self, scan: Tensor, prior: Tensor) -> tuple[Tensor, Gaussians]:
        """Map a scan (1, 1, D, H, W) and a prior (1, K + 1, D/2, H/2, W/2) to (1, 3, D/2, H/2, W/2) and Gaussians."""
        check_sides(scan)
        x = activate(self.enter(torch.cat([fold(scan, 2), prior], dim=1)))
        levels = [x]
        for down in self.down:
            levels.append(activate(down(levels[-1])))
        x = levels.pop()
        for up in self.up:
            x = activate(up(torch.cat([double(x), levels.pop()], dim=1)))
        x = activate(self.refine(x))
        mean, spread = self.moments(x.mean(dim=(0, 2, 3, 4))).sigmoid().chunk(2)
        air = scan.new_zeros(1)
        variance = LEAST_VARIANCE + MOST_VARIANCE * torch.cat([spread, air])
        return self.velocity(x), Gaussians(torch.cat([mean, air]), variance)


class BayesianLearner:
    """Train the network on unlabelled scans.

    Args:
        net: as it begins.
        scans: of the site.
        prior: (K + 1, D, H, W), of unnamed tissue and the groups.
    """

    def __init__(self, net: nn.Module, scans: Scans, prior: Tensor) -> None:
        self.scans, self.prior, self.seen = scans, prior[None], F.avg_pool3d(prior[None], 2)
        self.nets = {"bayesian": net}
        self.optimisers: dict[str, torch.optim.Optimizer] = {"bayesian": adam(net, RATE)}
        self.own: dict[str, Tensor] = {}

    def step(self, draws: torch.Generator) -> Losses:
        """Make one scan likelier, by an eighth of its voxels."""
        scan = self.scans.image(below(len(self.scans), draws)).to(self.prior)
        corner = [below(2, draws) for _ in range(3)]
        velocity, gaussians = self.nets["bayesian"](scan[None], self.seen)
        flow = integrate(velocity, SQUARINGS)
        prior = warp(self.prior, _on_eighth(resize_flow(flow, scan.shape[1:]), corner))
        misfit = negative_log_likelihood(_eighth(scan, corner)[0], with_air(prior[0]), gaussians)
        smoothness = squared_gradient(flow)
        total = misfit + SMOOTHNESS * smoothness
        self.optimisers["bayesian"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["bayesian"].step()
        return {"total": total, "misfit": misfit, "smoothness": smoothness}


def _eighth(maps: Tensor, corner: list[int]) -> Tensor:
    """Give one voxel of each cube of eight: (..., D, H, W) -> (..., D/2, H/2, W/2)."""
    i, j, k = corner
    return maps[..., i::2, j::2, k::2]


def _on_eighth(flow: Tensor, corner: list[int]) -> Tensor:
    """Give the flow that warps a volume of the whole grid onto the voxels of `_eighth`."""
    axes = [torch.arange(side // 2, device=flow.device) + at for side, at in zip(flow.shape[2:], corner, strict=True)]
    return _eighth(flow, corner) + torch.stack(torch.meshgrid(*axes, indexing="ij"))


def first_gaussians(scans: Scans, prior: Tensor) -> Gaussians:
    """Give the Gaussians of the brains of a few scans under a prior (K + 1, D, H, W) as it lies, by EM."""
    few = [scans.image(index)[0].to(prior) for index in range(min(len(scans), FIRST_SCANS))]
    whole, found = with_air(prior), None
    for _ in range(FIRST_PASSES):
        sums = torch.stack([_moments(scan[scan > 0], whole[:, scan > 0], found) for scan in few]).sum(0)
        mean, square = sums[1:] / sums[0].clamp(min=1e-6)
        found = Gaussians(mean, (square - mean.square()).clamp(min=0) + LEAST_VARIANCE)
    assert found is not None
    return found


def _moments(values: Tensor, prior: Tensor, gaussians: Gaussians | None) -> Tensor:
    """Give count, sum and sum of squares (3, K + 2) of values (V,) by a prior (K + 2, V), and by Gaussians."""
    if gaussians is not None:
        prior = prior * gaussians.log_density(values).exp()
        prior = prior / (prior.sum(0) + OUTLIERS)
    return torch.stack([prior.sum(1), prior @ values, prior @ values.square()])


def learn(bench: Bench, site: str, lesson: Lesson) -> Arrays:
    """Train the network on a site's scans; give its weights."""
    scans, seed = bench.scans(site), bench.experiment.seed
    prior = group_probabilities(label_prior(*bench.atlas, bench.experiment.grid.spacing), bench.atlas[1].table)
    net = place(_build(bench, first_gaussians(scans, prior)), bench.device)
    learner = BayesianLearner(net, scans, prior)
    fit(learner, "bayesian", seed, lesson.steps_of(COST), lesson.folder, lesson.counted(COST))
    return weights.parameters(net)


def _build(bench: Bench, gaussians: Gaussians | None = None) -> BayesianNetwork:
    """Make the network with first weights that depend on the seed, and on the Gaussians, alone."""
    groups = count(bench.atlas[1].table)
    return seeded(lambda: BayesianNetwork(groups, gaussians), bench.experiment.seed, "bayesian")


class BayesianSegmenter:
    """Segment scans by what `learn` gave."""

    def __init__(self, arrays: Arrays, bench: Bench) -> None:
        net = _build(bench)
        weights.load_parameters(net, arrays, "bayesian")
        self.net = place(net, bench.device).eval()
        self.prior = label_prior(*bench.atlas, bench.experiment.grid.spacing)
        self.kinds = kinds(bench.atlas[1].table)
        self.seen = F.avg_pool3d(group_probabilities(self.prior, bench.atlas[1].table)[None], 2)

    @torch.no_grad()
    def posterior(self, scan: Tensor) -> tuple[Tensor, Tensor]:
        """Segment a scan (1, D, H, W) by Bayes' rule.

        Returns:
            The probability of each class, (classes, D, H, W), and the flow (1, 3, D, H, W) in voxels, scan -> atlas.
        """
        velocity, gaussians = self.net(scan[None], self.seen)
        flow = resize_flow(integrate(velocity, SQUARINGS), scan.shape[1:])
        prior = with_air(warp(self.prior[None], flow)[0])
        found = torch.softmax(prior.log() + gaussians.log_density(scan[0])[self.kinds], dim=0)
        return torch.cat([found[:1] + found[-1:], found[1:-1]]), flow
