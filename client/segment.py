"""`sst segment`: a site's segmenter on scans as they come from the scanner, and label maps that lie on them."""

# mypy: untyped-calls-exclude="SimpleITK"

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from client.bids import describe
from client.layouts import Scan, find_scans, with_masks
from client.model import Model
from client.native import keep_largest, to_native, write_labels
from client.nifti import affine_of, array_of, read_image
from client.pictures import Pixels, gray, in_a_row, paint, plane, save_png, square, to_ras
from client.preparation import Preparation
from client.prepare import SetAside, bring
from client.quality import Quality, assess
from configs.contrast import T1
from configs.errors import DataError, legible
from configs.structures import PAPER, LabelTable
from sst_models.propagation.align import Aligner, Alignment
from sst_models.propagation.fusion import fused_probabilities
from sst_models.propagation.predict import Prediction, probabilities
from sst_models.volume.intensity import robust_scale
from sst_models.wire.files import replace_file, write_json

PIXEL = 0.6
"""mm of a side of a pixel of the overlay: a picture of some 900 x 500 pixels."""


@dataclass(frozen=True)
class Structure:
    """One row of a scan's table."""

    id: int
    name: str
    voxels: int
    ml: float
    confidence: float  # mean probability of the structure over its voxels; nan where it has none


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a scan, on the scan's own voxels."""

    labels: np.ndarray  # (i, j, k) class indices, uint8
    structures: tuple[Structure, ...]
    quality: Quality
    picture: Pixels


@dataclass(frozen=True)
class Segmented:
    """One scan that was segmented, and what was written of it."""

    scan: Scan
    path: Path  # the label map: ids of the model's label table on the scan's own voxels
    structures: tuple[Structure, ...]  # all of the table, also those without a voxel
    concerns: tuple[str, ...]  # why a person should look at it; empty where all is well

    @property
    def case(self) -> str:
        """The scan's name."""
        return self.scan.case

    @property
    def table(self) -> Path:
        """Id, name, voxels, ml and confidence of each structure, tab-separated."""
        return self._beside("volumes.tsv")

    @property
    def overlay(self) -> Path:
        """A picture of three slices, without and with labels."""
        return self._beside("overlay.png")

    @property
    def sidecar(self) -> Path:
        """The model's digest, how well the scan fits, and the concerns, as JSON."""
        return self._beside("dseg.json")

    def _beside(self, end: str) -> Path:
        return self.path.with_name(self.path.name.removesuffix("dseg.nii.gz") + end)


def scans_at(sources: Sequence[Path], mask: str = "", contrast: str = T1, table: LabelTable = PAPER) -> list[Scan]:
    """List the scans of files, folders and tables of files, in the order of their cases.

    Raises:
        DataError: one is missing or holds no scan, or two scans have one case name.
    """
    return with_masks(find_scans(sources, contrast, table), mask)


Predict = Callable[[torch.Tensor], torch.Tensor]
"""From a prepared scan (1, D, H, W) to the probabilities of each class, (classes, D, H, W)."""


def predictor(model: Model, device: torch.device) -> Predict:
    """Make what segments prepared scans: the model's U-Net, and its registration beside it where it holds one."""
    net, registration = model.segmenter(device), model.registration(device)
    prediction = Prediction.of(model.experiment)
    if registration is None:
        return lambda image: probabilities(net, image.to(device), prediction)
    (atlas, labels), *further = model.atlases(device)
    aligner = Aligner(registration, atlas, labels, Alignment.of(model.experiment), further)
    return lambda image: fused_probabilities(net, image.to(device), aligner, prediction)


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
    labels, certainty = to_native(found, model.frame.affine, place, affine_of(image), inside)
    if largest:
        labels = keep_largest(labels)
    quality = assess(tensors["image"], torch.from_numpy(model.frame.image), model.usually, model.experiment.contrast)
    ml = float(np.prod(image.GetSpacing())) / 1000
    picture = overlay(array_of(image) * inside, labels, affine_of(image), table)
    return Segmentation(labels, _structures(labels, certainty, ml, table), quality, picture)


