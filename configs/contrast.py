"""The contrasts that scans of a federation may have, by the suffixes that BIDS has for them."""

from typing import Literal, get_args

Contrast = Literal["T1w", "T2w", "PDw", "FLAIR"]

CONTRASTS: tuple[Contrast, ...] = get_args(Contrast)

T1: Contrast = "T1w"
"""The usual one."""


def weighted(contrast: str) -> str:
    """Say a contrast in words: "T1w" is "T1-weighted"."""
    return f"{contrast[:-1]}-weighted" if contrast.endswith("w") else contrast
