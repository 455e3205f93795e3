"""Secure sums: they equal the plain mean, survive the loss of sites, and show the hub nothing else."""

from itertools import combinations, permutations, product

import numpy as np
import pytest

from configs.errors import FederationError
from secure_run import (
    COUNTS,
    KEYS,
    LABEL,
    NAMES,
    NEXT,
    NOBODY,
    SHAPES,
    Run,
    agreed,
    announced,
    arrays_of,
    masked,
    mean,
    revealed,
    shared,
    terms_of,
    values_of,
)
from sst_models.secure_sum import hub, masks, messages, sharing, site, site_setup
from sst_models.secure_sum.fixed_point import encode, pack, reduced
from sst_models.wire.exchange import Arrays


def assert_mean(found: Arrays, own: dict[str, Arrays]) -> None:
    """See that arrays are the plain weighted mean of those of some sites, to 1e-6."""
    whole = sum(COUNTS[name] for name in own)
    for key in SHAPES:
        plain = sum(COUNTS[name] * arrays[key].astype(np.float64) for name, arrays in own.items()) / whole
        assert found[key].dtype == np.float32 and found[key].shape == SHAPES[key]
        np.testing.assert_allclose(found[key], plain, rtol=0, atol=1e-6)


def without(own: dict[str, Arrays], lost: tuple[str, ...]) -> dict[str, Arrays]:
    """Give what the sites have that are left."""
    return {name: arrays for name, arrays in own.items() if name not in lost}


@pytest.mark.parametrize("count", [3, 5, 7])
def test_a_secure_mean_is_the_plain_weighted_mean(count: int) -> None:
    """Weighted by the counts that sites announced; a second label of the same set-up, too."""
    run = agreed(count).copy()
    for seed, label in enumerate((LABEL, NEXT)):
        own = arrays_of(count, seed)
        assert_mean(mean(run, own, label), own)


LOSSES = [(5, ("bern",)), (5, ("essen",)), (7, ("alba", "delft"))]


@pytest.mark.parametrize("count, lost", LOSSES)
def test_a_mean_survives_sites_that_announce_and_send_no_shares(count: int, lost: tuple[str, ...]) -> None:
    """They are no participants; the weights are those of the others."""
    left = without(arrays_of(count), lost)
    assert_mean(mean(agreed(count, lost).copy(), left), left)


@pytest.mark.parametrize("count, lost", LOSSES)
def test_a_mean_survives_sites_that_share_and_confirm_nothing(count: int, lost: tuple[str, ...]) -> None:
    """Others mask for them; their mask keys are put together from shares."""
    left = without(arrays_of(count), lost)
    assert_mean(mean(agreed(count, NOBODY, lost).copy(), left), left)


@pytest.mark.parametrize("count, lost", LOSSES)
def test_a_mean_survives_sites_that_mask_nothing(count: int, lost: tuple[str, ...]) -> None:
    """In the next round they are back."""
    run, own = agreed(count).copy(), arrays_of(count)
    left = without(own, lost)
    assert_mean(mean(run, left), left)
    assert_mean(mean(run, own, NEXT), own)


@pytest.mark.parametrize("count, lost", LOSSES)
def test_a_mean_survives_sites_that_reveal_nothing(count: int, lost: tuple[str, ...]) -> None:
    """Their values are in the mean: they sent them."""
    own = arrays_of(count)
    assert_mean(mean(agreed(count).copy(), own, lost=lost), own)


def test_a_mean_survives_losses_at_all_stages_at_once() -> None:
    """One of seven masks nothing and another one does not reveal."""
    left = without(arrays_of(7), ("cork",))
    assert_mean(mean(agreed(7).copy(), left, lost=("alba",)), left)


