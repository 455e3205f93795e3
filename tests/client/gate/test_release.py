"""The gate before a reply leaves a site."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from client.gate import budget
from client.gate.policy import Policy, read_policy
from client.gate.release import check, permit
from configs.errors import ConfigError, DeclinedError, ReleaseError, TooFewError
from configs.levels import LEVELS
from configs.phases import phase_of
from configs.statistics import NEAR
from configs.statistics import count as numbers_of
from configs.structures import PAPER, Row
from sst_models.wire.exchange import PhaseRequest, SiteReply

NUMBERS = numbers_of(PAPER)

EXPERIMENT = json.dumps({"grid": {"shape": [16, 16, 32]}, "style": {"code": 8}})
WEIGHTS = {"conv.weight": np.ones((4, 1, 3, 3, 3), np.float32), "conv.bias": np.zeros(4, np.float32)}
MOMENTS = {"mean": np.zeros(8, np.float32), "std": np.ones(8, np.float32)}
SHARES = Policy(level="networks", dice=True)
"""The usual policy at the highest level at which nothing of a site's own leaves; figures of tests do."""
SENT = {part: WEIGHTS for part in ("T", "E", "D_style", "F", "A", "encoder", "decoder", "D_flow", "segmenter")}


def ask(phase="style", **arrays):
    """A request of a phase with the weights of every part."""
    return PhaseRequest("run", phase, 1, "one", EXPERIMENT, arrays=SENT | arrays)


def reply(phase="style", count=9, **fields):
    """A reply that passes unless `fields` spoil it."""
    return SiteReply("one", phase, 1, count, **fields)


@pytest.mark.parametrize(
    ("phase", "parts"),
    [
        ("register", ("T",)),
        ("style", ("E", "D_style")),
        ("joint", ("E", "D_style", "F", "A")),
        ("flow_codes", ("encoder", "decoder", "D_flow")),
        ("adapt", ("segmenter",)),
        ("join", ()),
        ("evaluate", ()),
        ("deliver", ()),
    ],
)
def test_declared_parts_pass(phase, parts):
    """Every phase may release the parts it declares."""
    whole = reply(phase, 9 if phase_of(phase).count else 0, arrays={part: WEIGHTS for part in parts})
    check(whole, ask(phase), Policy(level="models", dice=True))


@pytest.mark.parametrize("phase", ["join", "register", "style", "joint", "flow_codes", "adapt", "evaluate", "deliver"])
def test_undeclared_part_is_refused(phase):
    """A part that the phase does not declare stays at the site."""
    with pytest.raises(ReleaseError, match="does not declare"):
        check(reply(phase, 0, arrays={"scan": WEIGHTS}), ask(phase, scan=WEIGHTS), SHARES)


@pytest.mark.parametrize("shape", [(16, 16, 32), (1, 16, 16, 32), (3, 16, 16, 32), (1, 3, 16, 16, 32), (16, 16, 32, 3)])
def test_arrays_of_the_grid_are_refused(shape):
    """Nothing with the shape of an image, a label map or a dense flow leaves, even if the hub asks for it."""
    part = {"conv.weight": np.zeros(shape, np.float32)}
    with pytest.raises(ReleaseError, match="shape of the grid"):
        check(reply(arrays={"E": part}), ask(E=part), SHARES)


def test_other_shape_or_name_is_refused():
    """A part goes back with the names and shapes with which it came."""
    for part in (
        {**WEIGHTS, "scan": np.zeros(7, np.float32)},
        {"conv.weight": WEIGHTS["conv.weight"]},
        {**WEIGHTS, "conv.bias": np.zeros(4096, np.float32)},
    ):
        with pytest.raises(ReleaseError):
            check(reply(arrays={"E": part}), ask(), SHARES)
    with pytest.raises(ReleaseError, match="sent no weights"):
        check(reply(arrays={"E": WEIGHTS}), replace(ask(), arrays={}), SHARES)


@pytest.mark.parametrize("name", ["queue", "encoder.queue_ptr", "norm.running_mean", "norm.num_batches_tracked"])
def test_buffers_are_refused(name):
    """The queue and other buffers do not leave, even if the hub asks for them by name."""
    part = {name: np.zeros((8, 4), np.float32)}
    with pytest.raises(ReleaseError, match="buffer"):
        check(reply(arrays={"E": part}), ask(E=part), SHARES)


