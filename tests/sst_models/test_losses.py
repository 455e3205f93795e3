"""Each loss against a slow obvious version and against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sst_models.losses import (
    critic_loss,
    dice_ce,
    encoder_loss,
    folded_fraction,
    gradient_l1,
    info_nce,
    ms_ssim,
    ssim_l1,
)


def unit(rows: int, seed: int, columns: int = 8) -> Tensor:
    """Unit vectors."""
    return functional.normalize(torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)), dim=1)


def volumes(seed: int = 0, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Two volumes in [0, 1] of 16 voxels a side."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 1, 16, 16, 16, generator=generator), torch.rand(batch, 1, 16, 16, 16, generator=generator)


def linear_flow(matrix: list[list[float]]) -> Tensor:
    """The flow (1, 3, 6, 7, 8) with x + flow(x) = (1 + matrix) x."""
    axes = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), torch.arange(8.0), indexing="ij")
    return torch.einsum("ab,bijk->aijk", torch.tensor(matrix), torch.stack(axes)).unsqueeze(0)


def test_ssim_l1_of_equal_volumes_is_zero() -> None:
    """No distance from a volume to itself."""
    u, _ = volumes()
    torch.testing.assert_close(ssim_l1(u, u), torch.zeros(()), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("l1", "ssim"), [(0.5, 0.5), (1.0, 1.0), (1.0, 0.0), (0.0, 2.0)])
def test_ssim_l1_is_the_weighted_sum(l1: float, ssim: float) -> None:
    """Eq. 4 with the weights given; one half each unless told."""
    u, v = volumes()
    expected = l1 * (u - v).abs().sum() / u.numel() + ssim * (1 - ms_ssim(u, v))
    torch.testing.assert_close(ssim_l1(u, v, l1=l1, ssim=ssim), expected)
    torch.testing.assert_close(ssim_l1(u, v), ssim_l1(u, v, l1=0.5, ssim=0.5))


def test_ssim_l1_in_half_precision_is_computed_in_full() -> None:
    """What a network under autocast returns still gives a float32 loss."""
    u, v = volumes()
    loss = ssim_l1(u.bfloat16(), v)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, ssim_l1(u.bfloat16().float(), v))


def test_ssim_l1_pulls_volumes_together() -> None:
    """A few steps down its gradient bring a volume nearer to the other."""
    u, v = volumes(batch=1)
    moving = u.clone().requires_grad_()
    optimizer = torch.optim.Adam([moving], lr=0.02)
    for _ in range(15):
        optimizer.zero_grad()
        ssim_l1(moving, v).backward()
        optimizer.step()
    assert ssim_l1(moving, v) < 0.6 * ssim_l1(u, v)


@pytest.mark.parametrize("temperature", [0.07, 0.7])
def test_info_nce_is_equation_one(temperature: float) -> None:
    """The plain quotient of exponentials, query by query, in double precision."""
    query, key, queue = (codes.double() for codes in (unit(3, 0), unit(3, 1), unit(10, 2)))
    losses = []
    for n in range(3):
        positive = math.exp(float(query[n] @ key[n]) / temperature)
        negatives = sum(math.exp(float(query[n] @ code) / temperature) for code in queue)
        losses.append(-math.log(positive / (positive + negatives)))
    assert float(info_nce(query, key, queue, temperature)) == pytest.approx(sum(losses) / 3)


def test_info_nce_is_computed_in_full_where_networks_are_not() -> None:
    """Under autocast, and of codes in half precision, to more digits than those have."""
    query, key, queue = unit(3, 0), unit(3, 1), unit(10, 2)
    whole = info_nce(query.double(), key.double(), queue.double(), 0.07).float()
    torch.testing.assert_close(info_nce(query, key, queue, 0.07), whole)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(info_nce(query, key, queue, 0.07), whole)
    half = [codes.bfloat16() for codes in (query, key, queue)]
    torch.testing.assert_close(info_nce(*half, 0.07), info_nce(*(codes.float() for codes in half), 0.07))


def test_info_nce_when_nothing_differs_is_log_of_the_choices() -> None:
    """One positive among K + 1 equal codes: log(K + 1)."""
    code = unit(1, 0)
    loss = info_nce(code, code, code.expand(9, -1), 0.07)
    assert float(loss) == pytest.approx(math.log(10), rel=1e-5)


def test_info_nce_is_stable_at_any_temperature() -> None:
    """A temperature that overflows exponentials gives a finite value and gradient, the right one."""
    query = unit(4, 0).requires_grad_()
    loss = info_nce(query, query.detach(), -query.detach(), 1e-4)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6) and query.grad is not None and query.grad.isfinite().all()
    far = info_nce(unit(1, 0), -unit(1, 0), unit(1, 0), 1e-4)
    assert float(far) == pytest.approx(2e4, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.floats(0.01, 10))
def test_info_nce_ignores_the_order_of_the_queue(seed: int, temperature: float) -> None:
    """Negatives have no order, and one more of them can only raise the loss."""
    query, key, queue = unit(3, seed), unit(3, seed + 1), unit(12, seed + 2)
    loss = info_nce(query, key, queue, temperature)
    torch.testing.assert_close(info_nce(query, key, queue.flip(0), temperature), loss, atol=1e-5, rtol=1e-5)
    assert info_nce(query, key, queue[:-1], temperature) <= loss + 1e-5


def test_info_nce_refuses_what_it_cannot_use() -> None:
    """An empty queue, codes of other lengths and a temperature of zero each say so."""
    query, queue = unit(3, 0), unit(5, 1)
    with pytest.raises(ValueError, match="queue is empty"):
        info_nce(query, query, queue[:0], 0.7)
    with pytest.raises(ValueError, match="do not match"):
        info_nce(query, query, queue[:, :4], 0.7)
    with pytest.raises(ValueError, match="do not match"):
        info_nce(query, query[:2], queue, 0.7)
    with pytest.raises(ValueError, match="temperature"):
        info_nce(query, query, queue, 0.0)


def test_adversarial_losses_in_closed_form() -> None:
    """Draws are pulled to 1 and codes to 0 by the critic, codes to 1 by the encoder."""
    draws, codes = torch.tensor([[1.0], [0.5]]), torch.tensor([[0.0], [2.0], [1.0]])
    assert float(critic_loss(draws, codes)) == pytest.approx((0 + 0.25) / 2 + (0 + 4 + 1) / 3)
    assert float(encoder_loss(codes)) == pytest.approx((1 + 1 + 0) / 3)


def test_encoder_and_critic_are_opponents() -> None:
    """On the codes' scores, the encoder's step goes up and the critic's goes down; draws do not concern the encoder."""
    scores = torch.tensor([0.3, 0.6], requires_grad=True)
    (encoder,) = torch.autograd.grad(encoder_loss(scores), scores)
    (critic,) = torch.autograd.grad(critic_loss(torch.ones(2), scores), scores)
    assert (encoder < 0).all() and (critic > 0).all()


