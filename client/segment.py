"""`sst segment`: a site's segmenter on scans as they come from the scanner, and label maps that lie on them."""

# mypy: untyped-calls-exclude="SimpleITK"

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from client.box import box_of
from client.expected import Expected
from client.judgement import agreement, evidence, judge
from client.layouts import Scan, find_scans, with_masks
from client.model import Model
from client.native import keep_largest, to_native
from client.nifti import affine_of, array_of, read_image
from client.pictures import Pixels, gray, in_a_row, marked, paint, plane, square, to_ras
from client.preparation import Preparation
from client.prepare import SetAside, bring
from client.quality import assess
from client.results_page import view_of
from client.segmented import Results, Segmentation, Segmented, Structure
from configs.contrast import T1
from configs.errors import DataError
from configs.structures import PAPER, LabelTable
from sst_models.propagation.align import Aligner, Alignment
from sst_models.propagation.fusion import both, fused
from sst_models.propagation.predict import Prediction, probabilities, refined
from sst_models.volume.intensity import robust_scale

PIXEL = 0.6
"""mm of a side of a pixel of the overlay: a picture of some 900 x 500 pixels."""


def scans_at(
    sources: Sequence[Path],
    mask: str = "",
    contrast: str = T1,
    table: LabelTable = PAPER,
    series: int | None = None,
) -> list[Scan]:
    """List the scans of files, folders and tables of files, in the order of their cases; see `find_scans`.

    Raises:
        DataError: one is missing or holds no scan, or two scans have one case name.
        ConfigError: there is DICOM, and what reads it is not installed.
    """
    return with_masks(find_scans(sources, contrast, table, series), mask)


@dataclass(frozen=True)
class Predicted:
    """What a model makes of a prepared scan."""

    probabilities: torch.Tensor  # of each class, (classes, D, H, W)
    agreement: float  # of its U-Net with its registration, see `client.judgement`; nan where it has none


Predict = Callable[[torch.Tensor], Predicted]
"""From a prepared scan (1, D, H, W)."""


def predictor(model: Model, device: torch.device, *, compare: bool = True) -> Predict:
    """Make what segments prepared scans: the model's U-Net, and its registration beside it.

    What the registration propagates is part of the labels where the preset has them fused, and else tells only how far
    the two agree: it takes seconds, and is not asked where `compare` is off.
    """
    net, registration = model.segmenter(device), model.registration(device)
    fuse = registration is not None
    if compare and not fuse:
        registration = model.beside(device)
    prediction = Prediction.of(model.experiment)
    if registration is None:
        return lambda image: Predicted(probabilities(net, image.to(device), prediction), math.nan)
    (atlas, labels), *further = model.atlases(device)
    aligner = Aligner(registration, atlas, labels, Alignment.of(model.experiment), further)

    def predict(image: torch.Tensor) -> Predicted:
        volume = image.to(device)
        ours, theirs = both(net, volume, aligner, prediction)
        found = fused(ours, theirs, volume, prediction) if fuse else refined(ours, volume, prediction)
        return Predicted(found, agreement(ours, theirs, prediction.table))

    return predict


def segment_scan(
    scan: Scan, model: Model, predict: Predict, how: Preparation, *, largest: bool = False
) -> Segmentation:
    """Segment one scan.

    Args:
        scan: the scan's file, and its mask where it has one.
        model: what the segmenter came with.
        predict: `predictor(model, device)`.
        how: the preparation, as for training.
        largest: keep only the largest piece of each structure.

    Raises:
        DataError: the scan cannot be used.
    """
    image, table = read_image(scan.image), model.experiment.table
    tensors, inside = bring(image, scan, model.frame, how)
    found = predict(tensors["image"][None])
    place = tensors["atlas_to_scan"].numpy()
    labels, certainty = to_native(found.probabilities, model.frame.affine, place, affine_of(image), inside)
    if largest:
        labels = keep_largest(labels)
    contrast = model.experiment.contrast
    quality = assess(tensors["image"], torch.from_numpy(model.frame.image), model.usually, contrast)
    seen = evidence(tensors["image"].to(found.probabilities), found.probabilities, found.agreement, table, contrast)
    ml = float(np.prod(image.GetSpacing())) / 1000
    voxels, box = array_of(image), box_of(inside)
    picture = overlay(voxels[box] * inside[box], labels[box], affine_of(image), table)
    mask_ml = float(inside.sum()) * ml
    expected = model.expected
    structures = _structures(labels[box], certainty[box], ml, mask_ml, table, expected)
    judgement = judge(seen, quality, expected, structures)
    view = view_of(voxels, labels, affine_of(image))
    return Segmentation(labels, structures, mask_ml, seen, quality, judgement, picture, view)


