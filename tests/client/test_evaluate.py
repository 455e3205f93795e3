# mypy: untyped-calls-exclude="nibabel"
"""Label maps against a reference: figures that MONAI agrees with, and rules for what is not there."""

import csv
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance

from client.evaluate import GROUP, Agreement, case_of, compare, evaluate_folder, pair_up
from configs.errors import DataError
from configs.structures import PAPER

SPACING = (1.0, 1.5, 2.0)


def two_maps(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Two label maps with blobs that partly agree, some structures in one of them only."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 8, (1, 1, 6, 6, 6), generator=draws).float()
    truth = torch.nn.functional.interpolate(coarse, scale_factor=4).long()[0, 0]
    found = truth.roll((1, -1, 1), (0, 1, 2)).clone()
    found[found == 7] = 9
    return found, truth


@pytest.mark.filterwarnings("ignore:the (prediction|ground truth):UserWarning")
def test_figures_agree_with_monai(tmp_path: Path) -> None:
    """Dice, HD95 and ASSD of every structure that both maps hold, to 1e-6."""
    found, truth = two_maps()
    figures = compare(found, truth, SPACING)
    ours, theirs = (torch.nn.functional.one_hot(m, PAPER.classes).permute(3, 0, 1, 2)[None] for m in (found, truth))
    dice = compute_dice(ours, theirs, include_background=True)[0]
    hausdorff = compute_hausdorff_distance(ours, theirs, include_background=True, percentile=95, spacing=SPACING)[0]
    surface = compute_average_surface_distance(ours, theirs, include_background=True, symmetric=True, spacing=SPACING)
    compared = 0
    for structure in PAPER.structures:
        if (found == structure.index).any() and (truth == structure.index).any():
            own, place = figures[structure.name], structure.index
            assert own["dice"] == pytest.approx(float(dice[place]), abs=1e-6)
            assert own["hd95_mm"] == pytest.approx(float(hausdorff[place]), abs=1e-6)
            assert own["assd_mm"] == pytest.approx(float(surface[0][place]), abs=1e-6)
            compared += 1
    assert compared == 6


def test_what_is_not_there_has_the_stated_rules() -> None:
    """In neither map: nothing. In one only: Dice 0, no distance, its volume as error."""
    found, truth = two_maps()
    figures = compare(found, truth, SPACING)
    absent, missed, invented = (figures[PAPER.structures[index - 1].name] for index in (20, 7, 9))
    assert all(math.isnan(value) for value in absent.values())
    assert missed["dice"] == invented["dice"] == 0
    assert math.isnan(missed["hd95_mm"]) and math.isnan(invented["assd_mm"])
    assert missed["volume_error_ml"] == pytest.approx(-int((truth == 7).sum()) * 3 / 1000)
    assert missed["volume_error_percent"] == -100
    assert math.isnan(invented["volume_error_percent"])
    thalamus = figures[GROUP + "Thalamus-Proper"]["dice"]
    members = [figures[f"{side}-Thalamus-Proper"]["dice"] for side in ("Left", "Right")]
    assert thalamus == pytest.approx(np.nanmean(members))
    assert math.isnan(Agreement("", figures).mean([PAPER.structures[19].name], "dice"))


def save(path: Path, ids: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write ids as a NIfTI file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(ids.astype(np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine), path)


def ids() -> np.ndarray:
    """Give a small map of FreeSurfer ids."""
    made = np.zeros((10, 10, 10))
    made[2:8, 2:8, 2:5], made[2:8, 2:8, 5:8] = 2, 41
    return made


def test_a_folder_is_compared_by_the_names_of_scans(tmp_path: Path) -> None:
    """Descriptions and suffixes do not matter; what has no partner, and what does not fit, is named."""
    save(tmp_path / "ours" / "sub-1" / "anat" / "sub-1_desc-sst_dseg.nii.gz", ids())
    save(tmp_path / "ours" / "sub-2" / "anat" / "sub-2_desc-sst_dseg.nii.gz", ids())
    save(tmp_path / "ours" / "sub-3" / "anat" / "sub-3_desc-sst_dseg.nii.gz", ids())
    save(tmp_path / "truth" / "sub-1_dseg.nii", ids())
    save(tmp_path / "truth" / "sub-2_dseg.nii", ids(), np.diag([2.0, 2.0, 2.5, 1.0]))
    done, left = evaluate_folder(tmp_path / "ours", tmp_path / "truth", tmp_path / "out")
    assert [agreement.case for agreement in done] == ["sub-1"]
    assert len(left) == 2 and "sub-3" in left[0] and "mismatch" in left[1]
    with (tmp_path / "out" / "evaluation.csv").open() as file:
        rows = {(row["kind"], row["name"]): row for row in csv.DictReader(file)}
    assert float(rows["structure", "Left-Cerebral-WM"]["dice"]) == 1
    assert rows["structure", "Left-Amygdala"]["dice"] == ""
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert whole["summary"][GROUP + "Cerebral-WM"]["dice"] == {"mean": 1.0, "std": None, "scans": 1}
    assert "neither map" in whole["rules"]
    assert (tmp_path / "out" / "dice.png").read_bytes().startswith(b"\x89PNG")


def test_left_for_right_is_no_agreement(tmp_path: Path) -> None:
    """A map whose sides are swapped scores 0 on both."""
    swapped = ids()
    swapped[ids() == 2], swapped[ids() == 41] = 41, 2
    save(tmp_path / "a.nii.gz", swapped)
    save(tmp_path / "b.nii.gz", ids())
    done, _ = evaluate_folder(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz", tmp_path / "out")
    assert done[0].figures[GROUP + "Cerebral-WM"]["dice"] == 0


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    """Folders whose names do not meet, and a folder without maps."""
    save(tmp_path / "a" / "x_dseg.nii.gz", ids())
    save(tmp_path / "b" / "y_dseg.nii.gz", ids())
    with pytest.raises(DataError, match="x and y"):
        pair_up(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="no label maps"):
        pair_up(tmp_path / "c", tmp_path / "b")


@pytest.mark.parametrize(
    "name", ["sub-1_ses-2_desc-sst_dseg.nii.gz", "sub-1_ses-2_dseg.nii", "sub-1_ses-2_space-orig_desc-a_seg.nii.gz"]
)
def test_the_case_of_a_label_map(name: str) -> None:
    """Entities of the scan stay, those of the label map go."""
    assert case_of(Path(name)) == "sub-1_ses-2"
