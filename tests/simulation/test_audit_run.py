"""The audit of a whole run, by the command: what left is in it, attacked or with a reason; a second call is quick."""

import json
from pathlib import Path

import pytest

import sst
from client.gate.ledger import NAME
from configs.statistics import count as numbers_of
from configs.structures import PAPER
from simulation.audit.networks import TESTED
from simulation.progress import Silent
from simulation.scanner import SCANNERS
from simulation.simulate import Options, simulate
from simulation.sites import write_site
from sst_models.wire import weights

NUMBERS = numbers_of(PAPER)

PEOPLE = 6  # at each site: one is the atlas or unused, one to validate on, one to test on
CHANGES = (
    *(f"phases.{phase}.rounds=0" for phase in ("style", "joint", "flow_codes")),
    *(f"phases.{phase}.rounds=1" for phase in ("register", "statistics", "segment", "adapt")),
    *(f"phases.{phase}.steps=1" for phase in ("segment", "adapt")),
    *("propagation.mirror=false", "propagation.em_weight=0", "segmenter.test_time_augmentation=none"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One atlas, whose sites share networks and models, and statistics with the noise of epsilon 4."""
    folder = tmp_path_factory.mktemp("audited")
    sites = tuple((name, write_site(folder / name, scanner, PEOPLE, 1, 5.0)) for name, scanner in SCANNERS.items())
    asked = ("tiny", sites, folder / "run", "inprocess", ("U-Net w/ adaptation",), None, None, "cpu")
    simulate(Options(*asked, changes=CHANGES, bias=False, epsilon=4.0, atlases=(("candi", ""),)), Silent())
    return folder / "run"


def test_every_part_that_left_is_attacked_or_has_a_reason(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The ledger's parts are the page's; statistics, T and the segmenter are attacked; epsilon is the ledger's.

    What was measured of people stays in the run's folder: the command again gives the same page byte by byte.
    """
    assert sst.run(["audit", str(run), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert sst.run(["audit", str(run), "--device", "cpu", "--json", "--quiet"]) == 0
    document, wrong = capsys.readouterr()
    assert not wrong
    found = json.loads((run / "audit" / "audit.json").read_text(encoding="utf-8"))["sites"]
    assert json.loads(document)["sites"] == found and Path(json.loads(document)["report"]).is_file()
    assert {site["site"] for site in found} == set(SCANNERS)
    assert "The statistics: " in said and "audit.html" in said
    for site in found:
        name = site["site"]
        ledger = (run / "sites" / name / "gate" / NAME).read_text(encoding="utf-8").splitlines()
        left = {part for line in ledger for part in json.loads(line)["parts"]}
        parts = {part["release"]["part"]: part for part in site["parts"]}
        assert left <= set(parts) and {"statistics", "T", "counts"} <= set(parts)
        attacked = {part for part, one in parts.items() if one["membership"]}
        assert attacked == set(parts) & {"statistics", *TESTED}
        assert all(one["untested"] for part, one in parts.items() if part not in attacked)
        assert site["noise"]["run"] == pytest.approx(4.0, abs=0.05) and site["statistics"][0]["epsilon"] == 4.0
        assert parts["statistics"]["membership"]["people"] == site["people"] > site["trained"]
        assert [one["epsilon"] for one in site["inferred"]] == [one["epsilon"] for one in site["statistics"]]
        assert 0 < site["copies"]["nearest_trained"] < 1
    assert any("segmenter" in {part["release"]["part"] for part in site["parts"]} for site in found)
    kept = sorted((run / "audit").rglob("rows-*.safetensors"))
    assert [path.name for path in kept] == ["rows-candi.safetensors", "rows-oasis.safetensors"]
    assert weights.load(kept[0])["rows"].shape[1] == NUMBERS
    before, page = [path.stat().st_mtime_ns for path in kept], (run / "audit" / "audit.html").read_bytes()
    assert sst.run(["audit", str(run), "--device", "cpu", "--atlas", "candi"]) == 0
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert (run / "audit" / "audit.html").read_bytes() == page


def test_networks_are_attacked_by_shadow_networks_where_that_is_asked_for(run: Path) -> None:
    """T and the segmenter have a second attack, with decisions of each person by each network; what is done is kept."""
    words = ["audit", str(run), "--device", "cpu", "--shadows", "6"]
    assert sst.run(words) == 0
    found = json.loads((run / "audit" / "audit.json").read_text(encoding="utf-8"))["sites"]
    for site in found:
        by_shadows = [one for one in site["parts"] if one["attack"] == "LiRA with 6 shadow networks"]
        left = {one["release"]["part"] for one in site["parts"]}
        assert {one["release"]["part"] for one in by_shadows} == left & set(TESTED)
        for one in by_shadows:
            assert one["membership"]["members"] + one["membership"]["others"] == 6 * site["people"]
    kept = sorted((run / "audit").rglob("shadows-*.safetensors"))
    assert {path.name for path in kept} >= {"shadows-T-candi.safetensors", "shadows-segmenter-oasis.safetensors"}
    losses = weights.load(kept[0])["losses"]
    assert len(losses) == 6 and len({tuple(row.tolist()) for row in losses}) == 6, "each network is another one"
    before = [path.stat().st_mtime_ns for path in kept]
    assert sst.run(words) == 0
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_what_cannot_be_audited_is_said_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No folder, no run, no federation of that source: exit code 2, and what to do."""
    for words, said in (
        ([str(tmp_path / "none")], "there is no folder"),
        ([str(tmp_path)], "give the folder of a run, sst simulate --out RUN"),
        ([str(run), "--atlas", "oasis"], "one of: candi"),
        ([str(run), "--device", "gpu"], "--device: there is no 'gpu'"),
        ([str(run), "--shadows", "5"], "--shadows: an even number, 6 or more"),
    ):
        assert sst.run(["audit", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and said in error and error.count("\n") == 1
