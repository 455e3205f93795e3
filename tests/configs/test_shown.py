"""Words from another machine do nothing to a terminal."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from configs.shown import MOST, shown

HOSTILE = (
    "[/boom]",
    "[link=http://evil]all well[/link]",
    "\x1b[2J\x1b[31mhub compromised",
    "A" * 3_000_000,
    "\u202ereversed \ud800 half",
    "ok │ 1\n│ south │ taking part",
    "\x9b2J\x7f\r:skull:",
)
"""What a site may call its error: markup, a link, an escape, 3 MB; a turned line, a drawn row, the C1 escape."""


def test_hostile_words_print_as_one_short_line() -> None:
    """Nothing that does not print is left of any of them, and no drawn line."""
    for word in HOSTILE:
        told = shown(word)
        assert told.isprintable() and "│" not in told and len(told) <= MOST
        assert told.encode()


def test_plain_words_stay_as_they_are() -> None:
    """Codes, names in any script, and paths."""
    for word in ("diverged", "site-3", "Straße/脑.nii.gz", ""):
        assert shown(word) == word


@given(st.text(st.characters(codec=None), max_size=300))
def test_once_is_as_good_as_twice(word: str) -> None:
    """What is shown by two places on its way is not spelt out twice; controls of any kind are gone."""
    told = shown(word)
    assert shown(told) == told and len(told) <= MOST
    assert not any(unicodedata.category(mark) in ("Cc", "Cf", "Cs", "Zl", "Zp") for mark in told)
