# mypy: untyped-calls-exclude="nibabel"
"""From a scanner's file to a label map on its own voxels: geometry, sides, tables, and what is refused."""

import csv
import json
import math
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import sst
from client.layouts import Scan
from client.model import Model
from client.native import keep_largest, to_native, write_labels
from client.preparation import Preparation
from client.segment import predictor, scans_at, segment_all
from client.segmented import home_of
from configs.errors import DataError, RunError
from configs.structures import PAPER
from egg import LEFT, RIGHT, affine_for, egg, make_model, remember, sample, write_scan
from sst_models.volume.grid import Grid, sample_labels

QUICK = Preparation(bias=False)
CPU = torch.device("cpu")

GEOMETRIES = [
    ("RAS", (3.0, 3.0, 3.0), 0.0),
    ("LAS", (3.0, 3.0, 3.0), 0.0),
    ("PSR", (3.0, 3.0, 3.0), 0.0),
    ("LIA", (3.0, 3.0, 3.0), 0.0),
    ("RAS", (3.0, 3.0, 3.0), 0.3),
    ("LPI", (2.0, 2.0, 6.0), 0.1),
]


@pytest.fixture(autouse=True)
def _no_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "segmenter", remember)


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    """Twice the overlap over the sum."""
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.parametrize(("axes", "sides", "turn"), GEOMETRIES)
def test_left_and_right_stay_left_and_right_from_file_to_file(
    tmp_path: Path, axes: str, sides: tuple[float, float, float], turn: float
) -> None:
    """In whatever order a file has its axes, a reader that knows nothing of us finds the left body at negative x."""
    model = make_model(tmp_path / "model")
    scan = write_scan(tmp_path / "scan.nii.gz", axes, sides, turn)
    done, aside = segment_all(scans_at([scan]), model, tmp_path / "out", QUICK, CPU)
    assert not aside
    written = nib.load(done[0].path)
    ids = np.asarray(written.dataobj)
    for id_, side in ((LEFT, -1), (RIGHT, 1)):
        places = np.argwhere(ids == id_) @ written.affine[:3, :3].T + written.affine[:3, 3]
        assert side * places[:, 0].mean() > 8, (id_, places.mean(axis=0))
    _, truth = sample(*affine_for(axes, sides, turn))
    assert dice(ids == LEFT, truth == LEFT) > 0.75
    assert dice(ids == RIGHT, truth == RIGHT) > 0.74


def test_a_model_with_a_registration_asks_it_too(tmp_path: Path) -> None:
    """Segmenter and F are of one mind on the atlas's own scan; where only the segmenter errs, it is half as sure."""
    model = make_model(tmp_path / "model", registration=True)
    told = predictor(model, CPU)(torch.from_numpy(model.frame.image)[None])
    labels = model.atlases(CPU)[0][1].on_grid
    assert told.probabilities.shape == (PAPER.classes, *model.frame.shape)
    assert 0.5 < told.agreement <= 1
    inside = (labels == PAPER.index_of[LEFT]) | (labels == PAPER.index_of[RIGHT])
    assert dice((told.probabilities.argmax(0) == labels)[inside].numpy(), np.ones(int(inside.sum()), bool)) > 0.9
    alone = predictor(make_model(tmp_path / "alone"), CPU)(torch.from_numpy(model.frame.image)[None])
    assert (told.probabilities - alone.probabilities).abs().max() > 0.1
    assert math.isnan(alone.agreement)  # its preset trains E, A and F, and it has none


@pytest.mark.parametrize(("axes", "sides", "turn"), GEOMETRIES)
@pytest.mark.parametrize("end", ["nii", "nii.gz"])
def test_the_output_lies_on_the_scan(
    tmp_path: Path, axes: str, sides: tuple[float, float, float], turn: float, end: str
) -> None:
    """Shape, affine, both forms and their codes are the scan's."""
    scan = tmp_path / f"scan.{end}"
    source = nib.load(write_scan(tmp_path / "plain.nii", axes, sides, turn))
    source.set_qform(source.affine, code=1)
    nib.save(source, scan)
    labels = np.zeros(source.shape, np.uint8)
    labels[3, 4, 5] = PAPER.index_of[RIGHT]
    write_labels(labels, scan, tmp_path / "out.nii.gz")
    source, written = nib.load(scan), nib.load(tmp_path / "out.nii.gz")
    assert written.shape == source.shape
    np.testing.assert_allclose(written.affine, source.affine, atol=1e-6)
    for form in ("sform", "qform"):
        (ours, code), (theirs, wanted) = (getattr(image, f"get_{form}")(coded=True) for image in (written, source))
        assert code == wanted
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.asarray(written.dataobj)[3, 4, 5] == RIGHT
    assert written.get_data_dtype() == np.uint8


