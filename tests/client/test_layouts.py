from pathlib import Path

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
