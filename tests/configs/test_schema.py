"""Presets: what a user types wrong is named, with the nearest key."""

import json
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.presets import names
from configs.schema import REMOVED, RENAMED, from_dict, from_json, load


@pytest.mark.parametrize("name", names())
def test_every_preset_that_comes_with_the_project_loads(name: str) -> None:
    """Each shipped preset fits the schema and survives the way to a site and back."""
    experiment = load(name)
    assert from_json(experiment.to_json()) == experiment


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": {"shpe": [32, 32, 32]}}, "unknown key 'grid.shpe'; did you mean 'grid.shape'"),
        ({"phases": {"joint": {"stepz": 3}}}, "did you mean 'phases.joint.steps'"),
        ({"sed": 1}, "did you mean 'seed'"),
        ({"style": {"code": "many"}}, "key 'style.code'"),
        ({"style": {"code": 1.5}}, "key 'style.code'"),
        ({"grid": {"shape": [20, 32, 32]}}, "side of 20"),
        ({"grid": {"shape": [16, 32, 32]}}, "side of 16"),
        ({"grid": {"shape": [32, 48, 64]}}, "side of 48; flow_codes, with its widths, needs .* by 32"),
        (
            {"segmenter": {"widths": [2] * 7}},
            "side of 160; segmenter, with its .* by 64",
        ),
        ({"federation": {"quorum": 2.0}}, "key 'federation.quorum'"),
        ({"phases": {"segment": {"rounds": 0}}}, "key 'phases.segment.rounds'"),
        ({"phases": {"statistics": {"rounds": 2}}}, "key 'phases.statistics.rounds'"),
        ({"phases": {"flow_codes": {"rounds": 0}}}, "pairs have no source"),
    ],
)
def test_a_wrong_key_or_value_is_named(values: dict[str, object], message: str) -> None:
    """The error names the key, and the nearest one that exists."""
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        from_dict({"name": "x", **values}, "x.toml")


def test_a_preset_that_does_not_exist_lists_those_that_do() -> None:
    """A misspelt preset is answered with the names to choose from."""
    with pytest.raises(ConfigError, match="tiny"):
        load("tyni")


def test_a_preset_can_be_changed_key_by_key() -> None:
    """Values are TOML's; words need no quotes; a mistake is told as in a file."""
    changes = (
        "propagation.lncc_ascent_iterations=3",
        "segmenter.normalise=minmax",
        "segmenter.widths=[4, 8]",
        "seed=7",
    )
    changed = load("real-cpu", changes)
    assert (changed.propagation.lncc_ascent_iterations, changed.segmenter.normalise, changed.seed) == (3, "minmax", 7)
    assert changed.segmenter.widths == (4, 8)
    assert load("real-cpu", ()) == load("real-cpu")
    for change, said in (
        ("propagation.lncc_ascnt=3", "did you mean 'propagation.lncc_ascent_iterations'"),
        ("propagation.em_weight", "is no change of a preset"),
        ("seed.x=3", "is no table"),
        ("propagation.em_weight=deep", "key 'propagation.em_weight'"),
    ):
        with pytest.raises(ConfigError, match=said):
            load("tiny", ("seed=1", change))


def write(folder: Path, **presets: str) -> None:
    """Write presets by their names."""
    for name, text in presets.items():
        (folder / f"{name}.toml").write_text(text)


def test_a_preset_takes_what_it_does_not_change_from_the_one_that_it_extends(tmp_path: Path) -> None:
    """Table by table, through several files, and from a preset that comes with the project."""
    write(
        tmp_path,
        base='extends = "tiny"\n[style]\nqueue = 5\n[grid]\nspacing = 4.0\n',
        top='extends = "base.toml"\n[style]\ntemperature = 0.2\n',
    )
    found, tiny = load(str(tmp_path / "top.toml")), load("tiny")
    assert (found.style.temperature, found.style.queue, found.style.code) == (0.2, 5, tiny.style.code)
    assert (found.grid.spacing, found.grid.shape) == (4.0, tiny.grid.shape)
    assert found.name == "top" and found.phases == tiny.phases


def test_presets_that_extend_one_another_in_a_circle_are_refused(tmp_path: Path) -> None:
    """So are a preset that extends one that is not there, and one that says so with a number."""
    write(tmp_path, one='extends = "two.toml"', two='extends = "one.toml"', lost='extends = "gone"', odd="extends = 3")
    for name, said in (("one", "in a circle"), ("lost", "no preset 'gone'"), ("odd", "'extends' must be")):
        with pytest.raises(ConfigError, match=said):
            load(str(tmp_path / f"{name}.toml"))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("registration.pulls=4", "propagation.demons_iterations_per_level"),
        ("segmenter.likelihood=0.5", "propagation.em_weight"),
        ("appearance.tissue=3.0", r"propagation.tissue_matching \(mm\)"),
        ("phases.joint.deadline=3.0", "is gone since version 0.2: federation.deadline"),
        ("style.momentum=0.9", "0.99, the paper's"),
    ],
)
def test_a_key_of_an_older_version_is_answered_with_what_it_is_called_now(key: str, said: str) -> None:
    """A preset or a run of version 0.1 says which key to change."""
    with pytest.raises(ConfigError, match=said):
        load("tiny", (key,))


def test_every_new_name_of_an_old_key_exists() -> None:
    """The error never sends anybody to a key that is none."""
    experiment = json.loads(load("tiny").to_json())
    for new in RENAMED.values():
        here = experiment
        for part in new.split()[0].split("."):
            assert part in here, new
            here = here[part]
    assert not set(RENAMED) & set(REMOVED)
