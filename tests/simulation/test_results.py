"""Results: what they say of themselves, and their way to the disk and back."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest

from client.pictures import coronal
from configs.errors import RunError
from configs.structures import PAPER
from simulation.gains import gains
from simulation.panels import Panel, load_panels, save_panels
from simulation.reference import TABLE_1, paper_rows, rows_for
from simulation.results import ArmScore, Results, ScanScore, from_json, read, to_json, write
from simulation.table import table_text
from sst_models.wire.files import replace_file
from synthetic_run import arm_score, run_panels, run_results

NAN = float("nan")


def test_the_mean_of_a_scan_leaves_out_what_is_not_there() -> None:
    """A structure that neither the truth nor the prediction has does not count as zero."""
    assert ScanScore.of("a", {"Caudate": 80.0, "Putamen": 60.0, "CSF": NAN}).mean == 70.0


def test_mean_std_and_groups_of_an_arm() -> None:
    """Two scans of 60 and 70: mean 65, sample deviation sqrt(50), groups in the paper's order."""
    scans = (ScanScore.of("a", {"CSF": 50.0, "Caudate": 70.0}), ScanScore.of("b", {"CSF": NAN, "Caudate": 70.0}))
    score = ArmScore("F", "x", "y", scans)
    assert score.mean == 65.0
    assert score.std == pytest.approx(math.sqrt(50))
    assert list(score.groups.items()) == [("Caudate", 70.0), ("CSF", 50.0)]


def test_one_scan_has_no_spread_and_none_no_mean() -> None:
    """The deviation of one scan is 0; an arm without scans is NaN, not an error."""
    assert ArmScore("F", "x", "y", (ScanScore.of("a", {"CSF": 50.0}),)).std == 0.0
    empty = ArmScore("F", "x", "y", ())
    assert math.isnan(empty.mean) and math.isnan(empty.std) and empty.groups == {}


def test_json_round_trip_keeps_everything() -> None:
    """What is read back writes the same bytes, with NaN as null on the way."""
    text = to_json(run_results())
    assert to_json(from_json(text)) == text
    assert "NaN" not in text and "null" in text
    assert math.isnan(from_json(text).scores[0].scans[2].dice["Amygdala"])


def test_write_leaves_five_files_that_agree(tmp_path: Path) -> None:
    """results.json reads back; dice.csv has a row per arm, scan and group; nothing half-written remains."""
    results = run_results()
    write(results, tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "results.json",
        "dice.csv",
        "table.csv",
        "losses.csv",
        "traffic.csv",
        "pairs.csv",
        "cross-site.csv",
        "timings.csv",
    }
    assert to_json(read(tmp_path / "run")) == to_json(results)
    rows = list(csv.DictReader((tmp_path / "run" / "dice.csv").read_text().splitlines()))
    assert len(rows) == len(results.scores) * 5 * len(PAPER.groups)
    missing = [row for row in rows if row["group"] == "Amygdala" and row["scan"] == "sub-02"]
    assert missing and all(row["dice"] == "" for row in missing)


def test_writing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    """Same results, same files."""
    for name in ("a", "b"):
        write(run_results(), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_an_empty_run_is_written_and_read(tmp_path: Path) -> None:
    """A run stopped before its first score still has readable results."""
    write(Results(run={"preset": "tiny"}), tmp_path)
    assert read(tmp_path) == Results(run={"preset": "tiny"})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 99}'])
def test_a_damaged_file_is_an_error_of_one_line(tmp_path: Path, text: str) -> None:
    """Whatever is wrong with results.json, the user reads what to do."""
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(RunError) as error:
        read(tmp_path)
    assert "results.json" in str(error.value) and "\n" not in str(error.value)


def test_no_results_is_an_error(tmp_path: Path) -> None:
    """An empty folder is named in the message."""
    with pytest.raises(RunError, match=str(tmp_path)):
        read(tmp_path)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """If the new content cannot be written, the old one stays."""
    path = tmp_path / "file.txt"
    replace_file(path, "old")
    with pytest.raises(UnicodeEncodeError):
        replace_file(path, "\ud800")
    assert path.read_text() == "old"


def test_directions_go_between_sites_first() -> None:
    """In-site directions come last."""
    assert run_results().directions == (("ixi", "oasis"), ("oasis", "ixi"), ("ixi", "ixi"), ("oasis", "oasis"))


