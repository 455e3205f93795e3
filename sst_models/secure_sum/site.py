"""What a site does in each round of a secure sum: it hides its values, and helps to take the masks off the sum.

A request that would help a hub to see one site's values alone raises `RefusalError`. One that is repeated is answered
by the same bytes as before, until the secrets of its label are forgotten.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from hashlib import sha256

import numpy as np

from configs.errors import RefusalError
from sst_models.secure_sum import fixed_point, masks
from sst_models.secure_sum.messages import Reveal
from sst_models.secure_sum.sharing import Secrets
from sst_models.secure_sum.state import SiteState, demand


def weight(state: SiteState) -> float:
    """Give this site's weight in the mean of all participants, from the counts that they signed; after `receive`."""
    return fixed_point.weights({site: state.announced[site].count for site in state.participants})[state.site]


def mask(state: SiteState, label: str, values: np.ndarray) -> tuple[SiteState, np.ndarray]:
    """Hide values so that only their sum over all sites comes out.

    Args:
        state: after `agree`.
        label: of the sum.
        values: (N,) uint64 below 2^40, as `fixed_point.encode` gives them.

    Returns:
        The state, and the masked values: (N,) uint64 below 2^40, all equally likely whatever the values are.

    Raises:
        RefusalError: the participants were not agreed on, the label is not of these terms or was forgotten, or other
            values were masked under it before: the difference of the two would show what changed.
        ValueError: the values are not in the ring.
    """
    if not state.agreed:
        raise RefusalError("the participants of the secure sum are not confirmed yet")
    own = _own(state, label)
    digest = sha256(fixed_point.pack(values).data).hexdigest()
    if state.masked.get(label, digest) != digest:
        raise RefusalError(f"other values were sent under '{label}' before; a mask hides one vector")
    total = values + masks.self_mask(state.terms, label, state.site, own.seed, values.size)
    for other in sorted(set(state.participants) - {state.site}):
        public = state.announced[other].mask_keys[label]
        total += masks.pair_mask(state.terms, label, (state.site, other), (own.mask_key, public), values.size)
    return replace(state, masked={**state.masked, label: digest}), fixed_point.reduced(total)


def reveal(state: SiteState, label: str, survivors: Collection[str]) -> tuple[SiteState, Reveal]:
    """Give this site's shares of what masks the sum of the survivors: their seeds, and the dropouts' mask keys.

    Args:
        state: after `mask`.
        label: of the sum.
        survivors: the participants whose masked values are in the sum.

    Raises:
        RefusalError: they are fewer than the threshold, no participants, or without this site; this site has masked
            nothing under the label, has revealed for other survivors before, or has forgotten its shares.
    """
    alive = tuple(sorted(set(survivors)))
    if odd := set(alive) - set(state.participants):
        raise RefusalError(f"'{min(odd)}' is no participant of the secure sum, and cannot have survived")
    if state.site not in alive or label not in state.masked:
        raise RefusalError(f"this site sent nothing under '{label}' that is in the sum: it reveals nothing for it")
    demand(state.terms, alive, f"are in the sum of '{label}'")
    if state.revealed.get(label, alive) != alive:
        raise RefusalError(
            f"asked for '{label}' with other survivors than before: with both kinds of a site's shares its values "
            "would be seen alone"
        )
    _own(state, label)
    seeds = {site: state.shares[site][label].seed for site in alive}
    keys = {site: state.shares[site][label].mask_key for site in state.participants if site not in alive}
    return replace(state, revealed={**state.revealed, label: alive}), Reveal(state.site, label, seeds, keys)


def forget(state: SiteState, label: str) -> SiteState:
    """Drop all secrets of a label; that it was revealed, and for whom, is remembered.

    Raises:
        RefusalError: the label was not revealed yet: the sum would be lost.
    """
    if label not in state.revealed:
        raise RefusalError(f"'{label}' was not revealed; its secrets are still needed")
    shares = {site: _without(own, label) for site, own in state.shares.items()}
    return replace(state, secrets=_without(state.secrets, label), shares=shares)


def _own(state: SiteState, label: str) -> Secrets:
    if label not in state.terms.labels:
        raise RefusalError(f"'{label}' is no label of this secure sum")
    if label not in state.secrets:
        raise RefusalError(f"the secrets of '{label}' were forgotten; a label is used once")
    return state.secrets[label]


def _without(own: Mapping[str, Secrets], label: str) -> dict[str, Secrets]:
    return {name: one for name, one in own.items() if name != label}
