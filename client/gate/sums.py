"""Secure sums at a site: what is averaged leaves masked, so that the hub sees the mean over sites and no single reply.

The protocol is in `sst_models.secure_sum`; here it meets the gate. The app never sees a mask or a key: it answers in
the clear, and the gate hides what it answered. The other sites' keys are those that IT put into `peers/`, so that a hub
cannot play them (`sst site peer`). What the site must remember lies in `runs/RUN/sums.json`, and is written before the
answer that belongs to it is sent.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client.gate import ledger
from client.gate.approval import Approval
from client.gate.bounds import reach
from client.site import Site
from configs.errors import DataError, FederationError, RefusalError, ReleaseError
from configs.phases import phase_of
from sst_models.secure_sum import fixed_point, messages, site_setup
from sst_models.secure_sum import site as summing
from sst_models.secure_sum.messages import Announcement, Confirmation
from sst_models.secure_sum.state import SiteState
from sst_models.secure_sum.terms import Terms, site_key
from sst_models.wire.credentials import fingerprint
from sst_models.wire.exchange import PhaseRequest, SiteReply
from sst_models.wire.files import replace_file

STATE, PEERS = "sums.json", "peers"
"""In the gate's folder of a run: what the site remembers; in the gate's folder: the other sites' public keys."""

MOST_BYTES = 20_000_000
"""Of what the hub relays in one message: a thousand sites' keys of a hundred rounds have 15 MB."""


def answer(request: PhaseRequest, site: Site, approval: Approval) -> SiteReply:
    """Answer a request of the phases "keys" and "unmask"; the app is not asked.

    Raises:
        RefusalError: it would help somebody to see one site's weights, or names keys that IT did not approve.
    """
    path = site.gate / "runs" / request.run / STATE
    asked = _read(request)
    try:
        if request.phase == "unmask":
            state, said = _unmask(_state(path), asked, request, approval)
        else:
            state, said = _STEPS[request.round](path, asked, site, approval)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefusalError("what the hub relays for a secure sum is not of its form") from error
    replace_file(path, state.to_json())
    whole = np.frombuffer(json.dumps(said).encode(), np.uint8)
    return SiteReply(request.site, request.phase, request.round, 0, arrays={"sums": {"said": whole}})


def hide(reply: SiteReply, request: PhaseRequest, site: Site, approval: Approval) -> SiteReply:
    """Give a reply in which everything that is averaged is masked, and nothing else of it is left but the count.

    What is a site's own (`configs.phases.KEPT`) stays as the policy let it.

    Raises:
        ReleaseError: the app moved a weight further than the approved steps reach.
        RefusalError: the set-up is not done, or other values left under this round before.
        FederationError: a weight changed by 4096 or more.
    """
    phase, label = phase_of(request.phase), f"{request.phase} {request.round}"
    path = site.gate / "runs" / request.run / STATE
    state = _state(path)
    changes = dict(_changes(reply, request, approval))
    values = fixed_point.encode(changes, summing.weight(state))
    state, masked = summing.mask(state, label, values)
    replace_file(path, state.to_json())
    kept = {part: arrays for part, arrays in reply.arrays.items() if part in phase.kept}
    packed = {"values": fixed_point.pack(masked)}
    return replace(reply, arrays={**kept, "masked": packed}, metrics={}, series={})


def check_hidden(reply: SiteReply, request: PhaseRequest) -> None:
    """See once more, before it leaves, that a reply of a run of secure sums has nothing in the clear that is averaged.

    One with an error has nothing at all.

    Raises:
        ReleaseError: it has, or what is masked is not of its size.
    """
    if reply.error:
        return
    phase = phase_of(request.phase)
    clear = set(reply.arrays) - {"masked", *phase.kept}
    size = sum(array.size for part in phase.averaged for array in request.arrays[part].values())
    masked = reply.arrays.get("masked", {})
    fine = {name: (array.shape, array.dtype) for name, array in masked.items()} == {
        "values": ((fixed_point.VALUE_BYTES * size,), np.dtype(np.uint8))
    }
    if clear or reply.metrics or reply.series or not fine:
        raise ReleaseError("a run of secure sums lets nothing out that is averaged, unless it is masked")


def peers(gate: Path) -> dict[str, str]:
    """Give the public keys of the other sites that IT approved, by name."""
    return {path.stem: path.read_text(encoding="ascii") for path in sorted((gate / PEERS).glob("*.pub"))}


def add_peer(gate: Path, key: Path) -> str:
    """Approve the public key of another site, whose name is that of the file; give the name.

    Raises:
        DataError: it cannot be read, or is no public key of a site.
    """
    try:
        text = key.read_bytes()
    except OSError as error:
        raise DataError(f"{key} cannot be read: {error.strerror}") from error
    site_key(text, str(key))
    replace_file(gate / PEERS / f"{key.stem}.pub", text)
    return key.stem


