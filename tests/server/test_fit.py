"""Labels that are not those of their scan are refused, on simulated people of both scanners."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import sst
from configs.errors import DataError
from configs.structures import PAPER, table_of
from server.atlas import read_atlas
from server.fit import MOVED, check_pair, contrast, moved, overlap
from simulation.phantom import draw_anatomy
from simulation.scanner import SCANNERS, scan
from sst_models.volume.metrics import mean_dice

IDS = np.array([0, *(structure.id for structure in PAPER.structures)])


def person(scanner: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scan a simulated person coarsely: image, classes, affine; one grid for all of a scanner."""
    own = SCANNERS[scanner]
    anatomy = draw_anatomy(seed, float(np.linspace(*own.ages, 5)[seed % 5]), spacing=3.0)
    image, classes, affine = scan(anatomy, own, seed)
    return np.asarray(image, np.float32), np.asarray(classes), np.asarray(affine)


@pytest.fixture(scope="module", params=sorted(SCANNERS))
def pair(request: pytest.FixtureRequest) -> tuple[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Two people of one scanner."""
    return request.param, [person(request.param, seed) for seed in (1, 2)]


def sides(affine: np.ndarray) -> np.ndarray:
    """Edges of a voxel, mm."""
    return np.sqrt((affine[:3, :3] ** 2).sum(axis=0))


def write(folder: Path, image: np.ndarray, classes: np.ndarray, affine: np.ndarray) -> tuple[Path, Path]:
    """Write a scan and a label map."""
    folder.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(image, affine), folder / "t1.nii.gz")
    nib.save(nib.Nifti1Image(IDS[classes].astype(np.int16), affine), folder / "labels.nii.gz")
    return folder / "t1.nii.gz", folder / "labels.nii.gz"


def test_a_persons_own_labels_are_taken(pair, tmp_path: Path) -> None:
    """With a margin, on a scan of strong contrast and on a noisy one of weak contrast."""
    for image, classes, affine in pair[1]:
        check_pair(*write(tmp_path, image, classes, affine))
        assert moved(image, classes, sides(affine)) < 0.75 * MOVED
        assert overlap(image, classes)[0] > 0.9999  # a voxel of the brain may be 0 by its noise


def test_another_persons_labels_are_refused(pair, tmp_path: Path) -> None:
    """On the same grid, and also where as much of them lies in the brain as of the right ones."""
    (image, classes, affine), (other, wrong, _) = pair[1]
    with pytest.raises(DataError, match="do not belong to .* lie outside of the brain.*--unchecked"):
        check_pair(*write(tmp_path, image, wrong, affine))
    inside = np.where(image != 0, wrong, 0)
    assert overlap(image, inside)[0] == 1.0
    with pytest.raises(DataError, match="do not lie on edges"):
        check_pair(*write(tmp_path, image, inside, affine))
    with pytest.raises(DataError, match="do not belong to"):
        check_pair(*write(tmp_path, other, classes, affine))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("way", [-2, 2])
def test_shifted_labels_are_refused(axis: int, way: int, pair, tmp_path: Path) -> None:
    """By two voxels to any side, also where what hangs over was cut away."""
    image, classes, affine = pair[1][0]
    wrong = np.roll(classes, way, axis)
    for labels in (wrong, np.where(image != 0, wrong, 0)):
        with pytest.raises(DataError, match="do not belong to"):
            check_pair(*write(tmp_path, image, labels, affine))


def test_a_scan_with_its_skull_is_refused(pair, tmp_path: Path) -> None:
    """Labels fill too little of what is not 0."""
    image, classes, affine = pair[1][0]
    with pytest.raises(DataError, match="is it skull-stripped"):
        check_pair(*write(tmp_path, image + 5, classes, affine))


def test_labels_of_few_structures_are_held_against_what_is_around_them(pair, tmp_path: Path) -> None:
    """They cover little of the brain, and have next to no borders of their own; moved ones are refused all the same."""
    rows = tuple(row for row in PAPER.rows if row.name.endswith(("Hippocampus", "Amygdala")))
    few = table_of(rows)
    for image, classes, affine in pair[1]:
        check_pair(*write(tmp_path, image, classes, affine), few)
        with pytest.raises(DataError, match="do not lie on edges"):
            check_pair(*write(tmp_path, image, np.roll(classes, 2, 1), affine), few)
    with pytest.raises(DataError, match="lie outside of the brain"):
        check_pair(*write(tmp_path, image, np.roll(classes, image.shape[1] // 2, 1), affine), few)


def test_gain_offset_outliers_and_order_of_the_axes_change_nothing(pair) -> None:
    """What is compared are ratios of differences of intensities, without the brightest."""
    image, classes, affine = pair[1][0]
    found = moved(image, classes, sides(affine))
    louder = np.where(image != 0, 7 * image + 100, 0).astype(np.float32)
    assert moved(louder, classes, sides(affine)) == pytest.approx(found, rel=1e-3)
    louder[tuple(np.argwhere(classes > 0)[::5000].T)] = 1e6
    assert moved(louder, classes, sides(affine)) == pytest.approx(found, rel=0.05)
    turned = moved(image.transpose(2, 0, 1)[::-1], classes.transpose(2, 0, 1)[::-1], sides(affine)[[2, 0, 1]])
    assert turned == pytest.approx(found, rel=1e-6)


def test_contrast_has_its_closed_form() -> None:
    """Two halves of 1 and 3 that two labels share: 2 across and 0 within; labels that ignore them: 0."""
    image = np.ones((6, 6, 6), np.float32)
    image[3:] = 3.0
    classes = np.ones((6, 6, 6), np.uint8)
    classes[3:] = 2
    assert contrast(image, classes) == 2.0
    assert contrast(image, np.ones_like(classes)) < 0
    assert moved(image, np.ones_like(classes), np.ones(3)) == float("inf")


def test_init_refuses_and_can_be_told_to_take_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one line, and nothing is made."""
    (image, _, affine), (_, wrong, _) = (person("oasis", seed) for seed in (1, 2))
    scan_file, labels = write(tmp_path / "atlas", image, wrong, affine)
    words = ["hub", "init", str(tmp_path / "hub"), "--address", "localhost:8443", "--image", str(scan_file)]
    words += ["--labels", str(labels), "--preset", "tiny"]
    assert sst.run(words) == 2
    assert "do not belong to" in capsys.readouterr().err and not (tmp_path / "hub").exists()
    assert sst.run([*words, "--unchecked"]) == 0


def test_init_says_what_it_will_segment_and_that_a_table_was_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table is used where it was named, not because it lies there; who forgot it is told."""
    scan_file, labels = write(tmp_path / "atlas", *person("oasis", 1))
    beside = labels.with_name("labels.tsv")
    beside.write_text("index\tname\n17\tLeft-Hippocampus\n53\tRight-Hippocampus\n", encoding="utf-8")
    words = ["hub", "init", "--address", "localhost:8443", "--image", str(scan_file), "--labels", str(labels)]
    words += ["--preset", "tiny"]
    assert sst.run([*words, str(tmp_path / "usual")]) == 0
    told = capsys.readouterr().out
    assert "it segments 28 structures: " in told and f"{beside} was not read" in told
    assert sst.run([*words, str(tmp_path / "mine"), "--label-table", str(beside)]) == 0
    told = capsys.readouterr().out
    assert "it segments 2 structures: Hippocampus\n" in told and "was not read" not in told
    preset = tmp_path / "mine.toml"
    preset.write_text(f"extends = \"tiny\"\nlabel_table = '{beside}'\n", encoding="utf-8")
    assert sst.run([*words[:-1], str(preset), str(tmp_path / "presets")]) == 0
    told = capsys.readouterr().out
    assert "it segments 2 structures: Hippocampus\n" in told and "was not read" not in told


def test_init_takes_several_atlases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its own labels, the further ones brought to the first; what does not pair up is the user's mistake."""
    files = [write(tmp_path / str(seed), *person("oasis", seed)) for seed in (1, 2)]
    words = ["hub", "init", str(tmp_path / "hub"), "--address", "localhost:8443", "--preset", "tiny"]
    words += [word for image, labels in files for word in ("--image", str(image), "--labels", str(labels))]
    assert sst.run([*words[:-2]]) == 2
    assert "2 --image and 1 --labels" in capsys.readouterr().err
    crossed = [*words[:-1], str(files[0][1])]
    assert sst.run(crossed) == 2
    assert "do not belong to" in capsys.readouterr().err and not (tmp_path / "hub").exists()
    assert sst.run(words) == 0
    first, second = read_atlas(tmp_path / "hub").each
    assert 0.5 < mean_dice(second[1].on_grid, first[1].on_grid) < 0.99
