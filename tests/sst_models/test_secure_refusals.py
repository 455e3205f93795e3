"""What a hostile hub, a hostile site or a bad line can ask for in a secure sum, and what it meets."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from configs.errors import DataError, FederationError, RefusalError
from secure_run import (
    COUNTS,
    KEYS,
    LABEL,
    NAMES,
    NEXT,
    agreed,
    announced,
    masked,
    public,
    revealed,
    shared,
    terms_of,
    values_of,
)
from sst_models.secure_sum import hub, masks, messages, sharing, site, site_setup
from sst_models.secure_sum.messages import Announcement, Confirmation, Reveal
from sst_models.secure_sum.terms import Terms, sign

# Terms


def test_terms_that_protect_nobody_are_refused() -> None:
    """Two sites, a key or a label twice, and keys of another kind."""
    keys = {name: public(name) for name in NAMES[:3]}
    with pytest.raises(FederationError, match="needs 3 sites, here are 2"):
        terms_of(2)
    with pytest.raises(FederationError, match="same key"):
        Terms("trial", {**keys, "delft": keys["alba"] + " of another comment"}, (LABEL,))
    for labels in ((), (LABEL, LABEL)):
        with pytest.raises(FederationError, match="labels"):
            Terms("trial", keys, labels)
    other = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    for text in (other.decode(), "ecdsa-sha2-nistp384 AAAA"):
        with pytest.raises(DataError, match="key of site 'bern'"):
            Terms("trial", {**keys, "bern": text}, (LABEL,))


def test_a_digest_of_terms_sees_all_of_them() -> None:
    """Run, sites, keys, labels and their order; not the order of sites."""
    terms = terms_of(4)
    others = [
        replace(terms, run="trail"),
        replace(terms, labels=(NEXT, LABEL)),
        replace(terms, sites={**terms.sites, "delft": public("graz")}),
        replace(terms, sites={**terms_of(3).sites, "graz": public("delft")}),
    ]
    assert len({one.digest for one in (terms, *others)}) == 5
    assert replace(terms, sites=dict(reversed(terms.sites.items()))).digest == terms.digest
    assert Terms.from_json(terms.to_json()) == terms


def test_a_site_announces_itself_by_its_own_key_and_count() -> None:
    """Not by another one's key, nor as nobody, nor without scans."""
    for name, count, key, message in (
        ("alba", 3, "bern", "not the one that the terms of the secure sum have for 'alba'"),
        ("graz", 3, "graz", "not the one that the terms of the secure sum have for 'graz'"),
        ("alba", 0, "alba", "not of its form"),
    ):
        with pytest.raises(RefusalError, match=message):
            site_setup.announce(terms_of(3), name, count, KEYS[key])


# Announcements


def swapped(said: Announcement, **changed: Any) -> Announcement:
    """Give what a hub makes of a site's announcement."""
    return replace(said, **changed)


def forged(said: Announcement, **changed: Any) -> Announcement:
    """Give what a site itself announces that goes wrong, signed."""
    said = replace(said, **changed)
    return replace(said, signature=sign(KEYS[said.site], said.statement(terms_of(5))))


FRESH = masks.public_key("11" * 32)

BAD_ANNOUNCEMENTS: dict[str, tuple[Callable[[dict[str, Announcement]], Announcement], str]] = {
    "a box key": (lambda said: swapped(said["cork"], box_key=FRESH), "'cork' is not signed"),
    "a mask key": (
        lambda said: swapped(said["cork"], mask_keys={**said["cork"].mask_keys, NEXT: FRESH}),
        "'cork' is not",
    ),
    "a count": (lambda said: swapped(said["cork"], count=1_000_000), "'cork' is not signed"),
    "a signature": (lambda said: swapped(said["cork"], signature=said["bern"].signature), "'cork' is not signed"),
    "no signature": (lambda said: swapped(said["cork"], signature="none"), "'cork' is not signed"),
    "another run": (
        lambda said: announced(5, "earlier").setup.announced["cork"],
        "'cork' is not signed .* another run",
    ),
    "a stranger": (lambda said: swapped(said["cork"], site="oslo"), "'oslo' announced itself"),
    "keys of another": (
        lambda said: forged(said["cork"], box_key=said["bern"].box_key),
        "'cork' announced a key twice",
    ),
    "one key twice": (
        lambda said: forged(said["cork"], mask_keys=dict.fromkeys((LABEL, NEXT), FRESH)),
        "'cork' announ",
    ),
    "a weak key": (lambda said: forged(said["cork"], box_key="00" * 32), "'cork' announced a key that gives everybody"),
    "fewer labels": (lambda said: forged(said["cork"], mask_keys={LABEL: FRESH}), "'cork' is not of its form"),
    "a short key": (lambda said: forged(said["cork"], box_key="00"), "'cork' is not of its form"),
    "no scans": (lambda said: forged(said["cork"], count=0), "'cork' is not of its form"),
}


