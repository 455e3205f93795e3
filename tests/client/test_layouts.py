import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.layouts import find_scans
from configs.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_bids_with_labels_in_derivatives(tmp_path: Path) -> None:
    """A scan with a label map, and one without."""
    touch(
        tmp_path,
        "sub-A/anat/sub-A_T1w.nii.gz",
        "sub-B/anat/sub-B_T1w.nii",
        "derivatives/ref/sub-A/anat/sub-A_desc-sst28_dseg.nii.gz",
    )
    a, b = find_scans([tmp_path])
    assert (a.case, a.person, b.case) == ("sub-A", "sub-A", "sub-B")
    assert a.labels == tmp_path / "derivatives/ref/sub-A/anat/sub-A_desc-sst28_dseg.nii.gz" and b.labels is None


def test_bids_sessions_and_runs_are_one_person(tmp_path: Path) -> None:
    """Each session is a case with its own labels."""
    touch(
        tmp_path,
        "sub-A/ses-1/anat/sub-A_ses-1_run-1_T1w.nii.gz",
        "sub-A/ses-1/anat/sub-A_ses-1_run-2_T1w.nii.gz",
        "sub-A/ses-2/anat/sub-A_ses-2_T1w.nii.gz",
        "derivatives/ref/sub-A/ses-1/anat/sub-A_ses-1_run-2_dseg.nii.gz",
        "derivatives/ref/sub-A/ses-2/anat/sub-A_ses-2_dseg.nii.gz",
    )
    scans = find_scans([tmp_path])
    assert [s.case for s in scans] == ["sub-A_ses-1_run-1", "sub-A_ses-1_run-2", "sub-A_ses-2"]
    assert {s.person for s in scans} == {"sub-A"}
    assert [s.labels.name if s.labels else None for s in scans] == [
        None,
        "sub-A_ses-1_run-2_dseg.nii.gz",
        "sub-A_ses-2_dseg.nii.gz",
    ]


@pytest.mark.parametrize("inner", ["", "BPDwPsy/", "BPDwPsy/BPDwPsy_065/anat/"])
def test_candishare(tmp_path: Path, inner: str) -> None:
    """CANDIShare at any depth: image and label map side by side."""
    home = f"SchizBull_2008/{inner}"
    touch(tmp_path, f"{home}BPDwPsy_065_procimg.nii.gz", f"{home}BPDwPsy_065_seg.nii.gz")
    (scan,) = find_scans([tmp_path])
    assert (scan.case, scan.person) == ("BPDwPsy_065", "BPDwPsy_065")
    assert scan.labels is not None and scan.labels.name == "BPDwPsy_065_seg.nii.gz"


def test_oasis_of_neurite_prefers_the_aligned_scan(tmp_path: Path) -> None:
    """Two visits are two cases of one person; the aligned pair is taken where there is one."""
    touch(
        tmp_path,
        *(
            f"OASIS_OAS1_0001_MR1/{n}.nii.gz"
            for n in ("norm", "seg35", "aligned_norm", "aligned_seg35", "seg4", "orig")
        ),
        "OASIS_OAS1_0001_MR2/norm.nii.gz",
        "OASIS_OAS1_0001_MR2/seg35.nii.gz",
    )
    first, second = find_scans([tmp_path])
    assert (first.case, second.case) == ("OAS1_0001_MR1", "OAS1_0001_MR2")
    assert first.person == second.person == "OAS1_0001"
    assert first.image.name == "aligned_norm.nii.gz"
    assert [s.labels.name for s in (first, second) if s.labels] == ["aligned_seg35.nii.gz", "seg35.nii.gz"]


def test_oasis_as_distributed_on_discs(tmp_path: Path) -> None:
    """The masked average is the image; the three tissues of FSL_SEG are no label map."""
    home = "disc1/OAS1_0002_MR1"
    stem = "OAS1_0002_MR1_mpr_n4_anon_111_t88_masked_gfc"
    touch(
        tmp_path,
        f"{home}/PROCESSED/MPRAGE/T88_111/{stem}.hdr",
        f"{home}/PROCESSED/MPRAGE/T88_111/{stem}.img",
        f"{home}/FSL_SEG/{stem}_fseg.hdr",
    )
    (scan,) = find_scans([tmp_path])
    assert (scan.case, scan.person, scan.labels) == ("OAS1_0002_MR1", "OAS1_0002", None)


def test_several_folders_are_one_site(tmp_path: Path) -> None:
    """Layouts may differ from folder to folder."""
    touch(tmp_path / "x", "sub-A/anat/sub-A_T1w.nii.gz")
    touch(tmp_path / "y", "HC/HC_001/HC_001_procimg.nii.gz")
    assert [s.case for s in find_scans([tmp_path / "x", tmp_path / "y"])] == ["HC_001", "sub-A"]


