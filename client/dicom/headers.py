"""Series of a DICOM folder, by their headers: numbers and words of the standard's own, and where each slice lies.

No free text of a header is kept: it may hold a name. What a patient or a study is called is digested at once.
"""

# mypy: untyped-calls-exclude="pydicom"

import hashlib
import logging
import math
import re
import warnings
from base64 import b32encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset

TOGETHER = 0.01
"""mm: slices that are no farther apart are in one place."""

_ENHANCED = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

_TAGS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("PatientID", "PatientName", "PatientBirthDate", "Modality", "SeriesNumber", "SeriesDescription", "ImageType"),
    *("AcquisitionTime", "MRAcquisitionType", "ScanningSequence", "SequenceVariant", "AngioFlag", "EchoPulseSequence"),
    *("InversionRecovery", "RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "ContrastBolusAgent"),
    *("ContrastBolusAgentSequence", "Rows", "Columns", "PixelSpacing", "ImageOrientationPatient"),
    *("ImagePositionPatient", "NumberOfFrames", *_ENHANCED),
)
"""All that is read of a file."""

_GIVEN = re.compile(r"(?<![a-z])(gad?|gd|gado\w*|post|ce|km|contrast)(?![a-z])|\+ ?[ck](?![a-z])", re.IGNORECASE)
"""Words by which people say in a series' description that contrast agent was given; what they say is not kept."""


@dataclass(frozen=True)
class Slice:
    """One slice: a file, or one frame of a file that has several."""

    file: Path
    frame: int  # from 0
    position: tuple[float, ...]  # of its first voxel, mm, LPS
    orientation: tuple[float, ...]  # along a row, then along a column: two unit vectors, LPS

    @property
    def placed(self) -> bool:
        """Whether the header says where it lies."""
        return len(self.position) == 3 and len(self.orientation) == 6


@dataclass(frozen=True)
class Volume:
    """Slices of one series that belong together, as their headers describe them."""

    study: str  # pseudonym
    patient: str  # pseudonym; one patient's studies have one
    number: int  # of the series
    modality: str
    kind: tuple[str, ...]  # ImageType
    acquisition: str  # "3D", "2D" or ""
    sequence: frozenset[str]  # of SE, GR, IR, EP, RM
    variant: frozenset[str]  # of SK, SP, SS, MP, MTC, TRSS, OSP
    repetition: float  # ms; nan where the header has none, as the next three
    echo: float  # ms
    inversion: float  # ms
    flip: float  # degrees
    agent: bool  # contrast agent was given
    angiography: bool
    when: str  # digest of when and in what frame of reference it was acquired
    size: tuple[int, int]  # columns, rows
    spacing: tuple[float, float]  # mm from column to column, from row to row; 0 where the header has none
    slices: tuple[Slice, ...]  # in the order of their places, from the first along the normal

    @property
    def normal(self) -> np.ndarray:
        """Unit vector from slice to slice, LPS."""
        along = np.array(self.slices[0].orientation).reshape(2, 3)
        return np.asarray(np.cross(along[0], along[1]))

    @property
    def places(self) -> np.ndarray:
        """Where each slice lies along the normal, mm."""
        return np.asarray(np.array([one.position for one in self.slices]) @ self.normal)

    @property
    def step(self) -> float:
        """Distance of slices, mm: the usual one where they are uneven; 0 for a single slice."""
        apart = np.diff(self.places)
        return float(np.median(apart[apart > TOGETHER])) if (apart > TOGETHER).any() else 0.0

    @property
    def files(self) -> tuple[Path, ...]:
        """Files of all slices, each once."""
        return tuple(dict.fromkeys(one.file for one in self.slices))

    @property
    def affine(self) -> np.ndarray:
        """4 x 4 from (column, row, slice) to LPS mm; of slices that are even."""
        matrix = np.eye(4)
        along = np.array(self.slices[0].orientation).reshape(2, 3)
        matrix[:3, 0], matrix[:3, 1] = along[0] * self.spacing[0], along[1] * self.spacing[1]
        first, last = (np.array(self.slices[end].position) for end in (0, -1))
        matrix[:3, 2] = (last - first) / (len(self.slices) - 1)
        matrix[:3, 3] = first
        return matrix


