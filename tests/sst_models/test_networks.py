"""Networks: shapes, the identities that learning starts from, and invariances."""

import copy

import pytest
import torch
from monai.networks.nets import DynUNet
from torch.nn import functional as F

from configs.schema import load
from sst_models.networks.appearance import AppearanceModel
from sst_models.networks.blocks import conv, fold, unfold
from sst_models.networks.build import PARTS, build
from sst_models.networks.flow_codes import FlowDecoder, FlowEncoder
from sst_models.networks.norm import merge_norms, normalise_activate
from sst_models.networks.registration import RegistrationPyramid, RegistrationUNet
from sst_models.networks.segmenter import COARSE, Segmenter, labels_inside
from sst_models.networks.style import StyleEncoder

SIDES = (32, 48, 32)


def volume(seed: int = 0, count: int = 1) -> torch.Tensor:
    """A random volume with a border of background."""
    x = torch.rand(count, 1, *SIDES, generator=torch.Generator().manual_seed(seed))
    x[:, :, :4] = 0
    return x


@pytest.mark.parametrize("kind", [RegistrationUNet, RegistrationPyramid])
@pytest.mark.parametrize("space_to_depth", [1, 2])
def test_registration_starts_at_the_identity(kind: type, space_to_depth: int) -> None:
    """A new network moves nothing, so that learning starts from the affine."""
    flow = kind((4, 8), space_to_depth)(volume(1), volume(2))
    assert flow.shape == (1, 3, *SIDES)
    assert flow.abs().max() < 1e-2


def test_a_side_that_does_not_divide_by_16_is_refused() -> None:
    """The networks say what they cannot take, instead of failing inside."""
    with pytest.raises(ValueError, match="16"):
        RegistrationUNet((4, 8))(torch.zeros(1, 1, 20, 32, 32), torch.zeros(1, 1, 20, 32, 32))


