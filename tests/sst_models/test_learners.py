"""One step and many of every phase: what learns, what stays, and that a stop in between changes nothing."""

import pytest
import torch
from torch import nn

from configs.phases import Phase, phase_of, training
from configs.schema import Experiment, from_dict, load
from material import Blobs, blob
from sst_models.networks.build import build
from sst_models.phases.material import Material, make_learner
from sst_models.phases.moments import StyleMoments, draw_prior_codes
from sst_models.phases.segment import SegmentLearner, SegmentSettings, move
from sst_models.phases.style import MomentumContrast
from sst_models.propagation.predict import normalise
from sst_models.training.learner import Learner, Span, memory, recall, train
from sst_models.training.muon import SHARE, Muon, even
from sst_models.volume.labels import AtlasLabels
from sst_models.wire import weights

TINY = load("tiny")
MOMENTS = StyleMoments(torch.zeros(8), torch.ones(8))


def material() -> Material:
    """Give what a site works with: blobs, one of them the atlas, whose inside is one structure."""
    return Material(Blobs(), blob(0), (MOMENTS,), AtlasLabels((blob(0)[0] > 0.5).long()))


def nets_for(phase: Phase, experiment: Experiment = TINY) -> dict[str, nn.Module]:
    """Build the networks of a phase."""
    return {part: build(part, experiment) for part in phase.learns + phase.uses}


def learner_for(phase: Phase, experiment: Experiment = TINY) -> Learner:
    """Make the learner of a phase on small volumes."""
    return make_learner(phase.name, nets_for(phase, experiment), experiment, material())


def weights_of(net: nn.Module) -> torch.Tensor:
    """Give all weights as one vector."""
    return torch.cat([p.detach().flatten().clone() for p in net.parameters()])


@pytest.mark.parametrize("phase", training(), ids=lambda phase: phase.name)
def test_a_step_changes_what_the_phase_learns_and_nothing_else(phase: Phase) -> None:
    """Parts that a phase only uses keep their weights; parts that it learns do not."""
    nets = nets_for(phase)
    before = {part: weights_of(net) for part, net in nets.items()}
    history = train(make_learner(phase.name, nets, TINY, material()), Span(1, ("x",), 0, 2))
    for part, net in nets.items():
        assert torch.equal(weights_of(net), before[part]) == (part in phase.uses), part
    assert all(torch.tensor(values).isfinite().all() for values in history.series.values())


@pytest.mark.parametrize("phase", training(), ids=lambda phase: phase.name)
def test_stopping_between_rounds_changes_nothing(phase: Phase) -> None:
    """Two rounds of two steps, with weights and memory through arrays in between, equal four steps, bit for bit."""
    whole = learner_for(phase)
    train(whole, Span(1, ("site", phase.name), 0, 4))

    first = learner_for(phase)
    train(first, Span(1, ("site", phase.name), 0, 2))
    second = learner_for(phase)
    for part, net in second.nets.items():
        weights.load_parameters(net, weights.parameters(first.nets[part]))
    recall(second, memory(first))
    train(second, Span(1, ("site", phase.name), 2, 2))
    for part in phase.learns:
        assert torch.equal(weights_of(whole.nets[part]), weights_of(second.nets[part])), part


def test_without_appearance_the_joint_phase_leaves_a_alone() -> None:
    """With its weight at 0, A is not trained (Table 2, "w/o L_app")."""
    plain = from_dict({**_values(), "appearance": {"weight": 0.0, "width": 4}}, "plain")
    learner = learner_for(phase_of("joint"), plain)
    before = weights_of(learner.nets["A"])
    train(learner, Span(1, ("x",), 0, 2))
    assert torch.equal(before, weights_of(learner.nets["A"]))


def _values() -> dict[str, object]:
    import json

    return {**json.loads(TINY.to_json())}


def test_registration_learns_to_bring_a_shifted_ball_back() -> None:
    """After some steps on shifted copies, the warped volume is closer to the fixed one than the moving was."""
    nets = nets_for(phase_of("register"))
    moving, scans = blob(5), Blobs(1, 6)
    learner = make_learner("register", nets, TINY, Material(scans, moving))
    first = learner.step(torch.Generator().manual_seed(1))["reconstruction"]
    train(learner, Span(1, ("x",), 0, 25))
    last = learner.step(torch.Generator().manual_seed(1))["reconstruction"]
    assert last < first


