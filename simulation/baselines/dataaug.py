"""DataAug: a segmenter learns from the atlas, changed as unlabelled scans differ from it (Zhao et al. 2019).

"Data augmentation using learned transformations for one-shot medical image segmentation", CVPR 2019. A network
registers the atlas to scans and scans to the atlas; another finds the change of intensity, voxel by voxel in the
atlas's frame, that makes the atlas look like a scan (Sec. 3). Pairs are the atlas with the change of one scan, bent
by the flow of another, and its labels bent alike: the paper's independent sampling, which was its better one.

It differs from the paper for the sake of a comparison in minutes on a CPU. One network registers both ways, where the
paper has one for each: on made-up brains it gained three times the Dice in the same time. Networks read at half
resolution, with all voxels folded into channels, and learn at twice the rate; the cross-correlation's window is this
project's. A change of intensity stays in the brain, as the background of scans is 0. The segmenter is the product's
3D U-Net with its own mirror images and small affines, in place of a U-Net of slices with random smooth flows.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simulation.arms.arm import Bench, Lesson
from simulation.training import fit, train_alone
from sst_models.losses.flow import gradient_l2
from sst_models.losses.structural import lncc
from sst_models.networks.blocks import activate, conv, double, fold, unfold
from sst_models.networks.build import seeded
from sst_models.networks.registration import RegistrationUNet
from sst_models.phases.register import LNCC_WINDOW
from sst_models.phases.segment import Pairs
from sst_models.training.device import place
from sst_models.training.learner import Losses, Scans, adam, freeze
from sst_models.training.seeds import below, generator
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.warp import warp
from sst_models.wire.exchange import Arrays

WIDTHS = (16, 32, 32, 32)
"""Channels of each level, the finest first: VoxelMorph's encoder (Balakrishnan et al. 2019), which both of the
paper's transform models have."""

HALF = 2
"""Factor by which voxels are folded into channels."""

SMOOTHNESS = 1.0
"""Of a flow's squared gradient beside 1 - LNCC: VoxelMorph's for cross-correlation (Balakrishnan et al. 2019). Both
are free of the voxel's size."""

APPEARANCE_SMOOTHNESS = 0.02
"""lambda_a, of the smoothness of a change of intensity beside the mean squared error; the paper's."""

RATE = 1e-3
"""Of Adam, twice the paper's, as there are few steps; at three times this, changes of intensity diverged."""

BATCH = 2
"""Scans a step of the changes of intensity: one would cost as much (`blocks.Conv`). A step of the registration takes
one scan both ways, for the same reason."""

SPATIAL_COST, APPEARANCE_COST, PREPARED_COST = 0.21, 0.18, 0.07
"""Steps of a U-Net that one step of each training takes, and one scan that is registered and given its change.

Medians of the time of one CPU thread over 4 interleaved steps in one process: preset `real-cpu-statistics`, a made-up
brain in 15 % of 64 x 80 x 80 voxels, labels three times as fine, no AMX. A pair, once prepared, takes 0.006."""

SPATIAL_SHARE, APPEARANCE_SHARE = 0.3, 0.1
"""Of the time; the segmenter has the rest. On made-up brains the registration still gained after 160 steps, while 40
had taken two thirds off the error of a change of intensity."""

MOST_SCANS = 100
"""Scans whose transforms are kept, 4 MB each at 64 x 80 x 80 voxels: as many unlabelled ones as the paper has."""


class AppearanceUNet(nn.Module):
    """Find what to add to the atlas so that it looks like a scan: h of the paper, shaped as `RegistrationUNet`.

    The last layer gives a value to each voxel that was folded into channels, so that a change may be sharp.
    """

    def __init__(self) -> None:
        super().__init__()
        self.enter = conv(2 * HALF**3, WIDTHS[0])
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False))
        rising = list(zip(WIDTHS[::-1], WIDTHS[-2::-1], strict=False))
        self.up = nn.ModuleList(conv(a + b, b) for a, b in rising)
        self.refine = conv(WIDTHS[0], WIDTHS[0])
        self.head = conv(WIDTHS[0], HALF**3)

    def forward(self, atlas: Tensor, aligned: Tensor) -> Tensor:
        """Map the atlas and scans in its frame, (N, 1, D, H, W) both, to changes of the same shape in the brain."""
        levels = [activate(self.enter(fold(torch.cat([atlas, aligned], dim=1), HALF)))]
        for down in self.down:
            levels.append(activate(down(levels[-1])))
        x = levels.pop()
        for up in self.up:
            x = activate(up(torch.cat([double(x), levels.pop()], dim=1)))
        change: Tensor = unfold(self.head(activate(self.refine(x))), HALF) * (atlas > 0)
        return change