@pytest.mark.parametrize("make, message", BAD_ANNOUNCEMENTS.values(), ids=BAD_ANNOUNCEMENTS)
def test_an_announcement_that_was_tampered_with_is_refused(make: Callable[..., Announcement], message: str) -> None:
    """By every site, before it gives a share; and by the hub, which then knows the site that sent it."""
    run = announced(5).copy()
    bad = make(dict(run.setup.announced))
    with pytest.raises(RefusalError, match=message):
        run.step("alba", site_setup.share, {**run.setup.announced, bad.site: bad}.values())
    others = {name: said for name, said in run.setup.announced.items() if name != "cork"}
    with pytest.raises(FederationError, match=message):
        hub.add_announcement(replace(run.setup, announced=others), bad)


def test_a_site_gives_shares_to_a_threshold_and_once() -> None:
    """Its own keys are among them as it made them."""
    run = shared(5).copy()
    with pytest.raises(RefusalError, match="does so once"):
        run.step("alba", site_setup.share, run.setup.announced.values())
    run = announced(5).copy()
    with pytest.raises(RefusalError, match="only 3 of 5 sites announced keys; it takes 4"):
        run.step("alba", site_setup.share, [run.setup.announced[name] for name in NAMES[:3]])
    again, said = site_setup.announce(terms_of(5), "alba", COUNTS["alba"], KEYS["alba"])
    with pytest.raises(RefusalError, match="'alba', this one, that it did not announce"):
        run.step("alba", site_setup.share, {**run.setup.announced, "alba": said}.values())


# Boxes