def test_scaled_integers_and_a_fourth_axis_of_one_change_nothing(tmp_path: Path) -> None:
    """A scan in int16 with a slope, or with one frame, is segmented as the same scan in float32."""
    model = make_model(tmp_path / "model")
    affine, shape = affine_for("RAS", (3.0, 3.0, 3.0))
    image, _ = sample(affine, shape)
    nib.save(nib.Nifti1Image(image, affine), tmp_path / "plain.nii.gz")
    nib.save(nib.Nifti1Image(image[..., None], affine), tmp_path / "frame.nii.gz")
    scaled = nib.Nifti1Image(np.rint(image / 0.5).astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, 0)
    nib.save(scaled, tmp_path / "scaled.nii.gz")
    sources = [tmp_path / f"{name}.nii.gz" for name in ("plain", "frame", "scaled")]
    done, _ = segment_all(scans_at(sources), model, tmp_path / "out", QUICK, CPU)
    found = {one.case: np.asarray(nib.load(one.path).dataobj) for one in done}
    assert found["frame"].shape == shape
    assert (found["plain"] == found["frame"]).mean() > 0.999
    assert (found["plain"] == found["scaled"]).mean() > 0.999


@pytest.mark.parametrize(("axes", "sides", "turn"), [("LIA", (1.0, 1.0, 1.0), 0.2), ("RAS", (1.0, 1.0, 3.0), 0.0)])
def test_labels_come_back_from_the_grid_as_they_went(axes: str, sides: tuple[float, float, float], turn: float) -> None:
    """To a grid of 1 mm and back: Dice of at least 0.97 for every structure of more than 5 ml."""
    affine, shape = affine_for(axes, sides, turn)
    ids = sample(affine, shape)[1]
    classes = np.vectorize(lambda id_: PAPER.index_of.get(int(id_), 0))(ids).astype(np.uint8)
    grid = Grid((150, 150, 150), 1.0, (-74.7, -74.6, -74.8))
    there = sample_labels(classes, affine, grid)
    present = sorted(set(classes.ravel().tolist()))
    probabilities = torch.stack([(there == index).float() for index in present])
    back, _ = to_native(probabilities, grid.affine, np.eye(4), affine, np.ones(shape, bool))
    for place, index in enumerate(present):
        if index and (classes == index).sum() * np.prod(sides) > 5000:
            assert dice(back == place, classes == index) >= 0.97, index


def test_tables_say_what_the_label_map_holds(tmp_path: Path) -> None:
    """Volumes are voxels times their size; confidence is a probability; the table of all scans agrees."""
    model = make_model(tmp_path / "model")
    scan = write_scan(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz", sides=(2.0, 3.0, 3.0))
    done, _ = segment_all(scans_at([tmp_path / "sub-01"]), model, tmp_path / "out", QUICK, CPU)
    assert done[0].path == tmp_path / "out" / "sub-01_desc-sst_dseg.nii.gz" or done[0].path.exists()
    with done[0].path.with_name(done[0].path.name.replace("dseg.nii.gz", "volumes.tsv")).open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file, delimiter="\t")}
    ids = np.asarray(nib.load(done[0].path).dataobj)
    left = rows["Left-Lateral-Vent"]
    assert int(left["voxels"]) == (ids == LEFT).sum()
    assert float(left["volume_ml"]) == pytest.approx((ids == LEFT).sum() * 18 / 1000, abs=1e-3)
    assert 0.3 < float(left["confidence"]) <= 1
    assert rows["Right-Amygdala"]["confidence"] == "n/a"
    with (tmp_path / "out" / "volumes.tsv").open() as file:
        whole = next(csv.DictReader(file, delimiter="\t"))
    assert whole["Left-Lateral-Vent"] == left["volume_ml"]
    about = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert about["DatasetType"] == "derivative" and model.digest in about["GeneratedBy"][0]["Description"]
    assert scan.exists()


