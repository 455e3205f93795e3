"""A federation on another organ and contrast: all that is known of it is a label table and an atlas."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import sst
from client.gate import ledger
from configs.schema import from_json
from configs.structures import change_of, read_table, table_of
from server.atlas import read_atlas
from simulation.measured import Results
from simulation.progress import Silent
from simulation.results import read, to_json
from simulation.simulate import Options, simulate

IDS = {"Muscle": 2, "Left-Kidney": 3, "Right-Kidney": 4, "Liver": 9, "Spine": 500}
TABLE = "index\tname\tgroup\n" + "".join(f"{id_}\t{name}\tn/a\n" for name, id_ in IDS.items())
TABLE += "77\tTable of the scanner\tbackground\n"

CHANGES = (
    "contrast=T2w", "phases.statistics.rounds=1",
    "propagation.tissue_matching=14.4", "segmenter.fuse_registration=true",
    *(f"phases.{phase}.rounds=0" for phase in ("register", "style", "joint", "flow_codes")),
    "phases.segment.rounds=1", "phases.adapt.rounds=1",
)  # fmt: skip
ARMS = ("affine", "F", "F refined", "U-Net w/ adaptation", "U-Net w/ adaptation and F")


def write_bodies(folder: Path, seed: int, bright: dict[str, float], people: int = 6) -> None:
    """Write a BIDS folder of abdomens of 5 mm voxels: ellipsoids in one of muscle, no two alike."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.arange(side) * 5.0 - 2.5 * (side - 1) for side in (30, 44, 30)], indexing="ij")
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    for number in range(1, people + 1):
        body = _within(axes, (0, 0, 0), (62, 92, 62), rng)
        ids = np.where(body, IDS["Muscle"], 0).astype(np.uint16)
        for name, middle, radii in (
            ("Liver", (22, 25, 10), (27, 40, 32)),
            ("Left-Kidney", (-33, -35, -10), (14, 22, 25)),
            ("Right-Kidney", (33, -45, -12), (14, 22, 25)),
            ("Spine", (0, -68, 0), (13, 14, 48)),
        ):
            ids[_within(axes, middle, radii, rng) & body] = IDS[name]
        ids[0, 0, 0] = 77
        image = np.where(body, 100.0, 0.0)
        for name, value in bright.items():
            image[ids == IDS[name]] = value
        image = np.where(body, image + 3 * rng.standard_normal(ids.shape), 0)
        for place, name, values in (
            ("", "T2w", image.astype(np.float32)),
            ("", "T1w", (200 - image).astype(np.float32)),
            ("derivatives/reference", "dseg", ids),
        ):
            path = folder / place / f"sub-{number:02d}" / "anat" / f"sub-{number:02d}_{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, affine), path)
    (folder / "dataset_description.json").write_text('{"Name": "bodies", "BIDSVersion": "1.9.0"}')


