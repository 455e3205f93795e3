"""How a segmenter learns (Sec. 3.6): loss, running mean of the weights, optimiser, augmentation, first weights."""

import copy

import pytest
import torch
from torch import Tensor, nn

from configs.schema import Experiment, load
from configs.structures import PAPER
from material import blob, preset
from sst_models.networks.build import build
from sst_models.phases.segment import SegmentLearner, SegmentSettings, move
from sst_models.propagation.predict import normalise
from sst_models.training.muon import Muon

PLAIN = preset(test_time_augmentation="none")


def ball(draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """One of a few pairs."""
    image = blob(int(torch.randint(9, (1,), generator=draws)))
    return image, (image[0] > 0.5).long()


def segmenting(experiment: Experiment = PLAIN) -> SegmentLearner:
    """The learner of the tiny preset on balls."""
    net = build("segmenter", experiment)
    return SegmentLearner({"segmenter": net}, ball, SegmentSettings.of(experiment, experiment.phases.segment))


def test_a_step_lowers_monais_dice_and_cross_entropy_of_whole_volumes() -> None:
    """The value of the first step, and a lower one after some."""
    from monai.losses import DiceCELoss

    made = segmenting()
    before = copy.deepcopy(made.nets["segmenter"])
    image, labels = ball(torch.Generator().manual_seed(1))
    loss = made.step(torch.Generator().manual_seed(1))["total"]
    logits = before(normalise(image[None], PLAIN.segmenter.normalise))
    whole = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    torch.testing.assert_close(loss, whole(logits, labels[None, None]), rtol=1e-3, atol=1e-4)
    for number in range(2, 12):
        made.step(torch.Generator().manual_seed(number))
    after = made.nets["segmenter"](normalise(image[None], PLAIN.segmenter.normalise))
    assert whole(after, labels[None, None]) < 0.9 * loss


def test_the_running_mean_is_short_at_first() -> None:
    """mean <- p mean + (1 - p) weights after each step, with p = min(0.99, n / (10 + n)) after n of them."""
    made = segmenting()
    expected = [p.detach().clone() for p in made.nets["segmenter"].parameters()]
    for number in range(1, 4):
        made.step(torch.Generator().manual_seed(number))
        share = number / (10 + number)
        weights = [p.detach() for p in made.nets["segmenter"].parameters()]
        expected = [share * mean + (1 - share) * weight for mean, weight in zip(expected, weights, strict=True)]
    torch.testing.assert_close([p.detach() for p in made.mean.parameters()], expected)
    made.steps.fill_(5000)
    made.step(torch.Generator().manual_seed(4))
    weights = [p.detach() for p in made.nets["segmenter"].parameters()]
    expected = [0.99 * mean + 0.01 * weight for mean, weight in zip(expected, weights, strict=True)]
    torch.testing.assert_close([p.detach() for p in made.mean.parameters()], expected)


@pytest.mark.parametrize(("optimiser", "kind"), [("adam", torch.optim.Adam), ("muon", Muon)])
def test_a_preset_chooses_the_optimiser(optimiser: str, kind: type[torch.optim.Optimizer]) -> None:
    """And its rate."""
    tiny = load("tiny", (f"phases.segment.optimiser={optimiser}", "phases.segment.rate=0.125"))
    found = segmenting(tiny).optimisers["segmenter"]
    assert type(found) is kind
    assert found.param_groups[0]["lr"] == 0.125


def test_a_map_moves_a_pair_a_little_and_image_and_labels_alike() -> None:
    """A tenth of scale and shear about the middle and 3 % of the sides: the middle moves by 3 % at most, a corner by
    more than that in some draws; labels are those of the moved image."""
    places = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    furthest, middles = 0.0, []
    for number in range(20):
        found = []
        for axis in range(3):
            image, labels = move(places[axis][None], (places[axis] > 15).long(), torch.Generator().manual_seed(number))
            inside = image[0, 10:22, 10:22, 10:22]
            sure = (inside - 15.5).abs() > 0.6
            assert torch.equal(labels[10:22, 10:22, 10:22][sure], (inside > 15.5).long()[sure])
            found.append(inside - places[axis][10:22, 10:22, 10:22])
        shift = torch.stack(found)
        middle = shift[:, 5:7, 5:7, 5:7].mean(dim=(1, 2, 3))
        assert middle.abs().max() <= 0.03 * 32 + 1e-3
        spread = (shift - middle.view(3, 1, 1, 1)).abs().max()
        assert 0 < spread <= 0.1 * 3 * 5.5 + 1e-3
        furthest = max(furthest, float(spread))
        middles.append(middle)
    assert furthest > 0.1 * 5.5
    both = torch.stack(middles)
    assert (both.amax(0) > 0.4).all() and (both.amin(0) < -0.4).all()


def test_minmax_leaves_a_volume_and_zscore_gives_the_brain_mean_0_and_spread_1() -> None:
    """What the segmenter reads."""
    volume = blob(2)[None]
    assert torch.equal(normalise(volume, "minmax"), volume)
    inside = normalise(volume, "zscore")[volume > 0]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-3) and float(inside.std()) == pytest.approx(1, abs=1e-2)


def test_an_untrained_network_starts_with_the_shares_of_labels() -> None:
    """Of a few pairs; where the preset learns from mirrored ones too, a left structure is on the right as well."""
    left = 5  # Left-Cerebellum-CX
    right = PAPER.mirrored[left]
    image = blob(1)
    labels = torch.zeros(32, 48, 32, dtype=torch.int64)
    labels[4:12, 8:40, 8:24] = left
    for mirror in (False, True):
        tiny = preset(test_time_augmentation="mirror" if mirror else "none")
        net = build("segmenter", tiny)
        settings = SegmentSettings.of(tiny, tiny.phases.segment)
        made = SegmentLearner({"segmenter": net}, lambda _: (image, labels), settings)
        made.start(1)
        for started in (made.nets["segmenter"], made.mean):
            assert isinstance(started.prior, nn.Parameter)
            prior = started.prior[0].exp()
            assert prior[left, 2, 6, 4] > 0.3
            assert (prior[right, 5, 6, 4] > 0.3) == mirror
