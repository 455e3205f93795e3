"""The paper's equations, each spelt out on small networks and compared with what a step of its phase computes.

Sec. 3 of Tomar et al. (WACV 2022). Eq. 1, 4, 9 and 10 as functions are held by test_losses.py, eq. 12 by
test_generation.py.
"""

import copy
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from configs.schema import Experiment, load
from material import CONTRASTIVE, LAMBDA_3, MOMENTUM, Dealt, blob, learner, nets_for, preset, setting
from sst_models.losses import gradient_l1, lncc, ssim_l1
from sst_models.phases.moments import StyleMoments
from sst_models.phases.style import critic_step
from sst_models.training.learner import Learner, Losses
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.warp import warp

ATLAS, UNUSED, TARGET, OTHER = blob(0), blob(1), blob(2) ** 3, 0.5 * blob(3)  # of different styles
SOURCE, FIXED = ATLAS[None], TARGET[None]  # s and t, (1, 1, D, H, W)
TAU = 0.1
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


class Joint:
    """One step of the joint phase, of which everything is known: the source is the atlas, the target `TARGET`."""

    def __init__(self, experiment: Experiment) -> None:
        """Do the step; `nets`, `keys` and `queue` are what they were before it."""
        self.trained = nets_for("joint", experiment)
        self.nets = copy.deepcopy(self.trained)
        made = learner("joint", self.trained, experiment, Dealt([UNUSED, TARGET, OTHER]), ATLAS)
        apart(made)
        self.queue = made.own["queue"].clone()
        self.keys = encoder_of_keys(self.nets["E"], made)
        self.seen = seen_by(self.trained)
        self.losses = made.step(torch.Generator().manual_seed(1))

    @property
    def styled(self) -> Tensor:
        """Eq. 2: the source in the style of the target."""
        styled: Tensor = self.nets["A"](SOURCE, self.nets["E"](FIXED))
        return styled

    def terms(self) -> dict[str, Tensor]:
        """Every term of eq. 11, spelt out, with its gradient."""
        nets, source = self.nets, SOURCE
        own, wanted = nets["E"](source), nets["E"](FIXED)
        styled = nets["A"](source, wanted)
        flow = nets["F"](styled, FIXED)
        key = self.keys(warp(FIXED, nets["T"](FIXED, OTHER[None])))
        return {
            CONTRASTIVE: contrastive(wanted, key, self.queue, TAU),
            "cycle": ssim_l1(source, nets["A"](styled, own)),
            "identity": ssim_l1(source, nets["A"](source, own)),
            "reconstruction": ssim_l1(FIXED, warp(styled, flow)),
            "smoothness": gradient_l1(flow),
            "adversarial": (nets["D_style"](torch.cat([wanted, own])) - 1).square().mean(),
        }


def paper(**changes: object) -> Experiment:
    """The tiny preset with the losses of the paper and no others, each weight unlike every other.

    The source is the atlas, and E learns from all of eq. 11.
    """
    weights = {"lambda_1": 5.0, "lambda_2": 3.0, "lambda_reg": 0.7, "tau": TAU}
    ours = {"quantile_loss": 0.0, "lncc_weight": 0.0, "foreign_negatives": 0}
    fixed = {"atlas_probability": 1.0, "joint_batch": 1, "detach_style": False}
    return preset(**{**weights, **ours, **fixed, **changes})  # type: ignore[arg-type]


