"""The scans of a site in one run: prepared on the run's grid, and split by person."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from client.cases import Cases
from client.gate.names import SPLITS
from client.prepare import AtlasFrame, Prepared, prepare_site, store_of
from client.site import Site
from client.split import find_table, split_for_good, split_people
from configs.errors import DataError
from configs.schema import Experiment
from sst_models.volume.labels import AtlasLabels, LabelledVolume
from sst_models.wire import weights
from sst_models.wire.exchange import Arrays
from sst_models.wire.files import write_json

ATLAS = "atlas.safetensors"
SET_ASIDE = "set_aside.json"
NOTES = "notes.json"
PEOPLE = "people.json"
"""In the state folder: the split of each person, for all runs."""


def keep_atlas(arrays: Arrays, digest: str, folder: Path) -> None:
    """Store the atlas that the hub published, and its digest.

    Args:
        arrays: "image" (1, D, H, W), or (N, D, H, W) of several atlases; "affine" (4, 4).
        digest: of the atlas.
        folder: of the run.
    """
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    weights.save(tensors, folder / ATLAS)
    write_json({"digest": digest}, folder / "atlas.json")


def atlas_volumes(folder: Path) -> tuple[Tensor, ...]:
    """Give the volumes of a run's atlases, (1, D, H, W) each; the first says where the grid is.

    Raises:
        DataError: the site has not joined the run.
    """
    return tuple(volume[None] for volume in weights.load(folder / ATLAS)["image"])


def atlases(
    folder: Path, packed: np.ndarray, experiment: Experiment, device: torch.device
) -> tuple[LabelledVolume, ...]:
    """Give a run's atlases on a device, with the labels that the hub sent (`AtlasLabels.packed`).

    Raises:
        DataError: the site has not joined the run, or the labels are not those of its atlases.
    """
    volumes = atlas_volumes(folder)
    finer = experiment.grid.label_oversampling
    labels = AtlasLabels.unpack(packed, volumes[0].shape[1:], finer, len(volumes), experiment.table)
    return tuple((volume.to(device), own.to(device)) for volume, own in zip(volumes, labels, strict=True))


def frame(folder: Path) -> AtlasFrame:
    """Give the atlas of a run as scans are brought to it.

    Raises:
        DataError: the site has not joined the run.
    """
    tensors = weights.load(folder / ATLAS)
    digest = json.loads((folder / "atlas.json").read_text())["digest"]
    return AtlasFrame.of(tensors["image"], tensors["affine"].double().tolist(), digest)


def prepare_scans(
    site: Site, run: str, experiment: Experiment, progress: Callable[[int, int], None] | None = None
) -> tuple[Prepared, dict[str, str]]:
    """Prepare and split a site's scans for a run whose atlas is stored; both are kept for the phases to come.

    Returns:
        What was prepared and set aside, and each case's split.

    Raises:
        DataError: no scan can be used, or the split leaves none to train, choose or test on.
    """
    folder = site.folder(run)
    atlas, how = frame(folder), replace(site.preparation, table=experiment.table, contrast=experiment.contrast)
    prepared = prepare_site(site.data, atlas, store_of(site.state / "prepared", atlas), progress, how)
    table = site.splits or next(filter(None, map(find_table, site.data)), None)
    people = {case.case: case.person for case in prepared.cases}
    labelled = {case.person for case in prepared.cases if case.labelled}
    splits: dict[str, str] = {**_split(site, people, experiment.seed, table, labelled)}
    paths = {case.case: [splits.get(case.case, ""), str(case.path), case.person] for case in prepared.cases}
    write_json(paths, folder / SPLITS)
    write_json([[item.file, item.reason] for item in prepared.set_aside], folder / SET_ASIDE)
    write_json(list(prepared.notes), folder / NOTES)
    return prepared, splits


def cases(folder: Path, split: str) -> Cases:
    """Give the prepared scans of one split of a run.

    Raises:
        DataError: the site has not joined the run.
    """
    return Cases.of([Path(row[1]) for _, row in sorted(_rows(folder).items()) if row[0] == split])


def people(folder: Path, split: str) -> list[str]:
    """Give whose each scan of `cases` is, in the same order; names stay at the site.

    Raises:
        DataError: the site has not joined the run.
    """
    return [row[2] for _, row in sorted(_rows(folder).items()) if row[0] == split]


def _rows(folder: Path) -> dict[str, list[str]]:
    """Read for each case its split, the path of its prepared scan, and its person."""
    try:
        rows: dict[str, list[str]] = json.loads((folder / SPLITS).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"no prepared scans in {folder}: the site has to join the run first") from error
    return rows


def _split(
    site: Site, people: dict[str, str], seed: int, table: Path | None, labelled: Collection[str]
) -> Mapping[str, str]:
    """Split a site's scans; with a secret salt, each person keeps for all runs the split that it was given once."""
    if table is not None or not site.salt:
        return split_people(people, seed, table, site.name)
    path = site.state / PEOPLE
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = split_for_good(people, site.salt, known, labelled)
    write_json(known | {people[case]: split for case, split in found.items()}, path)
    return found
