# mypy: untyped-calls-exclude="nibabel"
"""Files as they should not be: each is refused by name and code, or read; nothing else may happen."""

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.brain import brain_of
from client.layouts import find_scans
from client.nifti import read_image
from client.preparation import Preparation, Stripping
from client.prepare import prepare_site
from configs.errors import ConfigError, DataError, RunError
from egg import affine_for, make_model, sample, write_scan

CODES = "unreadable|not-3d|size|not-finite|constant|negative|clipped|spacing|affine"
PLAIN = nib.Nifti1Image(np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10), np.diag([2.0, 2.0, 2.0, 1.0]))
WHOLE = PLAIN.to_bytes()
DIMENSIONS, THIRD_ROW = 40, 312
"""Where the header has its sides (int16) and the last row of its sform (float32)."""


@settings(max_examples=2500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.binary(min_size=1, max_size=8)), max_size=6),
    cut=st.one_of(st.none(), st.integers(0, len(WHOLE))),
    packed=st.booleans(),
    cut_packed=st.booleans(),
)
def test_random_headers_and_truncations_never_crash(
    tmp_path: Path, changes: list[tuple[int, bytes]], cut: int | None, packed: bool, cut_packed: bool
) -> None:
    """Whatever bytes a header has and wherever a file ends: one line with a code, or a volume."""
    content = bytearray(WHOLE)
    for place, new in changes:
        content[place : place + len(new)] = new
    raw = bytes(content if cut is None or cut_packed else content[:cut])
    if packed:
        raw = gzip.compress(raw, compresslevel=1)
        raw = raw[: cut % len(raw)] if cut is not None and cut_packed else raw
    path = tmp_path / ("scan.nii.gz" if packed else "scan.nii")
    path.write_bytes(raw)
    try:
        image = read_image(path)
    except DataError as error:
        assert str(error).split(":")[0] in CODES.split("|"), error
        assert "\n" not in str(error)
    else:
        assert image.GetDimension() == 3


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    image = nib.Nifti1Image(voxels, np.diag([3.0, 3.0, 3.0, 1.0]) if affine is None else affine)
    path.write_bytes(image.to_bytes())
    return path


def _patched(path: Path, place: int, values: np.ndarray) -> None:
    """Write numbers into the header of a whole file, as no library would."""
    content = bytearray(WHOLE)
    content[place : place + values.nbytes] = values.tobytes()
    path.write_bytes(bytes(content))


def _ramp(kind: type = np.float32) -> np.ndarray:
    return np.arange(6 * 7 * 8).reshape(6, 7, 8).astype(kind)


def _without_forms(path: Path) -> Path:
    image = nib.Nifti1Image(_ramp(), np.diag([3.0, 3.0, 3.0, 1.0]))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    path.write_bytes(image.to_bytes())
    return path


def _disagreeing(path: Path) -> Path:
    image = nib.Nifti1Image(_ramp(), np.diag([3.0, 3.0, 3.0, 1.0]))
    image.set_qform(np.diag([-3.0, 3.0, 3.0, 1.0]), code=1)
    path.write_bytes(image.to_bytes())
    return path


BAD = {
    "empty": (lambda p: p.write_bytes(b""), "unreadable"),
    "text": (lambda p: p.write_text("no image"), "unreadable"),
    "flat": (lambda p: _save(p, np.ones((5, 5), np.float32)), "not-3d"),
    "series": (lambda p: _save(p, np.ones((5, 5, 5, 9), np.float32)), "not-3d"),
    "zeros": (lambda p: _save(p, np.zeros((5, 5, 5), np.float32)), "constant"),
    "infinite": (lambda p: _save(p, np.where(_ramp() == 9, np.inf, _ramp()).astype(np.float32)), "not-finite"),
    "huge": (lambda p: _patched(p, DIMENSIONS, np.array([3, 32000, 32000, 32000], np.int16)), "size"),
    "large-voxels": (lambda p: _save(p, _ramp(), np.diag([20.0, 20.0, 20.0, 1.0])), "spacing"),
    "singular": (lambda p: _patched(p, THIRD_ROW, np.zeros(4, np.float32)), "affine"),
    "no-forms": (_without_forms, "affine"),
    "two-places": (_disagreeing, "affine"),
    "overflown": (lambda p: _save(p, _ramp(np.int16).astype(np.int8)), "negative"),
    "hounsfield": (lambda p: _save(p, (_ramp() - 200).astype(np.int16)), "negative"),
    "clipped": (lambda p: _save(p, _ramp().clip(0, 255).astype(np.uint8)), "clipped"),
}