def contrastive(query: Tensor, key: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Eq. 1 as it is printed, query by query."""
    losses = []
    for q, k in zip(query, key, strict=True):
        positive, others = (q @ k / temperature).exp(), (negatives @ q / temperature).exp()
        losses.append(-torch.log(positive / (positive + others.sum())))
    return torch.stack(losses).mean()


def apart(made: Learner) -> None:
    """Move the key encoder away from E, as it is after many steps."""
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in made.own.items():
            if name.startswith("keys/"):
                weight.add_(0.1 * torch.randn(weight.shape, generator=draws))


def encoder_of_keys(encoder: nn.Module, made: Learner) -> nn.Module:
    """A copy of the key encoder, as it is now."""
    keys = copy.deepcopy(encoder)
    with torch.no_grad():
        for name, weight in keys.named_parameters():
            weight.copy_(made.own[f"keys/{name}"])
    return keys


def seen_by(nets: dict[str, nn.Module]) -> dict[str, list[tuple[Tensor, ...]]]:
    """Note what each network is given from now on."""
    seen: dict[str, list[tuple[Tensor, ...]]] = {part: [] for part in nets}
    for part, net in nets.items():
        net.register_forward_hook(lambda _, given, __, part=part: seen[part].append(given))
    return seen


def whole(given: Iterable[Tensor | None], net: nn.Module) -> Tensor:
    """The gradients of a network's weights as one vector; zeros where there is none."""
    pairs = zip(given, net.parameters(), strict=True)
    return torch.cat([(torch.zeros_like(weight) if one is None else one).flatten() for one, weight in pairs])


def assert_learnt_by(total: Tensor, before: nn.Module, trained: nn.Module) -> None:
    """Compare the gradients that a step left on a network's weights with those of a loss by the weights before it."""
    weights = list(before.parameters())
    asked = torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)
    wanted = whole(asked, before)
    left = whole((p.grad for p in trained.parameters()), trained)
    most = float(wanted.abs().max())
    assert most > 0
    torch.testing.assert_close(left, wanted, rtol=1e-3, atol=1e-4 * most)


# Eq. 1: contrast of styles


def style_step(experiment: Experiment, foreign: tuple[StyleMoments, ...] = ()) -> tuple[Losses, Tensor, Tensor, Tensor]:
    """One step of the style phase on two queries: losses; queries' codes, keys and queue before it."""
    nets = nets_for("style", experiment)
    made = learner("style", nets, experiment, Dealt([TARGET, OTHER, ATLAS, UNUSED]), ATLAS, foreign)
    apart(made)
    keys, queue = encoder_of_keys(nets["E"], made), made.own["queue"].clone()
    with torch.no_grad():
        query = nets["E"](torch.stack([TARGET, OTHER]))
        warped = [warp(q[None], nets["T"](q[None], o[None])) for q, o in ((TARGET, ATLAS), (OTHER, UNUSED))]
        key = keys(torch.cat(warped))
    losses = made.step(torch.Generator().manual_seed(1))
    torch.testing.assert_close(made.own["queue"], torch.cat([key, queue])[: len(queue)], **CLOSE)
    return losses, query, key, queue


@pytest.mark.parametrize("tau", [0.07, 0.7])
def test_the_style_phase_contrasts_a_scan_with_its_own_style_in_another_anatomy(tau: float) -> None:
    """Eq. 1: k+ is the key encoder's code of q, warped by T to another scan; the negatives are the queue."""
    losses, query, key, queue = style_step(preset(tau=tau, style_batch=2, foreign_negatives=0))
    torch.testing.assert_close(losses[CONTRASTIVE], contrastive(query, key, queue, tau), **CLOSE)


def test_styles_of_other_sites_are_further_negatives() -> None:
    """Eq. 1, with as many draws of each other site's moments in the sum as the preset says; spread 0 is the mean."""
    means = [nn.functional.normalize(torch.randn(8, generator=torch.Generator().manual_seed(n)), dim=0) for n in (1, 2)]
    foreign = tuple(StyleMoments(mean, torch.zeros(8)) for mean in means)
    losses, query, key, queue = style_step(preset(tau=0.5, style_batch=2, foreign_negatives=3), foreign)
    negatives = torch.cat([queue, *(mean.expand(3, 8) for mean in means)])
    torch.testing.assert_close(losses[CONTRASTIVE], contrastive(query, key, negatives, 0.5), **CLOSE)


def test_the_style_phase_adds_the_adversarial_term_by_lambda_3() -> None:
    """Sec. 3.5: E alone is trained by L_vol.cl + lambda_3 L_adv."""
    losses, *_ = style_step(preset(style_batch=2))
    torch.testing.assert_close(losses["total"], losses[CONTRASTIVE] + LAMBDA_3 * losses["adversarial"])