AXES = (2, 3, 4)


def boundaries(labels: Tensor) -> Tensor:
    """Give c of the paper: whether a voxel of (D, H, W) has another label than one of its six neighbours."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    for axis, side in enumerate(labels.shape):
        first, second = (found.narrow(axis, start, side - 1) for start in (0, 1))
        differs = labels.narrow(axis, 0, side - 1) != labels.narrow(axis, 1, side - 1)
        first |= differs
        second |= differs
    return found


def change_roughness(change: Tensor, borders: Tensor) -> Tensor:
    """Give the paper's L_smooth, (1 - c) |grad psi|: how a change varies from voxel to voxel, borders left out.

    Args:
        change: psi, (N, 1, D, H, W).
        borders: c, (D, H, W).

    Returns:
        A scalar, the mean of the three axes' mean absolute forward differences. The paper leaves the norm open.
    """
    free = (~borders).to(change.dtype)
    terms = [(change.diff(dim=axis).abs() * free.narrow(axis - 2, 0, free.shape[axis - 2] - 1)).mean() for axis in AXES]
    return torch.stack(terms).mean()


class SpatialLearner:
    """Train the registration, without labels: the atlas onto a scan and the scan onto the atlas.

    Args:
        nets: {"spatial"}.
        atlas: (1, D, H, W) in [0, 1].
        scans: the site's training scans.
    """

    def __init__(self, nets: dict[str, nn.Module], atlas: Tensor, scans: Scans) -> None:
        self.nets, self.atlas, self.scans = nets, atlas, scans
        self.optimisers: dict[str, torch.optim.Optimizer] = {"spatial": adam(nets["spatial"], RATE)}
        self.own: dict[str, Tensor] = {}

    def step(self, draws: torch.Generator) -> Losses:
        """Register the atlas and a scan, both ways."""
        scan = self.scans.image(below(len(self.scans), draws)).to(self.atlas)
        moving, fixed = torch.stack([self.atlas, scan]), torch.stack([scan, self.atlas])
        flow = self.nets["spatial"](moving, fixed)
        unlike, roughness = 1 - lncc(fixed, warp(moving, flow), LNCC_WINDOW), gradient_l2(flow)
        total = unlike + SMOOTHNESS * roughness
        _learn_from(total, self.optimisers["spatial"])
        return {"total": total, "unlike": unlike, "roughness": roughness}


@dataclass(frozen=True)
class Kept:
    """How a scan and the atlas lie to each other, in half precision: a flow is right to a hundredth of a voxel."""

    flow: Tensor  # (1, 3, D, H, W) voxels, scan -> atlas: bends the atlas onto the scan
    aligned: Tensor  # (1, 1, D, H, W), the scan in the atlas's frame


class Registered:
    """Scans with their registrations, each made when it is first asked for, then kept.

    Args:
        net: registers a moving volume to a fixed one; from now on it stays as it is.
        atlas: (1, D, H, W) in [0, 1].
        scans: the site's training scans.
        seed: says which `MOST_SCANS` of them count, where there are more.
    """

    def __init__(self, net: nn.Module, atlas: Tensor, scans: Scans, seed: int) -> None:
        freeze([net])
        self.net, self.atlas, self.scans = net, atlas, scans
        order = torch.randperm(len(scans), generator=generator(seed, "DataAug", "scans"))
        self.chosen: list[int] = order[:MOST_SCANS].tolist()
        self._kept: dict[int, Kept] = {}

    def __len__(self) -> int:
        """Give the number of scans that count."""
        return len(self.chosen)

    def image(self, index: int) -> Tensor:
        """Give a scan, (1, D, H, W), where the atlas is."""
        return self.scans.image(self.chosen[index]).to(self.atlas)

    @torch.no_grad()
    def __getitem__(self, index: int) -> Kept:
        """Give the registrations of a scan."""
        if index not in self._kept:
            atlas, scan = self.atlas[None], self.image(index)[None]
            flow, aligned = self.net(atlas, scan), warp(scan, self.net(scan, atlas))
            self._kept[index] = Kept(flow.half(), aligned.half())
        return self._kept[index]


class AppearanceLearner:
    """Train the network of changes: the atlas with its change, bent onto a scan, is to be the scan (paper's L_a).

    Args:
        nets: {"appearance"}.
        labels: the atlas's, (D, H, W) class indices.
        registered: the scans.
    """

    def __init__(self, nets: dict[str, nn.Module], labels: Tensor, registered: Registered) -> None:
        self.nets, self.registered, self.borders = nets, registered, boundaries(labels)
        self.optimisers: dict[str, torch.optim.Optimizer] = {"appearance": adam(nets["appearance"], RATE)}
        self.own: dict[str, Tensor] = {}

    def step(self, draws: torch.Generator) -> Losses:
        """Change the atlas to a batch of scans."""
        drawn = [below(len(self.registered), draws) for _ in range(BATCH)]
        scans = torch.stack([self.registered.image(index) for index in drawn])
        kept = [self.registered[index] for index in drawn]
        atlas = self.registered.atlas.expand_as(scans)
        change = self.nets["appearance"](atlas, torch.cat([one.aligned for one in kept]).float())
        warped = warp(atlas + change, torch.cat([one.flow for one in kept]).float())
        unlike, roughness = F.mse_loss(warped, scans), change_roughness(change, self.borders)
        total = unlike + APPEARANCE_SMOOTHNESS * roughness
        _learn_from(total, self.optimisers["appearance"])
        return {"total": total, "unlike": unlike, "roughness": roughness}


def _learn_from(loss: Tensor, optimiser: torch.optim.Optimizer) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def augmented_pairs(appearance: nn.Module, labels: AtlasLabels, registered: Registered) -> Pairs:
    """Give pairs of the atlas in the appearance of one scan and the shape of another, drawn independently.

    Args:
        appearance: the network of changes; from now on it stays as it is.
        labels: the atlas's.
        registered: the scans.
    """
    freeze([appearance])
    atlas, changed = registered.atlas[None], dict[int, Tensor]()

    @torch.no_grad()
    def pairs(draws: torch.Generator) -> tuple[Tensor, Tensor]:
        shape, look = below(len(registered), draws), below(len(registered), draws)
        if look not in changed:
            change = appearance(atlas, registered[look].aligned.float())
            changed[look] = (atlas + change).clamp(0, 1).half()
        flow = registered[shape].flow.float()
        return warp(changed[look].float(), flow)[0], labels.propagate(flow)

    return pairs


def learn(bench: Bench, site: str, lesson: Lesson) -> Arrays:
    """Train the transforms with the atlas and a site's unlabelled scans, then a segmenter; give its weights.

    Args:
        bench: of the run.
        site: whose scans they are.
        lesson: for how long, and where.
    """
    (atlas, labels), seed, scans = bench.atlas, bench.experiment.seed, bench.scans(site)
    spatial = _first(lambda: RegistrationUNet(WIDTHS, HALF), "spatial", bench)
    appearance = _first(AppearanceUNet, "appearance", bench)

    steps = lesson.steps_of(SPATIAL_COST, SPATIAL_SHARE)
    watch = lesson.counted(SPATIAL_COST)
    registering = SpatialLearner({"spatial": spatial}, atlas, scans)
    fit(registering, "DataAug spatial", seed, steps, lesson.folder / "spatial", watch)
    spent = steps * SPATIAL_COST

    registered = Registered(spatial, atlas, scans, seed)
    changing = AppearanceLearner({"appearance": appearance}, labels.on_grid, registered)
    steps = lesson.steps_of(APPEARANCE_COST, APPEARANCE_SHARE)
    watch = lesson.counted(APPEARANCE_COST, spent)
    fit(changing, "DataAug appearance", seed, steps, lesson.folder / "appearance", watch)
    spent += steps * APPEARANCE_COST + len(registered) * PREPARED_COST

    rounds = bench.experiment.phases.segment.rounds
    segment = replace(bench.experiment.phases.segment, steps=max(1, round((lesson.steps - spent) / rounds)))
    how = replace(bench.experiment, phases=replace(bench.experiment.phases, segment=segment))
    pairs, watch = augmented_pairs(appearance, labels, registered), lesson.counted(1.0, spent)
    return train_alone(how, pairs, "DataAug", lesson.folder / "segmenter", bench.device, watch)


def _first(make: Callable[[], nn.Module], part: str, bench: Bench) -> nn.Module:
    return place(seeded(make, bench.experiment.seed, "DataAug", part), bench.device)
