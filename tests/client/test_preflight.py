"""Versions that differ between hub and site: one clear line each, before anything runs."""

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest

from client.home import Home
from client.launch import start
from client.preflight import versions
from configs.errors import DataError, RunError

HERE = {
    "python": platform.python_version(),
    "flwr": version("flwr"),
    "torch": version("torch").split("+")[0],
    "sst-federation": version("sst-federation"),
}


@pytest.fixture
def site(tmp_path: Path) -> Home:
    """A folder with a kit of this version and nothing else."""
    say(Home(tmp_path), {})
    return Home(tmp_path)


def say(site: Home, others: dict[str, str]) -> None:
    """Let the kit say that the hub has these versions, else the same ones."""
    (site.folder / "kit.json").write_text(json.dumps({"versions": HERE | others}))


def test_the_same_versions_are_fine(site: Home) -> None:
    """As are others that differ in their last number."""
    assert {line.name for line in versions(site) if line.fine} == {f"version of {name}" for name in HERE}
    say(site, {name: f"{number.rpartition('.')[0]}.999" for name, number in HERE.items()})
    assert all(line.fine for line in versions(site))


@pytest.mark.parametrize("name", HERE)
def test_another_version_is_one_red_line(name: str, site: Home) -> None:
    """It says which both have, and what to do."""
    say(site, {name: "9.9.9"})
    (wrong,) = [line for line in versions(site) if not line.fine]
    assert (wrong.name, wrong.found) == (f"version of {name}", f"{HERE[name]}, the hub has 9.9.9")
    assert wrong.do == f"install {name} 9.9.9 here"


@pytest.mark.parametrize("kit", [{}, {"versions": None}, {"versions": []}, {"versions": {"flwr": "1.42.0"}}])
def test_a_kit_without_versions_is_not_passed_over(kit: dict[str, object], site: Home) -> None:
    """Nothing to compare with is not the same as nothing wrong."""
    (site.folder / "kit.json").write_text(json.dumps(kit))
    (wrong,) = versions(site)
    assert not wrong.fine and wrong.found == "the kit does not say which the hub has"


@pytest.mark.parametrize("text", ["", "{", "1", "[1]", "[" * 100_000])
def test_a_damaged_kit_is_one_line(text: str, site: Home) -> None:
    """With what to do."""
    (site.folder / "kit.json").write_text(text)
    with pytest.raises(DataError, match="kit.json cannot be read; put the kit back"):
        list(versions(site))


@pytest.mark.parametrize("name", ["flwr", "sst-federation"])
def test_a_site_does_not_start_with_a_version_that_the_hub_does_not_understand(name: str, site: Home) -> None:
    """Flower takes any: the run would fail later, or not be the same."""
    say(site, {name: "9.9.9"})
    with pytest.raises(RunError, match=f"version of {name}: {HERE[name]}, the hub has 9.9.9; install {name} 9.9.9"):
        start(site, print)


def test_a_site_says_that_python_or_torch_differ(site: Home) -> None:
    """And goes on, here to the next thing that is missing."""
    said: list[str] = []
    say(site, {"torch": "9.9.9", "python": "9.9.9"})
    with pytest.raises(RunError, match="no app is approved"):
        start(site, said.append)
    assert [line.split(":")[0] for line in said] == ["version of python", "version of torch"]
