# mypy: untyped-calls-exclude="nibabel,SimpleITK"

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from configs.errors import DataError
from server.atlas import Atlas, load_atlas, load_atlases, published, read_atlas, save_atlas
from simulation.atlases import bring
from simulation.scanner import OASIS
from simulation.sites import write_site
from sst_models.volume.metrics import mean_dice

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def write(folder: Path, image: np.ndarray, ids: np.ndarray, affine: np.ndarray = AFFINE) -> tuple[Path, Path]:
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / "t1.nii.gz")
    nib.save(nib.Nifti1Image(ids.astype(np.int16), affine), folder / "seg.nii.gz")
    return folder / "t1.nii.gz", folder / "seg.nii.gz"


def block() -> tuple[np.ndarray, np.ndarray]:
    """A box of 30 x 42 x 54 mm, off the centre; its left half is white matter (2), its right half cortex (42)."""
    image, ids = np.zeros((32, 32, 32)), np.zeros((32, 32, 32))
    image[4:14, 10:24, 2:20] = np.linspace(100, 200, 18)
    ids[4:9, 10:24, 2:20], ids[9:14, 10:24, 2:20] = 2, 42
    return image, ids


def test_the_brain_comes_to_the_middle(tmp_path: Path) -> None:
    """The box lies centred on the grid, left on the low side of i, with its volume kept."""
    atlas = load_atlas(*write(tmp_path, *block()), (16, 16, 32), 3.0)
    assert atlas.image.shape == (1, 16, 16, 32) and atlas.image.dtype == torch.float32
    labels = atlas.labels.on_grid
    assert labels.shape == atlas.shape and labels.dtype == torch.int64
    inside = torch.nonzero(labels)
    assert inside.min(0).values.tolist() == [3, 1, 7] and inside.max(0).values.tolist() == [12, 14, 24]
    assert (labels[3:8, 1:15, 7:25] == 1).all() and (labels[8:13, 1:15, 7:25] == 18).all()
    assert atlas.image.min() == 0 and atlas.image.max() == 1


def test_orientation_of_the_file_does_not_matter(tmp_path: Path) -> None:
    """A file stored as LPI or ASR gives the same atlas, to the digest."""
    image, ids = block()
    straight = load_atlas(*write(tmp_path, image, ids), (16, 16, 32), 3.0)
    for axes in ("LPI", "ASR"):
        for name, array in (("t1", image), ("seg", ids)):
            nifti = nib.Nifti1Image(array.astype(np.float32), AFFINE)
            turn = nib.orientations.axcodes2ornt(axes)
            nib.save(nifti.as_reoriented(turn), tmp_path / f"{name}.nii.gz")
        turned = load_atlas(tmp_path / "t1.nii.gz", tmp_path / "seg.nii.gz", (16, 16, 32), 3.0)
        assert torch.equal(turned.labels.parts, straight.labels.parts)
        torch.testing.assert_close(turned.image, straight.image, rtol=0, atol=1e-4)


def test_a_further_atlas_is_brought_to_the_first(tmp_path: Path) -> None:
    """One that lies elsewhere, larger and turned by a little, comes to lie on it, with its labels and all their ids."""
    files = [write_person(tmp_path / name, number) for number, name in enumerate(("one", "two"), start=1)]
    shape, spacing = (32, 48, 32), 5.0
    one = load_atlases(files[:1], shape, spacing, 3, bring)
    both = load_atlases(files, shape, spacing, 3, bring)
    assert (
        not one.further and one.digest != both.digest and one.digest == load_atlas(*files[0], shape, spacing, 3).digest
    )
    (image, labels), *more = both.further
    assert not more and image.shape == both.image.shape and labels.oversampling == 3
    assert torch.equal(both.image, one.image) and torch.equal(both.labels.parts, one.labels.parts)
    alone = load_atlas(*files[1], shape, spacing, 3)
    before, after = (mean_dice(found.on_grid, both.labels.on_grid) for found in (alone.labels, labels))
    assert after > before + 0.1 and after > 0.5, (before, after)
    save_atlas(both, tmp_path / "hub")
    kept = read_atlas(tmp_path / "hub")
    assert kept.digest == both.digest and len(kept.each) == 2
    assert torch.equal(kept.further[0][0], image) and torch.equal(kept.further[0][1].parts, labels.parts)
    assert published(kept)["image"].shape == (2, *shape)
    with pytest.raises(DataError, match="is there twice"):
        load_atlases([*files, files[1]], shape, spacing, 1, bring)
    with pytest.raises(DataError, match="17 atlases: give 16 at the most"):
        load_atlases(files[:1] * 17, shape, spacing, 1, bring)


