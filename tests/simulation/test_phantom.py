"""The phantom: all structures, in human sizes and places, other for each seed, older with age."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.structures import PAPER
from simulation.phantom import Anatomy, draw_anatomy

# ml, both sides together: literature means of healthy people of all ages, widened to the range of persons.
RANGES = {
    "Cerebral-WM": (330, 640), "Cerebral-CX": (380, 780), "Lateral-Vent": (5, 100), "Cerebellum-WM": (22, 75),
    "Cerebellum-CX": (80, 190), "Thalamus-Proper": (8, 20), "Caudate": (4, 11), "Putamen": (5, 13),
    "Pallidum": (1.6, 5), "3rd-Vent": (0.4, 4), "4th-Vent": (0.9, 3.5), "Brain-Stem": (13, 30),
    "Hippocampus": (4, 10), "Amygdala": (1.6, 5), "CSF": (0.5, 3), "VentralDC": (4, 11),
}  # fmt: skip


@pytest.fixture(scope="module")
def young() -> Anatomy:
    """A young adult at nominal spacing."""
    return draw_anatomy(1, 25.0)


@pytest.mark.parametrize(("seed", "age"), [(1, 25.0), (2, 6.0), (3, 80.0)])
def test_volumes_are_human(seed: int, age: float) -> None:
    """Each of the 16 groups lies within the range of healthy people, in a child, an adult and an old person."""
    volumes = draw_anatomy(seed, age, spacing=2.0).volumes()
    for group, (low, high) in RANGES.items():
        total = sum(volumes[PAPER.structures[index - 1].name] for index in PAPER.members[group])
        assert low < total < high, f"{group}: {total:.1f} ml"


def test_all_structures_and_nothing_at_the_border(young: Anatomy) -> None:
    """All 28 structures are there, and the field of view holds the whole brain."""
    assert set(np.unique(young.labels)) == set(range(29))
    border = [np.take(young.labels, [0, -1], axis) for axis in range(3)]
    assert not any(face.any() for face in border)


def test_left_is_left(young: Anatomy) -> None:
    """In RAS the left member of each pair lies at smaller x than the right, and their sizes differ a little."""
    x = np.arange(young.labels.shape[0])
    for left in (s for s in PAPER.structures if s.name.startswith("Left-")):
        right = next(s for s in PAPER.structures if s.name == left.name.replace("Left-", "Right-"))
        count = [(young.labels == s.index).sum(axis=(1, 2)) for s in (left, right)]
        assert (x @ count[0]) / count[0].sum() < (x @ count[1]) / count[1].sum()
        assert count[0].sum() != count[1].sum()


def test_same_seed_same_bytes_and_other_seed_other_person() -> None:
    """A seed is a person; at equal age another seed gives another brain."""
    one, again, other = (draw_anatomy(seed, 30.0, spacing=4.0) for seed in (5, 5, 6))
    assert one.labels.tobytes() == again.labels.tobytes() and one.fluid.tobytes() == again.fluid.tobytes()
    assert (one.labels != other.labels).mean() > 0.05


def test_age_widens_ventricles_and_thins_cortex() -> None:
    """The same person at 85 has at least twice the ventricle of 20 and less cortex."""
    young, old = (draw_anatomy(4, age, spacing=2.5).volumes() for age in (20.0, 85.0))
    assert old["Left-Lateral-Vent"] > 2 * young["Left-Lateral-Vent"]
    assert old["Left-Cerebral-CX"] < 0.92 * young["Left-Cerebral-CX"]


def test_cortex_is_a_folded_ribbon(young: Anatomy) -> None:
    """Cortex is thin (most of it within 2 voxels of its edge) and its sulci hold fluid."""
    cortex = np.isin(young.labels, PAPER.members["Cerebral-CX"])
    core = cortex.copy()
    for axis in range(3):
        core &= np.roll(cortex, 2, axis) & np.roll(cortex, -2, axis)
    assert core.sum() < 0.15 * cortex.sum()
    assert 20 < young.fluid.sum() * young.spacing**3 / 1000 < 300


@settings(max_examples=4, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31 - 1), age=st.floats(4, 96))
def test_everyone_is_whole(seed: int, age: float) -> None:
    """Whatever the seed and the age, every structure is there and fluid is a share."""
    anatomy = draw_anatomy(seed, age, spacing=3.0)
    assert len(np.unique(anatomy.labels)) == 29
    assert anatomy.fluid.min() >= 0 and anatomy.fluid.max() <= 1


def test_bad_arguments_are_refused() -> None:
    """A spacing or an age that no head has is an error that says so."""
    with pytest.raises(ValueError, match="spacing=0"):
        draw_anatomy(1, 30.0, spacing=0)