def test_too_many_lost_end_a_sum_at_each_stage() -> None:
    """The hub says how many of how many, and who."""
    lost = ("bern", "cork", "essen")
    gone = r"3 of 5 sites are lost to the secure sum of .* \(bern, cork, essen\); it takes 4"
    early = announced(5).copy()
    few = hub.Setup(early.setup.terms)
    for name in ("alba", "delft"):
        few = hub.add_announcement(few, early.setup.announced[name])
    with pytest.raises(FederationError, match=gone):
        hub.add_boxes(few, "alba", {"delft": ""})
    with pytest.raises(FederationError, match=gone):
        hub.add_confirmation(shared(5, lost).setup, messages.Confirmation("alba", "", ""))
    run = agreed(5).copy()
    values = values_of(run)
    few_left = masked(run, {name: own for name, own in values.items() if name not in lost})
    with pytest.raises(FederationError, match=gone):
        hub.unmask(run.setup, few_left, [])
    whole = masked(run, values, NEXT)
    with pytest.raises(FederationError, match=gone):
        hub.unmask(run.setup, whole, revealed(run, whole, lost))


def test_the_order_of_sites_changes_nothing() -> None:
    """Whoever comes first: the sum is that of the values, to the last bit, and whose values are whose is not in it."""
    run = agreed(5)
    values = values_of(run)
    wanted = reduced(np.sum(list(values.values()), axis=0, dtype=np.uint64))
    for order in list(permutations(values))[::37]:
        mixed = run.copy()
        total = masked(mixed, {name: values[own] for name, own in zip(order, values, strict=True)})
        said = revealed(mixed, total)
        np.testing.assert_array_equal(hub.unmask(mixed.setup, total, reversed(said)), wanted)


# What the hub sees


def forms(arrays: Arrays, weight: float) -> list[bytes]:
    """Give the bytes in which a site's first eight numbers could stand somewhere."""
    plain = np.concatenate([arrays[key].ravel() for key in sorted(arrays)])[:8]
    fixed = [encode({"x": plain}, one) for one in (weight, 1.0)]
    return [plain.tobytes(), plain.astype(np.float16).tobytes(), plain.astype(np.float64).tobytes()] + [
        form for values in fixed for form in (pack(values).tobytes(), values.tobytes())
    ]


def late(run: Run, name: str, values: np.ndarray) -> np.ndarray:
    """Give what a dropout's masked values, come too late, are without the pair masks, which the hub knows by then."""
    hidden = run.step(name, site.mask, LABEL, values)
    return reduced(hidden - pair_masks(run, name, values.size))


def pair_masks(run: Run, name: str, size: int) -> np.ndarray:
    """Give the sum of a site's pair masks, from its secrets."""
    key, total = run.at(name).secrets[LABEL].mask_key, np.zeros(size, np.uint64)
    for other in sorted(set(run.setup.participants) - {name}):
        keys = key, run.setup.announced[other].mask_keys[LABEL]
        total += masks.pair_mask(run.setup.terms, LABEL, (name, other), keys, size)
    return reduced(total)


def test_what_the_hub_holds_has_no_sites_values_in_it() -> None:
    """All that it was sent, and all that it can take masks off: each survivor's seed, each dropout's mask key."""
    run, own = agreed(5).copy(), arrays_of(5)
    weight = {name: site.weight(run.at(name)) for name in own}
    values = {name: encode(arrays, weight[name]) for name, arrays in own.items()}
    total = masked(run, without(values, ("cork",)))
    said = revealed(run, total)
    for name in total.sites:
        seed = sharing.combine(run.setup.terms, {one.site: one.seeds[name] for one in said})
        hidden = run.step(name, site.mask, LABEL, values[name])
        peeled = reduced(hidden - masks.self_mask(run.setup.terms, LABEL, name, seed, hidden.size))
        run.seen.append(pack(peeled).tobytes() + peeled.tobytes())
    peeled = late(run, "cork", values["cork"])
    run.seen.append(pack(peeled).tobytes() + peeled.tobytes())
    held = b"|".join(run.seen)
    assert len(held) > 20_000
    for name, arrays in own.items():
        assert not [form for form in forms(arrays, weight[name]) if form in held], name
    assert [form for form in forms(own["alba"], weight["alba"]) if form in pack(values["alba"]).tobytes()]