def segment_all(
    scans: Sequence[Scan],
    model: Model,
    folder: Path,
    how: Preparation,
    device: torch.device,
    *,
    largest: bool = False,
    watch: Callable[[int, int], None] | None = None,
) -> tuple[list[Segmented], list[SetAside]]:
    """Segment scans into a folder that is a BIDS derivative; one that cannot be used is set aside.

    The folder gets, for each scan, the label map, its table of structures, what is to be said of it, and an overlay;
    and for all, `volumes.tsv` (ml), the table of labels, the colours for viewers, and `dataset_description.json`.

    Raises:
        RunError: the folder cannot be written.
    """
    predict = predictor(model, device)
    done: list[Segmented] = []
    aside: list[SetAside] = []
    _describe(folder, model)
    for number, scan in enumerate(scans, start=1):
        try:
            found = segment_scan(scan, model, predict, how, largest=largest)
        except DataError as error:
            aside.append(SetAside.of(scan, error))
        else:
            done.append(_keep(scan, found, model, folder))
        if watch is not None:
            watch(number, len(scans))
    header = ["scan", *(s.name for s in model.experiment.table.structures)]
    rows = [[one.scan.case, *(f"{s.ml:.4f}" for s in one.structures)] for one in done]
    replace_file(folder / "volumes.tsv", _table(header, rows))
    replace_file(folder / "set_aside.tsv", _table(["file", "reason"], [[item.file, item.reason] for item in aside]))
    return done, aside


def home_of(case: str, folder: Path) -> Path:
    """Give the folder of a case's files: as BIDS has it where the case has BIDS's name."""
    parts = case.split("_")
    if not parts[0].startswith("sub-"):
        return folder
    session = [part for part in parts if part.startswith("ses-")]
    return folder.joinpath(parts[0], *session, "anat")


def _keep(scan: Scan, found: Segmentation, model: Model, folder: Path) -> Segmented:
    start = home_of(scan.case, folder) / f"{scan.case}_desc-sst"
    path = start.with_name(f"{start.name}_dseg.nii.gz")
    write_labels(found.labels, scan.image, path, model.experiment.table)
    rows = [[s.id, s.name, s.voxels, f"{s.ml:.4f}", _number(s.confidence)] for s in found.structures]
    header = ["index", "name", "voxels", "volume_ml", "confidence"]
    replace_file(start.with_name(f"{start.name}_volumes.tsv"), _table(header, rows))
    save_png(found.picture, start.with_name(f"{start.name}_overlay.png"))
    quality = found.quality
    about = {
        "Sources": [legible(f"bids:raw:{scan.image.name}" if scan.case.startswith("sub-") else scan.image.name)],
        "Model": model.digest,
        "Overlap": round(quality.overlap, 4),
        "Similarity": round(quality.similarity, 4),
        "StyleDistance": round(quality.distance, 4),
        "Concerns": list(quality.concerns),
    }
    write_json(about, start.with_name(f"{start.name}_dseg.json"), indent=2)
    return Segmented(scan, path, found.structures, quality.concerns)


def _describe(folder: Path, model: Model) -> None:
    by = f"model {model.digest}, run {model.card.get('run')}, site {model.card.get('site')}"
    describe(folder, "Segmentations by federated one-shot segmentation", "derivative", by)
    structures = model.experiment.table.structures
    colors = [[s.id, s.name, "#{:02x}{:02x}{:02x}".format(*s.color)] for s in structures]
    replace_file(folder / "desc-sst_dseg.tsv", _table(["index", "name", "color"], colors))
    lines = ["0 Unknown 0 0 0 0", *(f"{s.id} {s.name} {s.color[0]} {s.color[1]} {s.color[2]} 0" for s in structures)]
    replace_file(folder / "FreeSurferColorLUT.txt", "\n".join(lines) + "\n")


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
    spans = [np.flatnonzero((scan > 0).any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    box = tuple(slice(int(span[0]), int(span[-1]) + 1) for span in spans)
    scan, classes = scan[box], classes[box]
    plain, painted = [], []
    for axis in range(3):
        across, up = [side for other, side in enumerate(sides) if other != axis]
        seen, colored = (square(plane(volume, axis), up, across, PIXEL) for volume in (scan, classes))
        plain.append(gray(seen))
        painted.append(paint(seen, colored, 0.6, table))
    rows = [in_a_row(plain), in_a_row(painted)]
    return np.concatenate(rows, axis=0)


def _structures(labels: np.ndarray, certainty: np.ndarray, ml: float, table: LabelTable) -> tuple[Structure, ...]:
    size = table.classes
    counts = np.bincount(labels.ravel(), minlength=size)
    sums = np.bincount(labels.ravel(), weights=certainty.ravel(), minlength=size)
    means = np.divide(sums, counts, out=np.full(size, np.nan), where=counts > 0)
    return tuple(
        Structure(s.id, s.name, int(counts[s.index]), float(counts[s.index] * ml), float(means[s.index]))
        for s in table.structures
    )


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def _number(value: float) -> str:
    return "n/a" if value != value else f"{value:.4f}"
