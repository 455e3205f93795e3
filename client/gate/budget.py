"""A site's budget of differential privacy: what left with noise gave away so far, over all runs and all time.

Each release with noise has a noise multiplier, and the ledger has it with the release: statistics one for their mean,
networks that trained with noise one for each step, with the probability of being part of it. Epsilon of all of them
together is by Google's dp-accounting, from Renyi divergences (Mironov 2017, CSF; composed by Theorem 1 of it; of a
Gaussian on a sample of people: Mironov, Talwar and Zhang 2019, arXiv:1908.10530), which hold for the discrete Gaussian
as they do for the continuous one. Counts and figures of a test have no noise, and weights have none unless the policy
says `networks_epsilon` (docs/privacy.md).
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from client.gate import ledger, receipts
from client.gate.policy import Policy
from configs.dp_sgd import DpSgd
from configs.errors import RefusalError
from configs.phases import phase_of

_Kind = TypeVar("_Kind")

PART = "statistics"
"""The part of a reply that is released with noise."""


@lru_cache(maxsize=64)
def epsilon_of(multipliers: Sequence[float], delta: float, rounds: Sequence[DpSgd] = ()) -> float:
    """Give epsilon of some releases together; infinite where one of them had no noise.

    Args:
        multipliers: of statistics: standard deviation of each one's noise, in lengths of the longest row; a tuple.
        delta: the probability that is left over.
        rounds: of networks: how each round of training hid people; a tuple.
    """
    if not multipliers and not rounds:
        return 0.0
    if min(*multipliers, *(one.multiplier for one in rounds), math.inf) <= 0:
        return math.inf
    import dp_accounting
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant()
    with _quiet():
        for multiplier in multipliers:
            accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
        for (multiplier, rate), steps in _steps(((one.multiplier, one.rate), one.steps) for one in rounds):
            accountant.compose(_event(multiplier, rate), steps)
    return float(accountant.get_epsilon(delta))


def _steps(rounds: Iterable[tuple[_Kind, int]]) -> list[tuple[_Kind, int]]:
    """Count the steps of each kind together: the accountant takes a second for a kind, however many steps it has."""
    found: dict[_Kind, int] = {}
    for kind, steps in rounds:
        found[kind] = found.get(kind, 0) + steps
    return list(found.items())


def _event(multiplier: float, rate: float) -> Any:
    import dp_accounting

    return dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(multiplier))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep dp-accounting from saying that it leaves out an order at which a series does not converge: it may do so."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@lru_cache(maxsize=64)
def multiplier_of(epsilon: float, delta: float) -> float:
    """Give the noise multiplier of one release of an epsilon, rounded up to three digits; 0 for an infinite one.

    Raises:
        ValueError: epsilon or delta is not positive.
    """
    if not (epsilon > 0 and 0 < delta < 1):
        raise ValueError(f"epsilon {epsilon} and delta {delta}: both have to be positive, and delta below 1")
    if math.isinf(epsilon):
        return 0.0
    import dp_accounting

    return _calibrated(dp_accounting.GaussianDpEvent, epsilon, delta)


@lru_cache(maxsize=16)
def multiplier_of_rounds(epsilon: float, delta: float, rounds: Sequence[tuple[float, int]]) -> float:
    """Give the noise multiplier with which rounds of training together have an epsilon, rounded up to three digits.

    Args:
        epsilon: finite.
        delta: the probability that is left over.
        rounds: a tuple: of each round, the probability with which a person is part of a step, and its steps.

    Raises:
        ValueError: epsilon or delta is not positive, or not finite.
    """
    if not (0 < epsilon < math.inf and 0 < delta < 1):
        raise ValueError(f"epsilon {epsilon} and delta {delta}: both have to be positive and finite, and delta below 1")
    import dp_accounting

    def all_of_them(multiplier: float) -> Any:
        each = [dp_accounting.SelfComposedDpEvent(_event(multiplier, rate), n) for rate, n in _steps(rounds)]
        return dp_accounting.ComposedDpEvent(each)

    return _calibrated(all_of_them, epsilon, delta)


def _calibrated(event: Callable[[float], Any], epsilon: float, delta: float) -> float:
    """Give the multiplier whose event has an epsilon, rounded up to three digits."""
    import dp_accounting
    from dp_accounting import rdp

    with _quiet():
        found = dp_accounting.calibrate_dp_mechanism(rdp.RdpAccountant, event, epsilon, delta)
    return math.ceil(float(found) * 1000) / 1000


def released(path: Path) -> dict[tuple[str, str], float]:
    """Give the noise multiplier of each release of statistics that a ledger has, by run and digest.

    A reply that was sent again is the same release.

    Raises:
        RunError: the ledger was altered.
    """
    found = {}
    for entry in ledger.verified(path):
        if PART in entry["parts"]:
            found[str(entry["run"]), str(entry["parts"][PART]["sha256"])] = float(entry.get("noise", 0.0))
    return found


def trained(path: Path) -> dict[tuple[str, str], DpSgd]:
    """Give how each round of training whose weights a ledger has hid people, by run and "phase round".

    Weights that left without noise have a multiplier of 0. A reply that was sent again is the same release.

    Raises:
        RunError: the ledger was altered.
    """
    found: dict[tuple[str, str], DpSgd] = {}
    for entry in ledger.verified(path):
        if {*entry["parts"]} & _weights(str(entry["phase"])):
            noise: Mapping[str, Any] = entry.get("training", {"multiplier": 0, "rate": 1, "steps": 1})
            dp_sgd = DpSgd(float(noise["multiplier"]), float(noise["rate"]), int(noise["steps"]))
            key = str(entry["run"]), f"{entry['phase']} {entry['round']}"
            found[key] = min(dp_sgd, found.get(key, dp_sgd))
    return found


def _weights(phase: str) -> set[str]:
    """Give the parts of a phase's replies that are weights, masked or not."""
    try:
        return {*phase_of(phase).learns, "masked"}
    except KeyError:  # of another version
        return {"masked"}


