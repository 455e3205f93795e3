"""Flow autoencoder and its critic: the distribution of the atlas's flows (paper, Sec. 3.3, 3.4 and 3.6)."""

from torch import Tensor, nn

from sst_models.networks.blocks import activate, check_sides, conv, double, resize


class FlowEncoder(nn.Module):
    """Encode a flow of the atlas.

    Args:
        widths: channels of each level; each level halves the sides.
        latent: channels of the flow code.
        reduction: 2 reads the flow at half resolution (flows are smooth), 1 at full.
        scale: voxels that become 1 at the input.
    """

    def __init__(self, widths: tuple[int, ...], latent: int, reduction: int, scale: float) -> None:
        super().__init__()
        self.reduction, self.scale = reduction, scale
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in zip((3, *widths), widths, strict=False))
        self.code = conv(widths[-1], latent)

    def forward(self, flow: Tensor) -> Tensor:
        """Map flows (N, 3, D, H, W) in voxels to flow codes (N, latent, d, h, w)."""
        check_sides(flow)
        x = _shrink(flow, self.reduction) / self.scale
        for down in self.down:
            x = activate(down(x))
        return self.code(x)  # type: ignore[no-any-return]


class FlowDecoder(nn.Module):
    """Decode flow codes, or draws of N(0, I), to flows of the atlas (G_flow of eq. 12). Arguments as the encoder."""

    def __init__(self, widths: tuple[int, ...], latent: int, reduction: int, scale: float) -> None:
        super().__init__()
        self.reduction, self.scale = reduction, scale
        self.enter = conv(latent, widths[-1])
        self.up = nn.ModuleList(conv(a, b) for a, b in zip(widths[::-1], (*widths[-2::-1], widths[0]), strict=True))
        self.leave = conv(widths[0], 3)

    def forward(self, code: Tensor) -> Tensor:
        """Map flow codes (N, latent, d, h, w) to flows (N, 3, D, H, W) in voxels."""
        x = activate(self.enter(code))
        for up in self.up:
            x = activate(up(double(x)))
        flow = self.leave(x).contiguous() * self.scale  # in voxels of the full grid, whatever it is averaged by
        return resize(flow, tuple(side * self.reduction for side in flow.shape[2:]))


def _shrink(flow: Tensor, factor: int) -> Tensor:
    return flow if factor == 1 else nn.functional.avg_pool3d(flow, factor)


class FlowCritic(nn.Module):
    """Tell flow codes from draws of N(0, I) (D_flow): (N, latent, d, h, w) -> (N, 1), judged place by place."""

    def __init__(self, latent: int, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            conv(latent, width), nn.LeakyReLU(0.2), conv(width, width), nn.LeakyReLU(0.2), conv(width, 1, kernel=1)
        )

    def forward(self, code: Tensor) -> Tensor:
        """Score codes by the mean over places."""
        return self.layers(code).mean(dim=(2, 3, 4))  # type: ignore[no-any-return]
