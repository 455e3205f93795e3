"""What the hub does in a secure sum: it relays what sites say to each other, adds up, and takes the masks off the sum.

It checks what passes through it, so that a site that went wrong is known by name before others refuse its messages.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from configs.errors import FederationError
from sst_models.secure_sum import fixed_point, masks, messages, sharing
from sst_models.secure_sum.messages import Announcement, Confirmation, Reveal
from sst_models.secure_sum.terms import Terms


@dataclass(frozen=True)
class Setup:
    """What the hub relays, once for all sums of a run; nothing of it is secret to the hub."""

    terms: Terms
    announced: Mapping[str, Announcement] = field(default_factory=dict)  # by site
    boxes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # sender -> recipient
    confirmed: Mapping[str, Confirmation] = field(default_factory=dict)  # by site
    agreed: tuple[str, ...] = ()  # the sites that have seen the confirmations, and will mask

    @property
    def participants(self) -> tuple[str, ...]:
        """The sites that sent shares of their secrets, so that a sum survives their loss; sorted."""
        return tuple(sorted(self.boxes))

    def boxes_for(self, site: str) -> dict[str, str]:
        """Give all boxes for a participant, by sender."""
        return {sender: own[site] for sender, own in self.boxes.items() if sender != site}

    def weight(self, sites: Iterable[str]) -> float:
        """Give the sum of the weights of some participants in the mean of all."""
        weights = fixed_point.weights({site: self.announced[site].count for site in self.participants})
        return sum(weights[site] for site in sites)

    def to_json(self) -> str:
        """Give it as text."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "Setup":
        """Read what `to_json` gave.

        Raises:
            ValueError, KeyError, TypeError: it is no such text.
        """
        read = json.loads(text)
        announced = {site: Announcement(**said) for site, said in read["announced"].items()}
        confirmed = {site: Confirmation(**said) for site, said in read["confirmed"].items()}
        terms = Terms.from_json(json.dumps(read["terms"]))
        return Setup(terms, announced, read["boxes"], confirmed, tuple(read["agreed"]))


@dataclass(frozen=True)
class MaskedSum:
    """The sum of the masked values that came so far."""

    label: str
    total: np.ndarray  # (N,) uint64 below 2^40
    sites: tuple[str, ...] = ()  # whose values are in it


def add_announcement(setup: Setup, said: Announcement) -> Setup:
    """Take in a site's keys.

    Raises:
        FederationError: they are not what a site of the terms signed, stand there already, or come after boxes.
    """
    announced = {**setup.announced, said.site: said}
    if setup.boxes or said.site in setup.announced:
        raise FederationError(f"site '{said.site}' announced keys again, or too late")
    if fault := messages.announcement_fault(setup.terms, said) or messages.clash(announced):
        raise FederationError(fault)
    return replace(setup, announced=announced)


def add_boxes(setup: Setup, site: str, boxes: Mapping[str, str]) -> Setup:
    """Take in a site's boxes: it is a participant.

    Raises:
        FederationError: fewer sites than the threshold announced keys, there is not one box for each of the others, or
            they come again or after confirmations.
    """
    _demand(setup.terms, setup.announced, "the set-up")
    if setup.confirmed or site in setup.boxes or set(boxes) != set(setup.announced) - {site}:
        raise FederationError(f"site '{site}' sent shares for others than those that announced keys, or again")
    return replace(setup, boxes={**setup.boxes, site: dict(boxes)})


def add_confirmation(setup: Setup, said: Confirmation) -> Setup:
    """Take in a site's word that it opened the boxes of all participants.

    Raises:
        FederationError: fewer sites than the threshold sent boxes, the site is none of them, or it confirms others.
    """
    _demand(setup.terms, setup.boxes, "the set-up")
    if said.site not in setup.boxes:
        raise FederationError(f"site '{said.site}' confirms participants and is none")
    wanted = messages.roster(setup.terms, {site: setup.announced[site] for site in setup.participants})
    if fault := messages.confirmation_fault(setup.terms, said, wanted):
        raise FederationError(fault)
    return replace(setup, confirmed={**setup.confirmed, said.site: said})


