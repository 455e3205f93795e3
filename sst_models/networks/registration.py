"""Networks that find the flow from a fixed to a moving volume: T and F of the paper (Sec. 3.1 and 3.3)."""

import torch
from torch import Tensor, nn

from sst_models.networks.blocks import activate, check_sides, conv, double, fold
from sst_models.warp import integrate, resize_flow, warp


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
        stem: 1 reads volumes at full resolution, 2 at half resolution, with all voxels folded into channels.
        integration: squarings of a stationary velocity; 0 takes the output as the displacement itself.
    """

    def __init__(self, widths: tuple[int, ...], stem: int = 1, integration: int = 0) -> None:
        super().__init__()
        self.stem, self.integration = stem, integration
        self.enter = conv(2 * stem**3, widths[0])
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        rising = list(zip(widths[::-1], widths[-2::-1], strict=False))
        self.up = nn.ModuleList(conv(a + b, b) for a, b in rising)
        self.refine = conv(widths[0], widths[0])
        self.head = _flow_head(widths[0])

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) twice to a flow (N, 3, D, H, W) in voxels, fixed -> moving."""
        check_sides(fixed)
        x = activate(self.enter(fold(torch.cat([moving, fixed], dim=1), self.stem)))
        levels = [x]
        for down in self.down:
            levels.append(activate(down(levels[-1])))
        x = levels.pop()
        for up in self.up:
            x = activate(up(torch.cat([double(x), levels.pop()], dim=1)))
        flow = self.head(activate(self.refine(x)))
        return _finish(flow, self.integration, fixed)


class RegistrationPyramid(nn.Module):
    """Coarse to fine: each level warps the moving features by the flow so far and adds a residual (METHOD, rank 4).

    Takes the same arguments as `RegistrationUNet`. Both volumes pass through the same encoder, so that the network
    compares features instead of learning to from scratch; it needs far fewer steps on few scans.
    """

    def __init__(self, widths: tuple[int, ...], stem: int = 2, integration: int = 0) -> None:
        super().__init__()
        self.stem, self.integration = stem, integration
        self.enter = conv(stem**3, widths[0])
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip(widths, widths[1:], strict=False))
        self.compare = nn.ModuleList(conv(2 * w, w) for w in widths)
        self.decide = nn.ModuleList(conv(w, w) for w in widths)
        self.head = nn.ModuleList(_flow_head(w) for w in widths)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) twice to a flow (N, 3, D, H, W) in voxels, fixed -> moving."""
        check_sides(fixed)
        seen = len(fixed)
        levels = [activate(self.enter(fold(torch.cat([moving, fixed]), self.stem)))]
        for down in self.down:
            levels.append(activate(down(levels[-1])))
        flow: Tensor | None = None
        for features, level in zip(levels[::-1], range(len(levels) - 1, -1, -1), strict=True):
            ours, theirs = features[:seen], features[seen:]
            if flow is not None:
                flow = resize_flow(flow, theirs.shape[2:])
                ours = warp(ours, flow)
            x = activate(self.compare[level](torch.cat([ours, theirs], dim=1)))
            residual = self.head[level](activate(self.decide[level](x)))
            flow = residual if flow is None else flow + residual
        assert flow is not None
        return _finish(flow, self.integration, fixed)


def _finish(flow: Tensor, integration: int, fixed: Tensor) -> Tensor:
    if integration:
        flow = integrate(flow, integration)
    return resize_flow(flow, fixed.shape[2:])
