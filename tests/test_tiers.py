"""Each test is in one tier, and the table of tiers names nothing that is not there."""

from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent


def test_each_test_is_in_one_tier(request: pytest.FixtureRequest, tiers: Mapping[str, tuple[str, ...]]) -> None:
    """No test that was collected has none or two, and those of real processes are live."""
    for item in request.session.items:
        own = {mark.name for mark in item.iter_markers()} & tiers.keys()
        assert len(own) == 1, f"{item.nodeid}: {sorted(own)}"
        assert (own == {"live"}) == item.path.is_relative_to(ROOT / "live"), item.nodeid


def test_the_table_of_tiers_names_what_is_there(tiers: Mapping[str, tuple[str, ...]]) -> None:
    """What is moved or renamed does not become a unit test by accident."""
    for place in (place for places in tiers.values() for place in places):
        file, _, test = place.partition("::")
        assert (ROOT / file).exists(), place
        assert not test or f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), place
