"""The table of phases: what it says is what the documentation says, and what it declares has words that IT reads."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.phases import PARTS, PHASES, VALUES, Phase, markdown, markdown_leaves, phase_of, training
from configs.schema import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("page", "mark", "table"),
    [
        ("README.md", "leaves", markdown_leaves),
        ("ARCHITECTURE.md", "leaves", markdown_leaves),
        ("ARCHITECTURE.md", "phases", markdown),
    ],
)
def test_the_pages_have_the_table(page: str, mark: str, table: Callable[[], str]) -> None:
    """The tables between their marks are those that the code acts by."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.search(rf"<!-- {mark} -->\n(.*?)\n<!-- /{mark} -->", text, re.S)
    assert found, f"{page} has no marks for the table '{mark}'"
    assert found[1] == table()


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_all_that_a_phase_declares_has_words(phase: Phase) -> None:
    """Networks, curves, values and counts are each named in the sentence that IT reads."""
    said = phase.consent
    for part in phase.learns:
        assert PARTS[part] in said
    for word in (*phase.losses, *(VALUES[value] for value in phase.values), phase.count):
        assert word in said
    assert ("style codes" in said) == phase.moments
    assert ("with noise" in said) == phase.statistics
    assert ("Dice" in said) == bool(phase.figures)


def test_a_part_is_learnt_before_it_is_used() -> None:
    """What a phase uses, an earlier one has trained."""
    known: set[str] = set()
    for phase in PHASES:
        assert set(phase.uses) <= known, phase.name
        known |= set(phase.learns)


def test_phases_come_in_their_order_and_have_settings() -> None:
    """Numbers rise; every phase that learns has rounds in a preset."""
    assert [phase.number for phase in PHASES] == sorted(phase.number for phase in PHASES)
    assert all(load("tiny").phases.rounds(phase.name) for phase in training())
    assert phase_of("joint").number == 3


def test_a_phase_costs_time_where_something_learns() -> None:
    """The display divides the time that is left by these."""
    assert all((phase.cost > 0) == phase.has_rounds for phase in PHASES)