def test_adversarial_game_moves_codes_to_the_prior() -> None:
    """Played on single numbers, the game carries the mean of the codes to the prior's."""
    generator = torch.Generator().manual_seed(0)
    shift = torch.tensor(2.0, requires_grad=True)
    weight, bias = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    critic_steps, encoder_steps = torch.optim.Adam([weight, bias], 0.05), torch.optim.Adam([shift], 0.05)
    path = []
    for _ in range(300):
        draws, codes = torch.randn(64, generator=generator), torch.randn(64, generator=generator) + shift
        critic_steps.zero_grad()
        critic_loss(weight * draws + bias, weight * codes.detach() + bias).backward()
        critic_steps.step()
        encoder_steps.zero_grad()
        encoder_loss(weight.detach() * codes + bias.detach()).backward()
        encoder_steps.step()
        path.append(float(shift.detach()))
    assert abs(sum(path[-100:]) / 100) < 0.7


def test_gradient_l1_of_a_linear_flow() -> None:
    """The mean of the absolute slopes: three axes, three components."""
    matrix = [[0.1, -0.2, 0.3], [0.0, 0.4, -0.5], [0.6, 0.0, -0.9]]
    expected = sum(abs(entry) for row in matrix for entry in row) / 9
    assert float(gradient_l1(linear_flow(matrix))) == pytest.approx(expected, rel=1e-4)


