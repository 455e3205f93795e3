"""Generated pairs: reproducible from their recipe, labels that fit the image."""

import torch

from configs.schema import load
from material import blob
from sst_models.networks.build import build
from sst_models.phases.generate import Generator, PriorStyles, Recipe
from sst_models.volume.labels import AtlasLabels

TINY = load("tiny")
LATENT = (4, 2, 3, 2)


def generator(keep: int = 0) -> Generator:
    """Make a generator with first weights."""
    image = blob(1)
    labels = (image[0] > 0.5).long() * 7
    nets = {"A": build("A", TINY), "decoder": build("decoder", TINY)}
    return Generator(image, AtlasLabels(labels), nets, LATENT, PriorStyles(8), keep)


def test_a_pair_is_made_again_from_its_recipe() -> None:
    """The same recipe gives the same bytes from another generator, whatever was made in between."""
    recipe = Recipe(3, 5, 7, "site")
    first = generator().pair(recipe)
    other = generator()
    other.pair(Recipe(3, 1, 1, "site"))
    again = other.pair(recipe)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.labels, again.labels)
    assert again.recipe == recipe


def test_styles_that_are_kept_give_the_same_pairs() -> None:
    """Keeping two restyled atlases changes no pair, also when a third pushes one out."""
    keeping, plain = generator(keep=2), generator()
    for style in (1, 2, 1, 3, 2, 1):
        recipe = Recipe(1, style, 4, "a")
        assert torch.equal(keeping.pair(recipe).image, plain.pair(recipe).image)


def test_style_and_flow_are_drawn_apart() -> None:
    """Two recipes that differ in style alone share their labels; in flow alone, their style."""
    make = generator()
    one, other = make.pair(Recipe(1, 1, 1, "a")), make.pair(Recipe(1, 2, 1, "a"))
    assert torch.equal(one.labels, other.labels)
    assert not torch.equal(one.image, other.image)
    assert torch.equal(make.styled(Recipe(1, 1, 1, "a")), make.styled(Recipe(1, 1, 2, "a")))


def test_labels_are_classes_of_the_atlas_and_images_are_in_range() -> None:
    """Warping invents no class, and intensities stay in [0, 1]."""
    pair = generator().pair(Recipe(1, 1, 1, "a"))
    assert set(pair.labels.unique().tolist()) <= {0, 7}
    assert 0 <= float(pair.image.min()) <= float(pair.image.max()) <= 1
