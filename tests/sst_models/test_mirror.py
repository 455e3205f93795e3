"""Mirror images: left for right, and nothing else."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from configs.schema import load
from configs.structures import PAPER
from sst_models.phases.segment import SegmentLearner, SegmentSettings
from sst_models.propagation.predict import Prediction, segment
from sst_models.volume.mirror import mean_with_mirror, mirror_image, mirror_labels, mirror_pair, mirror_probabilities

SHAPE = (16, 18, 20)

CEREBELLUM = next(structure.index for structure in PAPER.structures if structure.name == "Left-Cerebellum-CX")


def label_map() -> Tensor:
    """Every class somewhere, at random."""
    return torch.randint(PAPER.classes, SHAPE, generator=torch.Generator().manual_seed(1))


def test_each_structure_meets_its_own_on_the_other_side() -> None:
    """By name; what there is once stays, and so does background."""
    names = ["Background", *(structure.name for structure in PAPER.structures)]
    for name, other in zip(names, (names[index] for index in PAPER.mirrored), strict=True):
        assert other == name.replace("Left-", "?").replace("Right-", "Left-").replace("?", "Right-")


def test_twice_is_nothing() -> None:
    """A mirror image's mirror image is what was there."""
    labels = label_map()
    assert torch.equal(mirror_labels(mirror_labels(labels)), labels)
    image = torch.rand(1, *SHAPE)
    assert torch.equal(mirror_image(mirror_image(image)), image)


def test_only_left_and_right_change_places() -> None:
    """A structure at the left end, in front and above is the other one at the right end, in front and above."""
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    left = next(structure.index for structure in PAPER.structures if structure.name == "Left-Hippocampus")
    labels[2, 3, 4] = left
    mirrored = mirror_labels(labels)
    assert mirrored.dtype == torch.uint8
    assert mirrored.nonzero().tolist() == [[SHAPE[0] - 3, 3, 4]]
    assert PAPER.structures[int(mirrored.max()) - 1].name == "Right-Hippocampus"


def test_labels_and_their_chances_agree() -> None:
    """Mirrored probabilities are those of the mirrored labels."""
    labels = label_map()
    probabilities = one_hot(labels, PAPER.classes).movedim(-1, 0).float()
    assert torch.equal(mirror_probabilities(probabilities).argmax(0), mirror_labels(labels))


class Left(torch.nn.Module):
    """A segmenter that sees the left putamen wherever it is bright on the left half, and nothing else at all."""

    def __init__(self) -> None:
        super().__init__()
        self.putamen = next(structure.index for structure in PAPER.structures if structure.name == "Left-Putamen")

    def forward(self, volume: Tensor) -> Tensor:
        """Give logits (N, 29, D, H, W)."""
        logits = torch.zeros(len(volume), PAPER.classes, *volume.shape[2:])
        logits[:, 0] = 5.0
        half = volume.shape[2] // 2
        logits[:, self.putamen, :half] = 40.0 * (volume[:, 0, :half] > 0.5)
        return logits


def test_what_is_seen_in_the_mirror_counts_as_much() -> None:
    """A bright right putamen is found by a network that only knows left ones, once it may look into the mirror."""
    alone = Prediction("minmax", "none", em_weight=0.0, spacing=5.0, bf16_cpu=False, table=PAPER)
    image = torch.zeros(1, *SHAPE)
    image[0, 12:14, 5:9, 5:9] = 1.0
    assert not segment(Left(), image, alone).any()
    found = segment(Left(), image, replace(alone, test_time_augmentation="mirror"))
    assert torch.equal(found > 0, image[0] > 0.5)
    assert {PAPER.structures[index - 1].name for index in found[found > 0].unique().tolist()} == {"Right-Putamen"}


class Coarse(torch.nn.Module):
    """A segmenter that sees the volume in cells of two voxels, and is wrong in the first voxel of each."""

    def forward(self, volume: Tensor) -> Tensor:
        """Give logits (N, 29, D, H, W): the cerebellum where it is bright, another structure where a cell begins."""
        logits = torch.zeros(len(volume), PAPER.classes, *volume.shape[2:])
        logits[:, CEREBELLUM] = 9 * (volume[:, 0] > 0.5)
        wrong = torch.zeros_like(logits[:, 0])
        wrong[:, ::2, ::2, ::2] = 18
        logits[:, CEREBELLUM + 1] = wrong * (volume[:, 0] > 0.5)
        return logits