def segment_all(
    scans: Sequence[Scan],
    model: Model,
    folder: Path,
    how: Preparation,
    device: torch.device,
    *,
    largest: bool = False,
    watch: Callable[[int, int], None] | None = None,
    begin: Callable[[int, int, str], None] | None = None,
) -> tuple[list[Segmented], list[SetAside]]:
    """Segment scans into a folder that is a BIDS derivative; one that cannot be used is set aside.

    What an earlier call made of the same files with the same model and settings is not made again. The folder gets,
    for each scan, the label map (as DICOM SEG, too, where the scan came in DICOM), its table of structures, what is to
    be said of it, an overlay, and what the viewer shows; and for all, `segmentations.html`, `volumes.tsv` (ml),
    `judgements.tsv`, the table of labels, the colours for viewers, and `dataset_description.json`.

    Raises:
        RunError: the folder cannot be written, or holds segmentations of other structures.
    """
    results = Results(folder, model, how, largest=largest)
    written: dict[Path, str] = {}
    done: list[Segmented] = []
    aside: list[SetAside] = []
    with _loading(model, device) as predict:
        for number, scan in enumerate(scans, start=1):
            if begin is not None:
                begin(number, len(scans), scan.case)
            try:
                if (other := written.setdefault(results.label_map(scan.case), scan.case)) != scan.case:
                    raise DataError(f"same-name: {scan.name} would be written over {other}; rename one of them")
                key = results.key(scan)
                one = results.find(scan, key)
                if one is None:
                    with scan.as_nifti() as image:
                        found = segment_scan(image, model, predict(), how, largest=largest)
                        one = results.keep(image, found, key)
                done.append(one)
            except DataError as error:
                aside.append(SetAside.of(scan, error))
            if watch is not None:
                watch(number, len(scans))
    results.tables(done, aside, scans)
    return done, aside


@contextmanager
def _loading(model: Model, device: torch.device) -> Iterator[Callable[[], Predict]]:
    """Give what begins to load a model when it is first called, and gives its `predictor` at once.

    Most of loading is the import of MONAI, of a single thread, and so is most of bringing a scan to the atlas, in which
    Python waits for ITK: the two take no longer than the longer one. Prediction waits for both, and an error of the
    first is raised there.
    """
    with ThreadPoolExecutor(1, "model") as pool:
        loaded = cache(lambda: pool.submit(predictor, model, device))

        def begin() -> Predict:
            predict = loaded()
            return lambda image: predict.result()(image)

        yield begin


def overlay(voxels: np.ndarray, labels: np.ndarray, affine: np.ndarray, table: LabelTable = PAPER) -> Pixels:
    """Draw three slices through the middle of the labels: the scan above, the scan with its structures below.

    Args:
        voxels: (i, j, k), the scan's brain, any unit.
        labels: (i, j, k) class indices.
        affine: voxels to RAS mm.
        table: of labels.
    """
    scan, sides = to_ras(robust_scale(torch.from_numpy(voxels)).numpy(), affine)
    classes, _ = to_ras(labels, affine)
    box = box_of(scan > 0)
    scan, classes = scan[box], classes[box]
    plain, painted = [], []
    for axis in range(3):
        across, up = [side for other, side in enumerate(sides) if other != axis]
        seen, colored = (square(plane(volume, axis), up, across, PIXEL) for volume in (scan, classes))
        plain.append(marked(gray(seen), axis))
        painted.append(marked(paint(seen, colored, 0.6, table), axis))
    rows = [in_a_row(plain), in_a_row(painted)]
    return np.concatenate(rows, axis=0)


def _structures(
    labels: np.ndarray, certainty: np.ndarray, ml: float, mask_ml: float, table: LabelTable, expected: Expected
) -> tuple[Structure, ...]:
    size = table.classes
    counts = np.bincount(labels.ravel(), minlength=size)
    sums = np.bincount(labels.ravel(), weights=certainty.ravel(), minlength=size)
    means = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    other = counts[list(table.mirrored)]
    both = counts + other
    paired = (both > 0) & (np.array(table.mirrored) != np.arange(size))
    uneven = np.divide(2.0 * (counts - other), both, out=np.full(size, np.nan), where=paired)
    volumes = counts * ml
    return tuple(
        Structure(
            s.id,
            s.name,
            int(counts[s.index]),
            float(volumes[s.index]),
            float(volumes[s.index] / mask_ml),
            float(uneven[s.index]),
            float(means[s.index]),
            (mask_ml * expected.fractions[s.name][0], mask_ml * expected.fractions[s.name][1]),
        )
        for s in table.structures
    )
