"""The scripts of `benchmarks/` are run by hand and seldom: what they import and name has to follow every renaming."""

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation, accuracy, federation, levels, same_result
from configs.schema import load
from server.state import SEGMENTER, RunState, schedule
from simulation.arms import ARMS
from simulation.cli import parse_arms, parse_levels

FOLDER = Path(__file__).parents[1] / "benchmarks"
OURS = ("configs", "sst_models", "client", "server", "simulation")


@pytest.mark.parametrize("script", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_script_finds_what_it_imports(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script can be imported, and of this project's packages all that it imports later, in functions, is there."""
    monkeypatch.syspath_prepend(str(FOLDER))  # as `python benchmarks/SCRIPT.py` has it
    import_module(script)
    assert not [name for name in _imported(FOLDER / f"{script}.py") if not _is_there(*name)]


def _imported(script: Path) -> Iterator[tuple[str, str]]:
    """Give (module, name) of what a script imports of ours, wherever in it; the name is "" for the module itself."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in OURS:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] in OURS)


def _is_there(module: str, name: str) -> bool:
    try:
        return not name or hasattr(import_module(module), name) or find_spec(f"{module}.{name}") is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("row", ablation.ROWS, ids=lambda row: row.name)
def test_a_row_of_the_ablation_changes_the_preset(row: ablation.Row) -> None:
    """Its settings are today's, it turns something off that `real-cpu` has on, and its arms exist."""
    assert (load("real-cpu", row.changes) != load("real-cpu")) == bool(row.changes)
    assert all(load("real-cpu", (change,)) != load("real-cpu") for change in row.changes)
    assert set(row.arms) <= set(ARMS)


def test_other_scripts_name_settings_and_arms_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they change of a preset loads, and what they test is an arm."""
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu = import_module("gpu")
    load("real-cpu", federation.TOY)
    load("tiny", same_result.SWITCHED_ON["0.2"])
    assert {accuracy.IN_SITE, accuracy.CONTROL, accuracy.FULL, *parse_arms(accuracy.ARMS)} <= set(ARMS)
    assert {arm for arms in gpu.PARTS.values() for arm in arms} <= {*ARMS, *gpu.REFINED}


@pytest.mark.parametrize("phase", ["segment", "adapt"])
@pytest.mark.parametrize("rounds", [0, 2])
def test_a_finished_run_is_cut_back_to_what_it_was(phase: str, rounds: int) -> None:
    """The state is that which the run had when it came to the phase; one site left its own rounds out."""
    experiment = load("tiny", (f"phases.adapt.rounds={rounds}",))
    states = [RunState()]
    for number, (each, _) in enumerate(schedule(experiment)):
        sites = {"segment": ("one", "other"), "adapt": ("one",)}.get(each.name, ())
        parts = [f"{SEGMENTER}.{site}" for site in sites] or list(each.learns)
        states.append(states[-1].with_parts({part: {"weight": np.array([number])} for part in parts}))
    phases = [each.name for each, _ in schedule(experiment)]
    wanted = states[phases.index(phase)] if phase in phases else states[-1]
    assert ablation.cut_back(states[-1], experiment, phase) == wanted


def test_a_row_of_levels_leaves_the_other_site_as_it_is() -> None:
    """Its options are those of `sst simulate`, and of twelve scans the ones that are left out are in no other split."""
    for row in levels.ROWS:
        given = levels.words(row, "oasis", "ixi")
        options = {word: given[place + 1] for place, word in enumerate(given) if word.startswith("--")}
        assert options["--atlas"] == "oasis" and options["--arms"] in ARMS
        shared = parse_levels([options[word] for word in ("--level",) if word in options], ["oasis", "ixi"])
        assert shared.get("oasis", "models") == ("nothing" if row == levels.NOBODY else "models")
    splits = {f"sub-{number:02}": "train" for number in range(12)} | {"sub-90": "val", "sub-91": "test"}
    kept = levels.drawn(splits, 2, 1)
    assert sorted(kept.values()) == ["test", "train", "train", *["unused"] * 10, "val"]
    assert levels.drawn(splits, 20, 1) == splits
