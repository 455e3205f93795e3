"""Networks that find the flow from a fixed to a moving volume: T and F of the paper (Sec. 3.1 and 3.3)."""

import torch
from torch import Tensor, nn

from sst_models.networks.blocks import activate, check_sides, conv, double, fold
from sst_models.propagation.demons import demons
from sst_models.volume.warp import resize_flow, warp


def _flow_head(inside: int) -> nn.Conv3d:
    """Make the last convolution of a flow: nearly zero at first, so that learning starts at the identity."""
    head = conv(inside, 3)
    nn.init.normal_(head.weight, std=1e-5)  # VoxelMorph's initialisation
    nn.init.zeros_(head.bias)  # type: ignore[arg-type]
    return head


class RegistrationUNet(nn.Module):
    """A lighter VoxelMorph: one U-Net over both volumes (the paper's "lighter version of VoxelMorph").

    Args:
        widths: channels from the finest to the coarsest level; each level halves the sides.
        space_to_depth: 1 reads volumes at full resolution, 2 at half resolution, with all voxels folded into channels.
    """

    def __init__(self, widths: tuple[int, ...], space_to_depth: int = 1) -> None:
        super().__init__()
        self.space_to_depth = space_to_depth
        self.enter = conv(2 * space_to_depth**3, widths[0])
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        rising = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(conv(a + b, b) for a, b in rising)
        self.refine = conv(widths[0], widths[0])
        self.head = _flow_head(widths[0])

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) twice to a flow (N, 3, D, H, W) in voxels, fixed -> moving."""
        check_sides(fixed)
        x = activate(self.enter(fold(torch.cat([moving, fixed], dim=1), self.space_to_depth)))
        levels = [x]
        for down in self.down:
            levels.append(activate(down(levels[-1])))
        x = levels.pop()
        for up in self.up:
            x = activate(up(torch.cat([double(x), levels.pop()], dim=1)))
        flow = self.head(activate(self.refine(x)))
        return resize_flow(flow, fixed.shape[2:])


class RegistrationPyramid(nn.Module):
    """Coarse to fine: at each level a few demons iterations, then a learnt residual of the flow.

    Both volumes pass through the same encoder, whose features of the moving volume are warped by the flow so far, so
    that a level learns only what is still to do. With demons the flow is good before anything is learnt.

    Args:
        widths: channels from the finest to the coarsest level; each level halves the sides.
        space_to_depth: 1: the finest level has full resolution; 2: half, with all voxels folded into channels.
        demons_iterations: at each level; 0 leaves all to learning.
    """

    def __init__(self, widths: tuple[int, ...], space_to_depth: int = 2, demons_iterations: int = 0) -> None:
        super().__init__()
        self.space_to_depth, self.demons_iterations = space_to_depth, demons_iterations
        self.enter = conv(space_to_depth**3, widths[0])
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.compare = nn.ModuleList(conv(2 * w, w) for w in widths)
        self.decide = nn.ModuleList(conv(w, w) for w in widths)
        self.head = nn.ModuleList(_flow_head(w) for w in widths)
        self.gain = nn.Parameter(torch.ones(len(widths)))

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) twice to a flow (N, 3, D, H, W) in voxels, fixed -> moving."""
        check_sides(fixed)
        both = torch.cat([moving, fixed])
        levels = [activate(self.enter(fold(both, self.space_to_depth)))]
        for down in self.down:
            levels.append(activate(down(levels[-1])))
        flow = fixed.new_zeros(len(fixed), 3, *levels[-1].shape[2:])
        for level in range(len(levels) - 1, -1, -1):
            flow = resize_flow(flow, levels[level].shape[2:])
            flow = self._demons(both, flow, level)
            flow = flow + self._residual(levels[level], flow, level)
        return resize_flow(flow, fixed.shape[2:])

    def _demons(self, both: Tensor, flow: Tensor, level: int) -> Tensor:
        if self.demons_iterations:
            coarse = nn.functional.avg_pool3d(both, self.space_to_depth * 2**level)
            flow = demons(coarse, flow, self.demons_iterations, self.gain[level])
        return flow

    def _residual(self, found: Tensor, flow: Tensor, level: int) -> Tensor:
        ours, theirs = found.chunk(2)
        x = activate(self.compare[level](torch.cat([warp(ours, flow), theirs], dim=1)))
        return self.head[level](activate(self.decide[level](x)))  # type: ignore[no-any-return]
