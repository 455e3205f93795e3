# mypy: untyped-calls-exclude="nibabel,SimpleITK"

import errno
import fcntl
import gzip
import signal
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file
from scipy.spatial.transform import Rotation

import client.prepare
from client.affine import one_thread, register, scaled, to_matrix
from client.brain import N4_STEPS, unbias
from client.cases import Cases, OnDevice
from client.layouts import Scan
from client.nifti import SEG35_TO_ASEG, Turn, array_of, read_image, read_labels, read_mask, to_sitk
from client.preparation import Preparation
from client.prepare import AtlasFrame, prepare, prepare_site
from configs.errors import DataError, RunError
from configs.structures import PAPER
from simulation import scanner
from simulation.phantom import draw_anatomy
from sst_models.wire.chain import append

SIDE, MM = 24, 6.0
AFFINE = tuple(tuple(row) for row in np.diag([MM, MM, MM, 1.0]).tolist())


def brain(tilt: float = 0.0, size: float = 1.0, mm: float = MM, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Image and ids (RAS) of an egg with two unlike bodies: no two of its axes and directions are alike."""
    n = round(SIDE * MM / mm)
    at = (np.arange(n) + 0.5) * mm - SIDE * MM / 2
    x, y, z = np.meshgrid(at - shift, at, at, indexing="ij")
    u, v = np.cos(tilt) * x + np.sin(tilt) * y, np.cos(tilt) * y - np.sin(tilt) * x
    u, v, w = u / size, v / size, z / size
    ids = np.zeros(u.shape, dtype=np.int16)
    ids[(u / 45) ** 2 + (v / 62) ** 2 + (w / (50 - 0.2 * v)) ** 2 < 1] = 3
    ids[(u / 33) ** 2 + (v / 50) ** 2 + (w / 36) ** 2 < 1] = 2
    ids[((u + 14) / 12) ** 2 + ((v - 12) / 22) ** 2 + (w / 14) ** 2 < 1] = 4
    ids[((u - 16) / 11) ** 2 + ((v + 20) / 14) ** 2 + ((w - 6) / 14) ** 2 < 1] = 49
    levels = {0: 0.0, 2: 900.0, 3: 600.0, 4: 200.0, 49: 750.0}
    image = np.vectorize(levels.get, otypes=[np.float32])(ids)
    noise = np.random.default_rng(0).normal(0, 10, image.shape).astype(np.float32)
    return np.where(ids > 0, image + noise, 0).astype(np.float32), ids


def write(path: Path, array: np.ndarray, mm: float = MM, axes: str = "RAS") -> Path:
    """A file in any orientation whose content lies at the same place in the world."""
    affine = np.diag([mm, mm, mm, 1.0])
    image = nib.Nifti1Image(array, affine)
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image.as_reoriented(turn), path)
    return path


def frame() -> AtlasFrame:
    image, _ = brain()
    return AtlasFrame(image / image.max(), (SIDE, SIDE, SIDE), MM, AFFINE, "d" * 64)


def scan(folder: Path, name: str = "sub-A", axes: str = "RAS", labelled: bool = True, **how: float) -> Scan:
    image, ids = brain(**how)
    mm = how.get("mm", MM)
    path = write(folder / name / "anat" / f"{name}_T1w.nii.gz", image, mm, axes)
    where = folder / "derivatives" / "ref" / name / "anat" / f"{name}_dseg.nii.gz"
    return Scan(name, name, path, write(where, ids, mm, axes) if labelled else None)


def overlap(labels: torch.Tensor) -> float:
    """Mean Dice of a prepared label map with the atlas's own over its four structures."""
    _, ids = brain()
    scores = []
    for id_ in (2, 3, 4, 49):
        a, b = labels.numpy() == PAPER.index_of[id_], ids == id_
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores))


def test_prepare_finds_the_atlas_again(tmp_path: Path) -> None:
    """A smaller brain, tilted, shifted, finer and stored in another orientation comes to lie on the atlas."""
    moved = scan(tmp_path, axes="PIR", tilt=0.25, size=0.85, mm=3.0, shift=8.0)
    file = load_file(prepare(moved, frame(), tmp_path / "store"))
    assert file["image"].shape == file["labels"].shape == (SIDE, SIDE, SIDE)
    assert file["image"].dtype == torch.float32 and file["labels"].dtype == torch.uint8
    assert file["image"].min() == 0 and file["image"].max() == 1
    assert overlap(file["labels"]) > 0.85
    scale = torch.linalg.det(file["atlas_to_scan"][:3, :3]).item() ** (1 / 3)
    assert scale == pytest.approx(0.85, abs=0.03)


