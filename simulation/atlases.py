"""Which scan of a site is its atlas: the named one, the split table's, or the one closest to the site's mean."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.layouts import Scan, find_scans
from client.split import find_table, split_people
from configs.errors import DataError
from configs.schema import Grid
from server.atlas import Atlas, load_atlas
from sst_models.volume.intensity import closest_to_mean


@dataclass(frozen=True)
class SiteAtlas:
    """A site's atlas on the run's grid, and the site's split with the atlas taken out of all other sets."""

    case: str
    atlas: Atlas
    splits: Mapping[str, str]  # case -> train, val, test or atlas


def splits_of(site: str, folder: Path, seed: int, table: Path | None) -> dict[str, str]:
    """Split a site's scans by person, by a table where there is one; give the split of each case."""
    return dict(_split({scan.case: scan for scan in find_scans([folder])}, site, folder, seed, table))


def _split(scans: Mapping[str, Scan], site: str, folder: Path, seed: int, table: Path | None) -> Mapping[str, str]:
    people = {case: scan.person for case, scan in scans.items()}
    return split_people(people, seed, table or find_table(folder), site)


def choose_atlas(site: str, folder: Path, grid: Grid, seed: int, given: tuple[str | None, Path | None]) -> SiteAtlas:
    """Choose and load a site's atlas; the arguments are those of `atlas_of`.

    Raises:
        DataError: the named case is not there, or the site has no labelled scan that can be read.
    """
    found = atlas_of(site, folder, grid, seed, given)
    if found is None:
        raise no_atlas(f"site '{site}'")
    return found


def no_atlas(where: str) -> DataError:
    """Give the error to raise where there is nothing to make an atlas of."""
    return DataError(f"no training scan of {where} has a label map that can be read, so there is no atlas")


def atlas_of(site: str, folder: Path, grid: Grid, seed: int, given: tuple[str | None, Path | None]) -> SiteAtlas | None:
    """Choose and load a site's atlas, if it has one.

    Args:
        site: the site's name.
        folder: its scans.
        grid: of the run.
        seed: of the random split, where no table is given.
        given: the named case, and the table of splits; each may be None.

    Returns:
        The atlas; None where none is named and no training scan has a label map that can be read.

    Raises:
        DataError: the named case is not there, or has no label map.
    """
    named, table = given
    scans = {scan.case: scan for scan in find_scans([folder])}
    splits = dict(_split(scans, site, folder, seed, table))
    chosen = named or next((case for case, split in splits.items() if split == "atlas" and case in scans), None)
    if chosen is None:
        chosen = _closest({case: scans[case] for case in sorted(splits) if splits[case] == "train"}, grid)
    if chosen is None:
        return None
    if chosen not in scans:
        raise DataError(f"site '{site}': there is no scan '{chosen}' in {folder}; name one of {sorted(scans)[:3]} ...")
    scan = scans[chosen]
    if scan.labels is None:
        raise DataError(f"site '{site}': '{chosen}' has no label map, so it cannot be the atlas; name a labelled scan")
    atlas = load_atlas(scan.image, scan.labels, grid.shape, grid.spacing, grid.label_oversampling)
    return SiteAtlas(chosen, atlas, {**splits, chosen: "atlas"})


def _closest(scans: Mapping[str, Scan], grid: Grid) -> str | None:
    loaded = {}
    for case, scan in scans.items():
        if scan.labels is not None:
            try:
                loaded[case] = load_atlas(scan.image, scan.labels, grid.shape, grid.spacing).image[0].numpy()
            except DataError:
                continue  # the preparation sets it aside and says why
    # The atlas is the scan closest to the anatomical average (paper, Sec. 4).
    return list(loaded)[closest_to_mean(list(loaded.values()))] if loaded else None


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