@contextmanager
def quiet() -> Iterator[None]:
    """Let pydicom and highdicom say nothing: their warnings quote what headers hold."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels, mode = [logger.level for logger in loggers], pydicom.config.settings.reading_validation_mode
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        pydicom.config.settings.reading_validation_mode = mode


def read_volumes(files: Sequence[Path]) -> tuple[list[Volume], int]:
    """Read the headers of DICOM files and put together what belongs together.

    Returns:
        The volumes, in the order of studies and series; how many files could not be read.
    """
    parts: dict[tuple[str, ...], list[tuple[Dataset, Path]]] = {}
    seen: set[str] = set()
    broken = 0
    with quiet():
        for file in files:
            try:
                header = pydicom.dcmread(file, specific_tags=list(_TAGS), stop_before_pixels=True, force=True)
                key, name = _part(header, file), _text(header, "SOPInstanceUID")
            except Exception:  # damage has no end of ways to fail, and their texts quote headers
                broken += 1
                continue
            if all(key[:2]) and name not in seen:  # no list of files (DICOMDIR), and not the same export twice
                seen.add(name)
                parts.setdefault(key, []).append((header, file))
        owners = _owners([part[0][0] for part in parts.values()])
        found = []
        for part in parts.values():
            try:
                found.append(_volume(part, owners))
            except Exception:
                broken += len(part)
    return sorted(found, key=lambda one: (one.study, one.number, one.kind, str(one.echo))), broken


def pseudonym(uid: str) -> str:
    """Give the name under which all that is written speaks of a study: `sub-` and 50 bits of the SHA-256 of its UID.

    It is the same in every call and on every machine, and says nothing; who has the DICOM files can find the study of a
    name. Numbers of patients are no part of it: there are so few that trying all would find hers.
    """
    return "sub-" + b32encode(hashlib.sha256(f"sst {uid}".encode()).digest())[:10].decode().lower()


def _part(header: Dataset, file: Path) -> tuple[str, ...]:
    """Say what a file is a part of: its study and series, and which of the volumes that a series may hold."""
    series = _text(header, "StudyInstanceUID"), _text(header, "SeriesInstanceUID")
    echo = str(_find(header, "EchoTime") or _find(header, "EffectiveEchoTime") or "")
    return (*series, str(file)) if _frames(header) > 1 else (*series, *_kind(header), echo)


def _owners(headers: Sequence[Dataset]) -> dict[str, str]:
    """Give for each study, by UID, the pseudonym of its patient: that of the first of her studies that are here."""
    studies: dict[tuple[str, ...], set[str]] = {}
    for header in headers:
        uid, who = _text(header, "StudyInstanceUID"), _text(header, "PatientID")
        key = (who, _text(header, "PatientName"), _text(header, "PatientBirthDate")) if who else (uid,)
        studies.setdefault(key, set()).add(uid)
    return {uid: pseudonym(min(own)) for own in studies.values() for uid in own}


def _volume(part: Sequence[tuple[Dataset, Path]], owners: dict[str, str]) -> Volume:
    header, study = part[0][0], _text(part[0][0], "StudyInstanceUID")
    slices = tuple(one for found, file in part for one in _slices(found, file))
    number, spacing = _number(_find(header, "SeriesNumber")), _find(header, "PixelSpacing") or (0, 0)
    volume = Volume(
        study=pseudonym(study),
        patient=owners[study],
        number=0 if math.isnan(number) else int(number),
        modality=_text(header, "Modality"),
        kind=_kind(header),
        acquisition=next(iter(_words(_find(header, "MRAcquisitionType")) & {"2D", "3D"}), ""),
        sequence=_sequence(header),
        variant=_words(_find(header, "SequenceVariant")) & {"SK", "SP", "SS", "MP", "MTC", "TRSS", "OSP"},
        repetition=_number(_find(header, "RepetitionTime")),
        echo=_number(_find(header, "EchoTime") or _find(header, "EffectiveEchoTime")),
        inversion=_number(_find(header, "InversionTime") or _find(header, "InversionTimes")),
        flip=_number(_find(header, "FlipAngle")),
        agent=_agent(header),
        angiography="Y" in _words(_find(header, "AngioFlag")),
        when=_digest(_text(header, "AcquisitionTime") + _text(header, "FrameOfReferenceUID")),
        size=(int(header.get("Columns") or 0), int(header.get("Rows") or 0)),
        spacing=(_number(spacing[1]), _number(spacing[0])),
        slices=slices,
    )
    if not all(one.placed for one in slices):
        return volume
    order = np.argsort(volume.places, kind="stable")
    return replace(volume, slices=tuple(slices[place] for place in order))


def _sequence(header: Dataset) -> frozenset[str]:
    """Give the kinds of a pulse sequence; a file of several frames says them in words of its own."""
    echo, known = _words(_find(header, "EchoPulseSequence")), _words(_find(header, "ScanningSequence"))
    said = {"GR": "GRADIENT" in echo, "SE": "SPIN" in echo, "IR": "YES" in _words(_find(header, "InversionRecovery"))}
    return known & {"SE", "GR", "IR", "EP", "RM"} | {name for name, holds in said.items() if holds}


def _agent(header: Dataset) -> bool:
    given = _text(header, "ContrastBolusAgent").upper() not in ("", "NO", "NONE", "N")
    described = bool(_GIVEN.search(_text(header, "SeriesDescription")))
    return given or described or bool(header.get("ContrastBolusAgentSequence"))


def _slices(header: Dataset, file: Path) -> Iterator[Slice]:
    for number in range(max(1, _frames(header))):
        position, orientation = (
            tuple(_number(value) for value in _find(header, name, number) or ())
            for name in ("ImagePositionPatient", "ImageOrientationPatient")
        )
        yield Slice(file, number, position, orientation)


def _frames(header: Dataset) -> int:
    """Give the number of frames of a file that describes each of them; 0 for a file of one slice."""
    return int(header.get("NumberOfFrames") or 0) if "PerFrameFunctionalGroupsSequence" in header else 0


def _find(header: Dataset, name: str, frame: int = 0) -> Any:
    """Give a value from a header, or from the groups that a file of several frames has in its place; None for none."""
    if name in header:
        return header.get(name)
    groups = (header.get(one) for one in reversed(_ENHANCED))
    for group, number in zip(groups, (frame, 0), strict=True):
        for element in group[number] if group else ():
            if element.VR == "SQ" and not element.tag.is_private and element.value and name in element.value[0]:
                return element.value[0].get(name)
    return None


def _text(header: Dataset, name: str) -> str:
    return str(header.get(name) or "").strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _kind(header: Dataset) -> tuple[str, ...]:
    value = header.get("ImageType") or ()
    return tuple(str(word).strip().upper() for word in ([value] if isinstance(value, str) else value))


def _words(value: Any) -> frozenset[str]:
    return frozenset(str(word).strip().upper() for word in ([value] if isinstance(value, str) else value or ()))


def _number(value: Any) -> float:
    """Read a number of a header, the first where there are several; nan for none."""
    first = next(iter(value), None) if isinstance(value, Sequence) and not isinstance(value, str) else value
    try:
        return math.nan if first in (None, "") else float(first)
    except (TypeError, ValueError):
        return math.nan
