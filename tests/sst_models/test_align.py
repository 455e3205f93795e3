"""The atlas's flow to a scan: which of two first alignments stays."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from configs.schema import Experiment, load
from material import SIDES, VENTRICLE, WHITE, brain
from sst_models.propagation.align import align_atlas, align_both, restyle_atlas
from sst_models.propagation.demons import finish
from sst_models.propagation.em import evidence
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


def preset(rival: float, mirror: bool = False) -> Experiment:
    """The tiny preset with nothing after F's flow but the rival, and neither A nor tissues."""
    tiny = load("tiny")
    own = replace(tiny.registration, pulls=8, polish=0, ascent=0, rival=rival, mirror=mirror)
    return replace(tiny, registration=own, appearance=replace(tiny.appearance, weight=0.0))


@pytest.mark.parametrize(("voxels", "kept"), [(0.0, True), (6.0, False)])
def test_the_first_alignment_that_explains_the_scan_stays(voxels: float, kept: bool) -> None:
    """F's flow where it is right, the rival's where F went astray, on the scan and on its mirror image."""
    labels, image = brain(SIDES)
    parts = {"F": Astray(voxels)}
    flow, mirrored = align_both(parts, image[None], image[None, None], preset(2.0, mirror=True), AtlasLabels(labels))
    assert mirrored is not None
    theirs = parts["F"](flow, flow)
    assert torch.equal(flow, theirs) == kept and torch.equal(mirrored, theirs) == kept
    assert flow.abs().mean() < 0.5


def test_without_a_rival_or_labels_f_alone_decides() -> None:
    """Its flow stands, however far astray."""
    labels, image = brain(SIDES)
    parts = {"F": Astray(6.0)}
    for found in (
        align_atlas(parts, image[None], image[None, None], preset(0.0), AtlasLabels(labels)),
        align_atlas(parts, image[None], image[None, None], preset(2.0)),
    ):
        assert torch.equal(found, Astray(6.0)(found, found))


def test_a_flow_ends_as_the_preset_says() -> None:
    """By `polish` and `ascent`, as the registration arm without A ends that of T."""
    labels, image = brain(SIDES)
    own = preset(0.0)
    own = replace(own, registration=replace(own.registration, polish=4, ascent=2))
    found = align_atlas({"F": Astray(1.0)}, image[None], image[None, None], own, AtlasLabels(labels))
    start = Astray(1.0)(found, found)
    assert torch.equal(found, finish(image[None, None], image[None, None], start, own.registration))


def test_true_labels_explain_a_scan_better_than_those_of_a_wrong_flow() -> None:
    """And those of its mirror image explain a scan of two equal sides as well."""
    labels, image = brain(SIDES)
    scan = image[None, None]
    true = evidence(scan, labels, 2.4)
    assert true > evidence(scan, labels.roll(3, 0), 2.4) + 0.1
    assert evidence(mirror_image(scan), labels.flip(0), 2.4) == pytest.approx(true, abs=1e-4)


def test_the_atlas_takes_the_tissues_of_the_scan_where_labels_lie_on_it() -> None:
    """A scan whose ventricle is brighter gives the atlas a brighter one, and nothing else."""
    labels, image = brain(SIDES)
    scan = torch.where(labels == VENTRICLE, image + 0.2, image)
    own = preset(0.0)
    own = replace(own, appearance=replace(own.appearance, weight=1.0, tissue=3.0))
    still = torch.zeros(1, 3, *SIDES)
    styled = restyle_atlas({}, image[None], scan[None, None], own, AtlasLabels(labels), still)[0, 0]
    assert 0.1 < float((styled - image)[labels == VENTRICLE].mean()) < 0.2
    assert float((styled - image)[labels == WHITE].abs().mean()) < 0.01