def test_bids_names_go_where_bids_has_them(tmp_path: Path) -> None:
    """A session's scan lies in its session; a loose file in the folder itself."""
    assert home_of("sub-01_ses-2_run-1", tmp_path) == tmp_path / "sub-01" / "ses-2" / "anat"
    assert home_of("mri_0004", tmp_path) == tmp_path


def test_a_scan_unlike_the_training_style_is_told(tmp_path: Path) -> None:
    """Another contrast is segmented, and the sidecar says that it is far off."""
    model = make_model(tmp_path / "model")
    affine, shape = affine_for("RAS", (3.0, 3.0, 3.0))
    image, ids = sample(affine, shape)
    negative = np.where(ids > 0, 1100 - image, 0).astype(np.float32)
    nib.save(nib.Nifti1Image(negative, affine), tmp_path / "t2.nii.gz")
    write_scan(tmp_path / "t1.nii.gz")
    scans = scans_at([tmp_path / "t1.nii.gz", tmp_path / "t2.nii.gz"])
    done, _ = segment_all(scans, model, tmp_path / "o", QUICK, CPU)
    concerns = {one.case: one.concerns for one in done}
    assert not any("T1" in concern for concern in concerns["t1"])
    assert any("T1" in concern for concern in concerns["t2"])
    told = json.loads((tmp_path / "o" / "t2_desc-sst_dseg.json").read_text())
    assert told["Concerns"] == list(concerns["t2"])
    light, dice = {one.case: (one.judgement.light, one.judgement.dice) for one in done}["t2"]
    with (tmp_path / "o" / "judgements.tsv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file, delimiter="\t") if row["scan"] == "t2")
    assert row["light"] == light and row["predicted_dice"] == ("n/a" if math.isnan(dice) else f"{dice:.4f}")
    assert row["concerns"] == "; ".join(concerns["t2"]) and light != "green"


def test_a_broken_scan_is_set_aside_and_the_rest_goes_on(tmp_path: Path) -> None:
    """The reason is in a table beside the results."""
    model = make_model(tmp_path / "model")
    write_scan(tmp_path / "in" / "good.nii.gz")
    (tmp_path / "in" / "bad ü.nii.gz").write_bytes(b"no image")
    done, aside = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    assert [one.case for one in done] == ["good"]
    assert aside[0].code == "unreadable"
    assert "bad ü" in (tmp_path / "out" / "set_aside.tsv").read_text(encoding="utf-8")


def test_the_largest_piece_is_kept_and_the_rest_becomes_its_neighbour() -> None:
    """A stray voxel inside another structure is given to that structure; one in the background to the background."""
    labels = np.zeros((12, 12, 12), np.uint8)
    labels[1:6, 1:11, 1:11], labels[6:11, 1:11, 1:11] = 1, 2
    labels[8, 5, 5] = 1
    cleaned = keep_largest(labels)
    assert cleaned[8, 5, 5] == 2
    assert (cleaned == 1).sum() == 500
    assert keep_largest(cleaned) is cleaned


def test_two_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    """Their results would overwrite each other."""
    paths = [write_scan(tmp_path / place / "scan.nii.gz") for place in ("a", "b")]
    with pytest.raises(DataError, match="two scans are called scan"):
        scans_at(paths)


def test_the_mask_pattern_finds_masks(tmp_path: Path) -> None:
    """A mask where the pattern says; a scan without one keeps none."""
    write_scan(tmp_path / "a.nii.gz")
    write_scan(tmp_path / "b.nii.gz")
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a_brain.nii.gz").touch()
    a, b = scans_at([tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], "masks/{stem}_brain.nii.gz")
    assert (a.mask, b.mask) == (tmp_path / "masks" / "a_brain.nii.gz", None)
    assert isinstance(a, Scan)
    assert egg(np.zeros((1, 3)))[0] == 2


def test_a_name_that_is_not_utf_8_is_segmented_like_any_other(tmp_path: Path) -> None:
    """All tables are written, and the label map is called by the letter that was meant."""
    model = make_model(tmp_path / "model")
    scan = write_scan(tmp_path / "in" / "a.nii.gz", "RAS", (3.0, 3.0, 3.0))
    os.rename(scan, os.fsencode(tmp_path) + b"/in/M\xfcller.nii.gz")
    done, aside = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    assert [one.path.name for one in done] == ["Müller_desc-sst_dseg.nii.gz"] and not aside
    assert (tmp_path / "out" / "volumes.tsv").read_text(encoding="utf-8").splitlines()[1].startswith("Müller\t")


def test_freesurfers_own_files_are_segmented(tmp_path: Path) -> None:
    """An .mgz gives a NIfTI label map on its voxels."""
    model = make_model(tmp_path / "model")
    scan = nib.load(write_scan(tmp_path / "a.nii.gz", "LIA", (3.0, 3.0, 3.0)))
    (tmp_path / "P1" / "mri").mkdir(parents=True)
    nib.save(nib.MGHImage(np.asarray(scan.dataobj, np.float32), scan.affine), tmp_path / "P1" / "mri" / "norm.mgz")
    done, _ = segment_all(scans_at([tmp_path / "P1"]), model, tmp_path / "out", QUICK, CPU)
    written = nib.load(done[0].path)
    assert written.shape == scan.shape
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-4)


