"""Images in folders that no layout describes: all of them are scans but what other images beside them explain."""

import re
from collections.abc import Iterator
from pathlib import Path

from client.layouts.bids import NO_MAGNITUDE, name_of, suffixes
from client.layouts.scan import ENDS, Scan, first, stem_of
from configs.contrast import CONTRASTS

_NO_SCAN = re.compile(r"_(mask|brainmask|dseg|seg|aseg|labels?|probseg|seg35|T2star|pve_\d|pveseg|mixeltype)$")
"""Ends of the names of files that lie beside scans and are none."""

_CALLED = {  # in lower case: BIDS's and those of BraTS (t1ce, t1n, t2f, ...)
    "T1w": ("t1w", "t1", "t1n", "unit1"),
    "T2w": ("t2w", "t2"),
    "PDw": ("pdw", "pd"),
    "FLAIR": ("flair", "t2f"),
}
"""How names end that say a contrast."""

_POST_CONTRAST = ("t1ce", "t1c", "t1gd")

_MADE = re.compile(r"(?P<before>r?(?:s?m?w?c[1-6]|[ms]?w|m|r|s|ws|i?y_|iy_|u_rc1))(?P<scan>.+)")
"""What SPM puts before the name of a scan: tissues, fields, and images that it moved, smoothed or corrected."""

_MADE_AFTER = ("_brain", "_bet", "_restore", "_bias", "_biascorr", "_stripped", "_n4", "_preproc")
"""What FSL, ANTs and people put after it."""


def find(folder: Path, contrast: str) -> list[Scan]:
    """List all images; a file is a person of its own but where BIDS names its person, for nothing else says one."""
    images = sorted(path for end in ENDS for path in folder.rglob(f"*{end}"))
    stems = {(path.parent, stem_of(path)) for path in images}
    scans = []
    for image in images:
        within, stem = image.relative_to(folder), stem_of(image)
        hidden = any(part.startswith(".") or part == "derivatives" for part in within.parts)
        made = any((image.parent, source) in stems for source in _sources(stem))
        if hidden or made or _NO_SCAN.search(stem) or not _may_be(stem, contrast):
            continue
        name = name_of(image)
        if name is not None and name.entities.get("part") in NO_MAGNITUDE:
            continue
        case = "_".join([*(stem_of(Path(part)) for part in within.parts[:-1]), stem])
        name_alone = image.name.removesuffix(".gz").removesuffix(".nii")  # as it is on disk, UTF-8 or not
        labels, segmented, mask = (
            first(image.with_name(f"{name_alone}_{kind}{end}") for end in ENDS) for kind in ("dseg", "seg", "mask")
        )
        person = case if name is None else f"sub-{name.entities['sub']}"
        scans.append(Scan(case, person, image, labels or segmented, mask))
    return scans


def _sources(stem: str) -> Iterator[str]:
    """Give the names of scans that this image may have been made of."""
    yield from (stem.removesuffix(end) for end in _MADE_AFTER if stem.endswith(end))
    if match := _MADE.fullmatch(stem):
        yield match["scan"]


def _may_be(stem: str, contrast: str) -> bool:
    """Whether a name says nothing of a contrast, or this one."""
    last = re.split(r"[_-]", stem)[-1]
    if last.lower() in _CALLED[contrast]:
        return True
    others = {name for other in CONTRASTS for name in _CALLED[other]}.union(_POST_CONTRAST)
    return last not in suffixes() and last.lower() not in others
