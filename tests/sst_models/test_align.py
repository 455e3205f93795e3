"""The atlas's flow to a scan: which of two first alignments stays."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from configs.schema import Propagation
from material import SIDES, VENTRICLE, WHITE, brain
from sst_models.propagation.align import Aligner, Alignment
from sst_models.propagation.demons import ascend_lncc, finish, multiresolution_demons, refine_by_demons
from sst_models.propagation.em import mean_log_likelihood
from sst_models.propagation.tissue_matching import match_tissues
from sst_models.volume.intensity import match_quantiles
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


def test_what_several_atlases_say_of_a_voxel_is_averaged() -> None:
    """Each has its own flow; two that agree outvote a third, by flows alone and as the prior of EM."""
    labels, image = brain(SIDES)
    wrong = AtlasLabels(torch.where(labels == VENTRICLE, WHITE, labels))
    right, own = AtlasLabels(labels), how(0.0)
    for third, wanted in ((right, labels), (wrong, wrong.parts)):
        aligner = Aligner({"F": Astray(0.0)}, image[None], right, own, [(image[None], wrong), (image[None], third)])
        flow, mirrored = aligner.flows(image[None, None])
        assert flow.shape == (3, 3, *SIDES) and mirrored is None
        assert torch.equal(aligner.propagate(flow), wanted.long())
        share = aligner.probabilities(flow)[VENTRICLE][labels == VENTRICLE]
        torch.testing.assert_close(share, torch.full_like(share, 2 / 3 if third is right else 1 / 3))
    plain = replace(own, settings=replace(own.settings, em_weight=0.0))
    far = Aligner(
        {"F": Astray(0.0)}, image[None], right, plain, [(image[None].roll(4, 1), AtlasLabels(labels.roll(4, 0)))]
    )
    assert torch.equal(
        far.labels_on(image[None, None], far.flow(image[None, None])), far.propagate(far.flow(image[None, None]))
    )
    both = far.probabilities(far.flow(image[None, None]))
    torch.testing.assert_close(both.sum(0), torch.ones(SIDES))
    assert not torch.equal(both, Aligner({"F": Astray(0.0)}, image[None], right, plain).probabilities(flow[:1]))


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


class Lopsided(nn.Module):
    """F whose flow says what it was given: along two axes, how much of each volume lies far along the first."""

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Give a flow (1, 3, D, H, W)."""
        flow = fixed.new_zeros(1, 3, *fixed.shape[2:])
        ramp = torch.linspace(0, 1, fixed.shape[2])[:, None, None]
        flow[:, 0], flow[:, 1] = 8 * (moving * ramp).mean(), 16 * (fixed * ramp).mean()
        return flow


class Mean(nn.Module):
    """E: the mean of a volume is its style."""

    def forward(self, volume: Tensor) -> Tensor:
        """Give a code."""
        return volume.mean()


class Times(nn.Module):
    """A: a volume by half its style more."""

    def forward(self, volume: Tensor, code: Tensor) -> Tensor:
        """Give the restyled volume."""
        return volume * (1 + code / 2)


NETS = {"E": Mean(), "A": Times(), "F": Lopsided()}


def atlas_and_scan() -> tuple[Tensor, Tensor, AtlasLabels]:
    """A brain, the same one darker, moved and with another ventricle, both (1, 1, D, H, W), and the first's labels."""
    labels, image = brain(SIDES)
    scan = (0.8 * image + 0.1 * (labels == VENTRICLE)).roll((1, -1), (0, 1))
    return image[None, None], scan[None, None], AtlasLabels(labels)


def test_f_registers_the_atlas_in_the_scans_style_to_the_scan() -> None:
    """Eq. 2 and 6 with the atlas as base image: F(A(b, E(t)), t), on the scan and on its mirror image."""
    atlas, scan, labels = atlas_and_scan()
    for mirror in (False, True):
        aligner = Aligner(NETS, atlas[0], labels, replace(how(0.0, mirror=mirror), restyle=True))
        flow, mirrored = aligner.flows(scan)
        styled = Times()(atlas, scan.mean())
        torch.testing.assert_close(aligner.by_appearance(scan), styled)
        torch.testing.assert_close(aligner.restyled(scan, flow), styled)  # no tissue is matched
        torch.testing.assert_close(flow, Lopsided()(styled, scan))
        assert torch.equal(aligner.flow(scan), flow)
        assert (mirrored is not None) == mirror
        if mirrored is not None:
            torch.testing.assert_close(mirrored, Lopsided()(styled, mirror_image(scan)))
            assert not torch.equal(mirrored, flow)


def test_without_appearance_the_atlas_is_registered_as_it_is() -> None:
    """Table 2, "w/o L_app"; with demons and LNCC ascent after F, each of the atlas onto the scan."""
    atlas, scan, labels = atlas_and_scan()
    own = how(0.0, demons_iterations_full_resolution=3, lncc_ascent_iterations=2)
    found = Aligner(NETS, atlas[0], labels, own).flow(scan)
    torch.testing.assert_close(found, finish(atlas, scan, Lopsided()(atlas, scan), own.settings))


def test_with_labels_the_atlas_is_aligned_again_with_the_scans_tissues() -> None:
    """The first flow propagates labels; the atlas with tissues matched by them is what F and LNCC see then."""
    atlas, scan, labels = atlas_and_scan()
    own = how(0.0, demons_iterations_full_resolution=2, lncc_ascent_iterations=1, tissue_matching=15.0)
    aligner = Aligner(NETS, atlas[0], labels, replace(own, restyle=True))
    styled = Times()(atlas, scan.mean())
    first = refine_by_demons(styled, scan, Lopsided()(styled, scan), 2)
    moving = match_tissues(atlas, labels.on_grid, scan, labels.propagate(first), 15.0 / 5.0)
    again = refine_by_demons(moving, scan, Lopsided()(moving, scan), 2)
    torch.testing.assert_close(aligner.flow(scan), ascend_lncc(moving, scan, again, 1))
    bare = Aligner(NETS, atlas[0], None, replace(own, restyle=True))
    torch.testing.assert_close(bare.flow(scan), ascend_lncc(styled, scan, first, 1))
    torch.testing.assert_close(bare.restyled(scan, first), styled)


def test_the_second_initialisation_sees_intensities() -> None:
    """Of the atlas with the scan's quantiles, from coarse to fine and at full resolution, each onto the scan."""
    atlas, scan, labels = atlas_and_scan()
    own = how(1.5, demons_iterations_full_resolution=2)
    parts = {"F": Astray(12.0)}
    found = Aligner(parts, atlas[0], labels, own).flow(scan)
    moving = match_quantiles(atlas, scan)
    flow = refine_by_demons(moving, scan, multiresolution_demons(moving, scan, 8, 1.5), 2, 1.5)
    torch.testing.assert_close(found, flow)