def test_keys_leave_the_queue_in_the_order_in_which_they_came() -> None:
    """Sec. 3.1, a dictionary of the last K keys: after three steps of two, the first two are still behind the others,
    and the oldest ones of all are gone."""
    experiment = preset(style_batch=2, foreign_negatives=0)
    nets = nets_for("style", experiment)
    volumes = [blob(seed) for seed in range(12)]
    made = learner("style", nets, experiment, Dealt(volumes), ATLAS)
    before, entered = made.own["queue"].clone(), []
    for number in range(3):
        made.step(torch.Generator().manual_seed(number))
        entered.append(made.own["queue"][:2].clone())
    assert torch.equal(made.own["queue"], torch.cat([*entered[::-1], before[: len(before) - 6]]))


@pytest.mark.parametrize("phase", ["style", "joint"])
def test_the_key_encoder_is_a_moving_average_of_the_encoder(phase: str) -> None:
    """Sec. 3.1: k <- m k + (1 - m) E with m = 0.99, by the weights that E has after the step."""
    experiment = paper(style_batch=1)
    nets = nets_for(phase, experiment)
    made = learner(phase, nets, experiment, Dealt([UNUSED, TARGET, OTHER]), ATLAS)
    apart(made)
    before = {name: made.own[f"keys/{name}"].clone() for name, _ in nets["E"].named_parameters()}
    made.step(torch.Generator().manual_seed(1))
    for name, weight in nets["E"].named_parameters():
        expected = MOMENTUM * before[name] + (1 - MOMENTUM) * weight.detach()
        torch.testing.assert_close(made.own[f"keys/{name}"], expected, rtol=1e-5, atol=1e-7)


# Eq. 2 to 9: restyling and registration


def test_the_source_takes_the_style_of_the_target() -> None:
    """Eq. 2: F registers A(s, E(t)) to t, and not the source in its own style."""
    step = Joint(paper())
    ((moving, fixed),) = step.seen["F"]
    torch.testing.assert_close(moving, step.styled, **CLOSE)
    torch.testing.assert_close(fixed, FIXED)
    kept = step.nets["A"](SOURCE, step.nets["E"](SOURCE))
    assert (kept - step.styled).abs().max() > 1e-2  # so that the two can be told apart


@pytest.mark.parametrize("term", ["cycle", "identity", "reconstruction", "smoothness", "adversarial", CONTRASTIVE])
def test_each_term_of_the_joint_phase_is_its_equation(term: str) -> None:
    """Eq. 3, 5, 8, 9, 10 (the encoder's side, of s and t) and 1 (of t), each on its own."""
    step = Joint(paper())
    torch.testing.assert_close(step.losses[term], step.terms()[term], **CLOSE)


@pytest.mark.parametrize("changed", [{}, {"lambda_1": 2.0}, {"lambda_2": 0.5}, {"lambda_reg": 0.2}])
def test_the_total_is_the_weighted_sum_of_its_terms(changed: dict[str, object]) -> None:
    """Eq. 11: L_vol.cl + lambda_1 L_app + lambda_2 (L_recon + lambda_reg L_reg) + lambda_3 L_adv."""
    weight = {"lambda_1": 5.0, "lambda_2": 3.0, "lambda_reg": 0.7, **changed}
    losses = Joint(paper(**changed)).losses
    flow = losses["reconstruction"] + weight["lambda_reg"] * losses["smoothness"]
    expected = losses[CONTRASTIVE] + weight["lambda_1"] * (losses["cycle"] + losses["identity"])
    expected = expected + weight["lambda_2"] * flow + LAMBDA_3 * losses["adversarial"]
    torch.testing.assert_close(losses["total"], expected)


def eq_11(terms: dict[str, Tensor]) -> Tensor:
    """The total of `paper`."""
    flow = terms["reconstruction"] + 0.7 * terms["smoothness"]
    total = terms[CONTRASTIVE] + 5.0 * (terms["cycle"] + terms["identity"]) + 3.0 * flow
    return total + LAMBDA_3 * terms["adversarial"]


@pytest.mark.parametrize("part", ["E", "A", "F"])
def test_every_network_learns_from_the_whole_total(part: str) -> None:
    """Sec. 3, Fig. 2: the supervision of eq. 11 goes back through F and A into E; the key encoder has no part in it."""
    step = Joint(paper())
    assert_learnt_by(eq_11(step.terms()), step.nets[part], step.trained[part])


