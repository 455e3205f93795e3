"""A label map as DICOM Segmentation on the slices of its source series, for a PACS and its viewers.

One binary segment for each structure that was found: what 3D Slicer (dcmqi) and OHIF have opened for years, while label
maps in one frame (DICOM 2024d) open in the newest alone.

Nothing of the source's headers is in it but the UIDs of its study, series, slices and frame of reference, without which
no viewer lays it over them, and where the slices lie. Patient, dates and times are empty, or 1900 where the standard
wants a date (PS3.15, annex E, "D"). The same label map gives the same bytes.
"""

# mypy: untyped-calls-exclude="highdicom,pydicom"

import hashlib
import os
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import highdicom as hd
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentDescription
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from client.dicom.codes import Coded, category_of, code_of, side
from client.dicom.convert import on_slices, volume_of
from client.dicom.headers import Volume, quiet
from client.layouts.scan import Scan
from client.model import Model
from client.nifti import open_image
from configs.errors import DataError
from configs.structures import LabelTable, colour_table

NAME = "sst-federation"

_KEPT = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Rows"),
    *("Columns", "PixelSpacing", "SliceThickness", "ImageOrientationPatient", "ImagePositionPatient"),
    *("NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""What is taken of a source's header."""

_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
}
"""What is taken of a source's functional groups."""

_EMPTY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
"""What the standard wants to be there, and lets be empty."""

_NEVER, _MIDNIGHT = "19000101", "000000"


def write_segmentation(labels: np.ndarray, scan: Scan, path: Path, model: Model) -> None:
    """Write the label map of a scan in DICOM beside its other results; whole or not at all.

    Args:
        labels: (i, j, k) class indices, on the voxels of the converted scan; at least one structure.
        scan: with its series, and the converted file as its image.
        path: where to.
        model: whose label map it is.

    Raises:
        DataError: the series has changed, or the label map does not lie on it.
    """
    assert scan.series is not None
    volume = volume_of(scan)
    classes = on_slices(labels, open_image(scan.image).affine, volume, scan.series.name)
    found = [index for index in np.unique(classes).tolist() if index]
    numbers = np.zeros(model.experiment.table.classes, np.uint8)
    numbers[found] = np.arange(1, len(found) + 1)
    with quiet():
        try:
            made = _segmentation(numbers[classes], _sources(volume), found, model, volume.number)
        except (ValueError, TypeError, AttributeError, LookupError, NotImplementedError):  # whose texts quote headers
            name = scan.series.name
            raise DataError(f"dicom: highdicom can make no DICOM SEG of {name}; convert it by other means") from None
        part = path.with_name(f".{path.name}.{os.getpid()}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pydicom.dcmwrite(part, made, enforce_file_format=True)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


def _sources(volume: Volume) -> list[Dataset]:
    """Give the headers of the source's files without anything that says whose they are."""
    return [_bare(pydicom.dcmread(file, stop_before_pixels=True, force=True)) for file in volume.files]


def _bare(header: Dataset) -> Dataset:
    bare = Dataset()
    for name in _EMPTY:
        setattr(bare, name, "")
    for name in _KEPT:
        if name in header and not name.endswith("GroupsSequence"):
            setattr(bare, name, header[name].value)
        elif name in header:
            setattr(bare, name, Sequence([_group(item) for item in header[name].value]))
    return bare


def _group(item: Dataset) -> Dataset:
    kept = Dataset()
    for name, fields in _GROUPS.items():
        if name in item and item[name].value:
            inner = Dataset()
            for field in fields:
                if field in item[name].value[0]:
                    setattr(inner, field, item[name].value[0][field].value)
            setattr(kept, name, Sequence([inner]))
    return kept


def _segmentation(numbers: np.ndarray, sources: list[Dataset], found: list[int], model: Model, number: int) -> Dataset:
    version = _version()
    digest = hashlib.sha256(numbers.tobytes()).hexdigest()
    seed = [str(sources[0].SeriesInstanceUID), model.digest, digest, version]
    made: Any = Segmentation(
        source_images=sources,
        pixel_array=numbers,
        segmentation_type="BINARY",
        segment_descriptions=_descriptions(found, model.experiment.table, model.digest, version, seed),
        series_instance_uid=generate_uid(entropy_srcs=[*seed, "series"]),
        series_number=1000 + number,
        sop_instance_uid=generate_uid(entropy_srcs=[*seed, "instance"]),
        instance_number=1,
        manufacturer=NAME,
        manufacturer_model_name="sst segment",
        software_versions=version,
        device_serial_number=model.digest[:16],
        content_label="BRAIN_STRUCTURES",
        content_description="Research only: no medical device",
        series_description="sst brain structures",
    )
    made.PatientIdentityRemoved, made.DeidentificationMethod = "YES", "All but UIDs left out"
    made.LongitudinalTemporalInformationModified = "REMOVED"
    made.ContentDate, made.ContentTime = _NEVER, _MIDNIGHT
    made.ContentCreatorName = ""
    del made.InstanceCreationDate, made.InstanceCreationTime
    made.ContributingEquipmentSequence[0].ContributionDateTime = None
    organization = generate_uid(entropy_srcs=[*seed, "dimensions"])
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization
    return cast(Dataset, made)


def _descriptions(
    found: list[int], table: LabelTable, digest: str, version: str, seed: list[str]
) -> list[SegmentDescription]:
    names = {id_: (name, color) for id_, name, color in colour_table(table)}
    by = hd.AlgorithmIdentificationSequence(
        name=f"{NAME}, model {digest[:16]}",
        version=version,
        family=Code("123110", "DCM", "Artificial Intelligence"),
    )
    made = []
    for number, index in enumerate(found, start=1):
        structure = table.structures[index - 1]
        name, color = names[structure.id]
        code = code_of(structure)
        one: Any = SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=_code(category_of(code)),
            segmented_property_type=_code(code),
            algorithm_type="AUTOMATIC",
            algorithm_identification=by,
            tracking_id=name,
            tracking_uid=generate_uid(entropy_srcs=[*seed, name]),
            display_color=hd.color.CIELabColor.from_rgb(*color),
        )
        if laterality := side(structure):
            modifier = hd.sr.CodedConcept.from_code(_code(laterality))
            one.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = Sequence([modifier])
        made.append(one)
    return made


def _version() -> str:
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        return "source tree"


def _code(code: Coded) -> Code:
    return Code(code.value, code.scheme, code.meaning)
