"""The 28 structures and 16 groups that the paper reports (Sec. 4; FreeSurfer ids), and their colours."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Structure:
    """One labelled structure.

    `index` is its class in a network's output (1 to 28; 0 is background), `id` its FreeSurfer id in a NIfTI file,
    `group` the left-right merged name in the paper's Table 1, `color` RGB as in FreeSurfer's colour table.
    """

    index: int
    id: int
    name: str
    group: str
    color: tuple[int, int, int]


_ROWS = (
    (2, "Left-Cerebral-WM", (245, 245, 245)),
    (3, "Left-Cerebral-CX", (205, 62, 78)),
    (4, "Left-Lateral-Vent", (120, 18, 134)),
    (7, "Left-Cerebellum-WM", (220, 248, 164)),
    (8, "Left-Cerebellum-CX", (230, 148, 34)),
    (10, "Left-Thalamus-Proper", (0, 118, 14)),
    (11, "Left-Caudate", (122, 186, 220)),
    (12, "Left-Putamen", (236, 13, 176)),
    (13, "Left-Pallidum", (12, 48, 255)),
    (14, "3rd-Vent", (204, 182, 142)),
    (15, "4th-Vent", (42, 204, 164)),
    (16, "Brain-Stem", (119, 159, 176)),
    (17, "Left-Hippocampus", (220, 216, 20)),
    (18, "Left-Amygdala", (103, 255, 255)),
    (24, "CSF", (60, 60, 60)),
    (28, "Left-VentralDC", (165, 42, 42)),
    (41, "Right-Cerebral-WM", (225, 225, 225)),
    (42, "Right-Cerebral-CX", (205, 62, 78)),
    (43, "Right-Lateral-Vent", (120, 18, 134)),
    (46, "Right-Cerebellum-WM", (220, 248, 164)),
    (47, "Right-Cerebellum-CX", (230, 148, 34)),
    (49, "Right-Thalamus-Proper", (0, 118, 14)),
    (50, "Right-Caudate", (122, 186, 220)),
    (51, "Right-Putamen", (236, 13, 176)),
    (52, "Right-Pallidum", (13, 48, 255)),
    (53, "Right-Hippocampus", (220, 216, 20)),
    (54, "Right-Amygdala", (103, 255, 255)),
    (60, "Right-VentralDC", (165, 42, 42)),
)

STRUCTURES: tuple[Structure, ...] = tuple(
    Structure(index, id_, name, name.removeprefix("Left-").removeprefix("Right-"), color)
    for index, (id_, name, color) in enumerate(_ROWS, start=1)
)

CLASSES = len(STRUCTURES) + 1
"""Number of classes of a segmenter: the 28 structures and background."""

# The order of the columns of the paper's Table 1.
GROUPS: tuple[str, ...] = (
    "Cerebral-WM",
    "Cerebral-CX",
    "Lateral-Vent",
    "Cerebellum-WM",
    "Cerebellum-CX",
    "Thalamus-Proper",
    "Caudate",
    "Putamen",
    "Pallidum",
    "3rd-Vent",
    "4th-Vent",
    "Brain-Stem",
    "Hippocampus",
    "Amygdala",
    "CSF",
    "VentralDC",
)

GROUP_MEMBERS: dict[str, tuple[int, ...]] = {
    group: tuple(s.index for s in STRUCTURES if s.group == group) for group in GROUPS
}
"""Class indices of each group, left and right together."""

GROUP_OF: tuple[int, ...] = (0, *(GROUPS.index(s.group) + 1 for s in STRUCTURES))
"""For each class, its group: 1 to 16 in the order of `GROUPS`; 0 is background."""

_NAMED = {s.name: s.index for s in STRUCTURES}
_OTHER_SIDE = {"Left-": "Right-", "Right-": "Left-"}

MIRRORED: tuple[int, ...] = (
    0,
    *(_NAMED[_OTHER_SIDE.get(s.name.removesuffix(s.group), "") + s.group] for s in STRUCTURES),
)
"""For each class, that of the same structure on the other side; its own where there is one only, and of background."""

ID_TO_INDEX: dict[int, int] = {0: 0, **{s.id: s.index for s in STRUCTURES}}
INDEX_TO_ID: dict[int, int] = {index: id_ for id_, index in ID_TO_INDEX.items()}
