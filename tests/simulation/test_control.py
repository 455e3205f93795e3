"""The control's pairs: random, repeatable, and honest about where a structure is."""

import torch

from simulation.control import control_pairs, random_flow
from sst_models.losses.flow import folded_fraction
from sst_models.volume.labels import AtlasLabels


def test_a_control_pair_keeps_image_and_labels_together() -> None:
    """The background stays empty, labels lie on the brain, two draws differ and one draw comes again."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 3, indexing="ij")
    radius = sum(axis**2 for axis in axes).sqrt()
    image = ((radius < 0.7) * (0.4 + 0.5 * (radius < 0.4)))[None]
    labels = (radius < 0.7).long() + (radius < 0.4).long()
    pairs = control_pairs([(image, AtlasLabels(labels))], 2.4)
    made, carried = pairs(torch.Generator().manual_seed(1))
    assert made.shape == image.shape and carried.shape == labels.shape
    assert float(made.min()) >= 0 and float(made.max()) <= 1
    inside = carried > 0
    assert float((made[0] > 0)[inside].float().mean()) > 0.95
    assert float((made[0] > 0)[~inside].float().mean()) < 0.05
    again, _ = pairs(torch.Generator().manual_seed(1))
    other, _ = pairs(torch.Generator().manual_seed(2))
    assert torch.equal(made, again)
    assert not torch.equal(made, other)


def test_random_flows_bend_and_do_not_fold() -> None:
    """Voxels move by a voxel or more, and next to none fold."""
    flow = random_flow((48, 48, 48), 2.4, torch.Generator().manual_seed(3))
    assert float(flow.square().sum(dim=1).sqrt().mean()) > 1.0
    assert float(folded_fraction(flow)) < 0.001
