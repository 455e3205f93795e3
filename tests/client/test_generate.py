# mypy: untyped-calls-exclude="nibabel"
"""Generated pairs on disk: complete, in each layout, and made again from their recipes."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from client.generate import DATASET, again, generate
from configs.errors import DataError
from configs.structures import PAPER
from egg import make_model

CPU = torch.device("cpu")
IDS = {0, *(structure.id for structure in PAPER.structures)}


def voxels(path: Path) -> np.ndarray:
    """Read a file's voxels."""
    return np.asarray(nib.load(path).dataobj)


def test_a_pair_is_made_again_from_its_recipe(tmp_path: Path) -> None:
    """Same image, same labels, bit for bit, in another folder; ids are FreeSurfer's."""
    model = make_model(tmp_path / "model")
    generate(model, 3, tmp_path / "out")
    image, labels = again(tmp_path / "out" / "pair-0002.json", model, tmp_path / "again", CPU)
    np.testing.assert_array_equal(voxels(image), voxels(tmp_path / "out" / "pair-0002_T1w.nii.gz"))
    np.testing.assert_array_equal(voxels(labels), voxels(tmp_path / "out" / "pair-0002_dseg.nii.gz"))
    assert set(np.unique(voxels(labels))) <= IDS
    assert not np.array_equal(voxels(image), voxels(tmp_path / "out" / "pair-0001_T1w.nii.gz"))


def test_generating_again_makes_only_what_is_missing(tmp_path: Path) -> None:
    """A pair without its recipe is not whole; the others are not touched."""
    model = make_model(tmp_path / "model")
    generate(model, 2, tmp_path / "out")
    kept = (tmp_path / "out" / "pair-0001_T1w.nii.gz").stat().st_mtime_ns
    (tmp_path / "out" / "pair-0002.json").unlink()
    generate(model, 2, tmp_path / "out")
    assert (tmp_path / "out" / "pair-0001_T1w.nii.gz").stat().st_mtime_ns == kept
    assert (tmp_path / "out" / "pair-0002.json").exists()


def test_another_models_folder_is_refused(tmp_path: Path) -> None:
    """Pairs of two models, or of two layouts, never mix; nor does a recipe fit another model."""
    generate(make_model(tmp_path / "model"), 1, tmp_path / "out")
    other = make_model(tmp_path / "other", generator=True)
    with pytest.raises(DataError, match="another model or layout"):
        generate(other, 1, tmp_path / "out", layout="bids")
    sidecar = tmp_path / "out" / "pair-0001.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "model": "0" * 64}))
    with pytest.raises(DataError, match="is of model"):
        again(sidecar, other, tmp_path / "again", CPU)
    with pytest.raises(DataError, match="no recipe"):
        again(tmp_path / "none.json", other, tmp_path / "again", CPU)


def test_nnunet_gets_what_it_checks(tmp_path: Path) -> None:
    """Names, one channel, consecutive labels from 0, equal geometry of image and labels, and the stated count."""
    generate(make_model(tmp_path / "model"), 2, tmp_path / "out", layout="nnunet")
    root = tmp_path / "out" / DATASET
    about = json.loads((root / "dataset.json").read_text())
    assert about["numTraining"] == 2 and about["channel_names"] == {"0": "T1"}
    assert sorted(about["labels"].values()) == list(range(PAPER.classes))
    ids = np.array(list(json.loads((root / "label_ids.json").read_text()).values()))
    generate(make_model(tmp_path / "model"), 1, tmp_path / "plain")
    classes = voxels(root / "labelsTr" / "SST_0001.nii.gz")
    np.testing.assert_array_equal(ids[classes], voxels(tmp_path / "plain" / "pair-0001_dseg.nii.gz"))
    names = [path.name.removesuffix(".nii.gz") for path in sorted((root / "labelsTr").iterdir())]
    assert [path.name for path in sorted((root / "imagesTr").iterdir())] == [f"{name}_0000.nii.gz" for name in names]
    for name in names:
        image, labels = (nib.load(root / f"{where}.nii.gz") for where in (f"imagesTr/{name}_0000", f"labelsTr/{name}"))
        np.testing.assert_array_equal(image.affine, labels.affine)
        assert image.shape == labels.shape
        assert set(np.unique(np.asarray(labels.dataobj))) <= set(range(PAPER.classes))


def test_bids_has_images_and_labels_apart(tmp_path: Path) -> None:
    """Labels are a derivative; our own reader finds both again."""
    from client.layouts import find_scans

    generate(make_model(tmp_path / "model"), 2, tmp_path / "out", layout="bids")
    scans = find_scans([tmp_path / "out"])
    assert [scan.person for scan in scans] == ["sub-gen0001", "sub-gen0002"]
    assert all(scan.labels is not None and scan.labels.exists() for scan in scans)
    for folder in ("", "derivatives/sst"):
        about = json.loads((tmp_path / "out" / folder / "dataset_description.json").read_text())
        assert about["BIDSVersion"] and about["GeneratedBy"]
