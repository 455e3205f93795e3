"""The pictures of a run: 2-D slices kept beside its numbers, so that the report can be written again without the scans.

What the report makes of a panel is told by its figure:

    SEGMENTATION (Fig. 5), REGISTRATION (Fig. 6)
        a row is one scan; its columns are SCAN (no labels), TRUTH (the reference outline) and one per arm
    GENERATED (Fig. 8)
        a row is one style, a column one flow, in the order of the list; row REAL holds real slices for comparison,
        such as the atlas and a scan of the tested site, each under its column's name
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from client.pictures import Image, Labels
from configs.errors import RunError
from sst_models.wire.files import replace_file

PICTURES = "pictures.safetensors"
"""Name of the file of panels in a run folder."""

SEGMENTATION = "5"
REGISTRATION = "6"
GENERATED = "8"

SCAN = "scan"
TRUTH = "truth"
REAL = "real"


@dataclass(frozen=True)
class Panel:
    """One 2-D slice as a person looks at it: the first row is the top of the picture."""

    direction: str  # as `direction_name` writes it
    figure: str  # SEGMENTATION, REGISTRATION or GENERATED
    row: str
    column: str
    image: Image  # (H, W) float in [0, 1]
    labels: Labels | None = None  # (H, W) class index 0 to 28


def direction_name(source: str, target: str) -> str:
    """How a direction is written everywhere: `oasis → ixi`, or `ixi` for an in-site one."""
    return source if source == target else f"{source} → {target}"


def save_panels(panels: Sequence[Panel], path: Path) -> None:
    """Write all panels to one safetensors file; its header says what each of them shows."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    captions = []
    for number, panel in enumerate(panels):
        arrays[f"{number:04d}.image"] = np.ascontiguousarray(panel.image, dtype=np.float32)
        if panel.labels is not None:
            arrays[f"{number:04d}.labels"] = np.ascontiguousarray(panel.labels, dtype=np.uint8)
        captions.append([panel.direction, panel.figure, panel.row, panel.column])
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, save(arrays, metadata={"captions": json.dumps(captions)}))


def load_panels(path: Path) -> tuple[Panel, ...]:
    """The panels that `save_panels` wrote, in their order.

    Raises:
        RunError: The file is not there or is not a file of panels.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            captions = json.loads((file.metadata() or {})["captions"])
            names = set(file.keys())
            return tuple(_panel(file, names, f"{number:04d}", caption) for number, caption in enumerate(captions))
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"no readable pictures in {path}: remove the file and give the same command again") from error


def _panel(file: Any, names: set[str], key: str, caption: Sequence[str]) -> Panel:
    direction, figure, row, column = caption
    labels = file.get_tensor(f"{key}.labels") if f"{key}.labels" in names else None
    return Panel(direction, figure, row, column, file.get_tensor(f"{key}.image"), labels)