def test_a_preset_can_keep_e_from_learning_by_a_and_f() -> None:
    """With style detached, E learns from eq. 1 and 10 alone, and A as before."""
    step = Joint(paper(detach_style=True))
    terms = step.terms()
    assert_learnt_by(terms[CONTRASTIVE] + LAMBDA_3 * terms["adversarial"], step.nets["E"], step.trained["E"])
    assert_learnt_by(eq_11(terms), step.nets["A"], step.trained["A"])


def test_without_appearance_the_source_is_registered_as_it_is() -> None:
    """Table 2, "w/o L_app": lambda_1 = 0 leaves A out of eq. 8 and of the total."""
    step = Joint(paper(lambda_1=0.0))
    ((moving, _),) = step.seen["F"]
    assert torch.equal(moving, SOURCE) and not step.seen["A"]
    assert "cycle" not in step.losses and "identity" not in step.losses
    flow = step.losses["reconstruction"] + 0.7 * step.losses["smoothness"]
    expected = step.losses[CONTRASTIVE] + 3.0 * flow + LAMBDA_3 * step.losses["adversarial"]
    torch.testing.assert_close(step.losses["total"], expected)


def test_the_distance_of_quantiles_looks_at_the_brains_intensities_alone() -> None:
    """The mean distance of 64 quantiles, of the restyled source where the source has brain and of the target; times 5,
    as E reads them. Not in the paper."""
    step, without = Joint(paper(quantile_loss=2.0)), Joint(paper())
    (found,) = (value for name, value in step.losses.items() if name not in without.losses)
    ours, theirs = step.styled[SOURCE > 0].sort().values, FIXED[FIXED > 0].sort().values
    at = (torch.arange(64) + 0.5) / 64
    expected = 5 * (ours[(at * len(ours)).long()] - theirs[(at * len(theirs)).long()]).abs().mean()
    torch.testing.assert_close(found, expected, **CLOSE)


def test_ours_beside_the_paper_enter_the_total_by_their_weights() -> None:
    """The distance of quantiles, and 1 - LNCC beside eq. 8; neither is in the paper."""
    step, without = Joint(paper(quantile_loss=2.0, lncc_weight=0.5)), Joint(paper())
    (distance,) = (value for name, value in step.losses.items() if name not in without.losses)
    flow = step.nets["F"](step.styled, FIXED)
    more = 0.5 * (1 - lncc(FIXED, warp(step.styled, flow)))
    torch.testing.assert_close(step.losses["reconstruction"], without.losses["reconstruction"] + more, **CLOSE)
    torch.testing.assert_close(step.losses["total"], without.losses["total"] + 2.0 * distance + 3.0 * more, **CLOSE)


def test_the_source_is_the_atlas_or_a_scan() -> None:
    """Sec. 3.2: s is the base image with the preset's probability; here never, so that it is the first scan dealt."""
    experiment = paper(atlas_probability=0.0)
    nets = nets_for("joint", experiment)
    made = learner("joint", nets, experiment, Dealt([UNUSED, TARGET, OTHER]), ATLAS)
    seen = seen_by(nets)
    made.step(torch.Generator().manual_seed(1))
    assert torch.equal(seen["A"][0][0][:1], UNUSED[None])


@pytest.mark.parametrize("lambda_reg", [0.1, 2.0])
def test_the_registration_phase_trains_t_by_the_flow_loss(lambda_reg: float) -> None:
    """Eq. 6, 8 and 9 for T: the fixed volume is a scan, the moving one the atlas or another scan."""
    experiment = preset(lambda_reg=lambda_reg, lncc_weight=0.0)
    nets = nets_for("register", experiment)
    before, seen = copy.deepcopy(nets["T"]), seen_by(nets)
    losses = learner("register", nets, experiment, Dealt([TARGET, OTHER]), ATLAS).step(torch.Generator().manual_seed(1))
    ((moving, fixed),) = seen["T"]
    assert torch.equal(fixed, FIXED) and (torch.equal(moving, SOURCE) or torch.equal(moving, OTHER[None]))
    flow = before(moving, fixed)
    torch.testing.assert_close(losses["reconstruction"], ssim_l1(fixed, warp(moving, flow)), **CLOSE)
    torch.testing.assert_close(losses["smoothness"], gradient_l1(flow), **CLOSE)
    torch.testing.assert_close(losses["total"], losses["reconstruction"] + lambda_reg * losses["smoothness"])


