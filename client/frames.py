"""Where scans are brought to, from whatever a user has of an atlas: a model, a run's folder, or a scan."""

import hashlib
import json
from pathlib import Path

import numpy as np

from client.layouts import T1
from client.model import CARD, open_model
from client.nifti import affine_of, array_of, read_image
from client.prepare import AtlasFrame
from configs.errors import ConfigError, DataError
from configs.schema import load
from configs.structures import LabelTable, table_from
from sst_models.volume.grid import centred, sample_image
from sst_models.volume.intensity import robust_scale
from sst_models.wire import weights

FILES = ("atlas.safetensors", "atlas.json")
"""What a hub's folder, or a run's at a site, holds of the atlas."""


def frame_of(atlas: Path, preset: str | None) -> AtlasFrame:
    """Read an atlas as scans are brought to it.

    Args:
        atlas: a model, a folder with `FILES`, or a skull-stripped scan.
        preset: whose grid a scan is put on; not for the others, which have one.

    Raises:
        ConfigError: no such preset.
        DataError: there is no atlas at the path, or it cannot be used.
    """
    if (atlas / CARD).is_file():
        return open_model(atlas).frame
    if atlas.is_dir():
        return _kept(atlas)
    if preset is None:
        raise DataError(f"{atlas} is a scan, which has no grid of a run; name the run's preset, too (--preset)")
    grid = load(preset).grid
    image = read_image(atlas)
    voxels, affine = array_of(image), affine_of(image)
    place = centred(voxels, affine, grid.shape, grid.spacing, str(atlas))
    scaled = robust_scale(sample_image(voxels, affine, place)).numpy()
    digest = hashlib.sha256(json.dumps(place.affine).encode() + scaled.tobytes()).hexdigest()
    return AtlasFrame(scaled, grid.shape, grid.spacing, place.affine, digest)


def kind_of(atlas: Path, preset: str | None) -> tuple[LabelTable, str]:
    """Give the label table and the contrast that an atlas came with, or else those of a preset, or the usual ones.

    Args: as of `frame_of`.

    Raises:
        ConfigError: no such preset.
        DataError: there is a model or a hub's atlas, and it cannot be used.
    """
    if (atlas / CARD).is_file():
        experiment = open_model(atlas).experiment
        return experiment.table, experiment.contrast
    usual = load(preset) if preset else None
    contrast = usual.contrast if usual else T1
    if not (atlas / FILES[1]).is_file():
        return usual.table if usual else table_from([]), contrast
    try:
        facts = json.loads((atlas / FILES[1]).read_text(encoding="utf-8"))
        return table_from(facts.get("label_table", [])), contrast
    except (OSError, ValueError, ConfigError) as error:
        raise DataError(f"the atlas in {atlas} is damaged; copy the folder again") from error


def _kept(folder: Path) -> AtlasFrame:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(f"no atlas in {folder}: it has neither {CARD} nor {missing[0]}; give a model or a run's folder")
    tensors = weights.load(folder / FILES[0])
    try:
        facts = json.loads((folder / FILES[1]).read_text(encoding="utf-8"))
        given = facts["affine"] if "affine" in facts else tensors["affine"].tolist()
        affine = np.array(given, dtype=np.float64).reshape(4, 4)
        return AtlasFrame.of(tensors["image"], affine.tolist(), str(facts["digest"]))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"the atlas in {folder} is damaged; copy the folder again") from error