def test_gains_compare_the_same_scans() -> None:
    """A scan that only one of the two segmenters was tested on does not enter the gain."""
    a, b, c = (ScanScore(name, {}, value) for name, value in (("a", 50.0), ("b", 60.0), ("c", 99.0)))
    higher = (ScanScore("a", {}, 58.0), ScanScore("b", {}, 59.0))
    results = Results(
        run={},
        scores=(
            ArmScore("U-Net w/o adaptation", "x", "y", (a, b, c)),
            ArmScore("U-Net w/ adaptation", "x", "y", higher),
            ArmScore("U-Net w/ adaptation", "y", "x", higher),
        ),
    )
    (gain,) = gains(results)
    assert (gain.source, gain.target, gain.scans, gain.better) == ("x", "y", 2, 1)
    assert gain.points == pytest.approx(3.5)


@pytest.mark.parametrize(("scans", "told"), [(6, "p = 0.031"), (16, "p < 0.001")])
def test_a_gain_on_every_scan_is_significant(scans: int, told: str) -> None:
    """Wilcoxon's exact test: of six, 2 of the 64 patterns of signs are as extreme; no p is shown as 0."""
    before = tuple(ScanScore(str(n), {}, 50.0) for n in range(scans))
    after = tuple(ScanScore(str(n), {}, 51.0 + n) for n in range(scans))
    arms = (ArmScore("U-Net w/o adaptation", "x", "y", before), ArmScore("U-Net w/ adaptation", "x", "y", after))
    results = Results(run={}, scores=arms)
    (gain,) = gains(results)
    assert gain.p == pytest.approx(2 / 2**scans)
    assert told in table_text(results)


def test_the_papers_rows_are_whole() -> None:
    """17 rows of 16 groups, whose mean is the printed one but for two rows that the paper prints otherwise."""
    assert len(TABLE_1) == 17
    off = {(r.target, r.method) for r in TABLE_1 if abs(sum(r.groups.values()) / 16 - r.mean) > 0.15}
    assert off == {("CANDI", "supervised"), ("OASIS", "Bayesian")}
    assert [r.mean for r in paper_rows("U-Net w/ adaptation")] == [74.0, 49.1]


def test_rows_for_a_direction() -> None:
    """A tested site of the paper's name selects its rows; any other gets all rows of the same kind."""
    assert {(r.source, r.target) for r in rows_for("candi", "oasis")} == {("CANDI", "OASIS")}
    assert {r.mean for r in rows_for("ixi", "oasis")} == {31.1, 49.1}
    assert {r.mean for r in rows_for("oasis", "ixi")} == {64.4, 74.0, 31.1, 49.1}
    assert all(r.source == r.target for r in rows_for("ixi", "ixi"))


def test_panels_round_trip(tmp_path: Path) -> None:
    """Pictures come back in their order, with and without labels, and the same bytes each time."""
    panels = run_panels()
    save_panels(panels, tmp_path / "a.safetensors")
    save_panels(panels, tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    again = load_panels(tmp_path / "a.safetensors")
    assert len(again) == len(panels)
    for old, new in zip(panels, again, strict=True):
        assert (old.direction, old.figure, old.row, old.column) == (new.direction, new.figure, new.row, new.column)
        np.testing.assert_array_equal(old.image, new.image)
        assert (old.labels is None) == (new.labels is None)
        if old.labels is not None:
            np.testing.assert_array_equal(old.labels, new.labels)


def test_no_panels_and_damaged_panels(tmp_path: Path) -> None:
    """None at all is a file too; a damaged one is an error of one line."""
    path = tmp_path / "pictures.safetensors"
    save_panels([], path)
    assert load_panels(path) == ()
    path.write_text(json.dumps({}))
    with pytest.raises(RunError, match="pictures"):
        load_panels(path)


def test_a_coronal_slice_has_the_head_up() -> None:
    """Superior is the first row and the patient's left the first column."""
    volume = np.zeros((4, 6, 8), np.float32)
    volume[0, 3, 7] = 1.0  # left, middle, top
    picture = coronal(volume)
    assert picture.shape == (8, 4)
    assert picture[0, 0] == 1.0
    assert Panel("a", "5", "b", "c", picture).labels is None


def test_arm_score_of_the_synthetic_run_is_reproducible() -> None:
    """The same generator seed gives the same scores."""
    one, two = (arm_score(np.random.default_rng(3), "F", ("x", "y"), 70.0) for _ in range(2))
    assert one.mean == two.mean