@pytest.mark.parametrize("axes", ["LPI", "ASR", "PSR", "ILA"])
def test_orientation_of_the_file_does_not_matter(tmp_path: Path, axes: str) -> None:
    """The same brain in another order of axes gives the same prepared volume, its bias field and all."""
    straight = load_file(prepare(scan(tmp_path / "a"), frame(), tmp_path / "1"))
    turned = load_file(prepare(scan(tmp_path / "b", axes=axes), frame(), tmp_path / "2"))
    torch.testing.assert_close(turned["image"], straight["image"], atol=1e-4, rtol=0)
    assert (straight["labels"] == turned["labels"]).float().mean() > 0.9999
    assert overlap(turned["labels"]) > 0.97


@pytest.fixture(scope="module")
def people() -> list[tuple[np.ndarray, np.ndarray]]:
    """Two simulated people's scans and their affines, voxels of 3 mm."""
    drawn = (scanner.scan(draw_anatomy(seed, 30.0, 3.0), scanner.OASIS, seed) for seed in (1, 2))
    return [(image, affine) for image, _, affine in drawn]


@pytest.mark.parametrize("angles", [(0, 45, 0), (-45, 0, 0), (40, -40, 0), (0, 40, 40)])
def test_a_tilted_head_is_found(people: list[tuple[np.ndarray, np.ndarray]], angles: tuple[int, int, int]) -> None:
    """However a head lies, about one axis or two: within 1 mm of where it is found when it lies straight."""
    (fixed, place), (moving, affine) = people
    tilt = np.eye(4)
    tilt[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    found = []
    for turn in (np.eye(4), tilt):
        with one_thread():
            transform = register(scaled(to_sitk(fixed, place)), scaled(to_sitk(moving, turn @ affine)), "x")
        found.append(np.linalg.inv(turn) @ to_matrix(transform))
    brain_ = np.argwhere(fixed > 0)[::50] @ place[:3, :3].T + place[:3, 3]
    apart = np.linalg.norm(brain_ @ (found[1] - found[0])[:3, :3].T + (found[1] - found[0])[:3, 3], axis=1)
    assert apart.mean() < 1 and apart.max() < 2


def test_preparing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """The metric's sampling is seeded and sums on one thread."""
    one = scan(tmp_path, tilt=0.1)
    first, second = (prepare(one, frame(), tmp_path / name) for name in ("1", "2"))
    assert first.read_bytes() == second.read_bytes()


def test_what_an_atlas_does_not_change_is_done_once_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With kept brains the next atlas costs no N4, and its files have the bytes that they have without; not if the
    scan was changed in between."""
    one, sought = scan(tmp_path, axes="LIP"), []
    found = client.prepare.unbias
    monkeypatch.setattr(client.prepare, "unbias", lambda *given: sought.append(1) or found(*given))
    other = replace(frame(), digest="e" * 64)
    plain = [prepare(one, atlas, tmp_path / atlas.digest).read_bytes() for atlas in (frame(), other)]
    keep = Preparation(brains=tmp_path / "brains")
    kept = [prepare(one, atlas, tmp_path / f"kept {atlas.digest}", keep).read_bytes() for atlas in (frame(), other)]
    assert kept == plain and len(sought) == 3
    scan(tmp_path, axes="LIP", tilt=0.1)
    changed = prepare(one, frame(), tmp_path / "changed", keep).read_bytes()
    assert len(sought) == 4 and changed == prepare(one, frame(), tmp_path / "plain").read_bytes()


def test_the_second_call_touches_nothing(tmp_path: Path) -> None:
    """A prepared file is kept; it is made again only if the scan, its labels or the atlas changed."""
    one, store = scan(tmp_path), tmp_path / "store"
    path = prepare(one, frame(), store)
    before = path.stat().st_mtime_ns
    assert prepare(one, frame(), store).stat().st_mtime_ns == before
    assert [p.name for p in store.iterdir()] == ["sub-A.safetensors"]
    other = AtlasFrame(frame().image, (SIDE, SIDE, SIDE), MM, AFFINE, "e" * 64)
    assert prepare(one, other, store).stat().st_mtime_ns != before
    path.write_bytes(b"cut short")
    assert "image" in load_file(prepare(one, frame(), store))


def test_a_damaged_scan_is_set_aside(tmp_path: Path) -> None:
    """The run goes on with the rest; progress counts all; the reason names the file."""
    scan(tmp_path, "sub-A")
    scan(tmp_path, "sub-C", labelled=False)
    bad = scan(tmp_path, "sub-B").image
    bad.write_bytes(bad.read_bytes()[:500])
    seen: list[tuple[int, int]] = []
    prepared = prepare_site([tmp_path], frame(), tmp_path / "store", lambda done, of: seen.append((done, of)))
    assert [(c.case, c.labelled) for c in prepared.cases] == [("sub-A", True), ("sub-C", False)]
    assert [(s.file, s.code) for s in prepared.set_aside] == [("sub-B_T1w.nii.gz", "unreadable")]
    assert str(bad) in prepared.set_aside[0].reason and seen == [(1, 3), (2, 3), (3, 3)]


def test_a_site_without_a_usable_scan_is_an_error(tmp_path: Path) -> None:
    """Nothing to train on is said at once."""
    scan(tmp_path).image.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of 1 scans can be used"):
        prepare_site([tmp_path], frame(), tmp_path / "store")


def test_cases_reads_prepared_files(tmp_path: Path) -> None:
    """Shapes and types that the networks take; no labels where the scan has none."""
    store = tmp_path / "store"
    paths = [prepare(scan(tmp_path, n, labelled=n == "sub-A"), frame(), store) for n in ("sub-A", "sub-B")]
    cases = Cases(tuple(paths))
    assert len(cases) == 2 and cases.names == ("sub-A", "sub-B")
    labels = cases.labels(0)
    assert cases.image(0).shape == (1, SIDE, SIDE, SIDE) and cases.image(0).dtype == torch.float32
    assert labels is not None and labels.dtype == torch.int64 and labels.shape == (SIDE, SIDE, SIDE)
    assert cases.labels(1) is None
    paths[1].write_bytes(b"")
    with pytest.raises(DataError, match="unreadable"):
        cases.image(1)


def test_scans_on_a_device_are_read_once(tmp_path: Path) -> None:
    """What a step asks for again does not come from the disk."""
    path = prepare(scan(tmp_path), frame(), tmp_path / "store")
    held = OnDevice(Cases((path,)), torch.device("cpu"))
    first = held.image(0)
    assert torch.equal(first, Cases((path,)).image(0))
    path.unlink()
    assert torch.equal(held.image(0), first) and len(held) == 1


def changed(voxel: float) -> np.ndarray:
    image, _ = brain()
    image[3, 3, 3] = voxel
    return image


@pytest.mark.parametrize(
    ("array", "mm", "code"),
    [
        (changed(np.nan), MM, "not-finite"),
        (changed(np.inf), MM, "not-finite"),
        (np.full((8, 8, 8), 5.0, np.float32), MM, "constant"),
        (np.zeros((8, 8, 8, 3), np.float32), MM, "not-3d"),
        (np.ones((8, 8), np.float32), MM, "not-3d"),
        (brain()[0], 60.0, "spacing"),
        (brain()[0], 0.006, "spacing"),
    ],
)
def test_images_that_cannot_be_used_are_refused(tmp_path: Path, array: np.ndarray, mm: float, code: str) -> None:
    """Each reason has a code word, and the message names the file."""
    path = tmp_path / "x.nii.gz"
    nib.save(nib.Nifti1Image(array, np.diag([mm, mm, mm, 1.0])), path)
    with pytest.raises(DataError, match=f"^{code}: ") as error:
        read_image(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_truncated_missing_and_foreign_files_are_unreadable(tmp_path: Path) -> None:
    """None of them reaches the user as a stack trace."""
    whole = write(tmp_path / "whole.nii.gz", brain()[0])
    (tmp_path / "cut.nii.gz").write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "cut.nii").write_bytes(gzip.decompress(whole.read_bytes())[:2000])
    (tmp_path / "text.nii.gz").write_text("not an image")
    for name in ("cut.nii.gz", "cut.nii", "text.nii.gz", "missing.nii.gz"):
        with pytest.raises(DataError, match="^unreadable: .*" + name):
            read_image(tmp_path / name)


def test_one_frame_of_four_dimensions_and_analyze_pairs_are_read(tmp_path: Path) -> None:
    """Converters write a fourth axis of one; OASIS comes as .img and .hdr."""
    image, _ = brain()
    nib.save(nib.Nifti1Image(image[..., None], np.diag([MM, MM, MM, 1.0])), tmp_path / "four.nii.gz")
    nib.save(nib.AnalyzeImage(image, None), tmp_path / "pair.img")
    assert read_image(tmp_path / "four.nii.gz").GetSize() == image.shape
    assert read_image(tmp_path / "pair.hdr").GetSize() == image.shape


def test_labels_off_their_image_are_refused(tmp_path: Path) -> None:
    """Another shape, another affine, or an unknown id."""
    image = read_image(write(tmp_path / "i.nii.gz", brain()[0]))
    ids = brain()[1]
    shifted = nib.Nifti1Image(ids, np.diag([MM, MM, MM, 1.0]) + 0.1 * np.eye(4, k=3))
    nib.save(shifted, tmp_path / "shifted.nii.gz")
    write(tmp_path / "cropped.nii.gz", ids[1:])
    write(tmp_path / "foreign.nii.gz", np.where(ids == 49, 1234, ids).astype(np.int16))
    for name, code in (("shifted", "mismatch"), ("cropped", "mismatch"), ("foreign", "unknown-label: id 1234")):
        with pytest.raises(DataError, match=f"^{code}.*{name}"):
            read_labels(tmp_path / f"{name}.nii.gz", image)


def test_seg35_is_read_in_its_own_numbering(tmp_path: Path) -> None:
    """Its 7 is the left thalamus, FreeSurfer's 7 the left cerebellar white matter."""
    image = read_image(write(tmp_path / "i.nii.gz", brain()[0]))
    ids = np.zeros((SIDE, SIDE, SIDE), np.int16)
    ids[0, 0, 0], ids[0, 0, 1] = 7, 35
    labels = read_labels(write(tmp_path / "aligned_seg35.nii.gz", ids), image)
    assert labels[0, 0, 0] == PAPER.index_of[10] and labels[0, 0, 1] == 0
    assert len(SEG35_TO_ASEG) == 36


def test_labels_in_another_order_of_the_same_voxels_are_turned(tmp_path: Path) -> None:
    """fMRIPrep and others write RAS whatever the scan has; an affine rounded to micrometres is the same place."""
    voxels, ids = brain()
    image = read_image(write(tmp_path / "i.nii.gz", voxels, axes="LIA"))
    straight = array_of(read_labels(write(tmp_path / "s.nii.gz", ids, axes="LIA"), image))
    for axes in ("RAS", "PSR", "LPI"):
        turned = read_labels(write(tmp_path / f"{axes}.nii.gz", ids, axes=axes), image)
        np.testing.assert_array_equal(array_of(turned), straight)
        assert turned.GetOrigin() == image.GetOrigin() and turned.GetDirection() == image.GetDirection()
        mask = write(tmp_path / f"{axes}_mask.nii.gz", (ids > 0).astype(np.uint8), axes=axes)
        np.testing.assert_array_equal(read_mask(mask, image), straight > 0)
    moved = nib.load(write(tmp_path / "m.nii.gz", ids))
    nib.save(nib.Nifti1Image(ids, moved.affine + 4e-3 * np.eye(4, k=3)), tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(array_of(read_labels(tmp_path / "m.nii.gz", image)), straight)


def test_labels_with_the_rounding_of_other_tools_are_read(tmp_path: Path) -> None:
    """42.000004 is 42; half a number is none, and the message has it whole."""
    voxels, ids = brain()
    image = read_image(write(tmp_path / "i.nii.gz", voxels))
    rounded = ids.astype(np.float32) + np.float32(4e-6) * (ids > 0)
    read = read_labels(write(tmp_path / "r.nii.gz", rounded), image)
    np.testing.assert_array_equal(array_of(read), array_of(read_labels(write(tmp_path / "s.nii.gz", ids), image)))
    with pytest.raises(DataError, match=r"^unknown-label: id 49.02 in "):
        read_labels(write(tmp_path / "f.nii.gz", np.where(ids == 49, 49.02, ids).astype(np.float32)), image)


def test_parcels_of_cortex_count_as_cortex_and_tissues_as_nothing(tmp_path: Path) -> None:
    """FreeSurfer's aparc+aseg is read by side; a map of tissues, or with numbers of its own, is no aseg."""
    voxels, ids = brain()
    image = read_image(write(tmp_path / "i.nii.gz", voxels))
    parcels = np.where(ids == 3, 1008, np.where(ids == 2, 41, ids))
    parcels[ids == 4] = 12124  # Destrieux, right
    found = array_of(read_labels(write(tmp_path / "p.nii.gz", parcels.astype(np.int16)), image))
    for before, after in ((1008, 3), (12124, 42), (41, 41), (49, 49)):
        assert set(found[parcels == before].tolist()) == {PAPER.index_of[after]}
    tissues = np.where(ids == 2, 2, np.where(ids > 0, 1, 0))
    tissues[ids == 4] = 3
    with pytest.raises(DataError, match="^unknown-label: .*ids 1, 2, 3 and none of the right side"):
        read_labels(write(tmp_path / "t.nii.gz", tissues.astype(np.uint8)), image)


def test_a_label_map_that_cannot_be_used_costs_no_scan(tmp_path: Path) -> None:
    """A site needs none to train: the scan is prepared without, now and from the store, and a note says why."""
    image, ids = brain()
    write(tmp_path / "in" / "a.nii.gz", image)
    write(tmp_path / "in" / "a_dseg.nii.gz", np.where(ids == 49, 1234, ids))
    for _ in range(2):
        done = prepare_site([tmp_path / "in"], frame(), tmp_path / "store", how=Preparation(bias=False))
        assert [(case.case, case.labelled) for case in done.cases] == [("a", False)] and not done.set_aside
        assert len(done.notes) == 1 and "a: its label map is not used: unknown-label: id 1234" in done.notes[0]
        assert "labels" not in load_file(done.cases[0].path)


def test_a_file_system_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network shares have none: scans are prepared, and nothing that is being written is cleaned up."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    write(tmp_path / "in" / "a.nii.gz", brain()[0])
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / f".b.safetensors.1{client.prepare.PART}").touch()
    done = prepare_site([tmp_path / "in"], frame(), tmp_path / "store", how=Preparation(bias=False))
    assert len(done.cases) == 1 and len(list((tmp_path / "store").iterdir())) == 2
    with pytest.raises(RunError, match="without locks; put its folder on a local disk"):
        append(tmp_path / "ledger", {}, "ledger")


def test_the_bias_field_is_taken_out_in_the_brain_s_box_as_over_the_whole_scan() -> None:
    """To the byte, as N4 over all voxels has it, of a file whose first axis runs to the left."""
    image, affine = brain(mm=2.0)[0], np.diag([-2.0, 2.0, 2.0, 1.0])
    scan = (image * np.linspace(0.6, 1.4, len(image))[:, None, None]).astype(np.float32)
    inside, turn = scan > 0, Turn.of(affine)
    voxels, within, place = turn.straight(scan), turn.straight(inside), turn.affine(affine, scan.shape)
    lifted = to_sitk(np.where(within, voxels + 1e-3 * float(scan.max()), 0).astype(np.float32), place)
    mask = to_sitk(within.astype(np.uint8), place)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(N4_STEPS)
    with one_thread():
        n4.Execute(sitk.Shrink(lifted, [2] * 3), sitk.Shrink(mask, [2] * 3))
        field = np.exp(array_of(n4.GetLogBiasFieldAsImage(lifted)))
        found = unbias(to_sitk(scan, affine), inside)
    np.testing.assert_array_equal(found, turn.back(np.where(within, voxels / field, 0).astype(np.float32)))
    assert float(field.max() / field.min()) > 1.1


def test_ctrl_c_is_not_taken_for_a_scan_that_does_not_fit() -> None:
    """It may come while ITK searches: then the command stops, and the scan is not set aside."""
    image, affine = brain(mm=2.0)[0], np.diag([2.0, 2.0, 2.0, 1.0])
    scan = scaled(to_sitk(image.astype(np.float32), affine))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            for _ in range(100):
                register(scan, scan, "a scan")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
