"""Presets: what a user types wrong is named, with the nearest key."""

import pytest

from configs.errors import ConfigError
from configs.schema import from_dict, from_json, load, names


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