def write_person(folder: Path, number: int) -> tuple[Path, Path]:
    """Write one simulated person; the second lies off the first, turned by 11 degrees and 10 % larger."""
    site = write_site(folder, OASIS, 1, number, 5.0)
    image, labels = (next(site.glob(f"**/*_{end}.nii.gz")) for end in ("T1w", "dseg"))
    if number > 1:
        turn, (c, s) = np.eye(4), (np.cos(0.2), np.sin(0.2))
        turn[:3, :3] = 1.1 * np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        turn[:3, 3] = (12, -20, 8)
        for path in (image, labels):
            file = nib.load(path)
            nib.save(nib.Nifti1Image(np.asarray(file.dataobj), turn @ file.affine), path)
    return image, labels


def test_a_coarser_grid_keeps_the_volumes(tmp_path: Path) -> None:
    """Resampled to 6 mm, each structure has the millilitres that it had."""
    atlas = load_atlas(*write(tmp_path, *block()), (16, 16, 16), 6.0)
    volumes = [(atlas.labels.on_grid == index).sum().item() * 6.0**3 for index in (1, 18)]
    assert volumes == pytest.approx([15 * 42 * 54, 15 * 42 * 54], rel=0.25)


def test_a_brain_larger_than_the_grid_is_refused(tmp_path: Path) -> None:
    """Both sizes are in the message."""
    with pytest.raises(DataError, match=r"^too-large: .*t1.nii.gz measures 30 x 42 x 54 mm, the grid 48 x 48 x 48 mm"):
        load_atlas(*write(tmp_path, *block()), (16, 16, 16), 3.0)


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """Another shape, another affine, an unknown id, nothing of the 28."""
    image, ids = block()
    path, seg = write(tmp_path, image, ids)
    cases = (
        (ids[1:], AFFINE, "mismatch: .*shape"),
        (ids, AFFINE + 0.1 * np.eye(4, k=3), "mismatch: .*affine"),
        (ids + 500, AFFINE, "unknown-label: id 500"),
        (ids * 0, AFFINE, "empty: "),
    )
    for array, affine, message in cases:
        nib.save(nib.Nifti1Image(array.astype(np.int16), affine), seg)
        with pytest.raises(DataError, match=f"^{message}"):
            load_atlas(path, seg, (16, 16, 32), 3.0)


def test_a_missing_or_damaged_atlas_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    path, seg = write(tmp_path, *block())
    seg.write_bytes(seg.read_bytes()[:100])
    for image in (path, tmp_path / "none.nii.gz"):
        with pytest.raises(DataError, match="^unreadable: atlas "):
            load_atlas(image, seg, (16, 16, 32), 3.0)


def test_a_saved_atlas_is_read_back(tmp_path: Path) -> None:
    """Every field survives, and the digest is checked."""
    atlas = load_atlas(*write(tmp_path, *block()), (16, 16, 32), 3.0)
    save_atlas(atlas, tmp_path / "run")
    back = read_atlas(tmp_path / "run")
    assert torch.equal(back.image, atlas.image) and torch.equal(back.labels.parts, atlas.labels.parts)
    assert (back.affine, back.spacing, back.digest, back.source) == (atlas.affine, 3.0, atlas.digest, "t1.nii.gz")


def test_a_changed_atlas_is_refused(tmp_path: Path) -> None:
    """A run goes on only with the atlas that it began with; half a folder is not one."""
    atlas = load_atlas(*write(tmp_path, *block()), (16, 16, 32), 3.0)
    changed: Atlas = replace(atlas, image=1 - atlas.image)
    save_atlas(changed, tmp_path)
    with pytest.raises(DataError, match="^changed: "):
        read_atlas(tmp_path)
    (tmp_path / "atlas.json").unlink()
    with pytest.raises(DataError, match="^unreadable: "):
        read_atlas(tmp_path)


def test_finer_labels_are_the_same_on_the_grid_and_come_back(tmp_path: Path) -> None:
    """Three parts to a voxel's side: what most of them are is what the grid has without them."""
    paths = write(tmp_path, *block())
    plain, fine = (load_atlas(*paths, (16, 16, 32), 3.0, finer) for finer in (1, 3))
    assert fine.labels.parts.shape == (48, 48, 96) and fine.shape == plain.shape and fine.digest != plain.digest
    assert torch.equal(fine.labels.on_grid, plain.labels.on_grid)
    save_atlas(fine, tmp_path / "hub")
    back = read_atlas(tmp_path / "hub")
    assert torch.equal(back.labels.parts, fine.labels.parts) and back.labels.oversampling == 3
