"""Words that came from another machine, made harmless for a terminal: nothing of them can steer it or fill it.

    >>> shown("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'

Where a word goes through rich, its markup must be off, too (`rich.text.Text`, or a console with `markup=False`):
brackets are left as they are here, because they are harmless everywhere else.
"""

MOST = 200
"""Characters of one word."""

LINE = 2000
"""Characters of one line that may hold several."""

_DRAWN = range(0x2500, 0x25A0)  # lines and blocks, with which a word could draw a column of a table


def shown(word: object, most: int = MOST) -> str:
    """Give a word as it may be shown: control characters spelt out, no longer than `most`; twice is the same as once.

    What does not print (escapes, line breaks, marks that turn the direction of writing, halves of characters) becomes
    its code, as `\\x1b`, and so do drawn lines.
    """
    text = str(word)
    kept = text[: most + 1]  # what is cut off is not looked at: it may be megabytes
    plain = "".join(mark if mark.isprintable() and ord(mark) not in _DRAWN else _code(mark) for mark in kept)
    return plain if len(plain) <= most else plain[: most - 3] + "..."


def size_text(size: float) -> str:
    """Bytes for people, in powers of 1000: `12.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _code(mark: str) -> str:
    return mark.encode("unicode_escape").decode("ascii")
