"""Statistics of a site: codes that say what a scan is like, a mean of them, and pairs drawn by it."""

import numpy as np
import pytest
import torch

from configs.statistics import count
from configs.structures import PAPER
from material import CORTEX, VENTRICLE, WHITE, Blobs, brain, preset
from sst_models.networks.build import first
from sst_models.phases.generate import Recipe
from sst_models.phases.statistics_generator import StatisticsGenerator
from sst_models.propagation.align import Aligner, Alignment
from sst_models.statistics import prior
from sst_models.statistics.intensity import Look, Rendering
from sst_models.statistics.measure import looks_of, measure
from sst_models.statistics.moments import Moments
from sst_models.statistics.shape import ShapeBasis, length, volumes
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.separable import blur

NUMBERS, SHAPE = count(PAPER), length(PAPER)

SIDES, SPACING = (32, 48, 32), 4.8
LABELS, IMAGE = brain(SIDES)
ATLAS, ON_ATLAS = IMAGE[None], AtlasLabels(LABELS)
BASIS = ShapeBasis(ON_ATLAS, (ATLAS > 0).to(ATLAS), SPACING)
RENDERING = Rendering(ATLAS, ON_ATLAS, SPACING)
STILL = torch.zeros(1, 3, *SIDES)


def inflated(structure: int, mm: float) -> torch.Tensor:
    """A shape code that inflates one structure alone."""
    code = torch.zeros(SHAPE)
    code[structure - 1] = mm
    return code


def share(code: torch.Tensor, structure: int) -> float:
    """How large a code makes a structure of the atlas, beside what it is."""
    own, new = (volumes(labels)[structure - 1] for labels in (LABELS, ON_ATLAS.propagate(BASIS.flow(code))))
    return float(new / own)


def test_an_inflation_makes_its_structure_larger_or_smaller() -> None:
    """By what it says, and a code of zeros leaves all as it is."""
    assert BASIS.flow(torch.zeros(SHAPE)).abs().max() == 0
    sizes = [share(inflated(VENTRICLE, mm), VENTRICLE) for mm in (-3.0, 3.0)]
    assert min(sizes) < 0.75 and max(sizes) > 1.3


def test_what_is_drawn_beside_a_code_leaves_volumes_alone() -> None:
    """A rough velocity makes a ventricle larger or smaller; without what codes can say it hardly does."""
    free, beside = [], []
    for seed in range(12):
        noise = blur(torch.randn(3, *SIDES, generator=torch.Generator().manual_seed(seed)), 1.5)
        noise = 0.6 * noise / noise.std()
        for found, velocity in ((free, noise), (beside, BASIS.beside(noise))):
            assert float(velocity.std()) == pytest.approx(0.6, rel=1e-3)
            flow = BASIS.flow(torch.zeros(SHAPE), velocity)
            found.append(float(volumes(ON_ATLAS.propagate(flow))[VENTRICLE - 1]))
    assert np.std(beside) < 0.6 * np.std(free)


def test_velocities_are_of_the_atlas_alone() -> None:
    """Two sites with the same atlas have the same ones, whatever their scans; nothing of a patient is in them."""
    again = ShapeBasis(AtlasLabels(LABELS.clone()), (ATLAS > 0).to(ATLAS), SPACING)
    assert torch.equal(BASIS.velocities, again.velocities)
    assert BASIS.velocities.shape == (SHAPE, 3, *SIDES)
    peak = BASIS.velocities[0].square().sum(0).sqrt().max() * SPACING
    assert float(peak) == pytest.approx(1.0, rel=1e-3)


def test_an_atlas_takes_on_a_look_and_it_is_measured_back() -> None:
    """Each structure gets its intensity, however thin it is; the atlas's own code gives the atlas back."""
    own = Look.of(RENDERING.code(ATLAS[None], LABELS))
    mean = own.mean.clone()
    for structure, level in ((WHITE, 0.6), (CORTEX, 0.8), (VENTRICLE, 0.4)):
        mean[structure] = level  # classes 1 to 3 are groups 1 to 3
    image, labels = RENDERING.pair(Look(mean, own.spread, 0.0), STILL)
    assert torch.equal(labels, LABELS) and torch.equal(image == 0, ATLAS == 0)
    found = Look.of(RENDERING.code(image[None], labels))
    torch.testing.assert_close(found.mean[1:4], mean[1:4], atol=0.04, rtol=0)
    means = [float(image[0][structure == LABELS].mean()) for structure in (WHITE, CORTEX, VENTRICLE)]
    assert means == pytest.approx([0.6, 0.8, 0.4], abs=0.01)