def test_adain_with_its_own_statistics_changes_nothing() -> None:
    """Restyling features to the mean and spread they have is the identity."""
    x = torch.randn(2, 3, 8, 8, 8) * 2 + 1
    mean, std = x.mean(dim=(2, 3, 4)), x.std(dim=(2, 3, 4), correction=0)
    found = normalise_activate(x, std, mean, torch.ones(2, 1, 8, 8, 8), slope=1.0)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_adain_is_told_by_the_mask_alone() -> None:
    """Values and gradients are those of the formula with the statistics of what lies inside."""
    torch.manual_seed(1)
    x = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    std, mean = (torch.randn(2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = (torch.rand(2, 1, 4, 5, 6) > 0.5).double()
    count = mask.sum(dim=(2, 3, 4), keepdim=True)
    centred = x - (x * mask).sum(dim=(2, 3, 4), keepdim=True) / count
    variance = (centred.square() * mask).sum(dim=(2, 3, 4), keepdim=True) / count
    wanted = centred * (variance + 1e-5).rsqrt() * std[..., None, None, None] + mean[..., None, None, None]
    weight = torch.randn_like(x)
    by_formula = torch.autograd.grad((F.leaky_relu(wanted, 0.2) * weight).sum(), (x, std, mean))
    found = normalise_activate(x, std, mean, mask, slope=0.2)
    torch.testing.assert_close(found, F.leaky_relu(wanted, 0.2), atol=1e-5, rtol=1e-5)
    for one, other in zip(torch.autograd.grad((found * weight).sum(), (x, std, mean)), by_formula, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("space_to_depth", [1, 2])
def test_appearance_keeps_background(space_to_depth: int) -> None:
    """Background stays zero under every style."""
    net, x = AppearanceModel(4, 8, space_to_depth), volume()
    out = net(x, torch.randn(1, 8))
    assert out[:, :, :3].abs().max() == 0


def test_appearance_follows_the_code() -> None:
    """Two style codes give two looks of one anatomy."""
    net, x = AppearanceModel(4, 8, 2), volume()
    a, b = net(x, torch.eye(8)[:1]), net(x, torch.eye(8)[1:2])
    assert (a - b).abs().max() > 1e-4


def test_style_codes_are_unit_vectors_and_do_not_depend_on_the_batch() -> None:
    """A scan's style code is the same alone and among others."""
    net, x = StyleEncoder((4, 8), 8), volume(count=3)
    codes = net(x)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(codes[1:2], net(x[1:2]))


def test_flow_codes_have_the_shape_that_the_generator_draws() -> None:
    """Encoder and decoder agree on the shape of a code, and the decoder gives a flow of the whole grid."""
    flow = torch.randn(1, 3, *SIDES)
    code = FlowEncoder((4, 8, 8), 4, 2, 4.0)(flow)
    assert code.shape == (1, 4, 2, 3, 2)
    assert FlowDecoder((4, 8, 8), 4, 2, 4.0)(code).shape == flow.shape


def test_a_small_volume_alone_is_convolved_as_in_a_batch() -> None:
    """The way round PyTorch's slow fallback changes neither values nor gradients."""
    net, x = conv(4, 6, stride=2), torch.randn(1, 4, 8, 8, 8)
    alone, batched = net(x), torch.nn.functional.conv3d(x, net.weight, net.bias, stride=2, padding=1)
    torch.testing.assert_close(alone, batched, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(alone.square().sum(), net.weight)[0]
    torch.testing.assert_close(found, torch.autograd.grad(batched.square().sum(), net.weight)[0], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(net(x), batched, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(net.double()(x.double()), batched.double(), atol=1e-5, rtol=1e-5)


def test_unfold_undoes_fold() -> None:
    """Folding voxels into channels loses nothing."""
    x = torch.randn(2, 3, 4, 6, 8)
    torch.testing.assert_close(unfold(fold(x, 2), 2), x)


@pytest.mark.parametrize("space_to_depth", [1, 2])
def test_the_segmenter_gives_a_logit_per_class_and_voxel(space_to_depth: int) -> None:
    """Every voxel of the input gets all classes, at both factors."""
    assert Segmenter((4, 4, 4), 5, space_to_depth)(volume()).shape == (1, 5, *SIDES)


@pytest.mark.parametrize("space_to_depth", [1, 2])
def test_a_segmenter_with_a_prior_starts_where_the_labels_are(space_to_depth: int) -> None:
    """Before any training it finds each structure's side and place, whatever the image; without a prior it cannot."""
    labels = torch.zeros(1, *SIDES, dtype=torch.int64)
    half = SIDES[0] // 2
    labels[:, 4 : half - 2, 8:24, 8:24], labels[:, half + 2 : -4, 8:24, 8:24] = 1, 2
    net = Segmenter((4, 4, 4), 3, space_to_depth, tuple(side // COARSE for side in SIDES))
    net.start(labels, sigma=1.0)
    found = net(volume()).argmax(dim=1)
    assert (found == labels).float().mean() > 0.9
    assert not net.prior.requires_grad
    assert "prior" in dict(net.named_parameters())  # what a site is sent


def test_what_is_no_brain_is_background() -> None:
    """Far from the brain a segmenter says background, and elsewhere the same as on the voxels in question."""
    net, x = Segmenter((4, 4, 4), 5, 2), volume(count=2)
    x[:, :, :, 30:] = 0
    logits, found = net(x), net.inside(x)
    assert torch.equal(logits.argmax(dim=1)[:, :, 34:], torch.zeros(2, 32, 14, 32, dtype=torch.int64))
    assert sum(found.counts) == len(found.cells) < 2 * 16 * 24 * 16
    marked = torch.arange(logits[:, 0].numel()).view(logits[:, 0].shape)  # each voxel by its number
    rows = labels_inside(marked, found, 2)
    torch.testing.assert_close(logits.movedim(1, -1).flatten(0, -2)[rows], found.logits)


def test_merged_norms_are_pytorchs() -> None:
    """Values and all gradients of DynUNet with norms and activations merged are those of MONAI's own."""
    torch.manual_seed(1)
    own = DynUNet(3, 2, 3, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 6, 8])
    merged = copy.deepcopy(own)
    merge_norms(merged)
    assert [name for name, _ in own.named_parameters()] == [name for name, _ in merged.named_parameters()]
    x = torch.randn(2, 2, 16, 16, 16)
    theirs, ours = (net.to(memory_format=torch.channels_last_3d)(x) for net in (own, merged))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    for one, other in zip(merged.parameters(), own.parameters(), strict=True):
        found, wanted = (
            torch.autograd.grad(y.square().sum(), p, retain_graph=True) for y, p in ((ours, one), (theirs, other))
        )
        torch.testing.assert_close(found[0], wanted[0], atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("part", PARTS)
def test_first_weights_depend_on_seed_and_part_alone(part: str) -> None:
    """Hub and sites build the same network whatever they did before, and no global generator is touched."""
    before = torch.random.get_rng_state()
    first = torch.cat([p.detach().flatten() for p in build(part, load("tiny")).parameters()])
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert torch.equal(first, torch.cat([p.detach().flatten() for p in build(part, load("tiny")).parameters()]))
