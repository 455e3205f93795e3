"""Find the scans of a site: BIDS, FreeSurfer, CANDIShare and OASIS as distributed, loose files, or a table of files."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from client.layouts import bids, dicom, distributed, loose
from client.layouts.scan import Scan, stem_of
from client.layouts.table import COLUMNS, is_table, read_table
from configs.contrast import CONTRASTS, T1
from configs.errors import ConfigError, DataError
from configs.structures import PAPER, LabelTable

__all__ = ["COLUMNS", "EXPECTED", "Scan", "find_scans", "in_order", "read_table", "stem_of", "with_masks"]

EXPECTED = (
    "a BIDS folder (sub-*/anat/*_{contrast}.nii.gz, labels in derivatives/*/sub-*/anat/*_dseg.nii.gz), FreeSurfer's "
    "subjects (*/mri/norm.mgz), CANDIShare (*_procimg.nii.gz beside *_seg.nii.gz), OASIS (*norm.nii.gz beside "
    "*seg35.nii.gz, or OAS1_*/PROCESSED/MPRAGE/T88_111/*_masked_gfc.img), any .nii and .nii.gz files, or DICOM series"
)

_CONTRAST = re.compile(rf"_({'|'.join(CONTRASTS)})$")
"""Ends the name of a file that is given by itself; what is before it is the case."""


def _layouts(contrast: str, table: LabelTable, series: int | None) -> tuple[Callable[[Path], list[Scan]], ...]:
    """List what finds scans of a contrast, in the order in which it is tried."""
    known = (distributed.freesurfer, distributed.candi, distributed.oasis_norm, distributed.oasis_discs)
    return (
        partial(bids.find, contrast=contrast, table=table),
        *(known if contrast == T1 else ()),
        partial(loose.find, contrast=contrast),
        partial(dicom.find, contrast=contrast, series=series),
    )


def _scans_of(source: Path, contrast: str, table: LabelTable, series: int | None) -> list[Scan]:
    if is_table(source):
        return read_table(source)
    if dicom.is_dicom(source):
        return dicom.find(source, contrast, series)
    if source.is_file():
        name = _CONTRAST.sub("", stem_of(source).removesuffix(".img").removesuffix(".hdr"))
        return [Scan(name, name, source, None)]
    expected = EXPECTED.format(contrast=contrast)
    if not source.is_dir():
        raise DataError(f"no such folder: {source}; give a folder or a table that holds {expected}")
    for layout in _layouts(contrast, table, series):
        try:
            scans = layout(source)
        except DataError as error:
            raise DataError(f"no scans found in {source}: {error}; expected {expected}") from error
        if scans:
            return scans
    raise DataError(f"no scans found in {source}; expected {expected}")


def find_scans(
    folders: Sequence[Path], contrast: str = T1, table: LabelTable = PAPER, series: int | None = None
) -> list[Scan]:
    """List what a site has, in the order of case names.

    Nothing is read but folder names, tables of files, headers of DICOM, and the label maps of a scan that has several.

    Args:
        folders: one or more folders of the site, each in any of the layouts, tables of files, or single scans.
        contrast: of the scans, by the suffix that BIDS has for it; of files in other layouts nothing else says it.
        table: of labels, by which one of several label maps is chosen.
        series: number of the series to take of each study in DICOM; without it, its tags say which is T1-weighted.

    Raises:
        DataError: a folder or file is missing or holds no scan, or two scans have one case name.
        ConfigError: there is DICOM, and what reads it is not installed.
    """
    return in_order(scan for folder in folders for scan in _scans_of(Path(folder), contrast, table, series))


def in_order(found: Iterable[Scan]) -> list[Scan]:
    """Sort scans by their case names.

    Raises:
        DataError: two have one name.
    """
    scans = sorted(found, key=lambda scan: scan.case)
    for before, after in zip(scans, scans[1:], strict=False):
        if before.case == after.case:
            if before.series:
                raise DataError(f"the study {before.case} is in two of the folders that were given; leave one out")
            raise DataError(f"two scans are called {before.case}: {before.image} and {after.image}; keep one of them")
    return scans


def with_masks(scans: Sequence[Scan], pattern: str) -> list[Scan]:
    """Give each scan the mask that a pattern names, e.g. "{stem}_brainmask.nii.gz" or "../masks/{case}.nii.gz".

    Args:
        scans: what was found.
        pattern: a path from the scan's own folder, with {stem}, {case} and {person}; "" changes nothing.

    Returns:
        The scans; one whose mask is not there keeps what it had.

    Raises:
        ConfigError: the pattern has another field.
    """
    if not pattern:
        return list(scans)
    found = []
    for scan in scans:
        try:
            name = pattern.format(stem=stem_of(scan.image), case=scan.case, person=scan.person)
        except (LookupError, ValueError) as error:
            raise ConfigError(f"--mask-pattern: '{pattern}' may hold {{stem}}, {{case}} and {{person}} only") from error
        beside = [file.parent / name for file in scan.files[:1]]  # no file is a DICOM study's that is refused
        found.append(replace(scan, mask=beside[0]) if beside and beside[0].is_file() else scan)
    return found