def _begin(path: Path, asked: Mapping[str, Any], site: Site, approval: Approval) -> tuple[SiteState, object]:
    terms = Terms.from_json(json.dumps(asked["terms"]))
    _check_terms(terms, site, approval)
    if path.exists():  # asked again after a crash: the same keys, or none would fit what others have
        state = _state(path)
        if state.terms.digest != terms.digest or state.shares:
            raise RefusalError("the hub begins secure sums anew in the same run; a new run needs a new name")
        return state, _spoken(state.announced[site.name])
    state, said = site_setup.announce(terms, site.name, _count(site, approval.run), _key(site))
    return state, _spoken(said)


def _share(path: Path, asked: Mapping[str, Any], site: Site, approval: Approval) -> tuple[SiteState, object]:
    return site_setup.share(_state(path), [messages.from_json(Announcement, text) for text in asked["announcements"]])


def _receive(path: Path, asked: Mapping[str, Any], site: Site, approval: Approval) -> tuple[SiteState, object]:
    state, said = site_setup.receive(_state(path), dict(asked["boxes"]), _key(site))
    return state, _spoken(said)


def _agree(path: Path, asked: Mapping[str, Any], site: Site, approval: Approval) -> tuple[SiteState, object]:
    said = [messages.from_json(Confirmation, text) for text in asked["confirmations"]]
    return site_setup.agree(_state(path), said), {}


_STEPS = {1: _begin, 2: _share, 3: _receive, 4: _agree}


def _unmask(
    state: SiteState, asked: Mapping[str, Any], request: PhaseRequest, approval: Approval
) -> tuple[SiteState, object]:
    label = approval.preset.sums[request.round - 1]
    state, said = summing.reveal(state, label, [str(name) for name in asked["survivors"]])
    return state, _spoken(said)


def _check_terms(terms: Terms, site: Site, approval: Approval) -> None:
    """Hold the terms that the hub sends against what IT approved: the run, its rounds, this site's key and its peers'.

    Raises:
        RefusalError: the first thing that differs.
    """
    if terms.run != approval.run or terms.labels != approval.preset.sums:
        raise RefusalError("the hub's terms of the secure sums are not those of the approved run")
    known = peers(site.gate)
    for name, public in terms.sites.items():
        if name == site.name:
            continue
        if name not in known or fingerprint(known[name].encode()) != fingerprint(public.encode()):
            raise RefusalError(
                f"the hub names the site '{name}' with the key {fingerprint(public.encode())}, which is not approved "
                f"here: ask that hospital for its {name}.pub, then sst site peer SITE {name}.pub"
            )


def _changes(reply: SiteReply, request: PhaseRequest, approval: Approval) -> Iterator[tuple[str, np.ndarray]]:
    """Give by how much each averaged array changed: "PART/NAME" -> float32.

    A hub that sees only sums cannot leave out a reply that is far off, so the site does not let one out.
    """
    for part in phase_of(request.phase).averaged:
        most = reach(part, [(request.phase, request.round)], approval.preset)
        for name, sent in request.arrays[part].items():
            change = (reply.arrays[part][name].astype(np.float64) - sent).astype(np.float32)
            if not float(np.abs(change).max(initial=0.0)) <= most * 1.001:
                raise ReleaseError(f"{part} moved further than the approved steps reach: the training diverged")
            yield f"{part}/{name}", change


def _read(request: PhaseRequest) -> Mapping[str, Any]:
    said = request.arrays.get("sums", {}).get("said")
    if said is None or said.dtype != np.uint8 or said.nbytes > MOST_BYTES:
        raise RefusalError("a request for a secure sum holds no words, or too many")
    try:
        return dict(json.loads(said.tobytes()))
    except (ValueError, TypeError, RecursionError) as error:
        raise RefusalError("what the hub relays for a secure sum cannot be read") from error


def _state(path: Path) -> SiteState:
    try:
        return SiteState.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RefusalError("the secure sums of this run were not set up at this site") from error
    except (ValueError, KeyError, TypeError, DataError, FederationError) as error:
        raise RefusalError("what the site remembers of the secure sums is damaged: it takes part no more") from error


def _spoken(message: Announcement | Confirmation | messages.Reveal) -> object:
    return messages.to_json(message)


def _count(site: Site, run: str) -> int:
    """Give how many scans train at this site, as it said when it joined the run."""
    joined = [one for one in ledger.verified(site.gate / ledger.NAME) if (one["run"], one["phase"]) == (run, "join")]
    return max([int(one["count"]) for one in joined], default=0)


def _key(site: Site) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_ssh_private_key(site.key.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise RefusalError(f"the site's private key cannot be read ({site.key}): secure sums need it") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise RefusalError(f"{site.key} is no key of the kind that sst site join makes")
    return key
