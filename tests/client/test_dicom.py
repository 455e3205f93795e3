# mypy: untyped-calls-exclude="nibabel,pydicom"
"""DICOM in, DICOM SEG out: geometry, sides and codes as read back, and nothing of the patient in any output."""

import gzip
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")
pytest.importorskip("dcm2niix")

import nibabel as nib  # noqa: E402
import torch  # noqa: E402
from pydicom import fileset  # noqa: E402
from pydicom.uid import EnhancedMRImageStorage, JPEGLSLossless, RLELossless, generate_uid  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import client.layouts.dicom  # noqa: E402
import client.prepare  # noqa: E402
import sst  # noqa: E402
from client.dicom.headers import pseudonym  # noqa: E402
from client.layouts import Scan, find_scans  # noqa: E402
from client.model import Model  # noqa: E402
from client.nifti import read_image  # noqa: E402
from client.preparation import Preparation  # noqa: E402
from client.prepare import PLAIN, AtlasFrame  # noqa: E402
from client.segment import scans_at, segment_all  # noqa: E402
from configs.errors import ConfigError, DataError  # noqa: E402
from egg import LEFT, RIGHT, make_model, remember  # noqa: E402
from study import LPS, PLANTED, T1, Study, volume, write_series, write_study  # noqa: E402

CPU = torch.device("cpu")
QUICK = Preparation(bias=False)


@pytest.fixture(autouse=True)
def _no_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "segmenter", remember)


def only(folder: Path, **how: Any) -> Scan:
    """Give the one scan of a folder."""
    (scan,) = find_scans([folder], **how)
    return scan