def test_a_second_call_goes_on_where_the_first_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is found, not made again, and listed with what is new; rows of other scans stay."""
    model = make_model(tmp_path / "model")
    a, b = (write_scan(tmp_path / f"{name}.nii.gz") for name in "ab")
    first, _ = segment_all(scans_at([a]), model, tmp_path / "out", QUICK, CPU)
    written = first[0].path.stat().st_mtime_ns
    both, _ = segment_all(scans_at([a, b]), model, tmp_path / "out", QUICK, CPU)
    assert first[0].path.stat().st_mtime_ns == written
    assert [one.case for one in both] == ["a", "b"] and len(both[0].structures) == len(first[0].structures)
    assert both[0].structures[2].ml == pytest.approx(first[0].structures[2].ml, abs=1e-3)
    segment_all(scans_at([b]), model, tmp_path / "out", QUICK, CPU)
    rows = (tmp_path / "out" / "volumes.tsv").read_text(encoding="utf-8").splitlines()
    assert [row.split("\t")[0] for row in rows] == ["scan", "a", "b"]
    monkeypatch.setattr("client.segment.predictor", lambda *_: pytest.fail("nothing is left to do"))
    segment_all(scans_at([a, b]), model, tmp_path / "out", QUICK, CPU)
    assert (tmp_path / "out" / "volumes.tsv").read_text(encoding="utf-8").splitlines() == rows


def test_other_files_or_settings_are_segmented_anew(tmp_path: Path) -> None:
    """A scan that was changed, a setting, and results of which a file is missing; other structures are refused."""
    model = make_model(tmp_path / "model")
    scan, out = write_scan(tmp_path / "a.nii.gz"), tmp_path / "out"

    def written(**how: bool) -> int:
        done, _ = segment_all(scans_at([scan]), model, out, QUICK, CPU, **how)
        return done[0].path.stat().st_mtime_ns

    times = [written()]
    (out / "a_desc-sst_overlay.png").unlink()
    times.append(written())
    times.append(written(largest=True))
    write_scan(scan, turn=0.1)
    times.append(written(largest=True))
    assert len(set(times)) == 4 and written(largest=True) == times[-1]
    (out / "volumes.tsv").write_text("scan\tLiver\na\t1\n", encoding="utf-8")
    with pytest.raises(RunError, match="lists other structures than this model has; give another folder"):
        written()


def test_sides_are_compared_and_volumes_are_shares_of_the_brain(tmp_path: Path) -> None:
    """Asymmetry is the difference over the mean, of opposite sign on the other side; no figure where both are empty."""
    model = make_model(tmp_path / "model")
    done, _ = segment_all(scans_at([write_scan(tmp_path / "a.nii.gz")]), model, tmp_path / "out", QUICK, CPU)
    found = {s.name: s for s in done[0].structures}
    left, right = found["Left-Lateral-Vent"], found["Right-Lateral-Vent"]
    mean = (left.ml + right.ml) / 2
    assert left.asymmetry == pytest.approx((left.ml - right.ml) / mean) and right.asymmetry == -left.asymmetry
    assert np.isnan(found["Left-Amygdala"].asymmetry) and np.isnan(found["3rd-Vent"].asymmetry)
    assert left.fraction == pytest.approx(left.ml / done[0].mask_ml)
    assert sum(s.fraction for s in done[0].structures) <= 1


def test_viewers_get_freesurfers_own_names_and_colours(tmp_path: Path) -> None:
    """As its FreeSurferColorLUT.txt has them, not the short names of the paper's tables."""
    model = make_model(tmp_path / "model")
    segment_all(scans_at([write_scan(tmp_path / "a.nii.gz")]), model, tmp_path / "out", QUICK, CPU)
    lines = (tmp_path / "out" / "FreeSurferColorLUT.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == PAPER.classes
    for line in (
        "0 Unknown 0 0 0 0",
        "2 Left-Cerebral-White-Matter 245 245 245 0",
        "8 Left-Cerebellum-Cortex 230 148 34 0",
        "10 Left-Thalamus 0 118 14 0",
        "14 3rd-Ventricle 204 182 142 0",
        "41 Right-Cerebral-White-Matter 0 225 0 0",
        "43 Right-Lateral-Ventricle 120 18 134 0",
    ):
        assert line in lines


def test_a_model_of_simulated_people_says_so_on_each_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In its card, in the terminal, and on the page of results."""
    model = make_model(tmp_path / "model", simulated=True)
    assert "people who do not exist" in model.card["limits"] and model.of_nobody
    write_scan(tmp_path / "scan.nii.gz")
    words = ["segment", "scan.nii.gz", "--model", "model", "--no-bias", "-o", "out"]
    assert sst.run([str(tmp_path / word) if word in ("scan.nii.gz", "model", "out") else word for word in words]) == 0
    assert "people who do not exist" in capsys.readouterr().err
    assert "people who do not exist" in (tmp_path / "out" / "segmentations.html").read_text(encoding="utf-8")
    assert not make_model(tmp_path / "real").of_nobody


def test_scans_whose_results_would_have_one_name_are_set_aside(tmp_path: Path) -> None:
    """BIDS leaves a scan's suffix out of the name of its label map; nothing is written over another result."""
    model = make_model(tmp_path / "model")
    for name in ("sub-1", "sub-1_T1w"):
        write_scan(tmp_path / "in" / f"{name}.nii.gz")
    done, aside = segment_all(scans_at([tmp_path / "in"]), model, tmp_path / "out", QUICK, CPU)
    assert [one.case for one in done] == ["sub-1"] and [one.code for one in aside] == ["same-name"]
    assert done[0].path == tmp_path / "out" / "sub-1" / "anat" / "sub-1_desc-sst_dseg.nii.gz"


def test_a_model_that_cannot_be_loaded_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded beside the first scan's preparation; what goes wrong there is raised as anywhere."""

    def load(*_: object) -> None:
        raise RunError("its disk is gone")

    model = make_model(tmp_path / "model")
    monkeypatch.setattr(Model, "segmenter", load)
    with pytest.raises(RunError, match="its disk is gone"):
        segment_all(scans_at([write_scan(tmp_path / "scan.nii.gz")]), model, tmp_path / "out", QUICK, CPU)


def test_the_way_back_is_interpolation_of_each_voxel_of_the_brain() -> None:
    """As sampling all voxels at once has it, and nothing beyond the mask, which is not convex."""
    probabilities = torch.rand(5, 8, 9, 10, generator=torch.Generator().manual_seed(1)).softmax(dim=0)
    shape, place = (21, 13, 17), np.array([[0.3, 0.02, 0, 1], [0, 0.5, 0.03, 1], [0.01, 0, 0.5, 0.5], [0, 0, 0, 1]])
    inside = np.zeros(shape, bool)
    inside[2:19, 3:12, 1:9], inside[9:11] = True, False
    labels, certainty = to_native(probabilities, np.eye(4).tolist(), np.eye(4), place, inside)
    places = np.argwhere(inside) @ place[:3, :3].T + place[:3, 3]
    unit = torch.from_numpy((places / ((np.array([8, 9, 10]) - 1) / 2) - 1)[:, ::-1].astype(np.float32))
    sampled = torch.nn.functional.grid_sample(probabilities[None], unit[None, None, None], align_corners=True)
    most, index = sampled[0, :, 0, 0].max(dim=0)
    np.testing.assert_array_equal(labels[inside], index)
    np.testing.assert_allclose(certainty[inside], most, atol=1e-6)
    assert not labels[~inside].any()
    assert not certainty[~inside].any()
