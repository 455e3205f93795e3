"""Pictures of the pairs that the hub generates while it trains segmenters, for whoever watches the run.

In the hub's folder, `generated/`: a PNG for each style, replaced in each round, and `generated.json`, which names them.
They are drawn from what the sites released and from the atlas; no scan of a patient is ever at the hub.
"""

import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from configs.schema import Experiment
from configs.structures import LabelTable
from sst_models.wire.files import replace_file, write_json

if TYPE_CHECKING:  # torch: the page that shows the pictures does without
    from sst_models.phases.generate import GeneratedPair, PairGenerator

FOLDER, NAME = "generated", "generated.json"

MADE = 2
"""Pairs of a picture: each costs about a step of training."""

OPACITY = 0.7  # of the labels' colours on the image

Pixels = npt.NDArray[np.uint8]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drawn:
    """One picture: middle coronal slices of generated images, and below them the same with their labels in colour."""

    style: str  # whose: a site's name
    file: str  # in the folder
    round: int  # of the phase `segment`
    pairs: int  # side by side


def draw(hub: Path, generator: "PairGenerator", experiment: Experiment, style: str, number: int) -> None:
    """Draw some of the pairs of a round; a run goes on without a picture if that fails.

    Args:
        hub: the hub's folder.
        generator: of the style; a pair depends on its recipe alone, so what is learnt stays the same.
        experiment: the preset.
        style: a site's name.
        number: of the round, from 1.
    """
    from sst_models.phases.generate import Recipe

    seed, count = experiment.seed, experiment.generation.pairs
    numbers = [(MADE * (number - 1) + place) % count for place in range(MADE)]
    styles = experiment.generation.cached_styles or count
    try:
        pairs = [generator.pair(Recipe(seed, one % styles, one, style)) for one in numbers]
        file = f"{sha256(style.encode()).hexdigest()[:16]}.png"
        replace_file(hub / FOLDER / file, _png(picture(pairs, experiment.table)))
        known = [one for one in drawn(hub) if one.style != style]
        found = sorted([*known, Drawn(style, file, number, MADE)], key=lambda one: one.style)
        write_json([asdict(one) for one in found], hub / FOLDER / NAME)
    except OSError as error:
        log.warning("no picture of generated pairs: %s", error)


def drawn(hub: Path) -> list[Drawn]:
    """Give the pictures that are there; none where the list cannot be read."""
    try:
        return [Drawn(**one) for one in json.loads((hub / FOLDER / NAME).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def picture(pairs: Sequence["GeneratedPair"], table: LabelTable) -> Pixels:
    """Put pairs side by side, each image above its labels: (2 W, n D, 3), left of the person on the left."""
    palette = np.zeros((table.classes, 3), np.float32)
    palette[1:] = [structure.color for structure in table.structures]
    columns = []
    for pair in pairs:
        middle = pair.labels.shape[1] // 2  # coronal slices, the head up
        image, labels = (volume[:, middle].cpu().numpy().T[::-1] for volume in (pair.image[0], pair.labels))
        grey = np.repeat(np.clip(image, 0.0, 1.0)[..., None] * 255.0, 3, axis=2)
        mixed = (1.0 - OPACITY) * grey + OPACITY * palette[labels]
        columns.append(np.concatenate([grey, np.where((labels > 0)[..., None], mixed, grey)]))
    pixels: Pixels = np.rint(np.concatenate(columns, axis=1)).astype(np.uint8)
    return pixels


def _png(pixels: Pixels) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