def converted(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Give voxels and affine (RAS) of what the one scan of a folder is converted to."""
    with only(folder).as_nifti() as scan:
        image = nib.load(scan.image)
        return np.asarray(image.dataobj), image.affine


def places(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Give the world coordinates of all voxels, (..., 3)."""
    voxels = np.stack(np.meshgrid(*(np.arange(side) for side in shape), indexing="ij"), axis=-1)
    return np.asarray(voxels @ affine[:3, :3].T + affine[:3, 3])


GEOMETRIES = [("LPS", 0.0), ("LPI", 0.0), ("PIR", 0.0), ("LIA", 0.0), ("RAS", 0.0), ("LPS", 0.3), ("PIL", 0.2)]


@pytest.mark.parametrize(("axes", "turn"), GEOMETRIES)
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_a_series_is_converted_to_where_it_lies(tmp_path: Path, axes: str, turn: float, order: str) -> None:
    """Each voxel's intensity, rescaled, at its place in the patient, in whatever order slices were taken."""
    voxels, affine = volume(axes, (2.0, 3.0, 4.0), turn)
    slices = list(range(voxels.shape[2]))
    if order != "forward":
        slices = slices[::-1] if order == "backward" else np.random.default_rng(1).permutation(slices).tolist()
    write_series(tmp_path / "in", Study(), 2, T1, voxels, affine, order=slices)
    found, where = converted(tmp_path / "in")
    back = np.rint(places(found.shape, np.linalg.inv(affine) @ where)).astype(int)
    assert np.abs(voxels[tuple(np.moveaxis(back, -1, 0))] - found).max() <= 0.25
    np.testing.assert_allclose(places(found.shape, where), places(found.shape, affine @ np.linalg.inv(affine) @ where))
    assert set(back.reshape(-1, 3).max(axis=0) + 1) == set(voxels.shape)


@pytest.mark.parametrize(("axes", "turn"), GEOMETRIES)
def test_the_segmentation_says_at_each_place_what_the_label_map_says(tmp_path: Path, axes: str, turn: float) -> None:
    """Read back by highdicom, on the slices of the source, in its order, with codes, sides, colours and references."""
    model = make_model(tmp_path / "model")
    voxels, affine = volume(axes, turn=turn)
    order = list(range(voxels.shape[2]))[::-1]
    files = write_series(tmp_path / "in", Study(), 2, T1, voxels, affine, order=order)
    (done,), aside = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    assert not aside and done.dicom is not None
    seg = highdicom.seg.segread(done.dicom)
    labels = nib.load(done.path)
    ids = np.asarray(labels.dataobj)

    sources = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    uids = [source.SOPInstanceUID for source in sources]
    assert seg.StudyInstanceUID == sources[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    assert {uid for _, _, uid in seg.get_source_image_uids()} == set(uids)

    stack = seg.get_pixels_by_source_instance(uids, combine_segments=True, relabel=False)
    names = {number: seg.get_segment_description(number) for number in range(1, seg.number_of_segments + 1)}
    by_name = {structure.name: structure.id for structure in model.experiment.table.structures}
    longer = {"Left-Cerebral-White-Matter": 2, "Left-Cerebral-Cortex": 3, "Left-Lateral-Ventricle": 4}
    longer |= {"Right-Cerebral-White-Matter": 41, "Right-Thalamus": 49, "Left-Thalamus": 10}
    number_of = np.zeros(seg.number_of_segments + 1, int)
    for number, one in names.items():
        number_of[number] = {**by_name, **longer}[one.segment_label]
    seen = 0
    for source, plane in zip(sources, number_of[stack], strict=True):
        along = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
        rows, columns = np.indices(plane.shape)
        down, across = (float(side) for side in source.PixelSpacing)
        lps = np.array(source.ImagePositionPatient, float) + (
            columns[..., None] * across * along[0] + rows[..., None] * down * along[1]
        )
        index = np.rint((lps * [-1, -1, 1] - labels.affine[:3, 3]) @ np.linalg.inv(labels.affine[:3, :3]).T).astype(int)
        np.testing.assert_array_equal(ids[tuple(np.moveaxis(index, -1, 0))], plane)
        seen += int((plane > 0).sum())
    assert seen == (ids > 0).sum() > 1000

    left = next(one for one in names.values() if one.segment_label == "Left-Lateral-Ventricle")
    assert (left.segmented_property_type.value, left.segmented_property_type.scheme_designator) == ("66720007", "SCT")
    modifier = left.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (modifier.CodeValue, modifier.CodeMeaning) == ("7771000", "Left")
    assert left.algorithm_type.value == "AUTOMATIC" and left.SegmentAlgorithmName.startswith("sst-federation, model ")
    color = highdicom.color.CIELabColor.from_dicom_value(left.RecommendedDisplayCIELabValue).to_rgb()
    assert np.abs(np.array(color) - (0x78, 0x12, 0x86)).max() <= 2


def test_left_in_dicom_is_the_patients_left(tmp_path: Path) -> None:
    """By the source's own coordinates, with no code of ours between: LPS has the left at positive x."""
    model = make_model(tmp_path / "model")
    files = write_series(tmp_path / "in", Study(), 2, T1, *volume("PIR"))
    (done,), _ = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    seg = highdicom.seg.segread(done.dicom)
    for number in range(1, seg.number_of_segments + 1):
        label = seg.get_segment_description(number).segment_label
        if label not in ("Left-Lateral-Ventricle", "Right-Thalamus"):
            continue
        uids = [pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in files]
        stack = seg.get_pixels_by_source_instance(uids, segment_numbers=[number])[..., 0]
        across = [pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[0] for path in files]
        middle = np.average(across, weights=stack.sum(axis=(1, 2)))
        assert middle > 8 if label.startswith("Left") else middle < -8


def everything(*folders: Path) -> dict[str, bytes]:
    """Give the name and the content of every file; what is compressed is unpacked."""
    found = {}
    for path in (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()):
        content = path.read_bytes()
        found[str(path)] = content + (gzip.decompress(content) if path.suffix == ".gz" else b"")
    return found


def leaks(texts: dict[str, bytes]) -> list[str]:
    """Give what was planted and is there, and where."""
    return [
        f"{word} in {where}"
        for where, text in texts.items()
        for word in PLANTED
        if word.lower().encode() in text.lower() or word.lower() in where.lower()
    ]


@pytest.mark.parametrize("damage", ["none", "cut", "gap"])
def test_nothing_of_the_patient_is_in_any_output_log_or_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    """Planted in every text, in private tags, in dates, and in the names of files and folders; found in none of it.

    Neither in what is printed, nor where something goes wrong; the temporary folder is empty again.
    """
    work = tmp_path / "work"
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", None)
    make_model(work / "model")
    study = write_study(tmp_path / "in")
    slices = sorted((tmp_path / "in" / "DOE^JANE MRN-4711" / "DoeJane t1").iterdir())
    if damage == "cut":
        slices[20].write_bytes(slices[20].read_bytes()[:3000])
    if damage == "gap":
        slices[20].unlink()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_STATE_HOME": str(work / "logs")}
    environment |= {"HOME": str(work / "home")}
    source, model = str(tmp_path / "in"), str(work / "model")
    prepare = ["prepare", source, "--atlas", model, "-o", str(work / "prepared"), "--report"]
    segment = ["segment", source, "--model", model, "-o", str(work / "out"), "--no-bias"]
    ran = []
    for words in (prepare, segment):
        command = [sys.executable, "-m", "sst", *words]
        ran.append(subprocess.run(command, capture_output=True, env=environment, cwd=tmp_path, check=False))
    printed = {f"what {n} prints": run.stdout + run.stderr for n, run in enumerate(ran)}
    assert [run.returncode for run in ran] == ([0, 0] if damage == "none" else [2, 2]), ran
    assert leaks(everything(work) | printed) == []
    assert b"its T1 is series 2" in ran[0].stderr if damage == "none" else b"series 2" in ran[0].stderr
    assert list((tmp_path / "temporary").iterdir()) == []
    if damage == "none":
        assert len(list((work / "out").rglob(f"{pseudonym(study.uid)}_desc-sst_dseg.dcm"))) == 1
        assert f"\n{pseudonym(study.uid)}\t" in (work / "out" / "volumes.tsv").read_text()


def test_the_segmentation_has_no_date_and_is_the_same_each_time(tmp_path: Path) -> None:
    """No time of any clock is in it, and one label map has one UID."""
    model = make_model(tmp_path / "model")
    write_series(tmp_path / "in", Study(), 2, T1, *volume())
    files = []
    for out in ("a", "b"):
        (done,), _ = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / out, QUICK, CPU)
        assert done.dicom
        files.append(done.dicom.read_bytes())
    assert files[0] == files[1]
    seg = pydicom.dcmread(done.dicom)
    dates = {str(element.value) for element in seg.iterall() if element.VR in ("DA", "DT") and element.value}
    assert dates == {"19000101"}
    assert not seg.PatientName and not seg.PatientID and seg.PatientIdentityRemoved == "YES"


def test_results_that_are_there_are_found_and_a_segmentation_that_is_gone_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second call converts nothing."""
    model = make_model(tmp_path / "model")
    write_series(tmp_path / "in", Study(), 2, T1, *volume())
    (done,), _ = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    with monkeypatch.context() as patch:
        patch.setattr(Scan, "as_nifti", lambda self: pytest.fail("converted again"))
        (again,), _ = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    assert again.dicom == done.dicom and again.dicom is not None
    before = again.dicom.read_bytes()
    again.dicom.unlink()
    segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    assert again.dicom.read_bytes() == before


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_slices_are_read(tmp_path: Path, syntax: str) -> None:
    """As archives keep them."""
    write_series(tmp_path / "plain", Study(), 2, T1, *volume())
    for path in write_series(tmp_path / "packed", Study(), 2, T1, *volume()):
        one = pydicom.dcmread(path)
        one.compress(syntax, generate_instance_uid=False)
        one.save_as(path)
    for ours, theirs in zip(converted(tmp_path / "packed"), converted(tmp_path / "plain"), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def write_enhanced(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write a volume as one file of many frames, which say in groups of their own where they lie."""
    files = write_series(path.parent / "classic", Study(), 2, T1, voxels, affine)
    slices = [pydicom.dcmread(file) for file in files]
    one = slices[0]
    shared, frames = pydicom.Dataset(), []

    def group(owner: Any, name: str, **fields: Any) -> None:
        inner = pydicom.Dataset()
        for field, value in fields.items():
            setattr(inner, field, value)
        setattr(owner, name, pydicom.Sequence([inner]))

    group(shared, "PlaneOrientationSequence", ImageOrientationPatient=one.ImageOrientationPatient)
    thick = one.SliceThickness
    group(shared, "PixelMeasuresSequence", PixelSpacing=one.PixelSpacing, SliceThickness=thick)
    group(shared, "MRTimingAndRelatedParametersSequence", RepetitionTime=1900.0, FlipAngle=9.0)
    group(shared, "MREchoSequence", EffectiveEchoTime=2.26)
    group(shared, "MRModifierSequence", InversionRecovery="YES", InversionTimes=[900.0])
    group(shared, "PixelValueTransformationSequence", RescaleSlope="0.5", RescaleIntercept="0", RescaleType="US")
    for number, slice_ in enumerate(slices, start=1):
        frame = pydicom.Dataset()
        group(frame, "PlanePositionSequence", ImagePositionPatient=slice_.ImagePositionPatient)
        places = {"StackID": "1", "InStackPositionNumber": number, "DimensionIndexValues": [1, number]}
        group(frame, "FrameContentSequence", **places, FrameComments="secret DoeJane")
        frames.append(frame)
    one.PixelData = b"".join(slice_.PixelData for slice_ in slices)
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "EchoTime"):
        delattr(one, name)
    for name in ("RepetitionTime", "InversionTime", "ScanningSequence", "RescaleSlope"):
        delattr(one, name)
    del one.RescaleIntercept, one.RescaleType
    one.EchoPulseSequence, one.NumberOfFrames = "GRADIENT", len(frames)
    one.SOPClassUID = one.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    one.SharedFunctionalGroupsSequence = pydicom.Sequence([shared])
    one.PerFrameFunctionalGroupsSequence = pydicom.Sequence(frames)
    pydicom.dcmwrite(path, one, enforce_file_format=True)
    for file in files:
        file.unlink()