def test_a_thin_structure_stays_as_dark_as_it_is() -> None:
    """Labels three times finer than the grid: a sheet of a third of a voxel takes a third of the way, moved or not."""
    fine = LABELS.repeat_interleave(3, 0).repeat_interleave(3, 1).repeat_interleave(3, 2)
    sheet = torch.zeros_like(fine, dtype=torch.bool)
    sheet[49] = True  # the middle part of the voxels 16
    fine[sheet & (fine == WHITE)] = VENTRICLE
    mean = torch.full((NUMBERS,), 0.9)
    mean[VENTRICLE] = 0.0
    rendering = Rendering((0.9 * (LABELS > 0)).float()[None], AtlasLabels(fine, 3), SPACING)
    image, _ = rendering.pair(Look(mean, torch.full((NUMBERS,), 0.001), 0.0), STILL)
    row = image[0, 16][(LABELS[16] == WHITE)]
    assert float(row.median()) == pytest.approx(0.6, abs=0.02)
    moved = STILL.clone()
    moved[:, 0] = 1 / 3
    assert float(rendering.pair(Look(mean, torch.full((NUMBERS,), 0.001), 0.0), moved)[0].min()) >= 0
    shifted = rendering.pair(Look(mean, torch.full((NUMBERS,), 0.001), 0.0), moved)[0][0, 16][LABELS[16] == WHITE]
    assert float(shifted.median()) == pytest.approx(0.6, abs=0.02)


def test_moments_of_sites_together_are_those_of_all_their_codes() -> None:
    """The hub pools without seeing a code."""
    draws = torch.Generator().manual_seed(1)
    parts = [torch.randn(n, 5, generator=draws) * s + m for n, s, m in ((400, 1.0, 0.0), (800, 2.0, 1.0))]
    pooled = Moments.pooled([(Moments(codes.mean(0), torch.cov(codes.T)), len(codes)) for codes in parts])
    whole = torch.cat(parts)
    torch.testing.assert_close(pooled.mean, whole.mean(0))
    torch.testing.assert_close(pooled.covariance, torch.cov(whole.T), rtol=5e-3, atol=5e-3)


