"""The atlas's flow to a scan: which of two first alignments stays."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from configs.schema import Propagation
from material import SIDES, VENTRICLE, WHITE, brain
from sst_models.propagation.align import Aligner, Alignment
from sst_models.propagation.demons import finish
from sst_models.propagation.em import mean_log_likelihood
from sst_models.volume.labels import AtlasLabels
from sst_models.volume.mirror import mirror_image


class Astray(nn.Module):
    """F whose flow is off by so many voxels along one axis, and which counts how often it was asked."""

    def __init__(self, voxels: float) -> None:
        super().__init__()
        self.voxels, self.asked = voxels, 0

    def forward(self, _moving: Tensor, fixed: Tensor) -> Tensor:
        """Give a flow (1, 3, D, H, W)."""
        self.asked += 1
        flow = fixed.new_zeros(1, 3, *fixed.shape[2:])
        flow[:, 0] = self.voxels
        return flow


def how(second: float, mirror: bool = False, **changes: float) -> Alignment:
    """An alignment with nothing after F's flow but a second initialisation, and neither A nor tissues."""
    own = Propagation(demons_iterations_per_level=8, second_initialisation=second, mirror=mirror, **changes)  # type: ignore[arg-type]
    return Alignment(own, 5.0, restyle=False, bf16_cpu=False)


@pytest.mark.parametrize(("voxels", "kept"), [(0.0, True), (6.0, False)])
def test_the_first_alignment_that_explains_the_scan_stays(voxels: float, kept: bool) -> None:
    """F's flow where it is right, the second one where F went astray, on the scan and on its mirror image."""
    labels, image = brain(SIDES)
    parts = {"F": Astray(voxels)}
    flow, mirrored = Aligner(parts, image[None], AtlasLabels(labels), how(2.0, mirror=True)).flows(image[None, None])
    assert mirrored is not None
    theirs = parts["F"](flow, flow)
    assert torch.equal(flow, theirs) == kept and torch.equal(mirrored, theirs) == kept
    assert flow.abs().mean() < 0.5


def test_without_a_second_initialisation_or_labels_f_alone_decides() -> None:
    """Its flow stands, however far astray."""
    labels, image = brain(SIDES)
    parts = {"F": Astray(6.0)}
    for found in (
        Aligner(parts, image[None], AtlasLabels(labels), how(0.0)).flow(image[None, None]),
        Aligner(parts, image[None], None, how(2.0)).flow(image[None, None]),
    ):
        assert torch.equal(found, Astray(6.0)(found, found))


def test_a_flow_ends_as_the_preset_says() -> None:
    """By demons and LNCC ascent, as the registration arm without A ends that of T."""
    labels, image = brain(SIDES)
    own = how(0.0, demons_iterations_full_resolution=4, lncc_ascent_iterations=2)
    found = Aligner({"F": Astray(1.0)}, image[None], AtlasLabels(labels), own).flow(image[None, None])
    start = Astray(1.0)(found, found)
    assert torch.equal(found, finish(image[None, None], image[None, None], start, own.settings))


def test_true_labels_explain_a_scan_better_than_those_of_a_wrong_flow() -> None:
    """And those of its mirror image explain a scan of two equal sides as well."""
    labels, image = brain(SIDES)
    scan = image[None, None]
    true = mean_log_likelihood(scan, labels, 2.4)
    assert true > mean_log_likelihood(scan, labels.roll(3, 0), 2.4) + 0.1
    assert mean_log_likelihood(mirror_image(scan), labels.flip(0), 2.4) == pytest.approx(true, abs=1e-4)


def test_the_atlas_takes_the_tissues_of_the_scan_where_labels_lie_on_it() -> None:
    """A scan whose ventricle is brighter gives the atlas a brighter one, and nothing else."""
    labels, image = brain(SIDES)
    scan = torch.where(labels == VENTRICLE, image + 0.2, image)
    own = replace(how(0.0, tissue_matching=15.0), restyle=True)  # 3 voxels
    still = torch.zeros(1, 3, *SIDES)
    styled = Aligner({}, image[None], AtlasLabels(labels), own).restyled(scan[None, None], still)[0, 0]
    assert 0.1 < float((styled - image)[labels == VENTRICLE].mean()) < 0.2
    assert float((styled - image)[labels == WHITE].abs().mean()) < 0.01