@pytest.mark.parametrize("axes", ["LPS", "PIR"])
def test_a_file_of_many_frames_goes_the_whole_way(tmp_path: Path, axes: str) -> None:
    """Enhanced MR: one file, given by itself; its segmentation lies on its frames."""
    model = make_model(tmp_path / "model")
    voxels, affine = volume(axes)
    (tmp_path / "in").mkdir()
    write_enhanced(tmp_path / "in" / "DOE^JANE", voxels, affine)
    (done,), aside = segment_all(scans_at([tmp_path / "in" / "DOE^JANE"]), model, tmp_path / "out", QUICK, CPU)
    assert not aside and done.dicom
    seg, labels = highdicom.seg.segread(done.dicom), nib.load(done.path)
    assert leaks(everything(tmp_path / "out")) == []
    found = seg.get_volume(combine_segments=True)
    index = np.rint(places(found.spatial_shape, np.linalg.inv(labels.affine) @ LPS @ found.affine)).astype(int)
    ids = np.asarray(labels.dataobj)[tuple(np.moveaxis(index, -1, 0))]
    np.testing.assert_array_equal(ids > 0, found.array > 0)
    assert (ids > 0).sum() == (np.asarray(labels.dataobj) > 0).sum()


def test_one_patients_studies_are_one_person_under_two_names(tmp_path: Path) -> None:
    """So that both fall into one split; another patient is another person."""
    first, second = Study(), Study(uid=generate_uid(entropy_srcs=["later"]))
    for number, study in enumerate((first, second, Study("MRN-0815"))):
        write_series(tmp_path / str(number), study, 2, T1, *volume())
    scans = {scan.case: scan.person for scan in find_scans([tmp_path])}
    assert len(scans) == 3 and len(set(scans.values())) == 2
    assert scans[pseudonym(first.uid)] == scans[pseudonym(second.uid)]