def _within(
    axes: list[np.ndarray], middle: tuple[float, ...], radii: tuple[float, ...], rng: np.random.Generator
) -> np.ndarray:
    moved, grown = rng.normal(0, 2.5, 3), rng.uniform(0.9, 1.1, 3)
    inside = sum(
        ((axis - at - off) / (radius * scale)) ** 2
        for axis, at, off, radius, scale in zip(axes, middle, moved, radii, grown, strict=True)
    )
    return np.asarray(inside < 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A run of two sites whose scanners show kidneys and spine in opposite ways."""
    folder = tmp_path_factory.mktemp("organ")
    (folder / "labels.tsv").write_text(TABLE)
    write_bodies(folder / "a", 1, {"Liver": 150, "Left-Kidney": 60, "Right-Kidney": 60, "Spine": 180})
    write_bodies(folder / "b", 2, {"Liver": 140, "Left-Kidney": 185, "Right-Kidney": 185, "Spine": 50})
    changes = (*CHANGES, *change_of(folder / "labels.tsv"))
    sites = tuple((name, folder / name) for name in "ab")
    options = Options("tiny", sites, folder / "run", "inprocess", ARMS, None, None, "cpu", bias=False, changes=changes)
    return folder, simulate(Options(**{**options.__dict__, "atlases": (("a", ""),)}), Silent())


def model_of(folder: Path) -> Path:
    """Give the model that was delivered to the other site."""
    return next((folder / "run" / "sites" / "b" / "runs").glob("*/model"))


def test_all_arms_segment_the_structures_of_the_table(run: tuple[Path, Results]) -> None:
    """By group, left and right together; label propagation, which needs no training, puts them where they are."""
    folder, results = run
    assert results.groups == ("Muscle", "Kidney", "Liver", "Spine")
    across = {score.arm: score for score in results.scores if (score.source, score.target) == ("a", "b")}
    assert set(ARMS) <= {score.arm for score in results.scores}
    assert all(tuple(score.groups) == results.groups for score in results.scores)
    assert across["affine"].mean > 50
    assert across["F refined"].mean > across["affine"].mean + 5
    assert read(folder / "run") == results and to_json(read(folder / "run")) == to_json(results)
    page = (folder / "run" / "report.html").read_text()
    assert all(word in page for word in ("kidney", "liver", "spine")) and "amygdala" not in page


def test_what_leaves_has_the_size_of_the_table(run: tuple[Path, Results]) -> None:
    """A number for each group and the unlabelled inside: of four groups five numbers leave, and Dice of four."""
    folder, _ = run
    path = next((folder / "run" / "sites" / "b").rglob(ledger.NAME))
    entries = {entry["phase"]: entry for entry in ledger.verified(path)}
    arrays = entries["statistics"]["parts"]["statistics"]["arrays"]
    assert arrays == {"mean": [5], "multiplier": [1], "noise": [1]}
    assert entries["evaluate"]["metrics"] == ["Kidney", "Liver", "Muscle", "Spine"]


def test_the_hub_keeps_its_table_beside_its_atlas(run: tuple[Path, Results]) -> None:
    """A table is part of what names an atlas: the same scan with other structures is another atlas."""
    folder, _ = run
    atlas = read_atlas(next((folder / "run" / "federations").rglob("atlas.json")).parent)
    assert atlas.labels.table == table_of(read_table(folder / "labels.tsv"))


def test_a_model_writes_the_ids_of_its_table(run: tuple[Path, Results], tmp_path: Path) -> None:
    """As whole numbers that are large enough for them, with the names in every table beside them."""
    folder, _ = run
    scans = [folder / "b" / "sub-06" / "anat" / "sub-06_T2w.nii.gz"]
    done = sst.segment(scans, model_of(folder), tmp_path, bias_correction=False, device="cpu")
    image = nib.load(done.scans[0].path)
    assert image.get_data_dtype() == np.uint16
    found = np.asarray(image.dataobj)
    assert set(np.unique(found)) <= {0, *IDS.values()} and 9 in found
    assert done.volumes.read_text().split("\n")[0].split("\t") == ["scan", *IDS, "Mask"]
    assert "500 Spine" in (tmp_path / "FreeSurferColorLUT.txt").read_text()
    assert json.loads((model_of(folder) / "card.json").read_text())["use"].startswith("Segmenting 5 structures")


def test_pairs_and_figures_have_the_names_of_the_table(run: tuple[Path, Results], tmp_path: Path) -> None:
    """An nnU-Net dataset names its classes, and an evaluation its groups; without the table ids are unknown."""
    folder, _ = run
    sst.generate(model_of(folder), tmp_path / "pairs", count=1, layout="nnunet", device="cpu")
    about = json.loads((tmp_path / "pairs" / "Dataset501_SST" / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, **{name: n for n, name in enumerate(IDS, start=1)}}
    truth = folder / "b" / "derivatives"
    done = sst.evaluate(truth, truth, tmp_path / "figures", label_table=folder / "labels.tsv")
    assert done.mean_dice == 1 and done.scans[0].figures["group:Kidney"]["dice"] == 1
    with pytest.raises(sst.DataError, match="id 500 in .* is not a FreeSurfer aseg id"):
        sst.evaluate(truth, truth, tmp_path / "nothing")


def test_labelled_scans_are_prepared_by_the_table_of_the_model(run: tuple[Path, Results], tmp_path: Path) -> None:
    """Or by that which is given; by the usual one their labels are unknown, and count for nothing, which is said."""
    folder, _ = run
    scan = folder / "a" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    done = sst.prepare(folder / "b", model_of(folder), tmp_path / "one", bias_correction=False)
    assert len(done.scans) == 6 and done.set_aside == () and all(case.labelled for case in done.scans)
    given = {"preset": "tiny", "bias_correction": False}
    again = sst.prepare(folder / "b", scan, tmp_path / "two", label_table=folder / "labels.tsv", **given)
    assert len(again.scans) == 6
    usual = sst.prepare(folder / "b", scan, tmp_path / "three", **given)
    assert len(usual.scans) == 6 and not any(case.labelled for case in usual.scans)
    told = re.compile("id 500 in .*; map it to one or to 0, or name its label table")
    assert len(usual.notes) == 6 and all(told.search(note) for note in usual.notes)


def test_scans_of_another_contrast_are_none(run: tuple[Path, Results], tmp_path: Path) -> None:
    """A model of T2-weighted scans takes no T1-weighted ones of a BIDS folder, and says what it looked for."""
    folder, _ = run
    shutil.copytree(folder / "b", tmp_path / "c", ignore=shutil.ignore_patterns("*_T2w*"))
    for command in (sst.prepare, sst.segment):
        with pytest.raises(sst.DataError, match=r"no scans found in .*_T2w\.nii"):
            command(tmp_path / "c", model_of(folder), tmp_path / "out")


def test_a_hub_has_its_table_in_the_preset(
    run: tuple[Path, Results], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that sites approve it with the run; a file that is no table is the user's mistake."""
    folder, _ = run
    person = folder / "a" / "derivatives" / "reference" / "sub-01" / "anat" / "sub-01_dseg.nii.gz"
    words = ["hub", "init", str(tmp_path / "hub"), "--address", "localhost:8443", "--preset", "tiny", "--unchecked"]
    words += ["--image", str(folder / "a" / "sub-01" / "anat" / "sub-01_T1w.nii.gz"), "--labels", str(person)]
    assert sst.run([*words, "--label-table", str(person)]) == 2
    assert "cannot read the label table" in capsys.readouterr().err and not (tmp_path / "hub").exists()
    assert sst.run([*words, "--label-table", str(folder / "labels.tsv")]) == 0
    experiment = from_json((tmp_path / "hub" / "experiment.json").read_text())
    assert experiment.table == read_atlas(tmp_path / "hub").labels.table
