"""The network as it is exported: one module from a prepared scan to probabilities, which needs nothing beside it.

It gives what `sst_models.propagation.predict.network_probabilities` does, up to rounding, in operations that
TorchScript and ONNX have: every voxel is computed, where the segmenter leaves out those beyond the brain, and all
constants are buffers, so that they move to a GPU with the weights.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sst_models.networks.blocks import fold, unfold
from sst_models.networks.norm import NormActivate
from sst_models.networks.segmenter import MARGIN, OUTSIDE, Segmenter
from sst_models.propagation.predict import AXES, SHIFTS, Prediction, normalise
from sst_models.volume.mirror import LEAN


class Exported(nn.Module):
    """From prepared scans (N, 1, D, H, W) in [0, 1], 0 outside the brain, to probabilities (N, classes, D, H, W).

    Within: the preset's normalisation, the U-Net with its spatial prior, softmax, and the mean over the mirror image
    and shifts, where the preset has them.

    Args:
        net: the segmenter; it is copied.
        how: the preset's part for prediction.
        shape: (D, H, W) of the grid.
    """

    def __init__(self, net: Segmenter, how: Prediction, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.net = Dense(net, shape)
        self.normalise = how.normalise
        self.mirror = how.test_time_augmentation != "none"
        self.shifts = SHIFTS if how.test_time_augmentation == "mirror+shifts" else SHIFTS[:1]
        group = torch.tensor(how.table.group_of)
        self.register_buffer("mirrored", torch.tensor(how.table.mirrored))
        self.register_buffer("in_group", (group == group[:, None]).float()[..., None, None, None])

    def forward(self, volume: Tensor) -> Tensor:
        """Map (N, 1, D, H, W) to probabilities (N, classes, D, H, W)."""
        seen = normalise(volume, self.normalise)
        own, mirrored = [], []
        for shift in self.shifts:
            moved, back = _roll(seen, shift), tuple(-voxels for voxels in shift)
            own.append(_roll(self._softmax(moved), back))
            if self.mirror:
                turned = self._softmax(moved.flip(2)).flip(2).index_select(1, self.get_buffer("mirrored"))
                mirrored.append(_roll(turned, back))
        found = sum(own[1:], own[0]) / len(own)
        return self._with_mirror(found, sum(mirrored[1:], mirrored[0]) / len(own)) if self.mirror else found

    def _softmax(self, seen: Tensor) -> Tensor:
        return F.softmax(self.net(seen), dim=1)

    def _with_mirror(self, own: Tensor, mirrored: Tensor) -> Tensor:
        """Give what `sst_models.volume.mirror.mean_with_mirror` does, of a batch."""
        ours, theirs = (F.conv3d(one, self.get_buffer("in_group")) for one in (own, mirrored))
        return (ours + theirs) / 2 * (own + LEAN * mirrored) / (ours + LEAN * theirs).clamp(min=1e-9)


class Dense(nn.Module):
    """A segmenter that computes its last layer everywhere, then takes background where no brain is.

    Args:
        net: the segmenter; it is copied.
        shape: (D, H, W) of the grid.
    """

    def __init__(self, net: Segmenter, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.factor = net.factor
        self.cells = tuple(side // net.factor for side in shape)
        self.unet = copy.deepcopy(net.unet)
        _with_plain_norms(self.unet)
        self.prior = None if net.prior is None else nn.Parameter(net.prior.detach().clone(), requires_grad=False)
        outside = torch.full((net.classes,), -OUTSIDE)
        outside[0] = 0
        self.register_buffer("outside", outside.repeat_interleave(net.factor**3)[None, :, None, None, None])

    def forward(self, volume: Tensor) -> Tensor:
        """Map (N, 1, D, H, W), 0 outside the brain, to logits (N, classes, D, H, W)."""
        logits = self.unet(fold(volume, self.factor))
        if self.prior is not None:
            near = F.interpolate(self.prior, size=self.cells, mode="trilinear", align_corners=False)
            logits = logits + near.repeat_interleave(self.factor**3, dim=1)
        brain = F.max_pool3d((volume != 0).to(volume.dtype), self.factor)
        brain = F.max_pool3d(brain, 2 * MARGIN + 1, stride=1, padding=MARGIN)
        return unfold(torch.where(brain > 0, logits, self.get_buffer("outside")), self.factor)


class _NormThenActivate(nn.Module):
    """What `NormActivate` does, in PyTorch's own functions."""

    def __init__(self, norm: NormActivate) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps, self.slope = norm.eps, norm.slope

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, D, H, W)."""
        return F.leaky_relu(F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps), self.slope)


def _with_plain_norms(net: nn.Module) -> None:
    for module in list(net.modules()):
        for name, part in list(module.named_children()):
            if isinstance(part, NormActivate):
                setattr(module, name, _NormThenActivate(part))


def _roll(x: Tensor, shift: tuple[int, ...]) -> Tensor:
    return x.roll(shift, AXES) if any(shift) else x
