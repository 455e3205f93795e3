# mypy: untyped-calls-exclude="nibabel,pydicom"
"""A patient's study as a scanner sends it, of the egg, with names planted in every text and in the paths."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage, generate_uid

from egg import CUBES, affine_for, sample

PLANTED = ("DOE^JANE", "DoeJane", "19530719", "MRN-4711", "Saint-Nowhere", "ward-7", "Dr-Feelgood", "secret")
"""What must never be seen outside the study."""

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

T1: dict[str, Any] = {
    "MRAcquisitionType": "3D",
    "ScanningSequence": ["GR", "IR"],
    "SequenceVariant": ["SP", "MP"],
    "RepetitionTime": 1900.0,
    "EchoTime": 2.26,
    "InversionTime": 900.0,
    "FlipAngle": 9.0,
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM", "DIS3D"],
}

T2: dict[str, Any] = T1 | {
    "ScanningSequence": "SE",
    "SequenceVariant": "SK",
    "RepetitionTime": 3200.0,
    "EchoTime": 402.0,
    "InversionTime": None,
    "FlipAngle": 120.0,
}

LOCALISER: dict[str, Any] = T1 | {
    "MRAcquisitionType": "2D",
    "ScanningSequence": "GR",
    "RepetitionTime": 8.6,
    "EchoTime": 4.0,
    "InversionTime": None,
    "FlipAngle": 20.0,
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
}


@dataclass
class Study:
    """One visit of one patient."""

    patient: str = "MRN-4711"
    uid: str = ""
    frame: str = field(default_factory=lambda: "")

    def __post_init__(self) -> None:
        """Give it UIDs that are the same in every run of the tests."""
        self.uid = self.uid or generate_uid(entropy_srcs=[self.patient])
        self.frame = generate_uid(entropy_srcs=[self.uid, "frame"])

    def header(self, number: int, tags: dict[str, Any]) -> Dataset:
        """Make what all slices of a series have."""
        one = Dataset()
        one.SOPClassUID = MRImageStorage
        one.StudyInstanceUID, one.FrameOfReferenceUID = self.uid, self.frame
        one.SeriesInstanceUID = generate_uid(entropy_srcs=[self.uid, str(number)])
        one.Modality, one.SeriesNumber, one.AcquisitionNumber = "MR", number, 1
        one.PatientName, one.PatientID, one.OtherPatientNames = "DOE^JANE", self.patient, "DoeJane"
        one.PatientBirthDate = one.StudyDate = one.SeriesDate = one.AcquisitionDate = one.ContentDate = "19530719"
        one.StudyTime = one.SeriesTime = one.AcquisitionTime = one.ContentTime = "195307.19"
        one.PatientSex, one.PatientAge, one.StudyID, one.AccessionNumber = "F", "071Y", "secret-1", "secret-2"
        one.InstitutionName, one.StationName, one.InstitutionAddress = "Saint-Nowhere", "ward-7", "Saint-Nowhere 1"
        one.ReferringPhysicianName = one.OperatorsName = one.PerformingPhysicianName = "Dr-Feelgood"
        one.StudyDescription = one.SeriesDescription = one.ProtocolName = one.SequenceName = "secret DoeJane"
        one.ImageComments = one.PatientComments = "secret DoeJane 19530719"
        one.Manufacturer, one.ManufacturerModelName, one.DeviceSerialNumber = "Siemens", "ward-7", "secret-3"
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
        private = one.private_block(0x0051, "SIEMENS MR HEADER", create=True)
        private.add_new(0x08, "LO", "secret DoeJane")
        for name, value in tags.items():
            setattr(one, name, value)
        return one


def write_series(
    folder: Path,
    study: Study,
    number: int,
    tags: dict[str, Any],
    voxels: np.ndarray,
    affine: np.ndarray,
    *,
    order: Sequence[int] | None = None,
    end: str = "",
) -> list[Path]:
    """Write a volume slice by slice, as a series; file names hold the patient's.

    Args:
        folder: where to; made if need be.
        study: whose it is.
        number: of the series.
        tags: what its header has beside the study's.
        voxels: (i, j, k): column, row, slice. Floats are stored with a rescale slope of 0.5.
        affine: voxels to RAS mm.
        order: slices in the order of their instance numbers; those that are not in it are not written.
        end: of the files' names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header, world = study.header(number, tags), LPS @ affine
    sides = np.linalg.norm(world[:3, :3], axis=0)
    files = []
    for instance, k in enumerate(range(voxels.shape[2]) if order is None else order, start=1):
        one = Dataset()
        one.update(header)
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID
        one.SOPInstanceUID = generate_uid(entropy_srcs=[one.SeriesInstanceUID, str(one.AcquisitionNumber), str(k)])
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.InstanceNumber = instance
        one.Columns, one.Rows = voxels.shape[:2]
        one.PixelSpacing = [f"{sides[1]:.8g}", f"{sides[0]:.8g}"]
        one.SliceThickness = f"{sides[2]:.8g}"
        one.ImageOrientationPatient = [f"{value:.8f}" for value in (world[:3, :2] / sides[:2]).T.ravel()]
        one.ImagePositionPatient = [f"{value:.6f}" for value in (world @ [0, 0, k, 1])[:3]]
        one.RescaleSlope, one.RescaleIntercept, one.RescaleType = "0.5", "0", "US"
        one.PixelData = np.rint(voxels[:, :, k].T / 0.5).astype(np.uint16).tobytes()
        path = folder / f"DOE^JANE 19530719 {number:03d}-{instance:04d}{end}"
        pydicom.dcmwrite(path, one, enforce_file_format=True)
        files.append(path)
    return files


def volume(
    axes: str = "LPS", sides: tuple[float, float, float] = CUBES, turn: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Give the egg's voxels (i, j, k) and their affine, see `egg.affine_for`."""
    affine, shape = affine_for(axes, sides, turn)
    return sample(affine, shape)[0], affine


def write_study(folder: Path, study: Study | None = None, axes: str = "LPS", turn: float = 0.0) -> Study:
    """Write what one examination has: localiser, T1, T2, a reformat of the T1, T1 after contrast, a screenshot."""
    made = study or Study()
    home = folder / f"DOE^JANE {made.patient}"
    voxels, affine = volume(axes, turn=turn)
    far = affine.copy()
    far[:3, :3] *= 15.0
    far[:3, 3] = affine[:3, 3]
    write_series(home / "localiser", made, 1, LOCALISER, voxels[:, :, 24:27], far)
    write_series(home / "DoeJane t1", made, 2, T1, voxels, affine)
    write_series(home / "t2 secret", made, 3, T2, voxels, affine)
    derived = T1 | {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}
    write_series(home / "mpr", made, 4, derived, *volume("LIP", turn=turn))
    write_series(home / "late", made, 5, T1 | {"ContrastBolusAgent": "secret agent"}, voxels, affine)
    shot = {"Modality": "OT", "SOPClassUID": SecondaryCaptureImageStorage}
    write_series(home / "shot", made, 99, shot, voxels[:, :, 20:21], affine)
    return made