@pytest.mark.parametrize("name", BAD)
def test_each_bad_file_has_its_code(tmp_path: Path, name: str) -> None:
    """The line begins with the code and names the file."""
    make, code = BAD[name]
    path = tmp_path / f"{name}.nii"
    make(path)
    with pytest.raises(DataError, match=f"^{code}: .*{name}.nii"):
        read_image(path)


def test_forms_that_agree_are_read(tmp_path: Path) -> None:
    """Two codes are no fault; rounding between quaternion and matrix is none either."""
    image = nib.Nifti1Image(_ramp(), affine_for("RAS", (3.0, 3.0, 3.0), 0.3)[0])
    image.set_qform(image.affine, code=1)
    nib.save(image, tmp_path / "x.nii")
    assert read_image(tmp_path / "x.nii").GetSize() == (6, 7, 8)


def _head(folder: Path) -> Path:
    """A brain in a head of noise, as scanners give it."""
    affine, shape = affine_for("RAS", (3.0, 3.0, 3.0))
    image, _ = sample(affine, shape)
    noise = np.abs(np.random.default_rng(1).normal(300, 20, shape)).astype(np.float32)
    nib.save(nib.Nifti1Image(np.where(image > 0, image, noise), affine), folder / "head.nii.gz")
    return folder / "head.nii.gz"


def test_a_whole_head_is_set_aside_and_not_guessed(tmp_path: Path) -> None:
    """Without a mask and without a stripper there is nothing to go by."""
    path = _head(tmp_path)
    with pytest.raises(DataError, match="^not-stripped: .*head.nii.gz"):
        brain_of(read_image(path), None, Stripping(), str(path))


