"""Simulated sites on disk: BIDS as a hospital's, the same bytes for the same seed, never mixed, never half-written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from configs.errors import ConfigError, DataError
from configs.structures import PAPER
from simulation.phantom import draw_anatomy
from simulation.scanner import CANDI, OASIS, scan
from simulation.sites import Person, write_site

SPACING = 5.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two children at a coarse spacing."""
    return write_site(tmp_path_factory.mktemp("sites") / "candi", CANDI, 2, 7, SPACING)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_layout_is_bids(site: Path) -> None:
    """Exactly the files of a BIDS site with reference label maps, and nothing left over."""
    people = [p for s in ("sub-CANDI001", "sub-CANDI002") for p in (
        f"derivatives/reference/{s}/anat/{s}_desc-sst28_dseg.nii.gz", f"{s}/anat/{s}_T1w.nii.gz")]  # fmt: skip
    tables = ["dataset_description.json", "participants.tsv"]
    reference = ["derivatives/reference/dataset_description.json", "derivatives/reference/dseg.tsv"]
    assert sorted(content(site)) == sorted(people + tables + reference)
    rows = [line.split("\t") for line in (site / "participants.tsv").read_text().splitlines()]
    assert rows[0] == ["participant_id", "age", "sex"]
    assert all(4 <= float(age) <= 17 and sex in "FM" for _, age, sex in rows[1:])


def test_files_hold_what_was_scanned(site: Path) -> None:
    """The image is int16 and the labels FreeSurfer ids, both with the affine of the scan (SimpleITK's world is LPS)."""
    person = Person.of(CANDI, 7, 1)
    image, labels, affine = scan(draw_anatomy(person.seeds[0], person.age, SPACING), CANDI, person.seeds[1])
    stored = sitk.ReadImage(str(site / person.id / "anat" / f"{person.id}_T1w.nii.gz"))
    truth = sitk.ReadImage(str(next(site.glob(f"derivatives/*/{person.id}/anat/*_dseg.nii.gz"))))
    assert stored.GetPixelID() == sitk.sitkInt16
    assert set(np.unique(sitk.GetArrayFromImage(truth))) <= set(PAPER.index_of)
    assert np.array_equal(sitk.GetArrayFromImage(stored).T, image)
    assert np.array_equal(np.vectorize(PAPER.index_of.get)(sitk.GetArrayFromImage(truth).T), labels)
    for grid in (stored, truth):
        corner = np.array(grid.TransformIndexToPhysicalPoint((3, 4, 5))) * (-1, -1, 1)
        assert np.allclose(corner, (affine @ [3, 4, 5, 1])[:3], atol=1e-3)


def test_interrupted_equals_uninterrupted(site: Path, tmp_path: Path) -> None:
    """A site that lost a file, and a site that grew from one person to two, end in the same bytes."""
    grown = write_site(tmp_path / "grown", CANDI, 1, 7, SPACING)
    kept = (image := grown / "sub-CANDI001/anat/sub-CANDI001_T1w.nii.gz").stat().st_mtime_ns
    seen: list[str] = []
    write_site(grown, CANDI, 2, 7, SPACING, done=seen.append)
    assert image.stat().st_mtime_ns == kept and seen == ["sub-CANDI001", "sub-CANDI002"]
    next(grown.rglob("sub-CANDI002*_dseg.nii.gz")).unlink()
    write_site(grown, CANDI, 2, 7, SPACING)
    assert content(grown) == content(site)


@pytest.mark.parametrize("change", ["scanner", "seed", "spacing", "fewer"])
def test_a_folder_holds_one_site(site: Path, change: str) -> None:
    """Another scanner, seed or spacing, or fewer people, is refused before anything is written."""
    before = content(site)
    scanner = replace(OASIS, name="CANDI") if change == "scanner" else CANDI
    with pytest.raises(DataError, match="holds"):
        write_site(site, scanner, 1 if change == "fewer" else 2, 8 if change == "seed" else 7,
                   6.0 if change == "spacing" else SPACING)  # fmt: skip
    assert content(site) == before


def test_errors_are_ours(tmp_path: Path) -> None:
    """No subjects is an error of configuration; a file, or a folder of other things, one of data."""
    with pytest.raises(ConfigError, match="subjects=0"):
        write_site(tmp_path / "none", CANDI, 0, 1)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        write_site(tmp_path / "file", CANDI, 1, 1)
    with pytest.raises(DataError, match="other data"):
        write_site(tmp_path, CANDI, 1, 1)
