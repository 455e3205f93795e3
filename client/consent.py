"""What a site's IT approves: the hub's app, the run, and what may leave. One approval pins all three."""

import math
import shutil
from collections.abc import Iterator

from client import bundle
from client.gate import audit, budget, ledger, sums
from client.gate.approval import FOLDER, Approval, approved_runs
from client.gate.policy import Policy, check_floors, read_policy
from client.home import Home
from client.site import read_salt
from configs.errors import DataError, RefusalError, RunError
from configs.levels import LEVELS
from configs.phases import NOTHING, asked, phase_of, training
from configs.schema import from_json
from sst_models.wire.files import replace_file


def pending(home: Home) -> Approval:
    """Give the run that the site's kit is for.

    Raises:
        DataError: the kit does not say what run that is.
        ConfigError: its preset is none of this version.
    """
    try:
        kit, atlas = home.kit, home.kit["atlas"]
        assert isinstance(atlas, dict)
        digests = {name: str(atlas[name]) for name in ("image", "labels")}
        preset = from_json((home.folder / "experiment.json").read_text(encoding="utf-8"))
        return Approval(str(kit["run"]), preset.to_json(), str(atlas["digest"]), **digests, signer=str(kit["signer"]))
    except (OSError, ValueError, KeyError, AssertionError) as error:
        raise DataError(
            f"the kit in {home.folder} does not say which run it is for: it is of a version before 0.3; ask the hub's "
            "operator for a new one"
        ) from error


def lines(home: Home, found: bundle.Bundle) -> Iterator[str]:
    """Say all that is to be approved, line by line.

    Raises:
        DataError, ConfigError: the kit cannot be used.
    """
    policy = read_policy(home.policy if home.policy.exists() else None)
    yield from _app(home, found)
    yield from _run(home, pending(home), policy)
    yield from _leaves(home, policy)


def approve(home: Home, found: bundle.Bundle) -> None:
    """Unpack the app, pin the run, and write a policy where there is none.

    Raises:
        RunError: the run is not what the policy allows.
        DataError, ConfigError: the kit cannot be used.
    """
    from client.gate.approve import write_approval  # needs torch, and the other functions here are for every start

    run = pending(home)
    if not home.policy.exists():
        replace_file(home.policy, policy_text())
    try:
        check_floors(run.preset, read_policy(home.policy))
    except RefusalError as error:
        raise RunError(f"{error}. Not approved: ask the hub's operator, or change {home.policy}") from error
    home.gate.mkdir(parents=True, exist_ok=True)
    _bring_old_ledger(home)
    read_salt(home.gate)
    bundle.approve(home, found)
    for old in approved_runs(home.gate):
        if old.run != run.run:
            (home.gate / FOLDER / f"{old.run}.json").unlink()
            shutil.rmtree(home.gate / FOLDER / f"{old.run}.first", ignore_errors=True)
    write_approval(run, home.gate)


def fault(home: Home) -> str:
    """Say in a line why nothing may run here; "" where it may."""
    if why := bundle.fault(home):
        return why
    try:
        if pending(home) not in approved_runs(home.gate):
            return f"the run of the last kit is not approved yet: sst site approve {home.folder}"
    except (DataError, RefusalError) as error:
        return str(error)
    return ""


def policy_text() -> str:
    """Give the policy that a site begins with, with what each line is for."""
    usual = Policy()
    rows = "\n".join(f"#   {level:10s}  {meaning}" for level, meaning in LEVELS.items())
    names = ", ".join(f'"{phase.name}"' for phase in asked())
    return (
        "# How much this site shares, whatever the hub asks for. What needs a higher level is declined, and the run\n"
        "# goes on without it; the site gets a model at each level. Each lets out what the one before it does:\n"
        f"{rows}\n"
        "# Every single item is in what sst site approve shows.\n"
        f'level = "{usual.level}"\n'
        "# Phases that are answered, of those that the level has; to leave some out, take the # and their names away.\n"
        f"# phases = [{names}]\n"
        "moments = true  # mean and standard deviation of style codes, in style, joint and flow_codes\n"
        "moments_each_round = false  # true: after each round of these; false: after the last one of each\n"
        "dice = false  # true: mean Dice of each segmenter on your labelled test scans, without noise\n"
        f"most_bytes = {usual.most_bytes:_}  # of one reply\n"
        f"most_rounds = {usual.most_rounds}  # of a run at this site\n"
        f"most_missed_rounds = {usual.most_missed_rounds}  # of a part, without this site; more if it comes late\n"
        f"most_requests = {usual.most_requests}  # in 24 hours, of those that cost work\n"
        f"most_segmenters = {usual.most_segmenters}  # that a run may have tested here, each once\n"
        f"most_runs_with_moments = {usual.most_runs_with_moments}  # over the life of the ledger\n"
        f"most_runs_with_statistics = {usual.most_runs_with_statistics}  # likewise\n"
        f"epsilon = {usual.epsilon:g}  # differential privacy of the statistics of one run; inf adds no noise to them\n"
        f"delta = {usual.delta:g}  # with it: the probability that is left over\n"
        f"most_epsilon = {usual.most_epsilon:g}  # of all that leaves with noise, over the life of the ledger\n"
        f"most_auc = {usual.most_auc:g}  # that the site's audit of statistics may reach before they leave; 1: any\n"
        f"networks_epsilon = {usual.networks_epsilon:g}  # of all weights of one run; inf adds no noise to them\n"
        f"min_scans = {usual.min_scans}  # fewest training scans behind anything that is learnt and leaves\n"
        f"min_cases = {usual.min_cases}  # fewest scans behind moments, fewest people behind statistics\n"
        f"min_people_private = {usual.min_people_private}  # fewest people who train behind a network with noise\n"
        f"min_volumes = {usual.min_volumes}  # fewest volumes that a round of training reads: steps x batch\n"
        f"min_test_people = {usual.min_test_people}  # fewest people behind figures of a test\n"
    )