def test_the_queue_holds_the_newest_keys_and_is_no_parameter() -> None:
    """Keys enter at the front and old ones fall out; none of it is among the named parameters that travel."""
    encoder = build("E", TINY)
    contrast = MomentumContrast(encoder, TINY.style)
    contrast.loss(encoder(blob(1)[None]), blob(2)[None], torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(contrast.queue[:1], contrast.keys(blob(2)[None]))
    assert len(contrast.queue) == TINY.style.queue
    assert not any("queue" in name for name in weights.parameters(encoder))


def test_the_key_encoder_follows_by_its_momentum() -> None:
    """One update moves the key encoder 1 % of the way at a momentum of 0.99."""
    encoder = build("E", TINY)
    contrast = MomentumContrast(encoder, TINY.style)
    before = weights_of(contrast.keys)
    with torch.no_grad():
        for p in encoder.parameters():
            p.add_(1.0)
    contrast.follow(encoder)
    torch.testing.assert_close(weights_of(contrast.keys), before + 0.01)


def test_moments_and_prior_give_unit_codes_and_moments_keep_the_mean() -> None:
    """Draws from narrow moments lie close to their mean; all draws have length 1."""
    mean = torch.eye(8)[0]
    drawn = StyleMoments(mean, torch.full((8,), 0.01)).draw(50, torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(50))
    assert (drawn @ mean).min() > 0.99
    torch.testing.assert_close(draw_prior_codes(5, 8, torch.Generator().manual_seed(1)).norm(dim=1), torch.ones(5))


def test_moments_are_mean_and_spread_over_codes() -> None:
    """Number by number of a code, the spread with n - 1: two codes at 1 and 3 have the mean 2 and the spread root 2."""
    moments = StyleMoments.of(torch.tensor([[1.0, 0.0, 5.0], [3.0, 0.0, 7.0]]))
    torch.testing.assert_close(moments.mean, torch.tensor([2.0, 0.0, 6.0]))
    torch.testing.assert_close(moments.std, torch.tensor([2**0.5, 0.0, 2**0.5]))


def test_zscore_does_not_depend_on_gain_and_offset_of_the_brain() -> None:
    """A brighter copy of a scan looks the same to the segmenter; background stays zero."""
    x = blob(3)[None]
    mask = x > 0
    a, b = normalise(x, "zscore"), normalise((x * 0.6 + 0.3) * mask, "zscore")
    torch.testing.assert_close(a[mask], b[mask], atol=1e-4, rtol=1e-4)
    assert a[:, :, :2].abs().max() == 0


def test_augmentation_moves_image_and_labels_together() -> None:
    """Labels made from the image still fit it after the same affine map."""
    image = blob(4)
    labels = (image[0] > 0.5).long()
    varied, moved = move(image, labels, torch.Generator().manual_seed(2))
    inside, outside = varied[0][moved == 1].mean(), varied[0][(moved == 0) & (varied[0] > 0)].mean()
    assert varied.shape == image.shape
    assert inside > outside


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 0), (0.5, 10, 30), (1.0, 40, 40)])
def test_as_many_pairs_are_moved_as_the_preset_says(share: float, low: int, high: int) -> None:
    """The others are what they were, image and labels, and as sharp."""
    preset = load("tiny", (f"segmenter.affine_probability={share}", "segmenter.test_time_augmentation=none"))
    image = blob(4)
    labels = (image[0] > 0.5).long()
    settings = SegmentSettings.of(preset, preset.phases.segment)
    learner = SegmentLearner({"segmenter": nn.Conv3d(1, 29, 1)}, lambda _: (image, labels), settings)
    pairs = [learner._pair(torch.Generator().manual_seed(number)) for number in range(40)]
    moved = [not torch.equal(found, image) for found, _ in pairs]
    assert low <= sum(moved) <= high
    assert all(torch.equal(pair[1], labels) for pair, other in zip(pairs, moved, strict=True) if not other)


def test_the_running_mean_of_weights_leaves_the_first_ones_soon() -> None:
    """After a dozen steps the delivered weights are nearer to the trained ones than to those of the start."""
    labels = (blob(1)[0] > 0.5).long()
    nets = {"segmenter": build("segmenter", TINY)}
    settings = SegmentSettings.of(TINY, TINY.phases.segment)
    learner = SegmentLearner(nets, lambda draws: (blob(1), labels), settings)
    first = weights_of(learner.nets["segmenter"])
    train(learner, Span(1, ("x",), 0, 12))
    mean, last = weights_of(learner.mean), weights_of(learner.nets["segmenter"])
    assert (mean - last).norm() < (mean - first).norm()


def test_the_rate_falls_over_the_last_steps_of_all_rounds() -> None:
    """With half of four steps to fall in, the rate is whole, whole, whole, half."""
    values = _values()
    values["phases"] = {**values["phases"], "segment": {"rounds": 2, "steps": 2, "rate": 1e-2, "decay": 0.5}}  # type: ignore[dict-item]
    tiny = from_dict(values, "falling")
    settings = SegmentSettings.of(tiny, tiny.phases.segment)
    learner = SegmentLearner({"segmenter": build("segmenter", tiny)}, _ball, settings)
    rates = []
    for number in range(4):
        learner.step(torch.Generator().manual_seed(number))
        rates.append(learner.optimisers["segmenter"].param_groups[0]["lr"])
    assert rates == pytest.approx([1e-2, 1e-2, 1e-2, 5e-3])


def _ball(draws: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    image = blob(int(torch.randint(9, (1,), generator=draws)))
    return image, (image[0] > 0.5).long()


def test_muon_steps_evenly_and_by_a_share_of_the_weight() -> None:
    """Whatever the gradient's spectrum, a step's directions are about as strong; its length is the rate's share."""
    draws = torch.Generator().manual_seed(1)
    skewed = torch.randn(6, 40, generator=draws) * torch.logspace(0, -1.5, 6)[:, None]
    values = torch.linalg.svdvals(even(skewed))
    assert float(values.min()) > 0.3 and float(values.max()) < 1.3
    assert even(skewed.T).shape == (40, 6)
    weight = nn.Parameter(torch.randn(4, 3, 3, 3, 3, generator=draws))
    before, weight.grad = weight.detach().clone(), torch.randn(4, 3, 3, 3, 3, generator=draws)
    Muon([weight], 1e-2).step()
    assert float((weight.detach() - before).norm() / before.norm()) == pytest.approx(SHARE * 1e-2, rel=1e-4)


def test_muon_leaves_to_adam_what_is_no_hidden_convolution() -> None:
    """Biases and a last layer of single voxels move as under torch's Adam, step by step."""
    ours, theirs = (nn.Conv3d(3, 5, 1) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    one, other = Muon(ours.parameters(), 1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for number in range(3):
        x = torch.randn(1, 3, 4, 4, 4, generator=torch.Generator().manual_seed(number))
        for net, optimiser in ((ours, one), (theirs, other)):
            optimiser.zero_grad()
            net(x).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(weights_of(ours), weights_of(theirs))