def start(label: str, size: int) -> MaskedSum:
    """Begin a sum of vectors of so many values."""
    return MaskedSum(label, np.zeros(size, np.uint64))


def add_masked(setup: Setup, masked: MaskedSum, site: str, values: np.ndarray) -> MaskedSum:
    """Add a site's masked values, (N,) uint64 below 2^40, which need not be kept.

    Raises:
        FederationError: the site is no participant or is in the sum already, or the values are not of the sum's form.
    """
    if site not in setup.participants or site in masked.sites:
        raise FederationError(f"site '{site}' is no participant of '{masked.label}', or is in its sum already")
    try:
        fixed_point.check(values, masked.total.size)
    except ValueError as error:
        raise FederationError(f"masked values of site '{site}' for '{masked.label}': {error}") from error
    total = fixed_point.reduced(masked.total + values)
    return replace(masked, total=total, sites=tuple(sorted((*masked.sites, site))))


def unmask(setup: Setup, masked: MaskedSum, reveals: Iterable[Reveal]) -> np.ndarray:
    """Take the masks off a sum.

    Ask for reveals when no more values are taken in, and keep `masked.sites` on disk before: a site reveals for one set
    of survivors, and another one, asked for later, is refused.

    Args:
        setup: with all boxes.
        masked: the sum.
        reveals: of as many survivors as the threshold, or of more.

    Returns:
        (N,) uint64 below 2^40: the sum of the values of `masked.sites`.

    Raises:
        FederationError: too few sites are left, a reveal is not of this sum, or shares do not give back a secret that
            fits what its site announced.
    """
    _demand(setup.terms, masked.sites, f"'{masked.label}'")
    revealed = {one.site: one for one in reveals}
    dropouts = set(setup.participants) - set(masked.sites)
    for one in revealed.values():
        _check(one, masked, dropouts)
    _demand(setup.terms, revealed, f"'{masked.label}'")
    total = masked.total.copy()
    for site in masked.sites:
        seed = sharing.combine(setup.terms, {one.site: one.seeds[site] for one in revealed.values()})
        _fits(masks.seed_digest(seed) == setup.announced[site].seed_digests[masked.label], site, "seed")
        total -= masks.self_mask(setup.terms, masked.label, site, seed, total.size)
    for site in sorted(dropouts):
        key = sharing.combine(setup.terms, {one.site: one.mask_keys[site] for one in revealed.values()})
        _fits(masks.public_key(key) == setup.announced[site].mask_keys[masked.label], site, "mask key")
        _add_pair_masks(setup, masked, site, key, total)
    return fixed_point.reduced(total)


def _add_pair_masks(setup: Setup, masked: MaskedSum, dropout: str, key: str, total: np.ndarray) -> None:
    """Add, in place, what a dropout would have added: it cancels the survivors' pair masks with it."""
    for site in masked.sites:
        public = setup.announced[site].mask_keys[masked.label]
        total += masks.pair_mask(setup.terms, masked.label, (dropout, site), (key, public), total.size)


def _check(one: Reveal, masked: MaskedSum, dropouts: Collection[str]) -> None:
    known = one.site in masked.sites and one.label == masked.label
    if not known or set(one.seeds) != set(masked.sites) or set(one.mask_keys) != set(dropouts):
        raise FederationError(f"site '{one.site}' revealed shares for another sum than that of '{masked.label}'")
    if not messages.is_hex(*one.seeds.values(), *one.mask_keys.values()):
        raise FederationError(f"site '{one.site}' revealed what are no shares")


def _fits(fits: bool, site: str, what: str) -> None:
    if not fits:
        raise FederationError(f"the shares of the {what} of site '{site}' do not give it back: a site sent a wrong one")


def _demand(terms: Terms, sites: Collection[str], what: str) -> None:
    if len(sites) < terms.threshold:
        lost = sorted(set(terms.sites) - set(sites))
        raise FederationError(
            f"{len(lost)} of {len(terms.sites)} sites are lost to the secure sum of {what} ({', '.join(lost)}); it "
            f"takes {terms.threshold}: begin it anew when they are back"
        )
