"""The check by eye: one HTML page of a site's prepared scans, the worst first. It stays at the site."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from client.pictures import CONVENTION, gray, in_a_row, marked, outline, plane, png_uri, zoom
from client.prepare import AtlasFrame, Prepared, PreparedCase, SetAside
from client.quality import DISTANCE, OVERLAP, SIMILARITY, Light, Quality, assess, histogram, usual
from configs.contrast import T1
from sst_models.wire import weights
from sst_models.wire.files import replace_file

_WORST: tuple[Light, ...] = ("red", "yellow", "green")
_WIDTH = 720  # pixels of a row of slices, about


@dataclass(frozen=True)
class Row:
    """One scan of the page."""

    case: str
    light: Light
    overlap: float
    similarity: float
    distance: float
    size: float  # of the scan's brain over the atlas's, by the affine's determinant
    concerns: tuple[str, ...]
    picture: str = field(repr=False)  # a PNG as a data URI


def rows(cases: Sequence[PreparedCase], atlas: AtlasFrame, contrast: str = T1) -> list[Row]:
    """Judge prepared scans, the worst first.

    Raises:
        DataError: a prepared file is damaged.
    """
    brain = torch.from_numpy(atlas.image)
    files = [weights.load(case.path) for case in cases]  # mapped, not read: a page of a thousand scans is no burden
    usually = usual([histogram(tensors["image"]) for tensors in files])
    made = []
    for case, tensors in zip(cases, files, strict=True):
        found = assess(tensors["image"], brain, usually, contrast)
        size = float(torch.linalg.det(tensors["atlas_to_scan"][:3, :3]))
        made.append((found, _row(case.case, found, size, tensors["image"].numpy(), atlas.image)))
    order = sorted(made, key=lambda pair: (_WORST.index(pair[0].light), pair[0].overlap, pair[1].case))
    return [row for _, row in order]


def write_check(prepared: Prepared, atlas: AtlasFrame, path: Path, contrast: str = T1) -> list[Row]:
    """Write the page; give its rows.

    Raises:
        DataError: a prepared file is damaged.
    """
    shown = rows(prepared.cases, atlas, contrast)
    replace_file(path, _html(shown, prepared.set_aside))
    return shown


def _html(shown: Sequence[Row], aside: Sequence[SetAside]) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("check.html")
    return page.render(
        rows=shown, aside=aside, convention=CONVENTION, overlap=OVERLAP, similarity=SIMILARITY, distance=DISTANCE
    )


def _row(case: str, found: Quality, size: float, image: np.ndarray, atlas: np.ndarray) -> Row:
    factor = max(1, _WIDTH // sum(image.shape[axis] for axis in (1, 0, 0)))
    slices = []
    for axis in range(3):
        pixels = zoom(gray(plane(image, axis)), factor)
        outlined = outline(pixels, np.kron(plane(atlas, axis) > 0, np.ones((factor, factor), bool)))
        slices.append(marked(outlined, axis))
    picture = png_uri(in_a_row(slices))
    return Row(case, found.light, found.overlap, found.similarity, found.distance, size, found.concerns, picture)