def spent(path: Path, delta: float) -> float:
    """Give epsilon of all that a ledger has with noise; of networks, those whose training had noise.

    Raises:
        RunError: the ledger was altered.
    """
    rounds = [one for one in trained(path).values() if one.multiplier]
    return epsilon_of(tuple(sorted(released(path).values())), delta, tuple(sorted(rounds)))


def check(gate: Path, run: str, policy: Policy) -> None:
    """See that one more release is within the budget, before anything is measured.

    Args:
        gate: the gate's folder.
        run: that asks. What it was sent already, it gets again, and that costs nothing.
        policy: the site's.

    Raises:
        RefusalError: the budget would be passed; statistics left in as many runs as the policy allows; or the hub has
            seen releases that the ledger does not have, so that nobody knows what was spent.
        RunError: the ledger was altered.
    """
    _check_whole(gate)
    before = released(gate / ledger.NAME)
    if any(name == run for name, _ in before):
        return
    runs = len({name for name, _ in before})
    if runs >= policy.most_runs_with_statistics:
        raise RefusalError(
            f"statistics have left in {runs} run(s), as many as the policy allows (most_runs_with_statistics)"
        )
    one_more = multiplier_of(policy.epsilon, policy.delta)
    _check_total(gate, policy, f"statistics of epsilon {policy.epsilon:g}", (one_more,), ())


def check_rounds(gate: Path, run: str, policy: Policy, rounds: Mapping[str, DpSgd]) -> None:
    """See that the weights of all rounds of a run are within the budget, before the first of them is trained.

    Args:
        gate: the gate's folder.
        run: that asks.
        policy: the site's; its `networks_epsilon` is finite.
        rounds: how each round that this site is to answer will hide people, by "phase round". Those that left count as
            they are in the ledger.

    Raises:
        RefusalError: the run's weights would cost more than `networks_epsilon`, or all releases together more than
            `most_epsilon`; weights left without noise before; or the ledger lacks what the hub has seen.
        RunError: the ledger was altered.
    """
    _check_whole(gate)
    gone = {name: one for (other, name), one in trained(gate / ledger.NAME).items() if other == run}
    coming = tuple(sorted(one for name, one in rounds.items() if name not in gone))
    cost = epsilon_of((), policy.delta, tuple(sorted((*gone.values(), *coming))))
    if cost > policy.networks_epsilon:
        raise RefusalError(
            f"the weights of run {run} would have epsilon {cost:.2f} with what left of it already; the policy allows "
            f"{policy.networks_epsilon:g} (networks_epsilon)"
        )
    _check_total(gate, policy, f"weights of epsilon {policy.networks_epsilon:g}", (), coming)


def check_round_once(gate: Path, run: str, name: str) -> None:
    """See that the weights of a round, "phase round", do not leave with other noise than they left with.

    Raises:
        RefusalError: they left, and the copy that was kept of them is gone.
        RunError: the ledger was altered.
    """
    if (run, name) in trained(gate / ledger.NAME):
        raise RefusalError(f"the weights of {name} left once, and the site's copy of that answer is gone")


def _check_whole(gate: Path) -> None:
    if missing := receipts.missing(gate):
        raise RefusalError(
            f"the ledger lacks {len(missing)} entries that the hub has seen: this folder is an old copy, or was cut, "
            "and what was spent of the budget is not known; bring the ledger back"
        )


def _check_total(
    gate: Path, policy: Policy, what: str, multipliers: tuple[float, ...], rounds: tuple[DpSgd, ...]
) -> None:
    """See that releases more bring the total not above what the policy allows.

    Weights that left without noise count, as infinite, where the policy asks for noise on weights.
    """
    before, old = released(gate / ledger.NAME), trained(gate / ledger.NAME)
    learnt = [one for one in old.values() if one.multiplier or policy.trains_privately]
    had = epsilon_of(tuple(sorted(before.values())), policy.delta, tuple(sorted(learnt)))
    together = tuple(sorted((*before.values(), *multipliers))), policy.delta, tuple(sorted((*learnt, *rounds)))
    wanted = epsilon_of(*together)
    if wanted > policy.most_epsilon:
        bare = sorted({run for (run, _), one in old.items() if not one.multiplier and policy.trains_privately})
        why = f"; weights left without noise in {', '.join(bare)}" if bare else ""
        raise RefusalError(
            f"{what} would bring the total from {had:.2f} to {wanted:.2f} (delta {policy.delta:g}); the policy allows "
            f"{policy.most_epsilon:g} (most_epsilon){why}"
        )


def check_once(gate: Path, run: str) -> None:
    """See that the statistics of a run do not leave with other noise than they left with: that would be a release more.

    Raises:
        RefusalError: they left, and the copy that was kept of them is gone.
        RunError: the ledger was altered.
    """
    if any(name == run for name, _ in released(gate / ledger.NAME)):
        raise RefusalError("the statistics of this run left once, and the site's copy of that answer is gone")
