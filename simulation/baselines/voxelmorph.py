"""VoxelMorph as its authors release it: a network that learns to give the flow of an atlas onto a scan, without labels.

Balakrishnan et al. 2019, "VoxelMorph: A Learning Framework for Deformable Medical Image Registration", IEEE TMI 38(8).
Network, spatial transformer and losses are those of the packages voxelmorph 0.3.4 and neurite 0.3.4, as their training
script puts them together (scripts/train.py of voxelmorph/voxelmorph): `VxmPairwise` with 16 channels at every level, no
integration of the flow, as in the paper, `SpatialGradient("l2")` of the displacement, and Adam. Of what is released,
these are chosen or changed:

- The likeness is `NCC` (window 9, eps 1e-5), weighted 1 to 1 with the smoothness, as the package's README advises for
  it. The script's default, mean squared error, compares intensities, which differ between scanners; the paper finds
  the cross-correlation "more robust to intensity variations found across scans and datasets" (Sec. IV-C).
- One level fewer (`FEATURES`), another rate (`RATE`), and a batch of one pair, which is the paper's (Sec. V-A);
  the script's is 4.
- The moving volume is the atlas and the fixed one a scan, so that the flow brings the atlas's labels to it. The paper's
  first experiment has it the other way round, with the same network (Sec. V).
"""

import neurite
import torch
import voxelmorph
from torch import Tensor, nn

from simulation.arms.arm import Lesson
from simulation.training import fit
from sst_models.networks.build import seeded
from sst_models.training.learner import Losses, Scans, adam
from sst_models.training.seeds import below
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays

FEATURES = (16, 16, 16, 16)
"""Channels from the finest level to the coarsest, each of which halves the sides. The package has five levels of 16 by
default, for sides that divide by 32; grids here divide by 16, as the four levels of the paper ask for (Sec. IV-A)."""

SMOOTHNESS = 1.0
"""Weight of the smoothness beside the cross-correlation: the package's README, "Parameter choices"."""

RATE = 1e-3
"""Of Adam. The package's and the paper's is 1e-4, for 150000 steps (Sec. V-A). Runs here have hundreds, which leave
labels where they were at that rate: on made-up brains Dice rose from 0.620 to 0.621 in 100 steps, at this to 0.663."""

COST = 0.75
"""Steps of a U-Net that one step takes: `real-cpu-statistics`, one thread, 7 steps of each in turn in one process; the
medians were 3.0 and 4.0 s of a processor's time."""


def make(seed: int, device: torch.device) -> nn.Module:
    """Make the network with its first weights, which depend on the seed alone."""
    kind, how = voxelmorph.nn.models.VxmPairwise, {"nb_features": FEATURES, "integration_steps": 0}
    net: nn.Module = seeded(lambda: kind(ndim=3, source_channels=1, target_channels=1, **how), seed, "voxelmorph")
    return net.to(device)


class VoxelMorphLearner:
    """Learn to bend the atlas onto scans.

    Args:
        net: the network.
        atlas: its volume, (1, D, H, W), where to compute.
        scans: that it is bent onto.
    """

    def __init__(self, net: nn.Module, atlas: Tensor, scans: Scans) -> None:
        self.nets: dict[str, nn.Module] = {"flow": net}
        self.optimisers: dict[str, torch.optim.Optimizer] = {"flow": adam(net, RATE)}
        self.own: dict[str, Tensor] = {}
        self.atlas, self.scans = atlas, scans
        self.correlation, self.roughness = neurite.nn.modules.NCC(), neurite.nn.modules.SpatialGradient("l2")

    def step(self, draws: torch.Generator) -> Losses:
        """Bend the atlas onto one scan, and learn from how alike they are and how rough the flow is."""
        scan = self.scans.image(below(len(self.scans), draws))[None].to(self.atlas)
        flow, warped = self.nets["flow"](self.atlas[None], scan, return_warped_source=True)
        # neurite refuses a correlation beyond 1, to which rounding in float32 takes it where volumes are nearly equal.
        likeness = self.correlation(scan.double(), warped.double()).mean()
        roughness = self.roughness(flow)
        total: Tensor = 1 - likeness + SMOOTHNESS * roughness
        self.optimisers["flow"].zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimisers["flow"].step()
        return {"total": total, "likeness": likeness, "smoothness": roughness}


def learn(atlas: Tensor, scans: Scans, seed: int, lesson: Lesson) -> Arrays:
    """Train the network with an atlas (1, D, H, W) and a site's scans, as long as a lesson lasts; give its weights."""
    net = make(seed, atlas.device)
    steps = lesson.steps_of(COST)
    fit(VoxelMorphLearner(net, atlas, scans), "voxelmorph", seed, steps, lesson.folder / "flow", lesson.counted(COST))
    return weights.parameters(net)


def load(arrays: Arrays, seed: int, device: torch.device) -> nn.Module:
    """Make a trained network of what `learn` gave."""
    net = make(seed, device)
    weights.load_parameters(net, arrays, "VoxelMorph")
    return net.eval()


@torch.no_grad()
def flow_of(net: nn.Module, atlas: Tensor, scan: Tensor) -> Tensor:
    """Give the flow of an atlas onto a scan, both (1, D, H, W): (1, 3, D, H, W) in voxels, scan -> atlas.

    The package's displacement is that already: channels in the order of the axes, in voxels of the fixed grid, corners
    aligned, and what lies beyond the moving volume is 0.
    """
    flow: Tensor = net(atlas[None], scan[None])
    return flow
