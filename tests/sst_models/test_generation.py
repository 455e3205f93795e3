"""Generated pairs: reproducible from their recipe, labels that fit the image."""

import torch

from configs.schema import load
from material import blob
from sst_models.networks.build import build
from sst_models.phases.generate import GeneratedPair, Generator, PriorStyles, Recipe, of_atlases
from sst_models.phases.moments import StyleMoments, draw_prior_codes
from sst_models.training.seeds import generator as draws
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.warp import warp, warp_labels

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


def test_a_pair_is_the_restyled_atlas_and_its_labels_warped_by_one_flow() -> None:
    """Eq. 12: X = G_flow(n_flow) o A(b, n_style), Y = G_flow(n_flow) o b_seg; n_flow is normal, n_style of length 1."""
    image = blob(1)
    labels = (image[0] > 0.5).long() * 7
    nets = {"A": build("A", TINY), "decoder": build("decoder", TINY)}
    with torch.no_grad():
        nets["decoder"].leave.bias.add_(torch.tensor([0.5, -0.3, 0.8]))  # voxels times the decoder's scale
    given: dict[str, list[torch.Tensor]] = {"A": [], "decoder": []}
    for part, net in nets.items():
        net.register_forward_hook(lambda _, told, __, part=part: given[part].extend(told))
    pair = Generator(image, AtlasLabels(labels), nets, LATENT, PriorStyles(8)).pair(Recipe(1, 2, 3, "a"))
    (code,), (base, style) = given["decoder"], given["A"]
    assert code.shape == (1, *LATENT) and 0.5 < float(code.std()) < 1.5
    assert torch.equal(base, image[None])
    torch.testing.assert_close(style.norm(dim=1), torch.ones(1))
    assert torch.equal(code, torch.randn(code.shape, generator=draws(1, "flow", 3)))  # recipes of old runs stay good
    assert torch.equal(style, draw_prior_codes(1, 8, draws(1, "style", "a", 2)))
    with torch.no_grad():
        flow, styled = nets["decoder"](code), nets["A"](image[None], style)
    assert flow.abs().mean() > 0.5
    torch.testing.assert_close(pair.image, warp(styled, flow)[0].clamp(0, 1))
    assert torch.equal(pair.labels, warp_labels(labels[None], flow)[0])


def test_pairs_of_a_site_are_drawn_from_its_moments() -> None:
    """Cross-site generation: with narrow moments, A gets their mean as its code."""
    mean = torch.eye(8)[2]
    nets = {"A": build("A", TINY), "decoder": build("decoder", TINY)}
    given: list[torch.Tensor] = []
    nets["A"].register_forward_hook(lambda _, told, __: given.append(told[1]))
    labels = AtlasLabels((blob(1)[0] > 0.5).long())
    Generator(blob(1), labels, nets, LATENT, StyleMoments(mean, torch.zeros(8))).pair(Recipe(1, 2, 3, "a"))
    torch.testing.assert_close(given[0][0], mean)


def test_of_several_atlases_each_is_drawn() -> None:
    """The same recipe draws the same one, each site's recipes others; of one atlas nothing changes."""

    class Only:
        def __init__(self, number: int) -> None:
            self.number = number

        def pair(self, recipe: Recipe) -> GeneratedPair:
            return GeneratedPair(torch.full((1, 1, 1, 1), float(self.number)), torch.zeros(1, 1, 1), recipe)

    one, *more = (Only(number) for number in range(3))
    assert of_atlases([one]) is one
    make = of_atlases([one, *more])
    drawn = {site: [int(make.pair(Recipe(1, n, n, site)).image) for n in range(60)] for site in ("a", "b")}
    assert drawn["a"] == [int(make.pair(Recipe(1, n, n, "a")).image) for n in range(60)] != drawn["b"]
    assert all(min(numbers.count(number) for number in range(3)) >= 10 for numbers in drawn.values())


def test_without_a_the_atlas_keeps_its_style() -> None:
    """Table 2, "w/o L_app": the image is the atlas, warped."""
    image, nothing = blob(1), AtlasLabels(torch.zeros(32, 48, 32))
    make = Generator(image, nothing, {"A": None, "decoder": build("decoder", TINY)}, LATENT, PriorStyles(8))
    recipe = Recipe(1, 2, 3, "a")
    torch.testing.assert_close(make.pair(recipe).image, warp(image[None], make.flow(recipe))[0].clamp(0, 1))


class Glaring(torch.nn.Module):
    """An A whose change goes far beyond the range of intensities."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(4.0))

    def forward(self, volume: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        """Give 4 x - 1."""
        return self.gain * volume - 1


def test_images_stay_in_range_and_networks_as_they_are() -> None:
    """Values beyond 0 and 1 are cut; nothing that generates takes a gradient."""
    nets = {"A": Glaring(), "decoder": build("decoder", TINY)}
    make = Generator(blob(1), AtlasLabels(torch.zeros(32, 48, 32)), nets, LATENT, PriorStyles(8))
    pair = make.pair(Recipe(1, 1, 1, "a"))
    assert (float(pair.image.min()), float(pair.image.max())) == (0.0, 1.0)
    assert not any(weight.requires_grad for net in nets.values() for weight in net.parameters())
