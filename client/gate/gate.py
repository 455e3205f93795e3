"""The site's gate: every request goes in here, and nothing goes out but through it.

Read `handle` first. The gate takes a request only if it is what the site's IT approved, asks the app for an answer as
it would ask a stranger, and lets the answer out only if every single thing in it is declared and allowed. What it
remembers lies in a folder of its own (`Site.gate`), where the app does not write.
"""

from collections.abc import Callable
from dataclasses import replace

from client.gate import audit, bounds, budget, ledger, networks, noise, receipts, release, replies, sums
from client.gate.approval import Approval, check_parts, check_words, first_folder, read_approval
from client.gate.kept import Kept
from client.gate.policy import Policy, check_floors
from client.gate.record import Record, check_announced, spend
from client.site import Site
from configs.errors import ReleaseError
from configs.phases import phase_of
from configs.statistics import count
from sst_models.wire import payload
from sst_models.wire.exchange import Arrays, PhaseRequest, SiteReply
from sst_models.wire.payload import Parcel
from sst_models.wire.receipts import Receipt

REFUSED = "refused.jsonl"
"""In the gate's folder: what was refused, when and why."""

Answer = Callable[[PhaseRequest, Site], SiteReply]


def handle(
    request: PhaseRequest, receipt: Receipt, parcel: Callable[[], Parcel], site: Site, answer: Answer
) -> tuple[SiteReply, Parcel, str]:
    """Answer one request of the hub, or refuse it.

    Args:
        request: what the hub asks, without its parts.
        receipt: the hub's for the last entry of this site's ledger.
        parcel: reads the parts as they travelled; called once the words have passed.
        site: this site.
        answer: the app.

    Returns:
        The reply, its parts as they are to travel, and the hash of its entry in the ledger.

    Raises:
        RefusalError: the request is not what was approved, or was asked before in another form.
        ReleaseError: the policy leaves the phase out, or the answer holds what may not leave.
        SstError: the app cannot answer.
    """
    release.permit(request, site.policy)
    if request.phase == "hello":
        return _let_out(answer(request, site), request, site, site.policy)
    approval = read_approval(site.gate, request.run)
    receipts.take(receipt, site.name, approval.signer, site.gate)
    check_words(request, approval, site.name)
    check_floors(approval.preset, site.policy)
    if phase_of(request.phase).statistics:
        budget.check(site.gate, request.run, site.policy)
    check_announced(request, site.policy)
    folder = site.gate / "runs" / request.run
    held = Kept(folder / "parts")
    request = replace(request, arrays=_received(parcel(), held))
    check_parts(request, approval)
    site = replace(site, dp_sgd=networks.plan(request, site, approval))
    policy = _narrowed(site, approval, request)
    reply = _answered(request, replace(site, policy=policy), approval, answer)
    if phase_of(request.phase).averaged and approval.preset.sums:
        sums.check_hidden(reply, request)
    return _let_out(reply, request, site, policy, held)


def _answered(request: PhaseRequest, site: Site, approval: Approval, answer: Answer) -> SiteReply:
    """Give the reply from disk where this very request was answered before, else have it worked out."""
    folder, key = site.gate / "runs" / request.run, replies.key_of(request)
    record = Record.of(folder)
    known = record.known(request, key)
    if known and (kept := replies.recall(folder / "replies", key)):
        return kept
    phase = phase_of(request.phase)
    if phase.statistics:
        budget.check_once(site.gate, request.run)
    networks.check_once(request, site)
    seen = bounds.Seen.of(folder / "seen", first_folder(site.gate, request.run))
    if phase.learns and not known:
        bounds.check(request, approval, seen, site.policy.most_missed_rounds)
    spend(site.gate, site.policy)
    record.bind(request, key)
    if phase.learns and not known:
        seen.remember(request, approval)
    networks.remember(folder, request, site.dp_sgd)
    reply = sums.answer(request, site, approval) if phase.sums else _asked(request, site, approval, answer, seen)
    if not reply.error:
        replies.remember(folder / "replies", key, reply)
    return reply


def _asked(request: PhaseRequest, site: Site, approval: Approval, answer: Answer, seen: bounds.Seen) -> SiteReply:
    """Ask the app, check what it says, and make of it what may leave: with noise, or masked."""
    phase, own = phase_of(request.phase), site.policy
    reply = answered = replace(answer(request, site), site=request.site)
    if odd := release.GATES_OWN & set(reply.arrays):
        raise ReleaseError(f"the app's answer holds the part '{min(odd)}', which the gate alone makes")
    if phase.statistics and not reply.error:
        multiplier, numbers = budget.multiplier_of(own.epsilon, own.delta), count(approval.preset.table)
        reply = noise.protect(reply, multiplier, _draw(request, site), numbers)
    release.check(reply, request, own)
    if phase.statistics and not reply.error:  # those of too few people were not let through, and are not looked at
        audit.check(answered.arrays["statistics"]["people"], request.run, site.gate, own)
    if phase.learns:
        seen.learn(request, reply.arrays)
    if phase.averaged and approval.preset.sums and not reply.error:
        reply = sums.hide(reply, request, site, approval)
    return reply


def _let_out(
    reply: SiteReply, request: PhaseRequest, site: Site, policy: Policy, held: Kept | None = None
) -> tuple[SiteReply, Parcel, str]:
    training = networks.of_reply(reply, request, site)
    release.check(reply, request, policy)  # again for one from disk: the policy may be another than it was
    parcel, results = payload.answer(reply.arrays, request)
    if held is not None:
        for digest, arrays in results.items():
            held.remember(digest, arrays)
    return reply, parcel, ledger.append(site.gate / ledger.NAME, request, reply, parcel, training)


def _received(parcel: Parcel, held: Kept) -> dict[str, Arrays]:
    """Unpack the request's parts, and keep those that the hub will come back to."""
    parts = payload.unpack(parcel, held.recall)
    for part in {*parcel.whole, *parcel.deltas} & set(parcel.digests):
        held.remember(parcel.digests[part], parts[part])
    return parts


def _narrowed(site: Site, approval: Approval, request: PhaseRequest) -> Policy:
    """Give the policy as it is for this request: moments leave after a phase's last round, in so many runs."""
    policy, phase = site.policy, phase_of(request.phase)
    if not (phase.moments and policy.releases_moments):
        return policy
    last = approval.preset.phases.rounds(phase.name)
    runs = ledger.runs_with(site.gate / ledger.NAME, "moments") | {request.run}
    due = policy.moments_each_round or request.round == last
    return policy if due and len(runs) <= policy.most_runs_with_moments else replace(policy, moments=False)


def _draw(request: PhaseRequest, site: Site) -> noise.Draw:
    """Give where noise is from: the operating system, but for a simulated site."""
    if not site.simulated:
        return noise.from_system
    return noise.repeatable(f"{request.site} {request.run} {request.experiment}")
