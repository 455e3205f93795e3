"""Slices of volumes as a person looks at them, with structures in their colours, as PNG."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from client.nifti import Turn
from configs.structures import PAPER, LabelTable
from sst_models.wire.files import replace_file

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.uint8]
Affine = npt.NDArray[np.float64]

CONVENTION = "Neurological convention: the patient's left is on the left."
"""Of all pictures; `marked` writes the sides on them."""

SIDES = (("P", "A"), ("L", "R"), ("L", "R"))
"""What is on the left and on the right of a picture across each axis of a RAS volume."""

PLANES = ("sagittal", "coronal", "axial")
"""Names of the planes across the axes of a RAS volume."""


def plane(volume: npt.NDArray[Any], axis: int, index: int | None = None) -> npt.NDArray[Any]:
    """Cut a RAS volume (D, H, W) across an axis, head or face up; the middle slice if `index` is None.

    Neurological convention: the patient's left is on the left of coronal and axial pictures, so that one looks from
    behind and from above; the face is on the right of sagittal ones.
    """
    middle = volume.shape[axis] // 2 if index is None else index
    return np.ascontiguousarray(volume.take(middle, axis).T[::-1])


def coronal(volume: npt.NDArray[Any], index: int | None = None) -> npt.NDArray[Any]:
    """Cut the coronal slice at `index`: (W, D)."""
    return plane(volume, 1, index)


def to_ras(
    volume: npt.NDArray[Any], affine: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
    """Turn a volume's axes to right, front, top as nearly as they go; gives the sides of its voxels (3,), mm, too."""
    turn = Turn.of(affine)
    sides = np.linalg.norm(turn.affine(affine, volume.shape)[:3, :3], axis=0)
    return turn.straight(volume), sides


def square(picture: npt.NDArray[Any], height: float, width: float, side: float) -> npt.NDArray[Any]:
    """Give a picture (H, W) of voxels `height` x `width` mm square pixels of `side` mm, by repeating or dropping."""
    rows, columns = (
        np.minimum((np.arange(round(count * mm / side)) * side / mm).astype(int), count - 1)
        for count, mm in zip(picture.shape[:2], (height, width), strict=True)
    )
    return np.asarray(picture[rows][:, columns])


def gray(image: Image) -> Pixels:
    """(H, W) in [0, 1] as (H, W, 3) grey pixels; NaN is black."""
    levels = np.clip(np.nan_to_num(image), 0.0, 1.0) * 255.0
    return np.repeat(np.rint(levels).astype(np.uint8)[..., None], 3, axis=2)


def paint(image: Image, labels: Labels, opacity: float = 0.85, table: LabelTable = PAPER) -> Pixels:
    """The slice with each structure in its own colour (of the label table), as (H, W, 3)."""
    palette = np.zeros((256, 3), np.float32)
    palette[1 : table.classes] = [structure.color for structure in table.structures]
    base = gray(image).astype(np.float32)
    mixed = (1.0 - opacity) * base + opacity * palette[labels]
    return np.rint(np.where((labels > 0)[..., None], mixed, base)).astype(np.uint8)


def outline(pixels: Pixels, inside: npt.NDArray[np.bool_], color: tuple[int, int, int] = (255, 140, 26)) -> Pixels:
    """Draw the border of a region, one pixel wide, on (H, W, 3) pixels."""
    core = inside.copy()
    for axis in (0, 1):
        for step in (-1, 1):
            core &= np.roll(inside, step, axis)
    return np.where((inside & ~core)[..., None], np.array(color, np.uint8), pixels)


def zoom(pixels: Pixels, factor: int) -> Pixels:
    """Repeat each pixel `factor` times along both sides."""
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def marked(pixels: Pixels, axis: int) -> Pixels:
    """Write on (H, W, 3) pixels of a slice across an axis which side is which; nothing where there is no room."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    height, width = pixels.shape[:2]
    size = min(24, height // 8)
    if size < 9:
        return pixels
    picture = Pillow.fromarray(pixels)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    for text, place, anchor in zip(SIDES[axis], (3, width - 3), ("lt", "rt"), strict=True):
        draw.text((place, 3), text, (255, 255, 255), font, anchor, stroke_width=1, stroke_fill=(0, 0, 0))
    return np.asarray(picture)


def in_a_row(pictures: list[Pixels], gap: int = 4) -> Pixels:
    """Put (H, W, 3) pictures side by side, on black, in the middle of the tallest."""
    height = max(len(picture) for picture in pictures)
    padded = []
    for picture in pictures:
        above = (height - len(picture)) // 2
        below = height - len(picture) - above
        padded.append(np.pad(picture, ((above, below), (gap, gap), (0, 0))))
    return np.concatenate(padded, axis=1)


def png(pixels: Pixels) -> bytes:
    """Encode (H, W, 3) pixels."""
    from PIL import Image as Pillow

    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def png_uri(pixels: Pixels) -> str:
    """(H, W, 3) pixels as the data URI of a PNG."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def save_png(pixels: Pixels, path: Path) -> None:
    """Write (H, W, 3) pixels, whole or not at all."""
    replace_file(path, png(pixels))
