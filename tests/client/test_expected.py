"""What sizes of structures a model's card calls usual."""

import math

import pytest
import torch

from client.expected import WIDTH, Expected, expect, shares
from configs.errors import DataError
from configs.structures import PAPER
from sst_models.volume.labels import AtlasLabels

LEFT, RIGHT, STEM = (PAPER.index_of[id_] for id_ in (17, 53, 16))  # both hippocampi, and the brain stem
NAMES = {structure.index: structure.name for structure in PAPER.structures}


def labels(left: int, right: int = 400, stem: int = 1000) -> torch.Tensor:
    """Three structures of so many voxels in a brain of 24 x 24 x 24."""
    found = torch.zeros(24 * 24 * 24, dtype=torch.int64)
    found[:left] = LEFT
    found[4000 : 4000 + right] = RIGHT
    found[8000 : 8000 + stem] = STEM
    return found.reshape(24, 24, 24)


BRAIN = torch.ones(24, 24, 24, dtype=torch.bool)
ATLAS = AtlasLabels(labels(400))


def usual(*people: torch.Tensor) -> Expected:
    """What is usual with these training scans beside the atlas."""
    return expect(ATLAS, 2.4, BRAIN, [shares(one, BRAIN, PAPER) for one in people])


def test_the_atlas_alone_allows_for_how_people_differ() -> None:
    """Half or twice the atlas's hippocampus is no surprise, a tenth of it is."""
    found = usual()
    low, high = found.fractions[NAMES[LEFT]]
    whole = int(BRAIN.sum())
    assert low < 200 / whole and high > 800 / whole
    assert found.apart(NAMES[LEFT], 400 / whole) < 0.1
    assert found.apart(NAMES[LEFT], 40 / whole) > 1
    assert found.people == 0


def test_people_of_the_site_move_and_narrow_the_range() -> None:
    """Where all have twice the atlas's size, that is usual, and the more of them the surer it is."""
    few, many = usual(*[labels(800, 800)] * 2), usual(*[labels(800, 800)] * 12)
    name, whole = NAMES[LEFT], int(BRAIN.sum())
    assert many.apart(name, 800 / whole) < few.apart(name, 800 / whole) < 1
    assert math.log(many.fractions[name][1] / many.fractions[name][0]) < math.log(
        few.fractions[name][1] / few.fractions[name][0]
    )
    assert few.people == 2 and many.people == 12


def test_people_who_differ_widen_it() -> None:
    """Ventricles of old and young people: what one site has is usual there, not at the other."""
    alike, unlike = usual(*[labels(400)] * 8), usual(*(labels(size) for size in (100, 200, 400, 800, 1600) * 2))
    name, whole = NAMES[LEFT], int(BRAIN.sum())
    assert alike.apart(name, 2400 / whole) > 1 > unlike.apart(name, 2400 / whole)


def test_sides_are_alike_as_a_rule() -> None:
    """A hippocampus that is a fifth of the other is told, by the sides' difference, also where both sizes are usual."""
    found = usual(*[labels(400)] * 8)
    assert found.lopsided(NAMES[LEFT], 2 * (400 - 80) / 480) > 1 > found.lopsided(NAMES[LEFT], 0.1)
    assert found.lopsided(NAMES[STEM], math.nan) == 0 and NAMES[STEM] not in found.asymmetries
    low, high = found.asymmetries[NAMES[LEFT]]
    assert low == -high


def test_what_somebody_lacks_may_be_lacking() -> None:
    """A structure that neither atlas nor anybody has is no surprise when it is not found, and one when it is large."""
    found = usual(labels(400))
    amygdala = "Left-Amygdala"
    assert found.fractions[amygdala][0] == 0
    assert found.apart(amygdala, 0.0) == 0
    assert found.apart(amygdala, 0.05) > 1


def test_a_range_has_so_many_standard_deviations() -> None:
    """Of many people whose sizes are normal on a logarithmic scale, the range is WIDTH standard deviations each way."""
    draw = torch.randn(400, generator=torch.Generator().manual_seed(1))
    people = [shares(labels(round(400 * math.exp(0.3 * float(z)))), BRAIN, PAPER) for z in draw]
    low, high = expect(ATLAS, 2.4, BRAIN, people).fractions[NAMES[LEFT]]
    assert math.log(high / low) / 2 == pytest.approx(WIDTH * 0.3, rel=0.08)


def test_it_comes_back_from_a_card() -> None:
    """As it went in; a card of other structures, or a damaged one, is refused."""
    found = usual(labels(500))
    assert Expected.of({"expected": found.card}, PAPER) == found
    for damaged in ({"expected": {}}, {"expected": {**found.card, "fraction": {"Liver": [0, 1]}}}, {"expected": [1]}):
        with pytest.raises(DataError, match="copy the model again"):
            Expected.of(damaged, PAPER)