def _app(home: Home, found: bundle.Bundle) -> Iterator[str]:
    before = bundle.approved_files(home)
    yield f"app {found.folder}, SHA-256 {found.digest}: {len(found.files)} files, {found.lines} lines of Python"
    if not before:
        yield from (f"  {digest[:12]}  {name}" for name, digest in found.files.items())
        return
    differ = bundle.changes(found.files, before)
    for word, names in (("new", differ.added), ("changed", differ.changed), ("gone", differ.removed)):
        yield from (f"  {word:8s} {name}" for name in names)
    if before == found.files:
        yield "  nothing changed since the last approval"


def _run(home: Home, run: Approval, policy: Policy) -> Iterator[str]:
    preset, grid = run.preset, " x ".join(map(str, run.preset.grid.shape))
    yield f"run {run.run}, and no other, as below and in {run.experiment_digest[:12]} (SHA-256 of its preset):"
    about = f"preset {preset.name}, seed {preset.seed}, {grid} voxels of {preset.grid.spacing} mm, {preset.contrast}"
    yield f"  {about}; atlas {run.atlas[:12]}"
    if preset.label_table:
        yield f"  label table of the hub's, {len(preset.table.structures)} structures: {', '.join(preset.table.groups)}"
    if preset.phases.statistics.rounds and policy.answers("statistics"):
        yield f"  statistics  once, of all people who train; {_noise(home, policy)}"
    for phase in training():
        settings = preset.phases.of(phase.name)
        if settings.rounds and policy.answers(phase.name):
            long = f"{settings.rounds} round(s) of {settings.steps} steps"
            yield f"  {phase.name:11s} {long}, {settings.batch} volume(s) a step, rate {settings.rate:g}"
    if policy.trains_privately:
        yield f"  weights leave with {_promised(policy.networks_epsilon, home, policy)}"
    if preset.sums:
        names = ", ".join(sums.peers(home.gate)) or "none yet: sst site peer"
        yield f"  secure sums of {len(preset.sums)} rounds; other sites whose keys are approved here: {names}"
    wanted = [each.name for each in asked() if each.figures or (each.has_rounds and preset.phases.rounds(each.name))]
    declined = [name for name in wanted if not policy.answers(name)]
    if declined:
        yield f"  declined, as the policy says: {', '.join(declined)}"
    try:
        check_floors(preset, policy)
    except RefusalError as error:
        yield f"  NOT WITHIN THE POLICY: {error}"


def _noise(home: Home, policy: Policy) -> str:
    """Say how much noise statistics get, what of the budget is spent, and what stops them."""
    none = math.isinf(policy.epsilon)
    promised = "NO NOISE, as the policy says" if none else _promised(policy.epsilon, home, policy)
    return f"{promised}; {audit.rule(policy)}"


def _promised(epsilon: float, home: Home, policy: Policy) -> str:
    spent = budget.spent(home.gate / ledger.NAME, policy.delta)
    return (
        f"noise of epsilon {epsilon:g}, delta {policy.delta:g}; {spent:.2f} of {policy.most_epsilon:g} is spent so far"
    )


def _leaves(home: Home, policy: Policy) -> Iterator[str]:
    meaning = LEVELS[policy.level]
    yield f'what may leave at level "{policy.level}" ({home.policy}): {meaning}'
    for name in ("hello", *policy.answered):
        for number, item in enumerate(phase_of(name).leaves(policy.level) or (NOTHING,)):
            yield f"  {'' if number else name:11s} {item}"
    if policy.trains_privately:
        yield "but no training curves and no moments, which have no noise (networks_epsilon)"
    yield "and with each: phase and round, how long it took and, where it failed, an error code"


def _bring_old_ledger(home: Home) -> None:
    """Take the ledger of a version before 0.3, which lay in the state folder, to its new place."""
    old, new = home.state / "ledger.jsonl", home.gate / "ledger.jsonl"
    if old.exists() and not new.exists():
        old.replace(new)
