"""The last gate before a reply leaves a site: it may hold what its phase declares and the site's policy allows.

`configs.phases` declares everything that can travel from a site to the hub, and is what the site's IT reads.
`sst_models.wire.grammar` has what each of these looks like. This module enforces both, and the policy: anything else
raises `ReleaseError`, and the hub gets an error code in its place.
"""

import json
import re

import numpy as np

from client.gate.budget import multiplier_of
from client.gate.noise import multiplier_in
from client.gate.policy import Policy
from configs.errors import ConfigError, DeclinedError, ReleaseError, TooFewError
from configs.phases import PHASES, Phase
from configs.statistics import shapes
from configs.structures import LabelTable, table_from
from sst_models.wire import grammar
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply

STATE = re.compile(r"(^|[._])(queue\w*|running_mean|running_var|num_batches_tracked)($|[._])")
"""Names of buffers. They hold statistics or codes of patients and come along with `state_dict()`."""

GATES_OWN = frozenset({"masked", "sums"})
"""Parts that the gate makes by itself, and that say nothing to whoever sees one site's alone (`client.gate.sums`)."""

DIGITS = 3
"""Digits after the point of a figure that leaves: a tenth of a Dice point."""


def _declared(name: str) -> Phase:
    found = next((phase for phase in PHASES if phase.name == name and phase.message), None)
    if found is None:
        raise ReleaseError(f"phase '{name}' is not known to this site: update it, or ask the hub")
    return found


def permit(request: PhaseRequest, policy: Policy) -> None:
    """Refuse a phase that the site does not take part in, before any work is done for it.

    Raises:
        ReleaseError: the phase is unknown.
        DeclinedError: the policy leaves it out.
    """
    phase = _declared(request.phase)
    if phase.name != "hello" and (why := policy.declines(phase.name)):
        raise DeclinedError(why)


def check(reply: SiteReply, request: PhaseRequest, policy: Policy) -> None:
    """Let a reply pass only if every single thing in it is declared and allowed.

    Raises:
        ReleaseError: the first thing that may not leave, named by phase, part and array.
    """
    permit(request, policy)
    if (reply.phase, reply.round, reply.site) != (request.phase, request.round, request.site):
        raise ReleaseError(f"reply to {request.phase} {request.round} says that it answers {reply.phase} {reply.round}")
    if reply.bytes > policy.most_bytes:
        raise ReleaseError(f"reply to {request.phase} has {reply.bytes} bytes; the policy allows {policy.most_bytes}")
    phase = _declared(reply.phase)
    groups = _table(request).groups if phase.figures else ()
    if found := grammar.fault(reply, phase, groups):
        raise ReleaseError(found.text)
    if (reply.series or (reply.metrics and phase.losses)) and not policy.releases_curves:
        raise ReleaseError("the policy keeps training curves at the site")
    for part, arrays in reply.arrays.items():
        _check_part(part, arrays, reply, request, policy)
    if not request.settings.get("late"):
        _check_enough(reply, policy)


def _check_enough(reply: SiteReply, policy: Policy) -> None:
    phase = _declared(reply.phase)
    learns = policy.trains and (phase.has_rounds or phase.name == "join")  # else nothing learnt leaves
    if learns and reply.count < policy.min_scans:
        raise TooFewError(f"{reply.count} training scans; the policy asks for {policy.min_scans} or more")
    if phase.figures and reply.metrics and reply.count < policy.min_test_people:
        raise TooFewError(f"a test on {reply.count} scans; the policy asks for {policy.min_test_people} people or more")
    if phase.figures and any(value != round(value, DIGITS) for value in reply.metrics.values()):
        raise ReleaseError(f"the figures of a test leave with {DIGITS} digits")


def _check_part(part: str, arrays: Arrays, reply: SiteReply, request: PhaseRequest, policy: Policy) -> None:
    if policy.withholds(part):
        raise ReleaseError(f"the policy keeps the weights of {part} at the site")
    shape, code = _geometry(request)
    if part == "moments":
        _check_moments(arrays, code, reply.count, policy)
    elif part == "statistics":
        _check_statistics(arrays, reply.count, policy, _table(request))
    elif part in GATES_OWN:
        return
    else:
        _check_names(part, arrays, request)
    for name, array in arrays.items():
        _check_array(f"{part}.{name}", array, shape)


def _geometry(request: PhaseRequest) -> tuple[tuple[int, ...], int]:
    """Read the grid's shape (D, H, W) and the length of a style code from the request's experiment."""
    try:
        experiment = json.loads(request.experiment)
        shape = tuple(int(side) for side in experiment["grid"]["shape"])
        return shape, int(experiment["style"]["code"])
    except (KeyError, TypeError, ValueError) as error:
        raise ReleaseError(
            "the request's experiment states no grid or no style code: cannot check the reply"
        ) from error


def _table(request: PhaseRequest) -> LabelTable:
    """Read the label table from the request's experiment."""
    try:
        return table_from(json.loads(request.experiment).get("label_table", []))
    except (ValueError, AttributeError, ConfigError) as error:
        raise ReleaseError("the request's experiment has no readable label table: cannot check the reply") from error


def _check_moments(arrays: Arrays, code: int, count: int, policy: Policy) -> None:
    if not policy.releases_moments:
        raise ReleaseError("the policy keeps the moments of the style codes at the site")
    _check_cases("moments", count, policy)
    if {name: array.shape for name, array in arrays.items()} != {"mean": (code,), "std": (code,)}:
        raise ReleaseError(f"moments must be exactly mean ({code},) and std ({code},)")


def _check_statistics(arrays: Arrays, count: int, policy: Policy, table: LabelTable) -> None:
    _check_cases("statistics", count, policy)
    asked = shapes(table)
    if {name: array.shape for name, array in arrays.items()} != asked:
        raise ReleaseError(f"statistics must be exactly {', '.join(asked)}, in their sizes")
    if multiplier_in(arrays) < multiplier_of(policy.epsilon, policy.delta):
        raise ReleaseError(f"statistics have less noise than epsilon {policy.epsilon:g} of the policy asks for")


def _check_cases(what: str, count: int, policy: Policy) -> None:
    if count < policy.min_cases:
        who = "people" if what == "statistics" else "scans"
        raise ReleaseError(f"{what} of {count} {who}; the policy asks for {policy.min_cases} or more")


def _check_names(part: str, arrays: Arrays, request: PhaseRequest) -> None:
    asked = request.arrays.get(part)
    if asked is None:
        raise ReleaseError(f"the hub sent no weights of '{part}', so none may go back")
    if set(arrays) != set(asked):
        odd = sorted(set(arrays) ^ set(asked))[0]
        raise ReleaseError(f"part '{part}': '{odd}' is not in both the request and the reply")
    for name, array in arrays.items():
        if STATE.search(name):
            raise ReleaseError(f"'{part}.{name}' is a buffer, not a parameter: release named_parameters() only")
        if array.shape != asked[name].shape:
            raise ReleaseError(f"'{part}.{name}' has shape {array.shape}; the hub sent {asked[name].shape}")


def _check_array(name: str, array: np.ndarray, grid: tuple[int, ...]) -> None:
    if array.dtype != np.float32:
        raise ReleaseError(f"'{name}' is {array.dtype}: weights and moments are float32")
    spans = (array.shape[start : start + 3] for start in range(array.ndim - 2))
    if any(span == grid for span in spans):
        raise ReleaseError(f"'{name}' has the shape of the grid: images, label maps and flows stay at the site")
    if not np.isfinite(array).all():
        raise ReleaseError(f"'{name}' holds a value that is not finite: training diverged")
