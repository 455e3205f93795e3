"""Studies in DICOM: one scan of each, its T1-weighted series, wherever its files lie and whatever they are called.

Who is in it is told by nothing that is written: a scan is called by a pseudonym (`client.dicom.headers.pseudonym`),
never by a patient's name or number, a date, or the name of a file or folder.
"""

from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from client.layouts.scan import Scan, Series
from configs.contrast import T1
from configs.errors import ConfigError, DataError

if TYPE_CHECKING:
    from client.dicom.headers import Volume

INSTALL = "pip install --no-deps --require-hashes -r requirements-dicom.lock"

NEEDED = ("pydicom", "highdicom", "dcm2niix")

_MARK, _PREAMBLE = b"DICM", 128
"""Begin a DICOM file (PS3.10, 7.1)."""

_BARE = b"\x08\x00"
"""Begins one that was written without them, as old archives do: group 0008, the first of a data set."""

_BARE_ENDS = ("", ".dcm", ".ima", ".dicom")


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its first bytes."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_PREAMBLE + len(_MARK))
    except OSError:
        return False
    bare = head[:2] == _BARE and head[3:4] == b"\x00" and path.suffix.lower() in _BARE_ENDS
    return bare or head[_PREAMBLE:] == _MARK


def find(source: Path, contrast: str = T1, series: int | None = None) -> list[Scan]:
    """List one scan for each study of a folder, of a folder that a DICOMDIR lies in, or of a single file.

    A study in which no series, or several, could be the scan gives one that cannot be used, and the list of its series:
    it is set aside, and the others go on.

    Args:
        source: the folder or file; there may be several patients, studies and series in it, in any order.
        contrast: of the scans.
        series: number of the series to take of each study.

    Raises:
        ConfigError: there is DICOM, and what reads it is not installed.
        DataError: no file of it can be read.
    """
    if source.name.upper() == "DICOMDIR":
        source = source.parent
    inside = sorted(source.rglob("*")) if source.is_dir() else [source]
    hidden = (path for path in inside if any(part.startswith(".") for part in path.relative_to(source).parts))
    files = [path for path in sorted(set(inside) - set(hidden)) if is_dicom(path)]
    if not files:
        return []
    if any(find_spec(name) is None for name in NEEDED):
        raise ConfigError(f"{source} holds DICOM; what reads it is not installed: {INSTALL}")
    from client.dicom.headers import read_volumes

    volumes, broken = read_volumes(files)
    if not volumes:
        raise DataError(f"none of {len(files)} DICOM files holds an image that can be read")
    studies: dict[str, list[Volume]] = defaultdict(list)
    for volume in volumes:
        studies[volume.study].append(volume)
    return [_scan(study, own, contrast, series, broken) for study, own in studies.items()]


def _scan(study: str, volumes: "list[Volume]", contrast: str, series: int | None, broken: int) -> Scan:
    from client.dicom.choice import choose

    chosen, note = choose(volumes, series, contrast), ""
    if broken:
        note = f"; {broken} DICOM files could not be read"
    if chosen.volume is None:
        refused = Series(study, refused=chosen.text + note)
        return Scan(study, volumes[0].patient, Path(study), None, series=refused)
    taken = Series(f"series {chosen.volume.number} of {study}", chosen.volume.files)
    note = f"{study}: {chosen.text}{note}"
    return Scan(study, chosen.volume.patient, Path(study), None, series=taken, series_note=note)
