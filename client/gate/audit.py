"""The gate attacks a site's statistics before they leave, and stops them where it finds out too much.

The attack is LiRA (`client.audit.statistics`), on releases of three quarters of the site's people at a time, with noise
of the same multiplier: some have to be out, and noise is that of about as many people as in the release itself. Shadow
releases are simulated, with repeatable noise, so that the same rows give the same figures, however often a hub asks.

Figures come from people's numbers without noise, so none may leave. They are in a file of their own and not in the
ledger: the hub is told the hash of each entry of the ledger and knows all else that is in it, so that it could try out
which figure fits.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from client.audit.membership import Membership
from client.audit.statistics import membership
from client.gate import budget
from client.gate.policy import Policy
from configs.errors import RefusalError
from sst_models.wire import chain

NAME = "audits.jsonl"
"""In the gate's folder: what each audit found."""

WHAT = "file of audits"

OUT = 4
"""One in so many people is left out of a release that is attacked."""

FAR = 1e6
"""Standard units; a number that is further from 0 is brought to this, so that what is squared stays within a float."""


def check(people: np.ndarray, run: str, gate: Path, policy: Policy) -> None:
    """Attack statistics as they would leave, write down what came of it, and stop them if that is too much.

    Args:
        people: (people, NUMBERS), finite, standard units: rows of which the mean would leave.
        run: that it would leave to.
        gate: the gate's folder.
        policy: the site's.

    Raises:
        RefusalError: even the lower end of the interval of the AUC is above `most_auc`, or there is a single person.
        OSError: the entry could not be written.
        RunError: the last entry cannot be read.
    """
    found = _attacked(people, budget.multiplier_of(policy.epsilon, policy.delta))
    least = found.auc.low if found else 1.0  # a single person's numbers are as good as found
    stopped = least > policy.most_auc
    chain.append(gate / NAME, {"run": run, **_entry(len(people), found, policy), "stopped": stopped}, WHAT)
    if stopped:
        raise RefusalError(
            f"the audit of these statistics tells who was in them with an AUC of {least:.2f} or more (0.5 is chance); "
            f"the policy allows {policy.most_auc:g} (most_auc); nothing left: give a lower epsilon, or, where there is "
            f"no noise, more people"
        )


def rule(policy: Policy) -> str:
    """Say in a few words what stops statistics."""
    if policy.most_auc == 1:
        return "no audit stops them"
    return f"an audit stops them above an AUC of {policy.most_auc:g}"


def audits(gate: Path) -> list[dict[str, Any]]:
    """Give what the audits of a site found, the last one last; none where there was none.

    Raises:
        RunError: the file was altered.
    """
    path = gate / NAME
    return chain.verify(path, WHAT) if path.exists() else []


def _attacked(people: np.ndarray, multiplier: float) -> Membership | None:
    """Attack releases of most of the people; None where there is nobody to leave out."""
    count = len(people)
    if count < 2:
        return None
    rows = np.clip(np.asarray(people, np.float64), -FAR, FAR)
    return membership(rows, count - max(1, count // OUT), multiplier)


def _entry(people: int, found: Membership | None, policy: Policy) -> dict[str, Any]:
    def three(name: str) -> list[float] | None:
        one = getattr(found, name, None)
        return one and [round(value, 3) for value in (one.value, one.low, one.high)]

    return {
        "people": people,
        "epsilon": None if math.isinf(policy.epsilon) else policy.epsilon,
        "auc": three("auc"),
        "tpr_5": three("tpr_5"),
        "decisions": found.members + found.others if found else 0,
        "most_auc": policy.most_auc,
    }
