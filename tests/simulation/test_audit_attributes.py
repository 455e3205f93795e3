"""What of one person can be worked out: all of it without noise, nothing with much, and never by what others are."""

import math
from pathlib import Path

import numpy as np

from configs.statistics import count as numbers_of
from configs.structures import PAPER
from simulation.audit.attributes import FEMALE, LEAST, OLDER, attributes_of, infer

NUMBERS = numbers_of(PAPER)

DELTA = 1e-5


def people(count: int = 24, apart: float = 1.5) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """People of whom every other one is female, which three of their numbers tell."""
    female = np.arange(count) % 2 == 0
    rows = np.random.default_rng(0).normal(0, 0.4, (count, NUMBERS))
    rows[female, :3] += apart
    return rows, {FEMALE: female}


def test_without_noise_a_persons_numbers_and_what_they_tell_are_found() -> None:
    """The planted leak: a mean as it is, and everybody else's numbers."""
    found = infer(*people(), 12, math.inf, DELTA)
    assert found.numbers > 0.9 and found.attributes[FEMALE].auc.low > 0.9
    assert found.attributes[FEMALE].people == 24


def test_the_smaller_epsilon_is_the_less_is_found() -> None:
    """At 4 the mean of the others is nearly as good a guess; at 1 nothing is left."""
    found = {epsilon: infer(*people(), 12, epsilon, DELTA) for epsilon in (8.0, 4.0, 1.0)}
    shares = [one.numbers for one in found.values()]
    assert shares == sorted(shares, reverse=True) and abs(shares[2]) < 0.02
    areas = [one.attributes[FEMALE].auc.value for one in found.values()]
    assert areas == sorted(areas, reverse=True)
    assert found[1.0].attributes[FEMALE].auc.low < 0.55 and areas[1] < 0.75


def test_what_does_not_show_in_the_numbers_is_not_found() -> None:
    """Nor is what all people have in common: over many attributes that chance gave, the attack is a guess."""
    rows, draws = people(apart=0.0)[0], np.random.default_rng(1)
    given = {str(number): draws.permutation(np.arange(24) < 12) for number in range(30)}
    found = infer(rows, given, 12, math.inf, DELTA).attributes.values()
    assert abs(np.mean([one.auc.value for one in found]) - 0.5) < 0.1


def test_ages_and_sexes_are_read_where_they_are_known(tmp_path: Path) -> None:
    """Of BIDS's table; where one of the people has none, or too few are of a kind, it is left out."""
    names = [f"sub-{number:02}" for number in range(2 * LEAST)]

    def attributes(rows: list[tuple[str, str]], header: str = "participant_id\tage\tsex") -> dict[str, np.ndarray]:
        lines = (f"{name}\t{age}\t{sex}\n" for name, (age, sex) in zip(names, rows, strict=False))
        (tmp_path / "participants.tsv").write_text(f"{header}\n{''.join(lines)}", encoding="utf-8")
        return attributes_of(tmp_path, names)

    assert attributes_of(tmp_path, names) == {}
    usual = [(str(20 + number), "FM"[number % 2]) for number in range(2 * LEAST)]
    found = attributes(usual)
    assert set(found) == {OLDER, FEMALE}
    assert found[OLDER].tolist() == [False] * LEAST + [True] * LEAST
    assert found[FEMALE].tolist() == [True, False] * LEAST
    assert set(attributes([("n/a", "F"), *usual[1:]])) == {FEMALE}
    assert set(attributes(usual[:-1])) == set()
    assert set(attributes([(age, "MF"[n < LEAST - 1]) for n, (age, _) in enumerate(usual)])) == {OLDER}
    assert attributes(usual, header="id\tage\tsex") == {}
    (tmp_path / "participants.tsv").write_bytes(b"\xff\xfe\x00")
    assert attributes_of(tmp_path, names) == {}