def test_the_atlas_is_the_moving_volume_of_half_of_the_pairs() -> None:
    """T warps scans onto scans as positive keys, and the atlas onto scans to start F with."""
    experiment = preset(register_batch=24)
    nets = nets_for("register", experiment)
    seen = seen_by(nets)
    learner("register", nets, experiment, Dealt([TARGET, OTHER] * 24), ATLAS).step(torch.Generator().manual_seed(1))
    ((moving, fixed),) = seen["T"]
    assert 6 <= sum(torch.equal(one, ATLAS) for one in moving) <= 18
    assert not any(torch.equal(one, ATLAS) for one in fixed)


# Eq. 10: critics and priors


@pytest.mark.parametrize("phase", ["style", "joint"])
def test_the_style_critic_tells_codes_from_unit_draws(phase: str) -> None:
    """Eq. 10, the critic's side: draws of the prior to 1, codes to 0; as many draws as codes, all of length 1."""
    experiment = paper(style_batch=2)
    nets = nets_for(phase, experiment)
    dealt = [TARGET, OTHER, ATLAS, UNUSED]
    made = learner(phase, nets, experiment, Dealt(dealt), ATLAS)
    before, seen = copy.deepcopy(nets["D_style"]), seen_by(nets)
    losses = made.step(torch.Generator().manual_seed(1))
    codes = seen["D_style"][0][0]
    (drawn,) = (given for (given,) in seen["D_style"] if not torch.equal(given, codes))
    assert drawn.shape == codes.shape and not drawn.requires_grad
    torch.testing.assert_close(drawn.norm(dim=1), torch.ones(len(drawn)))
    expected = (before(drawn) - 1).square().mean() + before(codes).square().mean()
    torch.testing.assert_close(losses["critic"], expected, **CLOSE)
    assert sum(torch.equal(given, codes) and not given.requires_grad for (given,) in seen["D_style"]) == 1  # detached
    assert_learnt_by(expected, before, nets["D_style"])


def test_a_critics_step_asks_nothing_of_the_encoder_and_forgets_what_was_asked_before() -> None:
    """Eq. 10, the critic's side, on a critic of one weight: w - rate * d/dw [(2w - 1)^2 + (3w)^2] at w = 1."""
    critic = nn.Linear(1, 1, bias=False)
    nn.init.ones_(critic.weight)
    critic.weight.grad = torch.full_like(critic.weight, 100.0)
    code = torch.full((1, 1), 3.0, requires_grad=True)
    loss = critic_step(critic, torch.optim.SGD(critic.parameters(), lr=0.01), code, torch.full((1, 1), 2.0))
    assert float(loss.detach()) == pytest.approx(1 + 9)
    assert float(critic.weight.detach()) == pytest.approx(1 - 0.01 * (2 * 2 * 1 + 2 * 3 * 3))
    assert code.grad is None


def test_flow_codes_are_learnt_from_flows_of_the_base_image() -> None:
    """Sec. 3.3 and 3.4: L1 of the flow F(A(b, E(t)), t), the image term of b warped by both flows, and the critic's
    judgement of the codes by 0.1; the critic's prior is N(0, I), not of length 1."""
    experiment = preset(flow_codes_batch=1)
    nets = nets_for("flow_codes", experiment)
    before, seen = copy.deepcopy(nets), seen_by(nets)
    made = learner("flow_codes", nets, experiment, Dealt([TARGET]), ATLAS)
    losses = made.step(torch.Generator().manual_seed(1))
    with torch.no_grad():
        styled = before["A"](SOURCE, before["E"](FIXED))
        flow = before["F"](styled, FIXED)
        code = before["encoder"](flow)
        decoded = before["decoder"](code)
    torch.testing.assert_close(losses["flow"], (flow - decoded).abs().mean(), **CLOSE)
    torch.testing.assert_close(losses["image"], ssim_l1(warp(SOURCE, flow), warp(SOURCE, decoded)), **CLOSE)
    torch.testing.assert_close(losses["adversarial"], (before["D_flow"](code) - 1).square().mean(), **CLOSE)
    expected = losses["flow"] + losses["image"] + LAMBDA_3 * losses["adversarial"]
    torch.testing.assert_close(losses["total"], expected)
    (drawn,) = (given for (given,) in seen["D_flow"] if not torch.allclose(given, code, atol=1e-5))
    assert drawn.shape == code.shape and 0.5 < float(drawn.std()) < 1.5
    critic = (before["D_flow"](drawn) - 1).square().mean() + before["D_flow"](code).square().mean()
    torch.testing.assert_close(losses["critic"], critic, **CLOSE)


