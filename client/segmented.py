"""The folder of results of `sst segment`: what is kept of each scan, found by a later call, and listed for all."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.bids import describe
from client.layouts import Scan
from client.model import Model
from client.native import write_labels
from client.pictures import Pixels, save_png
from client.preparation import Preparation
from client.prepare import SetAside, digest_with
from client.quality import Quality
from configs.errors import RunError, legible
from configs.structures import colour_table
from sst_models.wire.files import replace_file, write_json

VERSION = 1
"""Part of the key: raised whenever the same scan would be segmented differently, or described by other fields."""

VOLUMES, SET_ASIDE = "volumes.tsv", "set_aside.tsv"

MASK = "Mask"
"""Column of `volumes.tsv`: the brain with its fluid, as the scan's mask or stripper has it, ml."""

_COLUMNS = ("index", "name", "voxels", "volume_ml", "fraction", "asymmetry", "confidence")


@dataclass(frozen=True)
class Structure:
    """One row of a scan's table."""

    id: int
    name: str
    voxels: int
    ml: float
    fraction: float  # of the brain with its fluid, 0 to 1
    asymmetry: float  # this side less the other, over their mean; nan where there is one alone, or neither is found
    confidence: float  # mean probability of the structure over its voxels; nan where it has none


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a scan, on the scan's own voxels."""

    labels: np.ndarray  # (i, j, k) class indices, uint8
    structures: tuple[Structure, ...]
    mask_ml: float  # the brain with its fluid
    quality: Quality
    picture: Pixels


@dataclass(frozen=True)
class Segmented:
    """One scan that was segmented, and what was written of it."""

    scan: Scan
    path: Path  # the label map: ids of the model's label table on the scan's own voxels
    structures: tuple[Structure, ...]  # all of the table, also those without a voxel
    mask_ml: float  # the brain with its fluid
    concerns: tuple[str, ...]  # why a person should look at it; empty where all is well

    @property
    def case(self) -> str:
        """The scan's name."""
        return self.scan.case

    @property
    def table(self) -> Path:
        """Id, name, voxels, ml, fraction, asymmetry and confidence of each structure, tab-separated."""
        return self._beside("volumes.tsv")

    @property
    def overlay(self) -> Path:
        """A picture of three slices, without and with labels."""
        return self._beside("overlay.png")

    @property
    def sidecar(self) -> Path:
        """The model's digest, how well the scan fits, and the concerns, as JSON."""
        return self._beside("dseg.json")

    @property
    def dicom(self) -> Path | None:
        """The label map as DICOM SEG, where the scan came in DICOM and any structure was found in it; else None."""
        return self._beside("dseg.dcm") if self.scan.series and any(s.voxels for s in self.structures) else None

    def _beside(self, end: str) -> Path:
        return self.path.with_name(self.path.name.removesuffix("dseg.nii.gz") + end)


