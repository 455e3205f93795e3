"""A site's budget of differential privacy: what its statistics gave away so far, over all runs and all time.

Each release with noise has a noise multiplier, and the ledger has it with the release. Epsilon of all of them together
is by Google's dp-accounting, from Renyi divergences (Mironov 2017, CSF; composed by Theorem 1 of it), which hold for
the discrete Gaussian as they do for the continuous one. It covers statistics alone: counts, figures of a test, and
weights at the levels "networks" and "models" have no noise (docs/privacy.md).
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from client.gate import ledger, receipts
from client.gate.policy import Policy
from configs.errors import RefusalError

PART = "statistics"
"""The part of a reply that is released with noise."""


@lru_cache(maxsize=64)
def epsilon_of(multipliers: Sequence[float], delta: float) -> float:
    """Give epsilon of some releases together; infinite where one of them had no noise.

    Args:
        multipliers: standard deviation of each one's noise, in lengths of the longest row; a tuple.
        delta: the probability that is left over.
    """
    if not multipliers:
        return 0.0
    if min(multipliers) <= 0:
        return math.inf
    import dp_accounting
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant()
    for multiplier in multipliers:
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier))
    return float(accountant.get_epsilon(delta))


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
    from dp_accounting import rdp

    found = dp_accounting.calibrate_dp_mechanism(rdp.RdpAccountant, dp_accounting.GaussianDpEvent, epsilon, delta)
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


def spent(path: Path, delta: float) -> float:
    """Give epsilon of all that a ledger has.

    Raises:
        RunError: the ledger was altered.
    """
    return epsilon_of(tuple(sorted(released(path).values())), delta)


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
    if missing := receipts.missing(gate):
        raise RefusalError(
            f"the ledger lacks {len(missing)} entries that the hub has seen: this folder is an old copy, or was cut, "
            "and what was spent of the budget is not known; bring the ledger back"
        )
    before = released(gate / ledger.NAME)
    if any(name == run for name, _ in before):
        return
    runs = len({name for name, _ in before})
    if runs >= policy.most_runs_with_statistics:
        raise RefusalError(
            f"statistics have left in {runs} run(s), as many as the policy allows (most_runs_with_statistics)"
        )
    multipliers = (*before.values(), multiplier_of(policy.epsilon, policy.delta))
    wanted = epsilon_of(tuple(sorted(multipliers)), policy.delta)
    if wanted > policy.most_epsilon:
        had = epsilon_of(tuple(sorted(before.values())), policy.delta)
        raise RefusalError(
            f"statistics of epsilon {policy.epsilon:g} would bring the total from {had:.2f} to {wanted:.2f} (delta "
            f"{policy.delta:g}); the policy allows {policy.most_epsilon:g} (most_epsilon)"
        )


def check_once(gate: Path, run: str) -> None:
    """See that the statistics of a run do not leave with other noise than they left with: that would be a release more.

    Raises:
        RefusalError: they left, and the copy that was kept of them is gone.
        RunError: the ledger was altered.
    """
    if any(name == run for name, _ in released(gate / ledger.NAME)):
        raise RefusalError("the statistics of this run left once, and the site's copy of that answer is gone")
