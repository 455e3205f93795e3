"""What can be worked out of one person who was in a release of statistics: her numbers, her age group, her sex.

The attacker has the numbers of everybody else who was in, works out what would have been released of them and of a
person like them all, without noise, and takes that out of what was: how she differs is left, with noise (attribute
inference as in Yeom et al. 2018, CSF, Sec. V, where what is known of all others goes into the guess, so that what
people have in common counts as known).
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.audit.membership import Flags, Floats, Membership, measure
from client.gate.budget import multiplier_of
from client.gate.noise import noisy_mean, repeatable

TRIALS = 200
"""Releases that are attacked."""

LEAST = 4
"""Fewest people in each of two groups that somebody is to be told to belong to."""

RIDGE = 0.2
"""Of covariances of few people, beside their mean diagonal."""

OLDER, FEMALE = "older than half of the people", "female"
"""Attributes that are looked for, where a site's participants.tsv says them."""


@dataclass(frozen=True)
class Inferred:
    """What is worked out of people at one epsilon."""

    epsilon: float  # of a release
    numbers: float  # share of how a person's numbers differ from the others' mean that is found; 0: a guess is as good
    attributes: Mapping[str, Membership]  # by attribute: how well people who have it are told from others


def infer(
    rows: np.ndarray, attributes: Mapping[str, Flags], drawn: int, epsilon: float, delta: float, seed: int = 0
) -> Inferred:
    """Work out what people's numbers and attributes are.

    Args:
        rows: (people, NUMBERS) of all people of a site.
        attributes: by name, (people,) who has it; at least `LEAST` people do, and as many do not.
        drawn: how many people are in a release.
        epsilon: of a release; infinite adds no noise.
        delta: with it.
        seed: of who is drawn, and of the noise.
    """
    left, noise, person = _left(rows, drawn, multiplier_of(epsilon, delta), seed)
    guesses = _guesses(rows, left, noise, person)
    usual = _others(rows)[person]
    missed = np.square(guesses - rows[person]).sum() / np.square(usual - rows[person]).sum()
    found = {}
    for name, has in attributes.items():
        scores = _scores(rows, has, (left, noise, person))
        found[name] = measure(scores, has[person], person, seed)
    return Inferred(epsilon, float(1 - missed), found)


def attributes_of(data: Path, people: Sequence[str]) -> dict[str, Flags]:
    """Read who has which attribute from a site's participants.tsv (BIDS); without it, or where too few have one, none.

    Args:
        data: the site's folder.
        people: whose, as they are named in the folder.
    """
    said = _participants(data / "participants.tsv")
    known = [said.get(name.removeprefix("sub-"), {}) for name in people]
    found: dict[str, Flags] = {}
    ages = [_number(row.get("age", "")) for row in known]
    if all(age is not None for age in ages):
        found[OLDER] = np.array(ages, float) > np.median(np.array(ages, float))
    sexes = [row.get("sex", "").strip().upper()[:1] for row in known]
    if set(sexes) <= {"F", "M"}:
        found[FEMALE] = np.array([sex == "F" for sex in sexes])
    return {name: has for name, has in found.items() if min(has.sum(), (~has).sum()) >= LEAST}


def _participants(path: Path) -> dict[str, dict[str, str]]:
    try:
        rows = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), delimiter="\t")
    except (OSError, UnicodeDecodeError):
        return {}
    return {
        (row.get("participant_id") or "").removeprefix("sub-"): {k: v or "" for k, v in row.items()} for row in rows
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _left(rows: np.ndarray, drawn: int, multiplier: float, seed: int) -> tuple[Floats, Floats, np.ndarray]:
    """Release means, and take everybody but one out of each.

    Returns:
        What is left (decisions, NUMBERS), the standard deviation of the noise on it, and whose it is, (decisions,).
    """
    draws, noise = np.random.default_rng(seed), repeatable(f"attributes {multiplier} {drawn} {seed}")
    usual, left, spread, person = _others(rows), [], [], []
    for _ in range(TRIALS):
        inside = draws.permutation(len(rows))[:drawn]
        found = noisy_mean(rows[inside], multiplier, noise)
        for place, one in enumerate(inside):
            without = rows[inside].copy()
            without[place] = usual[one]
            left.append(usual[one] + drawn * (found.mean - noisy_mean(without, 0.0, noise).mean))
        spread.append(np.full(drawn, drawn * found.noise))
        person.append(inside)
    return np.stack(left), np.concatenate(spread), np.concatenate(person)


def _others(rows: np.ndarray) -> np.ndarray:
    """Give for each person the mean of all others, (people, NUMBERS)."""
    return np.asarray((rows.sum(0) - rows) / (len(rows) - 1))


def _guesses(rows: np.ndarray, left: Floats, noise: Floats, person: np.ndarray) -> Floats:
    """Give the best linear guess of each person's numbers, by how others vary, (decisions, NUMBERS)."""
    usual = _others(rows)[person]
    spread = np.stack([np.delete(rows, one, axis=0).var(0, ddof=1) for one in range(len(rows))])[person]
    weight = spread / (spread + np.square(noise)[:, None] + 1e-12)
    return np.asarray(usual + weight * (left - usual), np.float64)


def _scores(rows: np.ndarray, has: Flags, decisions: tuple[Floats, Floats, np.ndarray]) -> Floats:
    """Score each decision by Fisher's discriminant of the others, with as much noise as it was released with."""
    left, noise, person = decisions
    scores = np.zeros(len(person))
    for one in range(len(rows)):
        own = person == one
        if not own.any():
            continue
        others, theirs = np.delete(rows, one, axis=0), np.delete(has, one)
        yes, no = others[theirs], others[~theirs]
        apart, middle = yes.mean(0) - no.mean(0), (yes.mean(0) + no.mean(0)) / 2
        within = np.cov(np.concatenate([yes - yes.mean(0), no - no.mean(0)]), rowvar=False, ddof=2)
        ridge = RIDGE * np.trace(within) / len(within) + float(np.mean(noise[own] ** 2)) + 1e-12
        scores[own] = (left[own] - middle) @ np.linalg.solve(within + ridge * np.eye(len(within)), apart)
    return scores
