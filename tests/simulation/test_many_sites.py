"""Three sites in one federation, one of them without a label, and a fourth that comes later."""

import shutil
from pathlib import Path

import pytest
import torch

from client.model import open_model
from configs.errors import DataError, RunError
from server.atlas import read_atlas
from simulation import arms as methods
from simulation.measured import Results
from simulation.progress import Silent
from simulation.results import read
from simulation.scanner import CANDI, OASIS
from simulation.simulate import Options, simulate
from simulation.sites import write_site

QUICK = (
    *(f"phases.{phase}.rounds=0" for phase in ("register", "style", "joint", "flow_codes", "adapt")),
    "phases.statistics.rounds=1",
    "phases.segment.rounds=1",
    "phases.segment.steps=2",
)
ARMS = ("affine", "U-Net w/o adaptation", "U-Net w/ adaptation", "U-Net common", "U-Net in-site", "supervised")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, Path], ...]:
    """Four folders of scans, two of which train at each site; that of "bare" has no label maps."""
    folder = tmp_path_factory.mktemp("sites")
    made = {"candi": (CANDI, 5), "oasis": (OASIS, 5), "bare": (CANDI, 4), "late": (OASIS, 4)}
    for seed, (name, (scanner, people)) in enumerate(made.items()):
        write_site(folder / name, scanner, people, seed, 5.0)
    shutil.rmtree(folder / "bare" / "derivatives")
    return tuple((name, folder / name) for name in made)


def options(sites: tuple[tuple[str, Path], ...], out: Path, atlas: str) -> Options:
    """Ask for a quick run with one atlas."""
    asked = Options("tiny", sites, out, "inprocess", ARMS, None, None, "cpu", bias=False, changes=QUICK)
    return Options(**{**asked.__dict__, "atlases": ((atlas, ""),) if atlas else (), "unseen": ("late",)})


@pytest.fixture(scope="module")
def run(sites: tuple[tuple[str, Path], ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    """A run with the atlas of one."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, simulate(options(sites, out, "candi"), Silent())


def test_each_site_is_tested_by_what_it_gets(run: tuple[Path, Results]) -> None:
    """Who takes part has its own model; who comes later the common one; who has no labels is in no table of Dice."""
    _, results = run
    tested = {arm: {score.target for score in results.scores if score.arm == arm} for arm in ARMS}
    assert tested == {
        "affine": {"candi", "oasis", "late"},
        "U-Net w/o adaptation": {"oasis", "late"},
        "U-Net w/ adaptation": {"oasis"},
        "U-Net common": {"oasis", "late"},
        "U-Net in-site": {"candi"},
        "supervised": {"oasis", "late"},
    }
    assert {(score.arm, score.target, score.against) for score in results.agreements} == {
        (arm, "bare", "F refined") for arm in ("U-Net w/o adaptation", "U-Net w/ adaptation", "U-Net common")
    }


def test_a_site_that_comes_later_is_in_no_federation(run: tuple[Path, Results]) -> None:
    """Nothing of it reached the hub, nor another site, and nothing was asked of it."""
    out, results = run
    assert {item.site for item in results.traffic} == {"candi", "oasis", "bare"}
    assert [path.name for path in (out / "sites" / "late" / "runs").iterdir()] == ["candi-prepared"]
    for path in (out / "federations").rglob("*"):
        assert "late" not in path.name and (not path.is_file() or b'"late"' not in path.read_bytes()), path


def test_every_model_is_tested_at_every_site_that_has_labels(run: tuple[Path, Results]) -> None:
    """The cross-site table: who takes part tests the others' models, too."""
    out, results = run
    found = {(item.style, item.target) for item in results.crossings}
    styles = ("candi", "oasis", "bare")
    assert found == {(style, target) for style in styles for target in ("candi", "oasis")}
    assert read(out).crossings == results.crossings
    assert {point.target for point in results.pairs} == {"oasis"}


def test_several_atlases_of_several_sites(sites: tuple[tuple[str, Path], ...], tmp_path: Path) -> None:
    """Each is no training scan any more, reaches every site, and is in every site's model; a scan too many is refused.

    What is propagated is of both: with the second alone it would be something else.
    """
    two = tuple(pair for pair in sites if pair[0] in ("candi", "oasis"))
    own = {"unseen": (), "arms": ("affine", "F refined", "U-Net w/ adaptation", "control")}
    asked = {
        **options(two, tmp_path / "out", "").__dict__,
        **own,
        "atlases": (("candi", ""), ("oasis", ""), ("candi", "")),
    }
    results = simulate(Options(**asked), Silent())
    assert {(score.arm, score.target) for score in results.scores} == {
        *((arm, site) for arm in ("affine", "F refined", "control") for site in ("candi", "oasis")),
        ("U-Net w/ adaptation", "oasis"),
    }
    out = tmp_path / "out"
    with (out / "splits" / "candi.tsv").open() as file:
        rows = [line.split() for line in file]
    assert [(site, split) for site, _, split in rows].count(("candi", "atlas")) == 2
    model = open_model(next((out / "sites" / "oasis" / "runs").glob("*/model")))
    each = model.atlases(torch.device("cpu"))
    hub = read_atlas(out / "federations" / "candi" / "federated")
    assert len(each) == len(hub.each) == 3
    assert all(torch.equal(ours[0], theirs[0]) for ours, theirs in zip(each, hub.each, strict=True))
    assert all(torch.equal(ours[1].parts, theirs[1].parts) for ours, theirs in zip(each, hub.each, strict=True))
    with pytest.raises(RunError, match="its atlas differs"):
        simulate(Options(**{**asked, "atlases": asked["atlases"][:2]}), Silent())
    many = {**asked, "out": tmp_path / "many", "atlases": (("candi", ""),) * 4}
    with pytest.raises(DataError, match="site 'candi': 4 atlases are wanted, and fewer training scans have labels"):
        simulate(Options(**many), Silent())


def test_methods_of_other_papers_learn_at_the_tested_site(
    sites: tuple[tuple[str, Path], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its figures at the atlas's site and at the other one, without a federation, and learns there once."""
    two = tuple(pair for pair in sites if pair[0] in ("candi", "oasis"))
    arms = tuple(name for name, arm in methods.ARMS.items() if arm.trained_as.learn and not arm.package)
    own = {"unseen": (), "arms": arms, "changes": (*QUICK, "propagation.em_weight=0.7")}
    asked = Options(**{**options(two, tmp_path / "out", "candi").__dict__, **own})
    results = simulate(asked, Silent())
    assert {(score.arm, score.target) for score in results.scores} == {
        (arm, site) for arm in arms for site in ("candi", "oasis")
    }
    assert len(arms) >= 8 and not (tmp_path / "out" / "federations").exists()
    first = {score.arm: score.mean for score in results.scores if score.target == "oasis"}
    assert all(first[arm] != first[f"{arm} refined"] for arm in arms if f"{arm} refined" in arms)
    shutil.rmtree(tmp_path / "out" / "tested")  # as if it had been stopped before the tests
    monkeypatch.setattr("simulation.training.train", None)
    monkeypatch.setattr("simulation.training.train_round", None)
    again = simulate(asked, Silent())
    assert [score.mean for score in again.scores] == [score.mean for score in results.scores]


def test_a_site_without_labels_cannot_have_the_atlas(sites: tuple[tuple[str, Path], ...], tmp_path: Path) -> None:
    """It is said before anything is prepared; without a wish only the others have it in turn."""
    with pytest.raises(DataError, match="no training scan of site 'bare' has a label map"):
        simulate(options(sites, tmp_path / "out", "bare"), Silent())
