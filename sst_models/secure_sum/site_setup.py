"""How a site prepares for all secure sums of a run: keys, shares of secrets, and who the participants are.

Each step takes the site's state, and gives the next one and what the site sends; `sst_models.secure_sum.terms` has
their order. A step is taken once; the caller answers one that is repeated from its own store.
"""

import secrets as system
from collections.abc import Iterable, Mapping
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec

from configs.errors import RefusalError
from sst_models.secure_sum import masks, messages, sharing
from sst_models.secure_sum.messages import Announcement, Confirmation
from sst_models.secure_sum.sharing import Secrets
from sst_models.secure_sum.state import SiteState, demand
from sst_models.secure_sum.terms import Terms, sign


def announce(terms: Terms, site: str, count: int, key: ec.EllipticCurvePrivateKey) -> tuple[SiteState, Announcement]:
    """Make the secrets of all labels, from the system's randomness, and say the public keys to them.

    Args:
        terms: what this site approved.
        site: its name.
        count: of scans behind its values, 1 or more: its weight.
        key: its long-term private key.

    Raises:
        RefusalError: the key is not the one that the terms have for this site, or the count is none.
    """
    if not terms.is_key_of(site, key):
        raise RefusalError(f"the key of this site is not the one that the terms of the secure sum have for '{site}'")
    own = {label: Secrets(_random(), _random()) for label in terms.labels}
    state = SiteState(terms, site, box_key=_random(), secrets=own)
    said = Announcement(
        site,
        count,
        masks.public_key(state.box_key),
        {label: masks.public_key(one.mask_key) for label, one in own.items()},
        {label: masks.seed_digest(one.seed) for label, one in own.items()},
    )
    said = replace(said, signature=sign(key, said.statement(terms)))
    if fault := messages.announcement_fault(terms, said):
        raise RefusalError(fault)
    return replace(state, announced={site: said}), said


def share(state: SiteState, announcements: Iterable[Announcement]) -> tuple[SiteState, dict[str, str]]:
    """Give the others shares of this site's secrets, so that its masks can be taken off without it.

    Args:
        state: after `announce`.
        announcements: of all sites, this one too, as the hub relays them.

    Returns:
        The state, and by recipient a box for the hub to relay.

    Raises:
        RefusalError: an announcement is not what its site signed, this site's own is not there as it was made, there
            are fewer than the threshold, or this site has given shares before.
    """
    terms = state.terms
    if state.shares:
        raise RefusalError("this site has given shares of its secrets before; it does so once")
    announced = {said.site: said for said in announcements}
    faults = (messages.announcement_fault(terms, said) for said in announced.values())
    if fault := next(filter(None, faults), "") or messages.clash(announced):
        raise RefusalError(fault)
    if announced.get(state.site) != state.announced[state.site]:
        raise RefusalError(f"the hub relays keys of site '{state.site}', this one, that it did not announce")
    demand(terms, announced, "announced keys")
    pieces = {label: _split(terms, own) for label, own in state.secrets.items()}
    shares = {site: {label: piece[site] for label, piece in pieces.items()} for site in announced}
    boxes = {
        other: sharing.seal(terms, (state.site, other), state.box_key, said.box_key, shares[other])
        for other, said in sorted(announced.items())
        if other != state.site
    }
    return replace(state, announced=announced, shares={state.site: shares[state.site]}), boxes


def receive(
    state: SiteState, boxes: Mapping[str, str], key: ec.EllipticCurvePrivateKey
) -> tuple[SiteState, Confirmation]:
    """Open the others' boxes; who sent one is a participant of all sums from here on.

    Args:
        state: after `share`.
        boxes: by sender.
        key: this site's long-term private key, by which it confirms who the participants are.

    Raises:
        RefusalError: a box is not what its sender made, one is from nobody who announced keys, there are fewer
            participants than the threshold, or this site has opened other boxes before.
    """
    terms, own = state.terms, state.site
    if odd := set(boxes) - (set(state.announced) - {own}):
        raise RefusalError(f"a box from '{min(odd)}', which announced no keys to this site")
    try:
        opened = {
            sender: sharing.unseal(terms, (sender, own), state.box_key, state.announced[sender].box_key, box)
            for sender, box in sorted(boxes.items())
        }
    except sharing.BadBox as error:
        raise RefusalError(f"{error}: it was changed on the way, or is not for this site") from error
    shares = {own: state.shares.get(own, {}), **opened}
    demand(terms, shares, "sent shares of their secrets")
    participants = tuple(sorted(shares))
    if state.participants and participants != state.participants:
        raise RefusalError("this site has confirmed other participants before; it does so once")
    if not state.participants:
        state = replace(state, shares=shares, participants=participants)
    said = Confirmation(own, _roster(state))
    return state, replace(said, signature=sign(key, said.statement(terms)))


def agree(state: SiteState, confirmations: Iterable[Confirmation]) -> SiteState:
    """See that so many sites as the threshold hold the boxes of the same participants as this one.

    Without it a hub could show each site other participants, and have the masks of one taken off piece by piece.
    Two lists cannot both have a threshold, as each honest site confirms one. Bonawitz et al. 2017 (figure 4, round 3)
    let sites confirm the survivors of every round; here it is the participants, once, and one set of survivors each.

    Args:
        state: after `receive`.
        confirmations: as the hub relays them.

    Raises:
        RefusalError: one is not what its site signed, one is of another list, or there are too few.
    """
    said = {one.site: one for one in confirmations}
    faults = (messages.confirmation_fault(state.terms, one, _roster(state)) for one in said.values())
    if fault := next(filter(None, faults), ""):
        raise RefusalError(fault)
    demand(state.terms, ({state.site} | set(said)) & set(state.participants), "confirmed the participants")
    return replace(state, agreed=True)


def _random() -> str:
    return system.token_hex(masks.SECRET_BYTES)


def _split(terms: Terms, own: Secrets) -> dict[str, Secrets]:
    keys, seeds = sharing.split(terms, own.mask_key), sharing.split(terms, own.seed)
    return {site: Secrets(keys[site], seeds[site]) for site in keys}


def _roster(state: SiteState) -> str:
    return messages.roster(state.terms, {site: state.announced[site] for site in state.participants})