def test_a_box_that_is_not_its_senders_is_refused() -> None:
    """One bit, another recipient's, another sender's, cut off, none, another run's, half of it; the site is named."""
    run = shared(5).copy()
    boxes = run.setup.boxes_for("alba")
    box = bytearray.fromhex(boxes["bern"])
    box[len(box) // 2] ^= 1
    earlier = announced(5, "earlier").copy()
    old = earlier.step("bern", site_setup.share, earlier.setup.announced.values())["alba"]
    for bad in (box.hex(), run.setup.boxes_for("cork")["bern"], boxes["cork"], boxes["bern"][:60], "", "x", old):
        with pytest.raises(RefusalError, match="from site 'bern' to site 'alba' is not what its sender made"):
            run.step("alba", site_setup.receive, {**boxes, "bern": bad}, KEYS["alba"])
    state, label = run.at("bern"), {LABEL: run.at("bern").shares["bern"][LABEL]}
    lacking = sharing.seal(state.terms, ("bern", "alba"), state.box_key, run.setup.announced["alba"].box_key, label)
    with pytest.raises(RefusalError, match="from site 'bern' to site 'alba' lacks shares"):
        run.step("alba", site_setup.receive, {**boxes, "bern": lacking}, KEYS["alba"])
    with pytest.raises(RefusalError, match="'graz', which announced no keys"):
        run.step("alba", site_setup.receive, {**boxes, "graz": box.hex()}, KEYS["alba"])
    with pytest.raises(RefusalError, match="only 3 of 5 sites sent shares"):
        run.step("alba", site_setup.receive, {name: boxes[name] for name in NAMES[1:3]}, KEYS["alba"])


def test_participants_that_only_some_sites_were_shown_are_refused() -> None:
    """Else a hub with two of seven sites on its side could have the pair masks of one site taken off, one by one.

    The hub keeps boxes back, so that alba thinks that there are five participants, and others that there are seven.
    """
    run = shared(7).copy()
    few = {name: box for name, box in run.setup.boxes_for("alba").items() if name in NAMES[:5]}
    said = [run.step("alba", site_setup.receive, few, KEYS["alba"])]
    said += [run.step(name, site_setup.receive, run.setup.boxes_for(name), KEYS[name]) for name in NAMES[1:]]
    for name in ("alba", "graz"):
        with pytest.raises(RefusalError, match="not all were given the same"):
            run.step(name, site_setup.agree, said)
    with pytest.raises(RefusalError, match="only 1 of 7 sites confirmed the participants; it takes 5"):
        run.step("alba", site_setup.agree, said[:1])
    with pytest.raises(RefusalError, match="not confirmed yet"):
        run.step("alba", site.mask, LABEL, np.zeros(3, np.uint64))
    with pytest.raises(RefusalError, match="confirmed other participants before"):
        run.step("alba", site_setup.receive, run.setup.boxes_for("alba"), KEYS["alba"])
    with pytest.raises(FederationError, match="'alba' holds the boxes of other sites"):
        hub.add_confirmation(run.setup, said[0])
    assert run.step("graz", site_setup.agree, said[1:]) is None


def test_a_confirmation_that_nobody_signed_is_refused() -> None:
    """The hub cannot say in a site's name whose boxes it holds."""
    run = agreed(5).copy()
    forged_one = replace(run.setup.confirmed["bern"], site="cork")
    stranger = Confirmation("oslo", forged_one.roster, forged_one.signature)
    for bad in (forged_one, stranger):
        with pytest.raises(RefusalError, match=f"confirmation of site '{bad.site}' is not signed"):
            run.step("alba", site_setup.agree, [*run.setup.confirmed.values(), bad])


# Rounds


def test_a_mask_hides_one_vector() -> None:
    """Another one under the same label would show what changed; what is no label has no mask."""
    run = agreed(3).copy()
    values = np.arange(5, dtype=np.uint64)
    run.step("alba", site.mask, LABEL, values)
    with pytest.raises(RefusalError, match="other values were sent under 'register 1' before"):
        run.step("alba", site.mask, LABEL, values + np.uint64(1))
    with pytest.raises(RefusalError, match="'style 1' is no label"):
        run.step("alba", site.mask, "style 1", values)
    with pytest.raises(ValueError):
        run.step("alba", site.mask, NEXT, values.astype(np.float64))


def test_a_site_reveals_for_one_set_of_survivors() -> None:
    """Both kinds of share of a site, for one label, would be asked for by a second set."""
    run = agreed(5).copy()
    total = masked(run, values_of(run))
    run.step("alba", site.reveal, LABEL, NAMES[:5])
    for others in (NAMES[:4], ("alba", *NAMES[2:5])):
        with pytest.raises(RefusalError, match="both kinds of a site's shares"):
            run.step("alba", site.reveal, LABEL, others)
    assert run.step("alba", site.reveal, LABEL, reversed(total.sites)).seeds.keys() == set(NAMES[:5])


def test_a_reveal_holds_one_kind_of_share_of_each_site() -> None:
    """Seeds of survivors, mask keys of dropouts, and of nobody both."""
    run = agreed(5).copy()
    values = values_of(run)
    del values["cork"]
    for said in revealed(run, masked(run, values)):
        assert set(said.seeds) == set(values) and set(said.mask_keys) == {"cork"}


def test_survivors_that_cannot_be_are_refused() -> None:
    """Too few, somebody from elsewhere, without the site that is asked, or under a label that it sent nothing for."""
    run = agreed(5).copy()
    masked(run, values_of(run))
    for label, survivors, message in (
        (LABEL, NAMES[:3], "only 3 of 5 sites are in the sum of 'register 1'; it takes 4"),
        (LABEL, NAMES[:3] * 2, "only 3 of 5 sites"),
        (LABEL, (*NAMES[:4], "oslo"), "'oslo' is no participant"),
        (LABEL, (*NAMES[:4], "graz"), "'graz' is no participant"),
        (LABEL, NAMES[1:5], "sent nothing under 'register 1'"),
        (NEXT, NAMES[:5], "sent nothing under 'register 2'"),
    ):
        with pytest.raises(RefusalError, match=message):
            run.step("alba", site.reveal, label, survivors)
    early = agreed(5, ("bern",)).copy()
    masked(early, values_of(early))
    with pytest.raises(RefusalError, match="'bern' is no participant"):
        early.step("alba", site.reveal, LABEL, NAMES[:5])


def test_a_label_that_is_forgotten_is_remembered() -> None:
    """It is forgotten once it was revealed, and then neither masked nor revealed again; others go on."""
    run = agreed(3).copy()
    values = values_of(run)
    with pytest.raises(RefusalError, match="not revealed; its secrets are still needed"):
        run.step("alba", site.forget, LABEL)
    total = masked(run, values)
    revealed(run, total)
    for name in values:
        run.step(name, site.forget, LABEL)
    for step, given in ((site.mask, values["alba"]), (site.reveal, total.sites)):
        with pytest.raises(RefusalError, match="were forgotten"):
            run.step("alba", step, LABEL, given)
    with pytest.raises(RefusalError, match="other survivors"):
        run.step("alba", site.reveal, LABEL, NAMES[:2])
    later = masked(run, values, NEXT)
    np.testing.assert_array_equal(
        hub.unmask(run.setup, later, revealed(run, later)), sum(values.values()) % np.uint64(2**40)
    )


# At the hub


def test_the_hub_takes_in_what_belongs_together() -> None:
    """Once from each, in order, of the right size and from participants."""
    run = agreed(5, ("essen",)).copy()
    setup, values = run.setup, values_of(run)
    total = masked(run, values)
    for wrong, message in (
        (lambda: hub.add_announcement(announced(5).setup, setup.announced["alba"]), "announced keys again"),
        (lambda: hub.add_announcement(replace(setup, announced={}), setup.announced["alba"]), "too late"),
        (lambda: hub.add_boxes(setup, "essen", dict.fromkeys(NAMES[:4], "")), "sent shares"),
        (lambda: hub.add_boxes(shared(5, ("essen",)).setup, "essen", {"alba": ""}), "sent shares"),
        (lambda: hub.add_confirmation(setup, Confirmation("essen", "", "")), "confirms participants and is none"),
        (lambda: hub.add_masked(setup, total, "alba", values["alba"]), "in its sum already"),
        (lambda: hub.add_masked(setup, hub.start(LABEL, 40), "essen", values["alba"]), "'essen' is no participant"),
        (lambda: hub.add_masked(setup, hub.start(LABEL, 41), "alba", values["alba"]), "values of site 'alba'"),
    ):
        with pytest.raises(FederationError, match=message):
            wrong()


def test_shares_that_are_wrong_do_not_get_into_a_sum() -> None:
    """Of a seed, of a mask key, of another sum, of no form: the sum is not taken for one."""
    run = agreed(5).copy()
    values = values_of(run)
    del values["cork"]
    total = masked(run, values)
    good = revealed(run, total)
    first = good[0]
    for bad, message in (
        (replace(first, seeds={**first.seeds, "bern": "11" * 32}), "the seed of site 'bern' do not give it back"),
        (replace(first, mask_keys={"cork": "11" * 32}), "the mask key of site 'cork' do not give it back"),
        (replace(first, mask_keys={"cork": "11"}), "'alba' revealed what are no shares"),
        (replace(first, label=NEXT), "'alba' revealed shares for another sum"),
        (replace(first, seeds={}), "'alba' revealed shares for another sum"),
        (replace(first, site="cork"), "'cork' revealed shares for another sum"),
    ):
        with pytest.raises(FederationError, match=message):
            hub.unmask(run.setup, total, [bad, *good[1:]])
    np.testing.assert_array_equal(hub.unmask(run.setup, total, good), sum(values.values()) % np.uint64(2**40))


@pytest.mark.parametrize("text", ["[]", "{}", "1", '{"site": 1, "roster": "", "signature": ""}', '{"site": []}'])
def test_a_text_that_is_no_message_is_refused(text: str) -> None:
    """Whatever a peer made up."""
    for kind in (Announcement, Confirmation, Reveal):
        with pytest.raises((ValueError, TypeError)):
            messages.from_json(kind, text)
