"""Noise on networks: whether the app may train a round, and how its training has to hide people.

The gate works it out before anything is trained: from the approved preset, the policy and the number of people who
train follows the least noise with which all rounds of the run that this site answers have `networks_epsilon` together.

Noise on statistics is the gate's own; that on networks is added by the app while it trains
(`sst_models.training.private`), and the gate cannot see whether it was. So the promise is against a hub that looks at
all weights, and not against an app that IT should not have approved. Nor does the gate know by itself how many people
train: it counts those whom the app wrote down when it prepared the scans. What is the gate's own is the accounting.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from client.gate import budget
from client.gate.approval import Approval
from client.gate.names import SPLITS
from client.gate.policy import Policy
from client.site import Site
from configs.dp_sgd import DpSgd
from configs.errors import RefusalError, ReleaseError
from configs.phases import phase_of, training
from configs.schema import Experiment
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.files import write_json

TRAINED = "trained.json"
"""In the gate's folder of a run: how each round was trained, written before it was."""

MOST_NOISE = 2.5
"""Most noise on a step's mean gradient, over all weights together, in lengths that the gradient itself may have.

What T learns of made-up brains (15,176 weights, 80 steps of 8 of 200 people) is 62 % of what it learns without noise at
0.6, 15 % at 1.2, and 7 % at 2.5 (docs/privacy.md).
"""

MOST_BYTES = 50_000_000
"""Of the list of people: a million scans."""


def plan(request: PhaseRequest, site: Site, approval: Approval) -> DpSgd | None:
    """Say how the round that a request asks for has to hide people; None where its weights need no noise, or stay here.

    Args:
        request: with its parts.
        site: this site.
        approval: of the run.

    Raises:
        RefusalError: fewer people train than the policy asks for; so much noise would be needed that nothing is learnt;
            the budget would be passed; or nobody knows how many people train.
        RunError: the ledger was altered.
    """
    if not (site.policy.trains_privately and phase_of(request.phase).averaged):
        return None
    count = people(site.folder(request.run) / SPLITS)
    if count < max(1, site.policy.min_people_private):
        raise RefusalError(
            f"{count} people train; weights with noise need {site.policy.min_people_private} or more "
            "(min_people_private): with fewer, noise hides what is learnt, too"
        )
    rounds = rounds_of(approval.preset, site.policy, count)
    _check_learns(rounds[_name(request)], request, count)
    budget.check_rounds(site.gate, request.run, site.policy, rounds)
    words = f"{request.site} {request.run} {_name(request)} {request.experiment}" if site.simulated else ""
    return replace(rounds[_name(request)], words=words)


def rounds_of(preset: Experiment, policy: Policy, count: int) -> dict[str, DpSgd]:
    """Give how each round of a run hides people at a site, by "phase round": all with one multiplier.

    Args:
        preset: the approved one.
        policy: the site's; its `networks_epsilon` is finite.
        count: people who train.
    """
    own = {phase.name for phase in training() if phase.averaged and policy.answers(phase.name)}
    names = [(phase, number) for phase, number in preset.schedule if phase in own]
    shares = {phase: min(1.0, preset.phases.of(phase).batch / count) for phase in own}
    asked = tuple((shares[phase], preset.phases.of(phase).steps) for phase, _ in names)
    multiplier = budget.multiplier_of_rounds(policy.networks_epsilon, policy.delta, asked)
    return {f"{phase} {n}": DpSgd(multiplier, *each) for (phase, n), each in zip(names, asked, strict=True)}


def people(path: Path) -> int:
    """Count the people who train, in the list that the app wrote when it joined the run.

    Raises:
        RefusalError: it is not there, or is no such list.
    """
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            raise ValueError("no file of its size")
        rows: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return len({str(whose) for split, _, whose in rows.values() if split == "train"})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise RefusalError(
            "nobody knows how many people train here, so that no noise can be worked out: the site has to join the run "
            "first, with an app of this version"
        ) from error


def _check_learns(dp_sgd: DpSgd, request: PhaseRequest, count: int) -> None:
    """See that noise does not drown what a step learns.

    Raises:
        RefusalError: it does.
    """
    weights = sum(array.size for part in phase_of(request.phase).averaged for array in request.arrays[part].values())
    taken = dp_sgd.rate * count
    noise = dp_sgd.multiplier / taken * math.sqrt(weights)
    if noise > MOST_NOISE:
        raise RefusalError(
            f"networks_epsilon asks for noise that is {noise:.1f} times as long as what a step of {request.phase} can "
            f"learn (multiplier {dp_sgd.multiplier:g}, {taken:g} people a step, {weights} weights); with more than "
            f"{MOST_NOISE:g} nothing is learnt: ask the hub for a preset with more volumes a step, fewer steps or a "
            "smaller network, or raise networks_epsilon"
        )


def check_once(request: PhaseRequest, site: Site) -> None:
    """See that the weights of a round do not leave with other noise than they left with.

    Raises:
        RefusalError: they left, and the copy that was kept of them is gone.
        RunError: the ledger was altered.
    """
    if site.dp_sgd:
        budget.check_round_once(site.gate, request.run, _name(request))


def remember(folder: Path, request: PhaseRequest, dp_sgd: DpSgd | None) -> None:
    """Note how a round is trained, before it is: as `dp_sgd` says, or without noise.

    Raises:
        OSError: the disk is full.
        RefusalError: what was noted before is damaged.
    """
    kept = _read(folder)
    if dp_sgd or _name(request) in kept:
        write_json({**kept, _name(request): asdict(dp_sgd) if dp_sgd else None}, folder / TRAINED)


def of_reply(reply: SiteReply, request: PhaseRequest, site: Site) -> DpSgd | None:
    """Give how the weights in a reply were trained, for the ledger; None where they have no noise, or there are none.

    Raises:
        ReleaseError: they were trained with less noise than the policy asks for now.
        RefusalError: what was noted is damaged.
    """
    if reply.error or not phase_of(request.phase).averaged:
        return None
    noted = _read(site.gate / "runs" / request.run).get(_name(request))
    found = DpSgd(**noted) if noted else None
    if site.dp_sgd and (found is None or found.multiplier < site.dp_sgd.multiplier):
        raise ReleaseError(
            f"the weights of {_name(request)} were trained with less noise than networks_epsilon, "
            f"{site.policy.networks_epsilon:g} in the policy, asks for"
        )
    return found


def _read(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / TRAINED).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise RefusalError("the record of how this run was trained is damaged: the site takes part no more") from error


def _name(request: PhaseRequest) -> str:
    return f"{request.phase} {request.round}"
