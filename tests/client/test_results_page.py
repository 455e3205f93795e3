# mypy: untyped-calls-exclude="nibabel"
"""The page of results: what it shows first, and that it is a page whatever scans are called; in a browser, too."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote

import nibabel as nib
import numpy as np
import pytest
import torch

from browser import BROWSER, DRIVER, browser
from client.judgement import Judgement
from client.model import Model
from client.pictures import marked, save_png
from client.preparation import Preparation
from client.results_page import view_of, write_page
from client.segment import overlay, scans_at, segment_all
from client.segmented import Segmented, Structure
from configs.structures import PAPER
from egg import LEFT, RIGHT, affine_for, make_model, remember, sample, write_scan

QUICK, CPU = Preparation(bias=False), torch.device("cpu")


def result(folder: Path, case: str, judgement: Judgement) -> Segmented:
    """A result with all of its files."""
    structures = (Structure(17, "Left-Hippocampus", 9, 0.3, 0.0003, 0.1, 0.9, (2.0, 6.0)),)
    one = Segmented(case, folder / f"{case}_desc-sst_dseg.nii.gz", structures, 1200.0, judgement)
    save_png(np.zeros((4, 4, 3), np.uint8), one.overlay)
    one.view.write_text("show({});", encoding="utf-8")
    return one


def test_the_worst_come_first(tmp_path: Path) -> None:
    """Red before yellow before green, and of one light the lower predicted Dice, one that is not known before all."""
    given = [
        ("a", "green", 0.9),
        ("b", "yellow", 0.8),
        ("c", "red", 0.5),
        ("d", "red", 0.2),
        ("e", "red", float("nan")),
    ]
    write_page(tmp_path, [result(tmp_path, case, Judgement(dice, light, ())) for case, light, dice in given], PAPER)
    page = (tmp_path / "segmentations.html").read_text(encoding="utf-8")
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["e", "d", "c", "b", "a"]
    assert "not known" in page and 'class="unusual"' in page


def test_a_name_is_text_and_its_files_are_found(tmp_path: Path) -> None:
    """Whatever a scan is called: no markup of its own, and links that lead to its files."""
    case = "<b>x 100% #1 ü"
    one = result(tmp_path, case, Judgement(0.5, "red", ("<script>alert(1)</script>",)))
    write_page(tmp_path, [one], PAPER, ["a & b"])
    page = (tmp_path / "segmentations.html").read_text(encoding="utf-8")
    assert "<b>x" not in page and "<script>alert" not in page and "a &amp; b" in page
    sources = re.findall(r'<img src="([^"]+)"', page)
    assert [(tmp_path / unquote(source)).is_file() for source in sources] == [True]


def test_the_viewer_is_the_one_that_was_looked_at() -> None:
    """NiiVue as npm has it; its licence is beside it."""
    static = Path(__file__).resolve().parents[2] / "client" / "static"
    digest = hashlib.sha256((static / "niivue.umd.js").read_bytes()).hexdigest()
    assert digest == "47b896b77ec4a5be3ef1949c33ad393b6f45629921f326c279000bcf51bdb4af"
    assert "BSD 2-Clause License" in (static / "README.md").read_text(encoding="utf-8")


def test_the_viewer_gets_scan_and_labels_where_they_lie() -> None:
    """Cropped to the brain with a margin, each voxel at its own place in mm; the same bytes each time."""
    affine, shape = affine_for("PSR", (2.0, 3.0, 4.0), 0.2)
    image, ids = sample(affine, shape)
    labels = np.vectorize(lambda id_: PAPER.index_of.get(int(id_), 0))(ids).astype(np.uint8)
    script = view_of(image, labels, affine)
    assert script == view_of(image, labels, affine)
    content = json.loads(script.removeprefix("show(").removesuffix(");\n"))
    scan, seen = (
        nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(content[name]))) for name in ("scan", "labels")
    )
    assert scan.shape == seen.shape != shape and scan.get_data_dtype() == np.uint8
    np.testing.assert_allclose(scan.affine, seen.affine)
    for id_ in (LEFT, RIGHT):
        ours = np.argwhere(np.asarray(seen.dataobj) == PAPER.index_of[id_])
        theirs = np.argwhere(labels == PAPER.index_of[id_])
        assert len(ours) == len(theirs)
        places = [
            at.mean(axis=0) @ place[:3, :3].T + place[:3, 3] for at, place in ((ours, seen.affine), (theirs, affine))
        ]
        np.testing.assert_allclose(*places, atol=1e-3)
    values = np.asarray(scan.dataobj)
    assert values.max() == 255 and values[0, 0, 0] == 0


def test_sides_are_written_on_pictures_where_they_are() -> None:
    """The marked half is the left one on the left of coronal and axial planes; a picture without room is left alone."""
    black = np.zeros((160, 200, 3), np.uint8)
    for axis in range(3):
        lit = np.flatnonzero(marked(black, axis).any(axis=(0, 2)))
        assert lit.min() < 10 and lit.max() > 190 and not ((lit > 40) & (lit < 160)).any()
    small = np.zeros((40, 40, 3), np.uint8)
    assert marked(small, 1) is small
    affine, shape = affine_for("RAS", (3.0, 3.0, 3.0))
    image, ids = sample(affine, shape)
    labels = np.zeros(shape, np.uint8)
    labels[ids == LEFT] = PAPER.index_of[LEFT]
    labels[ids == RIGHT] = PAPER.index_of[RIGHT]
    picture = overlay(image, labels, affine).astype(int)
    third = picture.shape[1] - round(120 / 0.6)  # axial: the last of the row, where the left body has its colour
    color = next(s.color for s in PAPER.structures if s.id == LEFT)
    purple = np.abs(picture[picture.shape[0] // 2 :, third:] - np.array(color) * 0.6 - 40).sum(axis=2)
    assert purple.min(axis=0).argmin() < purple.shape[1] / 2


@pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver")
def test_a_browser_shows_the_page_and_scrolls_through_a_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a disk, at the width of a desktop and of a phone: nothing sticks out, and the console says nothing."""
    monkeypatch.setattr(Model, "segmenter", remember)
    model = make_model(tmp_path / "model")
    write_scan(tmp_path / "in put" / "sub-01_T1w.nii.gz")
    out = tmp_path / "out put"
    segment_all(scans_at([tmp_path / "in put"]), model, out, QUICK, CPU)
    with browser(tmp_path) as window:
        for width, dark in ((1280, False), (390, True)):
            window.look(width, dark)
            window.open((out / "segmentations.html").as_uri())
            assert window.run("return document.documentElement.scrollWidth") <= width
            assert window.run("return [...document.images].every((one) => one.complete && one.naturalWidth > 50)")
            window.run("document.querySelector('button[data-view]').click()")
            window.wait("return document.getElementById('viewer').dataset.ready === 'sub-01_T1w'")
            assert window.run("return viewer.volumes.length") == 2
            assert window.run("return viewer.volumes[1].colormapLabel.labels[17]")
            assert window.run("return viewer.opts.isRadiologicalConvention") is False
        assert not [line for line in window.said() if line.startswith("SEVERE")]


@pytest.mark.skipif(shutil.which("bids-validator-deno") is None, reason="needs bids-validator-deno (make validate)")
def test_a_folder_of_results_is_valid_bids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scans with BIDS's names, in a BIDS folder or not."""
    monkeypatch.setattr(Model, "segmenter", remember)
    write_scan(tmp_path / "in" / "sub-01" / "ses-2" / "anat" / "sub-01_ses-2_run-1_T1w.nii.gz")
    write_scan(tmp_path / "in" / "sub-02_T1w.nii.gz")
    segment_all(scans_at([tmp_path / "in"]), make_model(tmp_path / "model"), tmp_path / "out", QUICK, CPU)
    done = subprocess.run(["bids-validator-deno", tmp_path / "out", "--json"], capture_output=True, check=False)
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert not [one for one in issues if one["severity"] == "error"]