class Results:
    """A folder of results of one model."""

    def __init__(self, folder: Path, model: Model, how: Preparation, *, largest: bool) -> None:
        """Begin a folder, or go on in one.

        Raises:
            RunError: it holds segmentations of other structures.
        """
        self.folder, self.model = folder, model
        self._facts = [VERSION, model.digest, how.key, largest]
        self._header = ["scan", *(s.name for s in model.experiment.table.structures), MASK]
        self._earlier = self._read()
        self._describe()

    def _read(self) -> dict[str, list[str]]:
        """Read the rows of scans whose label maps are still there."""
        path = self.folder / VOLUMES
        if not path.is_file():
            return {}
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file, delimiter="\t")) or [[]]
        if header != self._header:
            raise RunError(f"{path} lists other structures than this model has; give another folder")
        return {row[0]: row for row in rows if len(row) == len(header) and self._label_map(row[0]).is_file()}

    def _label_map(self, case: str) -> Path:
        return home_of(case, self.folder) / f"{case}_desc-sst_dseg.nii.gz"

    def _describe(self) -> None:
        card, table = self.model.card, self.model.experiment.table
        structures = table.structures
        by = f"model {self.model.digest}, run {card.get('run')}, site {card.get('site')}"
        describe(self.folder, "Segmentations by federated one-shot segmentation", "derivative", by)
        colors = [[s.id, s.name, "#{:02x}{:02x}{:02x}".format(*s.color)] for s in structures]
        replace_file(self.folder / "desc-sst_dseg.tsv", _table(["index", "name", "color"], colors))
        lines = [f"{id_} {name} {red} {green} {blue} 0" for id_, name, (red, green, blue) in colour_table(table)]
        replace_file(self.folder / "FreeSurferColorLUT.txt", "\n".join(["0 Unknown 0 0 0 0", *lines]) + "\n")

    def key(self, scan: Scan) -> str:
        """Digest all that the results of a scan depend on.

        Raises:
            DataError: a file of the scan cannot be read.
        """
        return digest_with(self._facts, (*scan.files, scan.mask))

    def find(self, scan: Scan, key: str) -> Segmented | None:
        """Give what an earlier call left of a scan; None where it left nothing whole, or of other files or settings."""
        path = self._label_map(scan.case)
        found = Segmented(scan, path, (), 0.0, ())
        try:
            about = json.loads(found.sidecar.read_text(encoding="utf-8"))
            if about["Key"] != key or not (path.is_file() and found.overlay.is_file()):
                return None
            with found.table.open(encoding="utf-8", newline="") as file:
                rows = [dict(zip(_COLUMNS, row, strict=True)) for row in list(csv.reader(file, delimiter="\t"))[1:]]
            structures = tuple(_structure(row) for row in rows)
            found = Segmented(scan, path, structures, float(about["MaskVolume"]), tuple(about["Concerns"]))
            return None if found.dicom and not found.dicom.is_file() else found
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, scan: Scan, found: Segmentation, key: str) -> Segmented:
        """Write what was found of a scan, whose image is a NIfTI file; its sidecar comes last, and says all is there.

        Raises:
            DataError: `dicom`: the scan's series has changed since its headers were read.
        """
        path = self._label_map(scan.case)
        kept = Segmented(scan, path, found.structures, found.mask_ml, found.quality.concerns)
        kept.sidecar.unlink(missing_ok=True)
        write_labels(found.labels, scan.image, path, self.model.experiment.table)
        rows = [
            [s.id, s.name, s.voxels, f"{s.ml:.4f}", _number(s.fraction, 6), _number(s.asymmetry), _number(s.confidence)]
            for s in found.structures
        ]
        replace_file(kept.table, _table(_COLUMNS, rows))
        save_png(found.picture, kept.overlay)
        if kept.dicom:
            from client.dicom.segmentation import write_segmentation

            write_segmentation(found.labels, scan, kept.dicom, self.model)
        quality, bids = found.quality, scan.case.startswith("sub-") and scan.series is None
        about = {
            "Sources": [legible(f"bids:raw:{scan.name}" if bids else scan.name)],
            "Model": self.model.digest,
            "Key": key,
            "MaskVolume": round(found.mask_ml, 4),
            "Overlap": round(quality.overlap, 4),
            "Similarity": round(quality.similarity, 4),
            "StyleDistance": round(quality.distance, 4),
            "Concerns": list(quality.concerns),
        }
        write_json(about, kept.sidecar, indent=2)
        return kept

    def tables(self, done: Sequence[Segmented], aside: Sequence[SetAside], asked: Sequence[Scan]) -> None:
        """Write the tables of all scans: those of this call, and those of earlier ones that it did not ask for.

        Raises:
            RunError: the folder cannot be written.
        """
        rows = {**self._earlier, **{one.case: self._row(one) for one in done}}
        replace_file(self.folder / VOLUMES, _table(self._header, [rows[case] for case in sorted(rows)]))
        now, path = {legible(scan.name) for scan in asked}, self.folder / SET_ASIDE
        earlier: list[list[str]] = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                earlier = [row for row in list(csv.reader(file, delimiter="\t"))[1:] if row and row[0] not in now]
        replace_file(path, _table(["file", "reason"], [*earlier, *([item.file, item.reason] for item in aside)]))

    def _row(self, one: Segmented) -> list[str]:
        return [one.case, *(f"{s.ml:.4f}" for s in one.structures), f"{one.mask_ml:.4f}"]


def home_of(case: str, folder: Path) -> Path:
    """Give the folder of a case's files: as BIDS has it where the case has BIDS's name."""
    parts = case.split("_")
    if not parts[0].startswith("sub-"):
        return folder
    session = [part for part in parts if part.startswith("ses-")]
    return folder.joinpath(parts[0], *session, "anat")


def _structure(row: dict[str, str]) -> Structure:
    number = {name: float("nan") if value == "n/a" else value for name, value in row.items()}
    return Structure(
        int(row["index"]),
        row["name"],
        int(row["voxels"]),
        float(number["volume_ml"]),
        float(number["fraction"]),
        float(number["asymmetry"]),
        float(number["confidence"]),
    )


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def _number(value: float, digits: int = 4) -> str:
    return "n/a" if value != value else f"{value:.{digits}f}"