def test_one_name_twice_is_refused(tmp_path: Path) -> None:
    """Two scans of one name would overwrite each other in the store."""
    for folder in ("x", "y"):
        touch(tmp_path / folder, "sub-A/anat/sub-A_T1w.nii.gz")
    with pytest.raises(DataError, match="two scans are called sub-A"):
        find_scans([tmp_path / "x", tmp_path / "y"])


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    """The message names the folder and what was expected there."""
    touch(tmp_path, "sub-A/func/sub-A_bold.nii.gz")
    for folder, start in ((tmp_path / "none", "no such folder"), (tmp_path, "no scans found")):
        with pytest.raises(DataError, match=f"^{start}.*BIDS.*CANDIShare.*OASIS") as error:
            find_scans([folder])
        assert str(folder) in str(error.value)


def chosen(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    """Give each case's mask and label map by name."""
    return {
        scan.case: tuple(path.name if path else None for path in (scan.mask, scan.labels))  # type: ignore[misc]
        for scan in find_scans([folder])
    }


def test_a_scan_has_the_files_of_its_own_entities_and_no_others(tmp_path: Path) -> None:
    """Acquisitions and runs are told apart; 1 is not 10, and 01 is 1. What another scan has is said, and not taken."""
    scans = ("acq-A_run-1", "acq-A_run-10", "acq-B_run-1", "acq-C")
    touch(tmp_path, *(f"sub-1/anat/sub-1_{scan}_T1w.nii.gz" for scan in scans))
    for scan in ("acq-A_run-01", "acq-A_run-10", "acq-B_run-1"):
        for kind in ("desc-brain_mask", "dseg"):
            touch(tmp_path, f"derivatives/x/sub-1/anat/sub-1_{scan}_{kind}.nii.gz")
    assert chosen(tmp_path) == {
        "sub-1_acq-A_run-1": ("sub-1_acq-A_run-01_desc-brain_mask.nii.gz", "sub-1_acq-A_run-01_dseg.nii.gz"),
        "sub-1_acq-A_run-10": ("sub-1_acq-A_run-10_desc-brain_mask.nii.gz", "sub-1_acq-A_run-10_dseg.nii.gz"),
        "sub-1_acq-B_run-1": ("sub-1_acq-B_run-1_desc-brain_mask.nii.gz", "sub-1_acq-B_run-1_dseg.nii.gz"),
        "sub-1_acq-C": (None, None),
    }
    last = find_scans([tmp_path])[-1]
    assert "the mask of another scan" in last.mask_note and "the label map of another scan" in last.labels_note


def test_templates_and_phases_are_no_scans(tmp_path: Path) -> None:
    """Of fMRIPrep's outputs the scan's own voxels count; a phase image shows no tissue."""
    touch(
        tmp_path,
        "sub-1/anat/sub-1_part-mag_T1w.nii.gz",
        "sub-1/anat/sub-1_part-phase_T1w.nii.gz",
        "sub-2/anat/sub-2_desc-preproc_T1w.nii.gz",
        "sub-2/anat/sub-2_space-MNI152NLin6Asym_desc-preproc_T1w.nii.gz",
        "derivatives/f/sub-1/anat/sub-1_space-MNI152NLin6Asym_desc-brain_mask.nii.gz",
        "derivatives/f/sub-1/anat/sub-1_desc-brain_mask.nii.gz",
    )
    assert chosen(tmp_path) == {
        "sub-1_part-mag": ("sub-1_desc-brain_mask.nii.gz", None),
        "sub-2_desc-preproc": (None, None),
    }


def test_mp2rage_gives_its_t1_weighted_image_alone(tmp_path: Path) -> None:
    """UNIT1 where there is no T1w, and not T1map, inversions, phases and field maps, each a person of its own."""
    names = ("anat/sub-1_UNIT1", "anat/sub-1_T1map", "anat/sub-1_inv-1_MP2RAGE", "fmap/sub-1_TB1map")
    touch(tmp_path, *(f"sub-1/{name}.nii.gz" for name in names))
    touch(tmp_path, "sub-2/anat/sub-2_T1w.nii.gz", "sub-2/anat/sub-2_UNIT1.nii.gz")
    assert [(scan.person, scan.image.name) for scan in find_scans([tmp_path])] == [
        ("sub-1", "sub-1_UNIT1.nii.gz"),
        ("sub-2", "sub-2_T1w.nii.gz"),
    ]


def test_a_bids_folder_without_the_contrast_says_what_it_has(tmp_path: Path) -> None:
    """Its other images are not taken for scans."""
    touch(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz", "sub-1/func/sub-1_task-rest_bold.nii.gz")
    with pytest.raises(DataError, match=r"BIDS folder without sub-\*/anat/\*_T1w.nii.gz \(it has T2w: 1, bold: 1\)"):
        find_scans([tmp_path])


def labels(path: Path, *ids: int) -> None:
    """Write a label map of a few voxels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.resize(np.array([0, *ids], np.int16), (8, 8, 8))
    nib.save(nib.Nifti1Image(grid, np.diag([2.0, 2.0, 2.0, 1.0])), path)


def test_of_several_label_maps_the_one_that_the_table_knows_is_taken(tmp_path: Path) -> None:
    """Not the first by name: tissues (BIDS, 1 to 3) and parcels of cortex come before aseg. Of two equals none is."""
    touch(tmp_path, "sub-1/anat/sub-1_T1w.nii.gz")
    home = tmp_path / "derivatives" / "fmriprep" / "sub-1" / "anat"
    labels(home / "sub-1_desc-aparcaseg_dseg.nii.gz", 2, 41, 1008, 2030, 17, 53)
    labels(home / "sub-1_dseg.nii.gz", 1, 2, 3)
    labels(home / "sub-1_desc-aseg_dseg.nii.gz", 2, 41, 3, 42, 17, 53)
    assert chosen(tmp_path) == {"sub-1": (None, "sub-1_desc-aseg_dseg.nii.gz")}
    labels(tmp_path / "derivatives" / "other" / "sub-1" / "anat" / "sub-1_dseg.nii.gz", 2, 41, 3, 42, 17, 53)
    (scan,) = find_scans([tmp_path])
    assert scan.labels is None and "hold equally many structures" in scan.labels_note


@pytest.mark.parametrize("made", ["c1T1", "wT1", "y_T1", "mT1", "rc1T1", "T1_brain", "T1_pve_0", "T1_n4"])
def test_what_tools_made_of_a_scan_is_no_scan(tmp_path: Path, made: str) -> None:
    """SPM's and FSL's files beside it; with no scan of that name beside it, a file is one."""
    touch(tmp_path, "a/T1.nii", f"a/{made}.nii")
    assert [scan.image.name for scan in find_scans([tmp_path])] == ["T1.nii"]


def test_other_contrasts_in_lower_case_are_no_t1(tmp_path: Path) -> None:
    """As BraTS names them."""
    touch(tmp_path, *(f"P_{name}.nii.gz" for name in ("t1", "t1ce", "t2", "flair", "t2f", "seg")))
    assert [scan.case for scan in find_scans([tmp_path])] == ["P_t1"]


def test_freesurfers_subjects(tmp_path: Path) -> None:
    """The stripped image and aseg of each, its templates left out; one subject alone is found, too."""
    touch(tmp_path, *(f"s/sub-1_ses-2/mri/{name}.mgz" for name in ("T1", "norm", "aseg", "brainmask")))
    touch(tmp_path, "s/fsaverage/mri/norm.mgz", "s/P7/mri/T1.mgz")
    found = [(s.case, s.person, s.image.name, s.labels and s.labels.name) for s in find_scans([tmp_path / "s"])]
    assert found == [("P7", "P7", "T1.mgz", None), ("sub-1_ses-2", "sub-1", "norm.mgz", "aseg.mgz")]
    assert [scan.case for scan in find_scans([tmp_path / "s" / "P7"])] == ["P7"]


@pytest.mark.parametrize("name", ["scans.CSV", "scans.csv", "scans.Tsv"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_whatever_separates_its_columns(tmp_path: Path, name: str, separator: str) -> None:
    """A spreadsheet writes what its country has, and some write endings in capitals."""
    lines = (("image", "case", "mask"), ("a.nii", "Müller", ""), ("b.nii", "B", "m.nii"))
    (tmp_path / name).write_text("\n".join(separator.join(line) for line in lines), encoding="utf-8")
    assert [(s.case, s.mask) for s in find_scans([tmp_path / name])] == [("B", tmp_path / "m.nii"), ("Müller", None)]


def test_a_name_that_is_not_utf_8_is_read_as_latin_1(tmp_path: Path) -> None:
    """As old Windows shares hold them; the case can be written and shown."""
    touch(tmp_path, "a.nii.gz")
    os.rename(os.fsencode(tmp_path / "a.nii.gz"), os.fsencode(tmp_path) + b"/M\xfcller.nii.gz")
    (scan,) = find_scans([tmp_path])
    assert scan.case == scan.person == "Müller" and scan.image.is_file()