@pytest.mark.parametrize("peel", ["nothing", "self mask", "pair masks"])
def test_masked_values_look_random(peel: str) -> None:
    """Also where the hub has one of the two kinds of mask; the values are all zero. Bounds of more than 4.5 sigma."""
    run, size = agreed(3).copy(), 20_000
    hidden = run.step("bern", site.mask, LABEL, np.zeros(size, np.uint64))
    seed = run.at("bern").secrets[LABEL].seed
    known = {
        "nothing": np.zeros(size, np.uint64),
        "self mask": masks.self_mask(run.setup.terms, LABEL, "bern", seed, size),
        "pair masks": pair_masks(run, "bern", size),
    }
    drawn = pack(reduced(hidden - known[peel]))
    counts = np.bincount(drawn, minlength=256)
    assert abs(float(drawn.mean()) - 127.5) < 1.5
    assert 150 < float(((counts - drawn.size / 256) ** 2).sum() / (drawn.size / 256)) < 400


def test_each_label_and_each_site_has_masks_of_its_own() -> None:
    """The same values under two labels, and of two sites, have nothing in common."""
    run, values = agreed(3).copy(), np.arange(1000, dtype=np.uint64)
    drawn = [run.step(name, site.mask, label, values) for name in NAMES[:3] for label in (LABEL, NEXT)]
    for one, other in combinations(drawn, 2):
        assert (one == other).mean() < 0.01
    terms, secret, ours = terms_of(3), "11" * 32, ("22" * 32, masks.public_key("33" * 32))
    for one, other in (  # by the label itself, should its secrets be those of another one
        [masks.self_mask(terms, label, "alba", secret, 1000) for label in (LABEL, NEXT)],
        [masks.pair_mask(terms, label, ("alba", "bern"), ours, 1000) for label in (LABEL, NEXT)],
    ):
        assert (one == other).mean() < 0.01


def test_a_state_shows_no_secret_when_it_is_printed() -> None:
    """Nor what it was made of; its text for the disk has them all, until they are forgotten."""
    run = agreed(3).copy()
    masked_sum = masked(run, values_of(run))
    revealed(run, masked_sum)
    state = run.at("alba")
    held = [state.box_key, state.secrets[LABEL].seed, state.secrets[LABEL].mask_key, state.shares["bern"][LABEL].seed]
    assert all(secret in run.states["alba"] and secret not in repr(state) for secret in held)
    gone = site.forget(state, LABEL).to_json()
    assert [secret in gone for secret in held] == [True, False, False, False]
    assert site.forget(state, LABEL).revealed == {LABEL: masked_sum.sites}


def test_what_is_repeated_has_the_same_bytes() -> None:
    """A site whose answer was lost on the way is asked again."""
    run = agreed(3).copy()
    values = values_of(run)
    first, again = (run.step("alba", site.mask, LABEL, values["alba"]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    total = masked(run, values)
    assert revealed(run, total) == revealed(run, total)
    said = [run.step("alba", site_setup.receive, run.setup.boxes_for("alba"), KEYS["alba"]) for _ in range(2)]
    assert said[0] == said[1] == run.setup.confirmed["alba"]


# The threshold


def exposed(threshold: int, honest: int, colluding: int) -> int:
    """Give the fewest honest sites in a sum that a hub gets by asking each for survivors of its own choice."""
    everybody, sides = range(honest), range(honest, honest + colluding)
    sets = [set(part) | set(sides) for size in range(honest + 1) for part in combinations(everybody, size)]
    choices = [[part for part in sets if own in part and len(part) >= threshold] for own in everybody]
    fewest = honest
    for asked in product(*choices):
        seeds = {one for one in everybody if colluding + sum(one in part for part in asked) >= threshold}
        keys = {one for one in everybody if colluding + sum(one not in part for part in asked) >= threshold}
        if seeds & keys:
            return 1
        if seeds and seeds | keys == set(everybody):
            fewest = min(fewest, len(seeds))
    return fewest


@pytest.mark.parametrize("count", [3, 4, 5])
def test_the_threshold_holds_against_so_many_as_it_says(count: int) -> None:
    """Every hub that asks sites for different survivors gets a sum of two honest sites at least; one more breaks it."""
    terms = terms_of(count)
    assert (terms.threshold, terms.colluding) == {3: (2, 0), 4: (3, 1), 5: (4, 2)}[count]
    for c in range(terms.colluding + 1):
        assert exposed(terms.threshold, count - c, c) >= 2
    assert exposed(terms.threshold, count - terms.colluding - 1, terms.colluding + 1) == 1
