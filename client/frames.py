"""Where scans are brought to, from whatever a user has of an atlas: a model, a run's folder, or a scan."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.model import CARD, models_in, open_model
from client.nifti import affine_of, array_of, read_image
from client.prepare import AtlasFrame
from configs.contrast import T1
from configs.errors import ConfigError, DataError
from configs.schema import load
from configs.structures import LabelTable, table_from
from sst_models.volume.grid import centred, sample_image
from sst_models.volume.intensity import robust_scale
from sst_models.wire import weights

FILES = ("atlas.safetensors", "atlas.json")
"""What a hub's folder, or a run's at a site, holds of the atlas."""


@dataclass(frozen=True)
class Found:
    """An atlas as scans are brought to it, and what is known of scans and labels that belong to it."""

    frame: AtlasFrame
    table: LabelTable
    contrast: str  # by the suffix that BIDS has for it


def find_atlas(atlas: Path, preset: str | None) -> Found:
    """Read an atlas; it has a label table and a contrast of its own, or those of the preset, or the usual ones.

    Args:
        atlas: a model, or a folder that holds one; a folder with `FILES`; or a skull-stripped scan.
        preset: whose grid a scan is put on; the others have one.

    Raises:
        ConfigError: no such preset.
        DataError: there is no atlas at the path, or it cannot be used.
    """
    if (atlas / CARD).is_file() or (models_in(atlas) and not (atlas / FILES[0]).is_file()):
        model = open_model(atlas)
        return Found(model.frame, model.experiment.table, model.experiment.contrast)
    experiment = load(preset) if preset else None
    contrast = experiment.contrast if experiment else T1
    if atlas.is_dir():
        return Found(*_kept(atlas), contrast)
    if experiment is None:
        raise DataError(f"{atlas} is a scan, which has no grid of a run; name the run's preset, too (--preset)")
    grid = experiment.grid
    image = read_image(atlas)
    voxels, affine = array_of(image), affine_of(image)
    place = centred(voxels, affine, grid.shape, grid.spacing, str(atlas))
    scaled = robust_scale(sample_image(voxels, affine, place)).numpy()
    digest = hashlib.sha256(json.dumps(place.affine).encode() + scaled.tobytes()).hexdigest()
    return Found(AtlasFrame(scaled, grid.shape, grid.spacing, place.affine, digest), experiment.table, contrast)


def _kept(folder: Path) -> tuple[AtlasFrame, LabelTable]:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise DataError(f"no atlas in {folder}: it has neither {CARD} nor {missing[0]}; give a model or a run's folder")
    tensors = weights.load(folder / FILES[0])
    try:
        facts = json.loads((folder / FILES[1]).read_text(encoding="utf-8"))
        given = facts["affine"] if "affine" in facts else tensors["affine"].tolist()
        affine = np.array(given, dtype=np.float64).reshape(4, 4)
        frame = AtlasFrame.of(tensors["image"], affine.tolist(), str(facts["digest"]))
        return frame, table_from(facts.get("label_table", []))
    except (OSError, ValueError, KeyError, ConfigError) as error:
        raise DataError(f"the atlas in {folder} is damaged; copy the folder again") from error