def test_shifts_average_out_errors_of_a_network_that_folds_voxels() -> None:
    """What is wrong at one voxel of each cell is right in the mean over shifts, in the scan's own place."""
    once = Prediction("minmax", "none", em_weight=0.0, spacing=5.0, bf16_cpu=False, table=PAPER)
    image = torch.zeros(1, *SHAPE)
    image[0, 4:12, 5:9, 5:9] = 1.0
    alone = segment(Coarse(), image, once)
    shifted = segment(Coarse(), image, replace(once, test_time_augmentation="mirror+shifts"))
    assert (alone == CEREBELLUM + 1).sum() == 16
    assert torch.equal(shifted, CEREBELLUM * (image[0] > 0.5).long())


class Watching(torch.nn.Module):
    """A segmenter that keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, volume: Tensor) -> Tensor:
        """Give logits of 0."""
        self.seen.extend(volume[:, 0])
        return torch.zeros(len(volume), PAPER.classes, *volume.shape[2:])


def test_a_scan_is_shown_where_it_is_and_a_voxel_further_along_each_axis() -> None:
    """With "mirror+shifts" each of the four in the mirror as well; with "mirror" one and its mirror image."""
    image = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    shifts = [image[0], *(image[0].roll(1, axis) for axis in range(3))]
    for how, places in (("none", shifts[:1]), ("mirror", shifts[:1]), ("mirror+shifts", shifts)):
        net = Watching()
        segment(net, image, Prediction("minmax", how, em_weight=0.0, spacing=5.0, bf16_cpu=False, table=PAPER))
        expected = places if how == "none" else [*places, *map(mirror_image, places)]
        assert len(net.seen) == len(expected)
        assert all(any(torch.equal(one, other) for other in net.seen) for one in expected)


def test_half_of_the_pairs_are_mirrored() -> None:
    """Image and labels together; without the setting, none is."""
    preset, labels = load("tiny"), label_map()
    image = labels[None] / PAPER.classes
    for mirror in (True, False):
        own = replace(preset.segmenter, test_time_augmentation="mirror" if mirror else "none")
        settings = SegmentSettings.of(replace(preset, segmenter=own), preset.phases.segment)
        learner = SegmentLearner(
            {"segmenter": torch.nn.Conv3d(1, PAPER.classes, 1)}, lambda _: (image, labels), settings
        )
        pairs = [learner._pair(torch.Generator().manual_seed(number)) for number in range(40)]
        mirrored = [torch.equal(found, mirror_image(image)) for found, _ in pairs]
        assert 10 < sum(mirrored) < 30 if mirror else not any(mirrored)
        for flipped, pair in zip(mirrored, pairs, strict=True):
            assert torch.equal(pair[0], mirror_image(image) if flipped else image)
            assert torch.equal(pair[1], mirror_pair(image, labels)[1] if flipped else labels)


def test_a_structure_that_stays_in_its_place_keeps_its_side() -> None:
    """A midline that a protocol draws off the middle is drawn there in the mirror image, too."""
    left, right = (
        side
        for side in range(PAPER.classes)
        if PAPER.mirrored[side] != side and PAPER.group_of[side] == PAPER.group_of[CEREBELLUM]
    )
    labels = torch.full(SHAPE, right, dtype=torch.uint8)
    labels[:5] = left  # the middle is at 8
    labels[0] = CEREBELLUM + 1  # something else at one end only
    _, mirrored = mirror_pair(torch.zeros(1, *SHAPE), labels)
    assert torch.equal(mirrored[1:-1], labels[1:-1])
    assert bool((mirrored[0] == left).all())
    assert bool((mirrored[-1] == PAPER.mirrored[CEREBELLUM + 1]).all())


def test_sides_are_those_of_the_image_itself() -> None:
    """Two opinions that agree on the structure and not on its side give it the side that the image itself shows."""
    own, other = torch.zeros(2, PAPER.classes, *SHAPE)
    own[CEREBELLUM] = 0.6
    other[PAPER.mirrored[CEREBELLUM]] = 0.8
    own[0], other[0] = 0.4, 0.2
    both = mean_with_mirror(own, other)
    assert torch.allclose(both.sum(0), torch.ones(SHAPE))
    assert torch.allclose(both[0], torch.full(SHAPE, 0.3))
    assert bool((both.argmax(0) == CEREBELLUM).all())