def test_a_study_that_is_refused_costs_no_other(tmp_path: Path) -> None:
    """It is set aside with the list of its series; series that are named are taken from all."""
    model = make_model(tmp_path / "model")
    write_series(tmp_path / "in" / "DoeJane", Study(), 2, T1, *volume())
    other = Study("MRN-0815")
    for number in (2, 3):
        tags = T1 | {"AcquisitionTime": f"11000{number}"}
        write_series(tmp_path / "in" / f"secret {number}", other, number, tags, *volume())
    found = sst.segment(tmp_path / "in", model, tmp_path / "out", bias_correction=False, device="cpu")
    assert [scan.case for scan in found.scans] == [pseudonym(Study().uid)]
    assert found.set_aside[0].code == "dicom" and found.set_aside[0].file == pseudonym(other.uid)
    assert "2 series are T1-weighted; name one (--series N) of series 2 (" in found.set_aside[0].reason
    assert leaks(everything(tmp_path / "out")) == []
    named = sst.segment(tmp_path / "in", model, tmp_path / "named", series=2, bias_correction=False, device="cpu")
    assert len(named.scans) == 2 and "as --series says" in named.notes[0]
    with pytest.raises(DataError, match=r"none of 2 scans.*series 7 is not in it; there are series 2 \("):
        sst.segment(tmp_path / "in", model, tmp_path / "none", series=7, bias_correction=False, device="cpu")


def test_what_is_no_dicom_beside_it_does_no_harm(tmp_path: Path) -> None:
    """A DICOMDIR, texts, hidden files, and a file that only begins like one."""
    write_series(tmp_path / "in", Study(), 2, T1, *volume(), end=".IMA")
    (tmp_path / "in" / "README").write_text("DoeJane")
    (tmp_path / "in" / "broken").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    (tmp_path / "in" / ".hidden").write_bytes(b"\0" * 128 + b"DICM")
    listed = fileset.FileSet()
    for path in list((tmp_path / "in").glob("*.IMA"))[:3]:
        listed.add(path)
    listed.write(tmp_path / "set")
    (tmp_path / "set" / "DICOMDIR").rename(tmp_path / "in" / "DICOMDIR")
    for source in (tmp_path / "in", tmp_path / "in" / "DICOMDIR"):
        assert len(only(source).files) == 50


