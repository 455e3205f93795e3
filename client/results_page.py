# mypy: untyped-calls-exclude="nibabel"
"""`segmentations.html`: all results of a folder, the worst first, with a viewer to scroll through scan and labels.

The page and all that it shows lie in the folder, and stay at the site. It needs no server and no network: a scan and
its labels come as a script, which a browser reads from a disk where it reads no other file.
"""

import base64
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
import torch

from client.box import box_of
from client.pictures import CONVENTION
from configs.errors import legible
from configs.structures import LabelTable
from sst_models.volume.intensity import robust_scale
from sst_models.wire.files import replace_file

if TYPE_CHECKING:
    from client.segmented import Segmented

PAGE = "segmentations.html"

VIEW = "view"
"""Folder of the viewer and of what it shows."""

NIIVUE = "niivue.umd.js"

MARGIN = 10.0
"""mm that are kept around a brain."""

ORDER = ("red", "yellow", "green")

MEANING = {"red": "do not use", "yellow": "look at it", "green": "nothing speaks against it"}
"""Of the lights."""

_HERE = Path(__file__).parent


def view_of(voxels: np.ndarray, labels: np.ndarray, affine: np.ndarray) -> str:
    """Give the script that brings a scan and its labels to the viewer, cropped to the brain.

    Args:
        voxels: (i, j, k), the scan, any unit.
        labels: (i, j, k) class indices.
        affine: voxels to RAS mm.
    """
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    box = []
    for span, side in zip(box_of(labels > 0), sides, strict=True):
        more = int(MARGIN / side) + 1
        box.append(slice(max(0, span.start - more), span.stop + more))
    place = affine.copy()
    place[:3, 3] = affine[:3] @ np.array([*(side.start for side in box), 1.0])
    shown = robust_scale(torch.from_numpy(np.ascontiguousarray(voxels[tuple(box)]).astype(np.float32))).numpy()
    scan = _packed(np.rint(255 * shown).astype(np.uint8), place)
    content = {"scan": scan, "labels": _packed(labels[tuple(box)].astype(np.uint8), place)}
    return f"show({json.dumps(content)});\n"


def _packed(voxels: np.ndarray, affine: np.ndarray) -> str:
    """Give a NIfTI file, compressed, as text."""
    whole = nib.Nifti1Image(voxels, affine).to_bytes()
    return base64.b64encode(gzip.compress(whole, 6, mtime=0)).decode("ascii")


def write_page(folder: Path, results: "Sequence[Segmented]", table: LabelTable, notes: Sequence[str] = ()) -> None:
    """Write the page of a folder's results, and the viewer beside it.

    Args:
        folder: of the results.
        results: all that it holds.
        table: of labels.
        notes: what is to be said of all of them.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    viewer = folder / VIEW / NIIVUE
    content = (_HERE / "static" / NIIVUE).read_bytes()
    if not viewer.is_file() or viewer.stat().st_size != len(content):
        replace_file(viewer, content)
    colours = {
        "R": [0, *(s.color[0] for s in table.structures)],
        "G": [0, *(s.color[1] for s in table.structures)],
        "B": [0, *(s.color[2] for s in table.structures)],
        "A": [0, *(255 for _ in table.structures)],
        "labels": ["", *(s.name for s in table.structures)],
    }
    worst = sorted(results, key=lambda one: (ORDER.index(one.judgement.light), _dice(one), one.case))
    page = environment.get_template(PAGE).render(
        results=worst,
        meaning=MEANING,
        order=ORDER,
        notes=notes,
        convention=CONVENTION,
        colours=colours,
        viewer=f"{VIEW}/{NIIVUE}",
        link=lambda path: legible(os.path.relpath(path, folder).replace(os.sep, "/")),
    )
    replace_file(folder / PAGE, page)


def _dice(one: "Segmented") -> float:
    return one.judgement.dice if one.judgement.dice == one.judgement.dice else -1.0
