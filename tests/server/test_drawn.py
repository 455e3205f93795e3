"""Pictures of generated pairs that the hub keeps while it trains segmenters."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from configs.schema import load
from server import drawn
from sst_models.phases.generate import GeneratedPair, Recipe

TINY = load("tiny")


class Pairs:
    """Makes pairs of one brightness and one structure, by the number of the recipe, and keeps the recipes."""

    def __init__(self) -> None:
        """Begin."""
        self.recipes: list[Recipe] = []

    def pair(self, recipe: Recipe) -> GeneratedPair:
        """Make one: (1, 6, 4, 8) of so many tenths, with one voxel of structure 1 at the left, top."""
        self.recipes.append(recipe)
        labels = torch.zeros(6, 4, 8, dtype=torch.int64)
        labels[0, :, 7] = 1
        return GeneratedPair(torch.full((1, 6, 4, 8), recipe.flow / 10), labels, recipe)


def test_each_style_has_the_picture_of_its_last_round(tmp_path: Path) -> None:
    """Images above, with their labels in colour below; those of a later round take the place of the earlier ones."""
    pairs = Pairs()
    for style, number in (("south", 1), ("../north", 1), ("south", 2)):
        drawn.draw(tmp_path, pairs, TINY, style, number)
    found = drawn.drawn(tmp_path)
    assert [(one.style, one.round) for one in found] == [("../north", 1), ("south", 2)]
    assert {path.name for path in (tmp_path / drawn.FOLDER).iterdir()} == {drawn.NAME, *(one.file for one in found)}
    picture = Image.open(tmp_path / drawn.FOLDER / found[1].file)
    assert picture.size == (2 * 6, 2 * 8)
    assert [picture.getpixel((x, 0)) for x in (1, 7)] == [(51, 51, 51), (76, 76, 76)]  # pairs 2 and 3
    assert picture.getpixel((0, 0)) == (51, 51, 51) != picture.getpixel((0, 8))


def test_what_is_drawn_is_what_training_may_draw(tmp_path: Path) -> None:
    """Recipes of the preset's seed and number of pairs, and of its cached styles."""
    cached = replace(TINY, generation=replace(TINY.generation, cached_styles=2))
    first, last = [(0, 0), (1, 1)], [(0, 4), (1, 5)]
    for number, experiment, expected in ((1, TINY, first), (4, TINY, first), (3, cached, last)):
        pairs = Pairs()
        drawn.draw(tmp_path, pairs, experiment, "south", number)
        assert [(one.style, one.flow) for one in pairs.recipes] == expected
        assert {(one.seed, one.source) for one in pairs.recipes} == {(TINY.seed, "south")}


def test_a_full_disk_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture that cannot be written is left out."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(drawn, "replace_file", full)
    drawn.draw(tmp_path, Pairs(), TINY, "south", 1)
    assert drawn.drawn(tmp_path) == []