def test_without_the_extra_one_line_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a folder of NIfTI needs it not."""
    write_series(tmp_path / "in", Study(), 2, T1, *volume())
    monkeypatch.setattr(client.layouts.dicom, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"holds DICOM; .* not installed: pip install .*requirements-dicom.lock"):
        find_scans([tmp_path / "in"])
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9), np.float32), np.eye(4)), tmp_path / "a.nii")
    assert only(tmp_path).case == "a"


def test_a_link_out_of_the_sites_folder_is_not_followed(tmp_path: Path) -> None:
    """Of slices neither, and the message names no file."""
    model = make_model(tmp_path / "model")
    files = write_series(tmp_path / "elsewhere", Study(), 2, T1, *volume())
    (tmp_path / "in").mkdir()
    for path in files:
        (tmp_path / "in" / path.name).symlink_to(path)
    with pytest.raises(DataError, match="outside: a file of series 2 of sub-") as told:
        sst.prepare(tmp_path / "in", model.folder, tmp_path / "out")
    assert not any(word in str(told.value) for word in PLANTED)


def test_a_mask_beside_the_slices_is_the_scans(tmp_path: Path) -> None:
    """Named by the case, on the voxels of the converted scan or in the order of the slices."""
    model = make_model(tmp_path / "model")
    voxels, affine = volume()
    write_series(tmp_path / "in", Study(), 2, T1, voxels, affine)
    case = pseudonym(Study().uid)
    nib.save(nib.Nifti1Image((voxels > 0).astype(np.uint8), affine), tmp_path / "in" / f"{case}_mask.nii.gz")
    done = sst.prepare(tmp_path / "in", model.folder, tmp_path / "out", mask_pattern="{case}_mask.nii.gz")
    assert len(done.scans) == 1
    nib.save(nib.Nifti1Image(np.zeros(voxels.shape, np.uint8), affine), tmp_path / "in" / f"{case}_mask.nii.gz")
    with pytest.raises(DataError, match=f"constant: the mask the mask of {case} is empty"):
        sst.prepare(tmp_path / "in", model.folder, tmp_path / "out", mask_pattern="{case}_mask.nii.gz")


def test_what_libraries_say_of_headers_is_not_heard(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """pydicom quotes a value that is not as the standard wants it, in warnings and its log: here a series' number."""
    files = write_series(tmp_path / "in", Study(), 2, T1, *volume())
    number = b"\x20\x00\x11\x00IS\x02\x00"
    for path in files:
        path.write_bytes(path.read_bytes().replace(number + b"2 ", number + b"s!"))
    with caplog.at_level(logging.DEBUG), only(tmp_path / "in").as_nifti() as scan:
        read_image(scan.image)
    said = caplog.text + "".join(str(one.message) for one in recwarn)
    assert "Invalid value" not in said and "s!" not in said


def test_the_converted_file_holds_no_text(tmp_path: Path) -> None:
    """dcm2niix leaves comments and the time of acquisition in the header; ours goes away with the block."""
    write_series(tmp_path / "in", Study(), 2, T1, *volume())
    with only(tmp_path / "in").as_nifti() as scan:
        header, folder = nib.load(scan.image).header, scan.image.parent
        for name in ("descrip", "aux_file", "db_name", "intent_name"):
            assert not bytes(header[name]).strip(b"\0"), name
        assert folder.stat().st_mode & 0o077 == 0
        assert [path.name for path in folder.rglob("*.nii")] == [scan.image.name]
    assert not folder.exists()


def test_prepared_volumes_are_those_of_the_same_scan_in_nifti(tmp_path: Path) -> None:
    """To the last digit but those that rounding to DICOM's integers costs."""
    model = make_model(tmp_path / "model")
    voxels, affine = volume("PIR", turn=0.2)
    write_series(tmp_path / "in", Study(), 2, T1, voxels, affine)
    frame: AtlasFrame = model.frame
    ours = client.prepare.prepare(only(tmp_path / "in"), frame, tmp_path / "store", PLAIN)
    nib.save(nib.Nifti1Image(voxels, affine), tmp_path / "scan.nii.gz")
    plain = Scan("scan", "scan", tmp_path / "scan.nii.gz", None)
    theirs = client.prepare.prepare(plain, frame, tmp_path / "store", PLAIN)
    found, wanted = load_file(ours), load_file(theirs)
    assert (found["image"] - wanted["image"]).abs().max() < 0.05
    assert found.keys() == wanted.keys()


def test_the_two_bodies_are_found(tmp_path: Path) -> None:
    """A check that what is compared above is no empty map."""
    model = make_model(tmp_path / "model")
    write_study(tmp_path / "in")
    (done,), _ = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    ids = np.asarray(nib.load(done.path).dataobj)
    assert (ids == LEFT).sum() > 300 and (ids == RIGHT).sum() > 100
