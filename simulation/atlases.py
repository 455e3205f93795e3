"""Which scans of a site are atlases: named ones, the split table's, or the one closest to the site's mean."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from client.affine import from_array, one_thread, register, scaled, to_matrix
from client.layouts import Scan, find_scans
from client.nifti import to_sitk
from client.split import find_table, split_people
from configs.errors import DataError
from configs.schema import Experiment
from server.atlas import Atlas, load_atlas, load_atlases
from sst_models.volume.grid import Grid
from sst_models.volume.intensity import closest_to_mean


@dataclass(frozen=True)
class Chosen:
    """The scans of a site that are atlases, and the site's split with these taken out of all other sets."""

    scans: tuple[Scan, ...]  # one or more, all with labels
    splits: Mapping[str, str]  # case -> train, val, test or atlas

    @property
    def files(self) -> list[tuple[Path, Path]]:
        """Image and label map of each."""
        return [(scan.image, scan.labels) for scan in self.scans if scan.labels is not None]

    @property
    def cases(self) -> str:
        """Their names, for a note."""
        return ", ".join(scan.case for scan in self.scans)


@dataclass(frozen=True)
class SiteAtlas:
    """A site's atlas on the run's grid, and the site's split with the atlas taken out of all other sets."""

    case: str
    atlas: Atlas
    splits: Mapping[str, str]  # case -> train, val, test or atlas


def splits_of(site: str, folder: Path, experiment: Experiment, table: Path | None) -> dict[str, str]:
    """Split a site's scans by person, by a table where there is one; give the split of each case."""
    scans = {scan.case: scan for scan in find_scans([folder], experiment.contrast, experiment.table)}
    return dict(_split(scans, site, folder, experiment.seed, table))


def _split(scans: Mapping[str, Scan], site: str, folder: Path, seed: int, table: Path | None) -> Mapping[str, str]:
    people = {case: scan.person for case, scan in scans.items()}
    return split_people(people, seed, table or find_table(folder), site)


def choose_atlas(site: str, folder: Path, experiment: Experiment, given: tuple[str | None, Path | None]) -> SiteAtlas:
    """Choose and load a site's atlas.

    Args:
        site: the site's name.
        folder: its scans.
        experiment: the preset; its seed is that of the random split, where no table is given.
        given: the named case, and the table of splits; each may be None.

    Raises:
        DataError: the named case is not there, or the site has no labelled scan that can be read.
    """
    named, table = given
    found = choose(site, folder, experiment, table, (named or "",))
    if found is None:
        raise no_atlas(f"site '{site}'")
    grid = experiment.grid
    atlas = load_atlases(found.files, grid.shape, grid.spacing, grid.label_oversampling, bring, table=experiment.table)
    return SiteAtlas(found.cases, atlas, found.splits)


def no_atlas(where: str) -> DataError:
    """Give the error to raise where there is nothing to make an atlas of."""
    return DataError(f"no training scan of {where} has a label map that can be read, so there is no atlas")


def choose(
    site: str, folder: Path, experiment: Experiment, table: Path | None, named: Sequence[str] = ("",)
) -> Chosen | None:
    """Choose which scans of a site are its atlases, if it has any.

    Args:
        site: the site's name.
        folder: its scans.
        experiment: the preset; its seed is that of the random split, where no table is given.
        table: of splits, or None.
        named: a case for each atlas, or "" for the usual one: that of the table, then whichever training scan is
            closest to the mean of those that are left.

    Returns:
        None where none is named and no training scan has a label map that can be read.

    Raises:
        DataError: a named case is not there or has no label map, or there are fewer labelled scans than are wanted.
    """
    scans = {scan.case: scan for scan in find_scans([folder], experiment.contrast, experiment.table)}
    splits = dict(_split(scans, site, folder, experiment.seed, table))
    where = f"site '{site}'"
    for case in filter(None, named):
        if case not in scans:
            raise DataError(f"{where}: there is no scan '{case}' in {folder}; name one of {sorted(scans)[:3]} ...")
        if scans[case].labels is None:
            raise DataError(f"{where}: '{case}' has no label map, so it cannot be the atlas; name a labelled scan")
    chosen: list[str] = []
    volume = cache(lambda case: _volume(scans[case], experiment))  # read once for all atlases
    for case in named:
        left = [other for other in sorted(scans) if other not in (*chosen, *named)]
        found = case or _usual(left, splits, volume)
        if found is None and len(named) == 1:
            return None
        if found is None:
            raise DataError(f"{where}: {len(named)} atlases are wanted, and fewer training scans have labels")
        chosen.append(found)
    return Chosen(tuple(scans[case] for case in chosen), {**splits, **dict.fromkeys(chosen, "atlas")})


def _usual(cases: Sequence[str], splits: Mapping[str, str], volume: Callable[[str], np.ndarray | None]) -> str | None:
    """Give the scan of a site that is its next atlas where none is named."""
    listed = next((case for case, split in splits.items() if split == "atlas" and case in cases), None)
    if listed:
        return listed
    training = [case for case in cases if splits.get(case) == "train"]
    loaded = {case: found for case in training if (found := volume(case)) is not None}
    # The atlas is the scan closest to the anatomical average (paper, Sec. 4).
    return list(loaded)[closest_to_mean(list(loaded.values()))] if loaded else None


def _volume(scan: Scan, experiment: Experiment) -> np.ndarray | None:
    """Read a labelled scan on the grid, (D, H, W); None where it has no labels, or cannot be read."""
    if scan.labels is None:
        return None
    grid = experiment.grid
    try:
        atlas = load_atlas(scan.image, scan.labels, grid.shape, grid.spacing, table=experiment.table)
        return np.asarray(atlas.image[0].numpy())
    except DataError:
        return None  # the preparation sets it aside and says why


def bring(volume: np.ndarray, affine: np.ndarray, atlas: Atlas, where: str) -> np.ndarray:
    """Seek the affine of a further atlas as a site seeks that of a scan (`server.atlas.Bring`).

    Raises:
        DataError: the two cannot be brought together.
    """
    (*_, x), (*_, y), (*_, z) = atlas.affine[:3]
    fixed = from_array(atlas.image[0].numpy(), Grid(atlas.shape, atlas.spacing, (x, y, z)))
    with one_thread():
        return to_matrix(register(fixed, scaled(to_sitk(volume, affine)), where))


def write_splits(splits: Mapping[str, Mapping[str, str]], path: Path) -> None:
    """Write all sites' splits as one table, the form that a site reads (site, participant_id, split)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["site", "participant_id", "split"])
        for site, rows in splits.items():
            writer.writerows([site, case, split] for case, split in sorted(rows.items()))
    part.replace(path)