def test_draws_have_the_moments() -> None:
    """Whatever the covariance is like, if it is one."""
    root, draws = torch.randn(6, 6, generator=torch.Generator().manual_seed(3)), torch.Generator().manual_seed(4)
    moments = Moments(torch.arange(6.0), root @ root.T)
    drawn = torch.stack([moments.draw(draws) for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), moments.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(torch.cov(drawn.T), moments.covariance, rtol=0.1, atol=0.6)


def measured() -> torch.Tensor:
    """The numbers of three people of blobs, whose labels are the atlas's."""
    experiment = preset(mirror=True)
    nets = {part: first(part, experiment).eval() for part in ("E", "A", "F")}
    return measure(Blobs(3), Aligner(nets, ATLAS, ON_ATLAS, Alignment.of(experiment)))


def test_a_person_has_numbers_and_none_is_far_out() -> None:
    """As many as are declared: a site's gate holds its app to them."""
    rows = measured()
    assert rows.shape == (3, NUMBERS) and rows.isfinite().all() and rows.abs().max() <= prior.FAR


def released(mean: torch.Tensor, noise: float) -> dict[str, np.ndarray]:
    """What a site releases."""
    return {"mean": mean.numpy().astype(np.float32), "noise": np.array([noise], np.float32)}


def test_looks_lie_between_the_atlas_and_a_mean_without_noise() -> None:
    """The hub draws as widely as people differ; what did not leave is as it is known of any site."""
    mean = measured().mean(0)
    found, nobody = looks_of(released(mean, 0.0), RENDERING), looks_of({}, RENDERING)
    assert 0 < prior.TOWARDS < 1
    torch.testing.assert_close(
        found.mean[:NUMBERS], RENDERING.own.mean + prior.TOWARDS * prior.UNIT * mean, atol=1e-4, rtol=1e-4
    )
    own = prior.people(PAPER)[:NUMBERS, :NUMBERS]
    torch.testing.assert_close(found.covariance[:NUMBERS, :NUMBERS], own, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found.mean[NUMBERS:], nobody.mean[NUMBERS:])
    torch.testing.assert_close(found.covariance[NUMBERS:, NUMBERS:], nobody.covariance[NUMBERS:, NUMBERS:])


def test_the_more_noise_the_nearer_to_the_atlas_and_the_wider() -> None:
    """Noise without end is as if the site said nothing."""
    steps = [looks_of(released(torch.ones(NUMBERS), noise), RENDERING) for noise in (0.0, 0.3, 1.0, 100.0)]
    own = [*steps, nobody := looks_of({}, RENDERING)]
    ways = [float((one.mean - nobody.mean).norm()) for one in own]
    widths = [float(one.covariance.diagonal().sum()) for one in own]
    assert ways == sorted(ways, reverse=True) and ways[-2] < 0.05 * ways[0]
    assert widths == sorted(widths) and widths[-2] == pytest.approx(widths[-1], rel=0.02)
    assert all(torch.linalg.eigvalsh(one.covariance.double()).min() > 0 for one in own)


def test_noise_is_told_from_what_sites_have_in_common() -> None:
    """Where all that is grey is brighter than in the atlas, so is a structure whose own number the noise hid."""
    mean = torch.ones(NUMBERS)
    mean[VENTRICLE] = 0.0
    apart = looks_of(released(mean, 1.0), RENDERING).mean - looks_of({}, RENDERING).mean
    assert 0.02 < float(apart[VENTRICLE]) < float(apart[CORTEX]) < 0.1


def test_people_of_two_sites_differ_as_it_is_written() -> None:
    """Ventricles vary most, the two sides of a structure together; no covariance is without a root."""
    own = prior.shapes(PAPER)
    sizes = own.covariance.diagonal().sqrt()[: len(PAPER.structures)]
    assert int(sizes.argmax()) + 1 == VENTRICLE and torch.linalg.eigvalsh(own.covariance.double()).min() > 0
    right = PAPER.mirrored[VENTRICLE]
    assert own.covariance[VENTRICLE - 1, right - 1] / (sizes[VENTRICLE - 1] * sizes[right - 1]) == pytest.approx(0.8)


def test_pairs_are_drawn_again_alike_and_have_labels_that_fit() -> None:
    """Bright white matter, dark ventricle: in the drawn image, too, by the drawn labels."""
    look = torch.zeros(2 * NUMBERS + 1)
    look[:NUMBERS] = 0.5
    look[1], look[2], look[3] = 0.8, 0.5, 0.2
    look[NUMBERS : 2 * NUMBERS] = np.log(0.03)
    look[-1] = np.log(0.02)
    make = StatisticsGenerator(ATLAS, ON_ATLAS, SPACING, Moments(look, 1e-6 * torch.eye(len(look))))
    recipes = (Recipe(1, 1, 1, "a"), Recipe(1, 1, 2, "a"), Recipe(1, 1, 1, "a"))
    one, other, again = map(make.pair, recipes)
    assert torch.equal(one.image, again.image) and torch.equal(one.labels, again.labels)
    assert (one.labels != other.labels).float().mean() > 0.005  # shapes differ
    assert torch.equal(one.labels, make.pair(Recipe(1, 2, 1, "a")).labels)  # style and flow are drawn apart
    for image, labels in ((pair.image, pair.labels) for pair in (one, other)):
        assert image.shape == (1, *SIDES) and labels.shape == SIDES
        assert image.min() >= 0 and image.max() <= 1 and (image[0][labels == 0] == 0).float().mean() > 0.9
        means = [float(image[0][labels == structure].mean()) for structure in (WHITE, CORTEX, VENTRICLE)]
        assert means == pytest.approx([0.8, 0.5, 0.2], abs=0.08)