def test_gradient_l1_equals_the_slow_version() -> None:
    """Differences neighbour by neighbour."""
    flow = torch.randn(2, 3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    means = []
    for axis in (2, 3, 4):
        rows = flow.movedim(axis, 0)
        steps = [(rows[i + 1] - rows[i]).abs() for i in range(len(rows) - 1)]
        means.append(torch.stack(steps).mean())
    torch.testing.assert_close(gradient_l1(flow), torch.stack(means).mean())
    assert float(gradient_l1(torch.full((1, 3, 4, 4, 4), 2.5))) == 0


@pytest.mark.parametrize(
    ("matrix", "folded"),
    [
        ([[0.0, 0, 0], [0, 0, 0], [0, 0, 0]], 0),
        ([[-2.0, 0, 0], [0, 0, 0], [0, 0, 0]], 1),
        ([[-2.0, 0, 0], [0, -2.0, 0], [0, 0, 0]], 0),
        ([[0.0, 0, 0], [0, 0, 0], [0.5, 0.5, -1.5]], 1),
        ([[-1.0, 1, 0], [1, -1.0, 0], [0, 0, 0]], 1),
    ],
)
def test_folded_fraction_of_a_linear_flow(matrix: list[list[float]], folded: int) -> None:
    """All or nothing, by the sign of det(1 + matrix): mirrors and swapped axes fold, a half turn does not."""
    assert float(folded_fraction(linear_flow(matrix))) == folded


@pytest.mark.parametrize("seed", range(4))
def test_folded_fraction_counts_voxels(seed: int) -> None:
    """One voxel pushed past its neighbour folds where the determinant, voxel by voxel, is negative."""
    generator = torch.Generator().manual_seed(seed)
    flow = torch.randn(1, 3, 4, 5, 6, generator=generator)
    axes = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), torch.arange(6.0), indexing="ij"))
    points = (axes + flow)[0].movedim(0, -1)
    negative = 0
    for i in range(3):
        for j in range(4):
            for k in range(5):
                here = points[i, j, k]
                rows = torch.stack((points[i + 1, j, k], points[i, j + 1, k], points[i, j, k + 1])) - here
                negative += bool(torch.linalg.det(rows) < 0)
    assert 0 < negative < 60
    assert float(folded_fraction(flow)) == pytest.approx(negative / 60)


@pytest.mark.parametrize(("shape", "classes"), [((2, 6, 7, 8), 5), ((1, 8, 8, 8), 29)])
def test_dice_and_cross_entropy_are_monais(shape: tuple[int, ...], classes: int) -> None:
    """Value and gradient, also where a class is in no voxel and under an outer factor."""
    from monai.losses import DiceCELoss

    draws = torch.Generator().manual_seed(3)
    start = 3 * torch.randn(shape[0], classes, *shape[1:], generator=draws)
    labels = torch.randint(0, classes - 2, shape, generator=draws)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    rows = ours.movedim(1, -1).flatten(0, -2)
    one = dice_ce(rows, labels.flatten(), [labels[0].numel()] * shape[0])
    other = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)(theirs, labels[:, None])
    (2 * one).backward()
    (2 * other).backward()
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_a_structure_that_is_nowhere_and_is_found_nowhere_is_right() -> None:
    """Its Dice is 1 as MONAI has it, by the small number that is added on both sides of the quotient."""
    from monai.losses import DiceCELoss

    draws = torch.Generator().manual_seed(3)
    logits, labels = torch.randn(1, 4, 4, 4, 4, generator=draws), torch.randint(0, 3, (1, 4, 4, 4), generator=draws)
    logits[:, 3] = -60.0
    loss = dice_ce(logits.movedim(1, -1).flatten(0, -2), labels.flatten(), [64])
    whole = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    torch.testing.assert_close(loss, whole(logits, labels[:, None]))


def test_voxels_that_are_surely_background_need_not_be_given() -> None:
    """Rows of certain background, left out, change neither Dice nor the mean over all voxels."""
    draws = torch.Generator().manual_seed(4)
    logits, labels = 3 * torch.randn(60, 5, generator=draws), torch.randint(0, 5, (60,), generator=draws)
    sure = torch.tensor([[90.0, 0, 0, 0, 0]]).expand(20, -1)
    whole = torch.cat([logits[:25], sure, logits[25:], sure])
    truth = torch.cat([labels[:25], labels.new_zeros(20), labels[25:], labels.new_zeros(20)])
    torch.testing.assert_close(dice_ce(logits, labels, [25, 35], 100), dice_ce(whole, truth, [45, 55]))


@pytest.mark.parametrize(("labels", "counts"), [(5, [4]), (4, [3, 2])])
def test_dice_and_cross_entropy_refuse_what_does_not_fit(labels: int, counts: list[int]) -> None:
    """Labels or counts of another size are named, not broadcast."""
    with pytest.raises(ValueError, match="do not fit"):
        dice_ce(torch.zeros(4, 3), torch.zeros(labels, dtype=torch.int64), counts)