def test_whole_state_dict_of_a_queue_is_refused():
    """`state_dict()` of a module with a queue does not pass for its parameters."""
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(2, 2)
    module.register_buffer("queue", torch.zeros(8, 2))
    named = {name: value.detach().numpy() for name, value in module.named_parameters()}
    whole = {name: value.numpy() for name, value in module.state_dict().items()}
    check(reply(arrays={"E": named}), ask(E=named), SHARES)
    with pytest.raises(ReleaseError):
        check(reply(arrays={"E": whole}), ask(E=named), SHARES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    """A diverged weight does not reach the mean."""
    part = {**WEIGHTS, "conv.bias": np.full(4, value, np.float32)}
    with pytest.raises(ReleaseError, match="finite"):
        check(reply(arrays={"E": part}), ask(), SHARES)


def test_moments_need_leave_and_enough_cases():
    """Moments are exactly mean and std of a code, of enough scans, and only where the policy allows them."""
    good = reply(arrays={"moments": MOMENTS})
    check(good, ask(), SHARES)
    check(replace(good, count=5), ask(), replace(SHARES, min_cases=5))
    with pytest.raises(ReleaseError, match="4 scans"):
        check(replace(good, count=4), ask(), SHARES)
    with pytest.raises(ReleaseError, match="policy keeps the moments"):
        check(good, ask(), replace(SHARES, moments=False))
    joint = reply("joint", arrays={"moments": MOMENTS})
    check(joint, ask("joint"), SHARES)
    with pytest.raises(ReleaseError, match="policy keeps the moments"):  # the style phase is left out to keep them
        check(joint, ask("joint"), replace(SHARES, phases=("join", "register", "joint")))
    for odd in (
        {"mean": MOMENTS["mean"]},
        {**MOMENTS, "codes": np.zeros((9, 8), np.float32)},
        {**MOMENTS, "std": np.ones((9, 8), np.float32)},
    ):
        with pytest.raises(ReleaseError, match="exactly"):
            check(reply(arrays={"moments": odd}), ask(), SHARES)


def measured(people: int = 9, multiplier: float = budget.multiplier_of(Policy().epsilon, Policy().delta)):
    """Statistics with the noise of a multiplier, usually that of the policy's epsilon."""
    numbers = {"mean": np.zeros(NUMBERS), "noise": [multiplier * NEAR / people], "multiplier": [multiplier]}
    return {name: np.array(values, np.float32) for name, values in numbers.items()}


def test_what_is_declared_follows_the_label_table_of_the_approved_preset():
    """Two groups: three numbers, and a Dice of each; what the usual table has may not leave then."""
    rows = [asdict(Row(n, name, name, n, (0, 0, 0))) for n, name in enumerate(("Liver", "Spleen"), start=1)]
    experiment = json.dumps({**json.loads(ask("statistics").experiment), "label_table": rows})
    request = replace(ask("statistics"), experiment=experiment)
    three = {**measured(), "mean": np.zeros(3, np.float32)}
    check(reply("statistics", arrays={"statistics": three}), request, SHARES)
    with pytest.raises(ReleaseError, match="exactly"):
        check(reply("statistics", arrays={"statistics": measured()}), request, SHARES)
    tested = replace(ask("evaluate"), experiment=experiment)
    check(reply("evaluate", metrics={"Liver": 0.5, "Spleen": 0.25}), tested, SHARES)
    with pytest.raises(ReleaseError, match="does not declare a figure 'Hippocampus'"):
        check(reply("evaluate", metrics={"Hippocampus": 0.5}), tested, SHARES)
    odd = replace(request, experiment=json.dumps({**json.loads(experiment), "label_table": [{"id": 1}]}))
    with pytest.raises(ReleaseError, match="no readable label table"):
        check(reply("statistics", arrays={"statistics": three}), odd, SHARES)


def test_statistics_are_exactly_what_is_declared_of_enough_people():
    """Nothing more, nothing of another size, and of no fewer people than the policy says."""
    good = measured()
    check(reply("statistics", arrays={"statistics": good}), ask("statistics"), SHARES)
    with pytest.raises(ReleaseError, match="4 people"):
        check(reply("statistics", 4, arrays={"statistics": measured(4)}), ask("statistics"), Policy(min_scans=1))
    with pytest.raises(ReleaseError, match="not among the phases"):
        check(reply("statistics", arrays={"statistics": good}), ask("statistics"), Policy(phases=("join", "deliver")))
    for odd in (
        {"mean": good["mean"]},
        {**good, "people": np.zeros((9, NUMBERS), np.float32)},
        {**good, "mean": np.zeros((9, NUMBERS), np.float32)},
    ):
        with pytest.raises(ReleaseError, match="exactly"):
            check(reply("statistics", arrays={"statistics": odd}), ask("statistics"), SHARES)


def test_statistics_have_no_less_noise_than_the_policy_asks_for():
    """Also a reply from disk, that was made when the policy was another one."""
    ready = reply("statistics", arrays={"statistics": measured()})
    for policy in (Policy(), Policy(epsilon=8.0)):
        check(ready, ask("statistics"), policy)
    for policy in (Policy(epsilon=Policy().epsilon / 2), Policy(delta=1e-9)):
        with pytest.raises(ReleaseError, match="less noise than epsilon"):
            check(ready, ask("statistics"), policy)
    bare = reply("statistics", arrays={"statistics": measured(9, 0.0)})
    check(bare, ask("statistics"), Policy(epsilon=math.inf))
    with pytest.raises(ReleaseError, match="less noise"):
        check(bare, ask("statistics"), SHARES)


def test_policy_keeps_phase_appearance_and_bytes():
    """A site's policy can leave out a phase, what is the site's own, and anything too big."""
    with pytest.raises(ReleaseError, match="keeps the weights of segmenter"):
        check(reply("adapt", arrays={"segmenter": WEIGHTS}), ask("adapt"), SHARES)
    joint = reply("joint", arrays={"A": WEIGHTS})
    with pytest.raises(ReleaseError, match="weights of A"):
        check(joint, ask("joint"), Policy(level="networks"))
    with pytest.raises(ReleaseError, match="bytes"):
        check(joint, ask("joint"), Policy(level="models", most_bytes=100))
    with pytest.raises(ReleaseError, match="not among the phases"):
        permit(ask("joint"), Policy(phases=("join", "style")))


@pytest.mark.parametrize(
    "key", ["sub-0001", "dice.sub-01_T1w", "loss.Müller", "a.b c", "loss.19670312", "/data/x", "jane_doe", "loss.Doe"]
)
def test_names_of_metrics_cannot_carry_text(key):
    """A file name, an id or a date does not travel as the name of a metric."""
    with pytest.raises(ReleaseError):
        check(reply(metrics={key: 1.0}), ask(), SHARES)
    with pytest.raises(ReleaseError):
        check(reply(series={key: (1.0,)}), ask(), SHARES)


def test_metrics_are_finite_floats_and_few():
    """Means pass; other types, and as many numbers as a volume has, do not."""
    check(reply(metrics={"total": 0.5, "contrastive": 0.7}, series={"critic": (0.8,)}), ask(), SHARES)
    check(reply("evaluate", metrics={"Hippocampus": 0.8}), ask("evaluate"), SHARES)
    for value in (float("nan"), 1, "text"):
        with pytest.raises(ReleaseError, match="finite float"):
            check(reply(metrics={"total": value}), ask(), SHARES)
    with pytest.raises(ReleaseError, match="numbers"):
        check(reply(series={"total": (0.5,) * 5000}), ask(), SHARES)


@pytest.mark.parametrize(
    "settings",
    [{"note": "x"}, {"atlas": "sub-01"}, {"scans": "12"}, {"scans": True}, {"atlas": 7}, {"name": "north"}],
)
def test_values_are_declared_and_of_their_form(settings):
    """Free text does not travel as a value, nor what another phase declares."""
    with pytest.raises(ReleaseError, match="value"):
        check(reply("join", settings=settings), ask("join"), SHARES)


def test_declared_values_pass():
    """Counts and digests may leave."""
    check(reply("join", settings={"scans": 12, "atlas": "0" * 64}), ask("join"), SHARES)


@pytest.mark.parametrize(("phase", "other"), [("style", "smoothness"), ("evaluate", "total"), ("join", "total")])
def test_figures_of_another_phase_are_refused(phase, other):
    """What one phase declares is no leave for another."""
    with pytest.raises(ReleaseError, match="does not declare a figure"):
        check(reply(phase, metrics={other: 0.5}), ask(phase), SHARES)


def test_a_count_that_no_phase_declares_is_refused():
    """Delivery releases nothing, not even how many scans there are."""
    with pytest.raises(ReleaseError, match="declares no count"):
        check(reply("deliver", 9), ask("deliver"), SHARES)


def test_a_phase_that_the_site_does_not_know_is_named():
    """A hub of a later version: the site says that it is too old, whatever its policy lists."""
    with pytest.raises(ReleaseError, match="'refine' is not known to this site: update it"):
        permit(ask("refine"), SHARES)
    with pytest.raises(ReleaseError, match="'segment' is not known to this site"):  # which only a hub does
        permit(ask("segment"), SHARES)


def test_unreadable_experiment_closes_the_gate():
    """Where the grid is unknown, no array leaves."""
    with pytest.raises(ReleaseError, match="grid"):
        check(reply(arrays={"E": WEIGHTS}), replace(ask(), experiment="{}"), SHARES)


def test_few_scans_and_people_are_not_answered_for():
    """What few scans taught, and figures over few people, stay; and a figure has few digits."""
    for phase in ("join", "register", "style", "joint", "flow_codes", "adapt"):
        check(reply(phase, 5), ask(phase), SHARES)
        with pytest.raises(TooFewError, match="4 training scans; the policy asks for 5"):
            check(reply(phase, 4), ask(phase), SHARES)
    check(reply("evaluate", 5, metrics={"Hippocampus": 0.812}), ask("evaluate"), SHARES)
    check(reply("evaluate", 0), ask("evaluate"), SHARES)
    with pytest.raises(TooFewError, match="asks for 5 people"):
        check(reply("evaluate", 4, metrics={"Hippocampus": 0.812}), ask("evaluate"), SHARES)
    with pytest.raises(ReleaseError, match="3 digits"):
        check(reply("evaluate", 9, metrics={"Hippocampus": 0.8123}), ask("evaluate"), SHARES)


@pytest.mark.parametrize("level", LEVELS)
def test_mean_dice_stays_as_a_policy_is_written(level):
    """It has no noise: two means that differ by one person give away hers; a site has to say that it may leave."""
    figures = reply("evaluate", 9, metrics={"Hippocampus": 0.812})
    with pytest.raises(DeclinedError, match="dice" if level != "nothing" else "needs the level"):
        permit(ask("evaluate"), Policy(level=level))
    with pytest.raises(DeclinedError):
        check(figures, ask("evaluate"), Policy(level=level))
    if level != "nothing":
        check(figures, ask("evaluate"), Policy(level=level, dice=True))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_lets_out_what_its_table_says(level):
    """Phases above it are declined; weights, curves and figures leave from their level on, and the count of scans."""
    policy, order = Policy(level=level, min_scans=1, dice=True), list(LEVELS)
    least = {"register": "networks", "statistics": "statistics", "adapt": "nothing", "evaluate": "statistics"}
    for phase, needed in {**least, "join": "nothing", "joint": "networks", "deliver": "nothing"}.items():
        if order.index(level) < order.index(needed):
            with pytest.raises(DeclinedError, match=f"needs the level '{needed}'"):
                permit(ask(phase), policy)
        else:
            permit(ask(phase), policy)
    check(reply("adapt"), ask("adapt"), policy)
    spoilt = {"curves": {"series": {"total": (0.5,)}}, "metrics": {"metrics": {"total": 0.5}}}
    for what, fields in {**spoilt, "segmenter": {"arrays": {"segmenter": WEIGHTS}}}.items():
        needed = "models" if what == "segmenter" else "networks"
        if order.index(level) < order.index(needed):
            with pytest.raises(ReleaseError, match="the policy keeps"):
                check(reply("adapt", **fields), ask("adapt"), policy)
        else:
            check(reply("adapt", **fields), ask("adapt"), policy)


def test_few_scans_are_enough_where_nothing_learnt_leaves():
    """A hospital of three scans takes part at the lower levels; its statistics stay, and it trains by itself."""
    for level in ("nothing", "statistics"):
        check(reply("join", 3), ask("join"), Policy(level=level))
        check(reply("adapt", 3), ask("adapt"), Policy(level=level))
    few = {"statistics": measured(3)}
    with pytest.raises(ReleaseError, match="statistics of 3 people"):
        check(reply("statistics", 3, arrays=few), ask("statistics"), Policy(level="statistics"))
    for phase in ("join", "adapt"):
        with pytest.raises(TooFewError, match="3 training scans"):
            check(reply(phase, 3), ask(phase), Policy(level="networks"))


def test_policy_is_read_and_checked(tmp_path):
    """A site's policy.toml overrides the defaults; an unknown key names the nearest."""
    path = tmp_path / "policy.toml"
    path.write_text('phases = ["join", "style"]\nmoments = false\nmin_cases = 20\n')
    assert read_policy(path) == Policy(phases=("join", "style"), moments=False, min_cases=20)
    path.write_text("epsilon = inf\nmost_epsilon = 3\n")
    assert read_policy(path) == Policy(epsilon=math.inf, most_epsilon=3.0)
    assert read_policy(None) == Policy() and Policy().level == "statistics"
    for text, match in (
        ("moment = true", "'moments'"),
        ("moments = 1", "bool"),
        ('phases = ["all"]', "phases"),
        ("epsilon = 0.0", "above 0"),
        ("epsilon = -1", "above 0"),
        ("most_epsilon = nan", "above 0"),
        ("most_auc = 0.0", "above 0, and 1 at most"),
        ("most_auc = 1.01", "above 0, and 1 at most"),
        ("delta = 0.5", "0.01 at most"),
        ('epsilon = "inf"', "must be a float"),
        ('level = "some"', "one of nothing, statistics, networks, models"),
        ("appearance = true", 'gone since version 0.4: level = "models"'),
        ("segmenter = false", 'gone since version 0.4: level = "models"'),
        ("=", "TOML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=match):
            read_policy(path)