def test_a_mask_or_a_stripper_gives_the_brain(tmp_path: Path) -> None:
    """Both give the same voxels; a stripper gets the scan and leaves a mask; a mask off its scan is refused."""
    path = _head(tmp_path)
    image = read_image(path)
    affine, shape = affine_for("RAS", (3.0, 3.0, 3.0))
    truth = sample(affine, shape)[1] > 0
    nib.save(nib.Nifti1Image(truth.astype(np.uint8), affine), tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(brain_of(image, tmp_path / "mask.nii.gz", Stripping(), "x"), truth)
    copies = Stripping(f"cp '{tmp_path / 'mask.nii.gz'}' {{mask}} --backup=off -S {{in}}")
    np.testing.assert_array_equal(brain_of(image, None, copies, "x"), truth)
    nib.save(nib.Nifti1Image(truth.astype(np.uint8), affine * 1.01), tmp_path / "off.nii.gz")
    with pytest.raises(DataError, match="^mismatch"):
        brain_of(image, tmp_path / "off.nii.gz", Stripping(), "x")


@pytest.mark.parametrize("command", ["false {in} {mask}", "true {in} {mask}", "no-such-stripper {in} {mask}"])
def test_a_stripper_that_fails_sets_the_scan_aside(tmp_path: Path, command: str) -> None:
    """It ends badly, leaves no mask, or is not there."""
    with pytest.raises(DataError, match="^strip: "):
        brain_of(read_image(_head(tmp_path)), None, Stripping(command), "x")


def test_a_stripper_without_its_fields_is_a_mistake_of_the_user() -> None:
    """Said before anything is read."""
    with pytest.raises(ConfigError, match="{mask}"):
        Stripping("strip -i {in}")


def test_links_out_of_the_folder_are_set_aside(tmp_path: Path) -> None:
    """A link inside it, as some archives have, is a scan like any other."""
    frame = make_model(tmp_path / "model").frame
    write_scan(tmp_path / "elsewhere" / "x.nii.gz")
    write_scan(tmp_path / "in" / ".store" / "y.nii.gz")
    os.symlink(tmp_path / "elsewhere" / "x.nii.gz", tmp_path / "in" / "x.nii.gz")
    os.symlink(tmp_path / "in" / ".store" / "y.nii.gz", tmp_path / "in" / "y.nii.gz")
    done = prepare_site([tmp_path / "in"], frame, tmp_path / "store", how=Preparation(bias=False))
    assert [case.case for case in done.cases] == ["y"]
    assert [item.code for item in done.set_aside] == ["outside"]


def test_a_folder_that_is_a_link_out_is_no_way_round(tmp_path: Path) -> None:
    """A participant's folder may be a link as well as a file; a site's own folder may itself be reached by one."""
    frame = make_model(tmp_path / "model").frame
    write_scan(tmp_path / "elsewhere" / "anat" / "sub-1_T1w.nii.gz")
    write_scan(tmp_path / "real" / "sub-2" / "anat" / "sub-2_T1w.nii.gz")
    os.symlink(tmp_path / "elsewhere", tmp_path / "real" / "sub-1")
    os.symlink(tmp_path / "real", tmp_path / "in")
    done = prepare_site([tmp_path / "in"], frame, tmp_path / "store", how=Preparation(bias=False))
    assert [case.case for case in done.cases] == ["sub-2"]
    assert [item.code for item in done.set_aside] == ["outside"]


def test_a_mask_that_the_user_names_may_be_a_link(tmp_path: Path) -> None:
    """Strippers are often run elsewhere, and their masks linked in."""
    frame = make_model(tmp_path / "model").frame
    write_scan(tmp_path / "in" / "x.nii.gz")
    write_scan(tmp_path / "masks" / "m.nii.gz")
    os.symlink(tmp_path / "masks" / "m.nii.gz", tmp_path / "in" / "x_mask.nii.gz")
    how = Preparation(bias=False, mask="{stem}_mask.nii.gz")
    done = prepare_site([tmp_path / "in"], frame, tmp_path / "store", how=how)
    assert "outside" not in [item.code for item in done.set_aside]
    assert "x" in [case.case for case in done.cases]


def test_odd_names_are_names(tmp_path: Path) -> None:
    """Spaces and letters of other alphabets, in folders and in files; two files of one scan are an error."""
    frame = make_model(tmp_path / "model").frame
    write_scan(tmp_path / "Müller Ω" / "scan 1.nii.gz")
    done = prepare_site([tmp_path / "Müller Ω"], frame, tmp_path / "store ß", how=Preparation(bias=False))
    assert [case.case for case in done.cases] == ["scan 1"]
    write_scan(tmp_path / "Müller Ω" / "scan 1.nii")
    with pytest.raises(DataError, match="two scans are called scan 1"):
        find_scans([tmp_path / "Müller Ω"])


def test_a_disk_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A full disk, or a file where the folder should be, ends the run with what to do."""
    frame = make_model(tmp_path / "model").frame
    write_scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "store").write_text("a file")
    with pytest.raises(RunError, match="cannot write .*; make room, or give another folder"):
        prepare_site([tmp_path / "in"], frame, tmp_path / "store", how=Preparation(bias=False))


def test_a_table_of_files_says_who_is_who(tmp_path: Path) -> None:
    """Paths start at the table; persons and masks are what it says; a row without an image is named."""
    write_scan(tmp_path / "data" / "one.nii.gz")
    table = tmp_path / "scans.csv"
    table.write_text("image,case,person,mask\ndata/one.nii.gz,a1,Anna,data/m.nii.gz\ndata/two.nii.gz,,,\n")
    first, second = find_scans([table])
    assert (first.case, first.person, first.mask) == ("a1", "Anna", tmp_path / "data" / "m.nii.gz")
    assert (second.case, second.person) == ("two", "two")
    table.write_text("image,case\n,a\n")
    with pytest.raises(DataError, match="line 2 of .*scans.csv has no image"):
        find_scans([table])
    table.write_text("file\nx\n")
    with pytest.raises(DataError, match="no column image"):
        find_scans([table])


def test_what_is_no_volume_sets_nothing_aside_but_itself(tmp_path: Path) -> None:
    """CIFTI (surfaces, with NIfTI's endings), colours, complex numbers, and a name that is not UTF-8, among scans."""
    model = make_model(tmp_path / "model")
    folder = tmp_path / "in"
    write_scan(folder / "good.nii.gz", "RAS", (3.0, 3.0, 3.0))
    axes = nib.cifti2.cifti2_axes
    surface = axes.BrainModelAxis.from_mask(np.ones(10, bool), name="cortex_left")
    nib.save(nib.Cifti2Image(np.zeros((1, 10), "f4"), (axes.ScalarAxis(["x"]), surface)), folder / "a.dscalar.nii")
    colour = np.zeros((8, 9, 10), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name, voxels in (("colour", colour), ("complex", np.ones((8, 9, 10), np.complex64))):
        nib.save(nib.Nifti1Image(voxels, np.diag([3.0, 3.0, 3.0, 1.0])), folder / f"{name}.nii.gz")
    os.link(folder / "good.nii.gz", os.fsencode(folder) + b"/M\xfcller.nii.gz")
    os.link(folder / "a.dscalar.nii", os.fsencode(folder) + b"/\xff.nii")
    done = prepare_site([folder], model.frame, tmp_path / "store", how=Preparation(bias=False))
    assert [case.case for case in done.cases] == ["Müller", "good"]
    assert {item.file: item.code for item in done.set_aside} == {
        "a.dscalar.nii": "not-3d",
        "\\xff.nii": "not-3d",
        "colour.nii.gz": "unreadable",
        "complex.nii.gz": "unreadable",
    }
    for item in done.set_aside:
        item.reason.encode()