class One(Dealt):
    """Scans of which there is one."""

    def __len__(self) -> int:
        return 1


def test_the_flow_of_a_scan_is_found_once() -> None:
    """F is fixed in this phase: a second step on the same scan asks it nothing."""
    experiment = preset(flow_codes_batch=1)
    nets = nets_for("flow_codes", experiment)
    seen = seen_by(nets)
    made = learner("flow_codes", nets, experiment, One([TARGET]), ATLAS)
    for number in range(2):
        made.step(torch.Generator().manual_seed(number))
    assert len(seen["F"]) == 1 and len(seen["encoder"]) == 2


@pytest.mark.parametrize(("phase", "used"), [("style", "T"), ("joint", "T"), ("flow_codes", "EAF"), ("adapt", "EAF")])
def test_networks_that_a_phase_only_uses_take_no_gradient(phase: str, used: str) -> None:
    """Nor do they cost one: T makes positive keys, E, A and F make flows of the atlas."""
    experiment = preset()
    nets = nets_for(phase, experiment)
    labels = AtlasLabels(torch.zeros(ATLAS.shape[1:]))
    made = learner(phase, nets, experiment, Dealt([]), ATLAS, labels=labels)
    assert not any(weight.requires_grad or nets[part].training for part in used for weight in nets[part].parameters())
    assert all(weight.requires_grad for part in set(made.nets) - {"segmenter"} for weight in nets[part].parameters())


# Sec. 4: optimisers


@pytest.mark.parametrize("phase", ["register", "style", "joint", "flow_codes"])
def test_optimisers_are_the_papers(phase: str) -> None:
    """Sec. 4: Adam with betas (0.9, 0.999), critics (0.5, 0.999)."""
    experiment = preset()
    made = learner(phase, nets_for(phase, experiment), experiment, Dealt([]), ATLAS)
    assert set(made.optimisers) == set(made.nets)
    for part, optimiser in made.optimisers.items():
        assert isinstance(optimiser, torch.optim.Adam)
        assert optimiser.defaults["betas"] == ((0.5 if part.startswith("D_") else 0.9), 0.999), part
        assert [p for group in optimiser.param_groups for p in group["params"]] == list(made.nets[part].parameters())


def test_the_joint_phase_has_a_rate_for_each_side() -> None:
    """That of E and F, that of A, and that of the critic are settings of their own."""
    experiment = preset(rate=1e-3, appearance_rate=2e-3, critic_rate=3e-3)
    made = learner("joint", nets_for("joint", experiment), experiment, Dealt([]), ATLAS)
    rates = {part: optimiser.param_groups[0]["lr"] for part, optimiser in made.optimisers.items()}
    assert rates == {"E": 1e-3, "F": 1e-3, "A": 2e-3, "D_style": 3e-3}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lambda_1", 5.0),
        ("lambda_2", 1.0),
        ("lambda_reg", 0.1),
        ("tau", 0.7),
        ("style_batch", 32),
        ("joint_batch", 4),
        ("style_rate", 2e-4),
        ("rate", 2e-4),
        ("appearance_rate", 2e-4),
        ("critic_rate", 2e-4),
        ("quantile_loss", 0.0),
        ("lncc_weight", 0.0),
        ("foreign_negatives", 0),
        ("flow_mixing", 0.0),
        ("em_weight", 0.0),
    ],
)
def test_the_papers_preset_has_the_papers_settings(name: str, value: float) -> None:
    """Sec. 4, "Experimental Settings"; lambda_3 = 0.1 and m = 0.99 are held above. What is ours is off."""
    assert setting(load("paper"), name) == value
