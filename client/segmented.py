"""The folder of results of `sst segment`: what is kept of each scan, found by a later call, and listed for all."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.bids import describe
from client.judgement import Evidence, Judgement
from client.layouts import Scan
from client.model import OF_NOBODY, Model
from client.native import write_labels
from client.pictures import Pixels, save_png
from client.preparation import Preparation
from client.prepare import SetAside, digest_with
from client.quality import Quality
from client.results_page import MEANING, write_page
from configs.errors import RunError, legible
from configs.structures import colour_table
from sst_models.wire.files import replace_file, write_json

VERSION = 2
"""Part of the key: raised whenever the same scan would be segmented differently, or described by other fields."""

NO_BIDS = (
    "segmentations.html", "view", "view/**", "FreeSurferColorLUT.txt", "volumes.tsv", "judgements.tsv", "set_aside.tsv",
    "*_overlay.png", "*_view.js", "*_volumes.tsv",
)  # fmt: skip
"""What the folder holds beside what BIDS knows of: `.bidsignore`."""

VOLUMES, JUDGEMENTS, SET_ASIDE = "volumes.tsv", "judgements.tsv", "set_aside.tsv"

UNREAD = Judgement(math.nan, "yellow", ("another version of sst made it; segment it again to have it judged",))
"""Of a label map whose other files are not there, or are those of an earlier version."""

MASK = "Mask"
"""Column of `volumes.tsv`: the brain with its fluid, as the scan's mask or stripper has it, ml."""

_USUAL = ("usual_from_ml", "usual_to_ml")
_COLUMNS = ("index", "name", "voxels", "volume_ml", "fraction", "asymmetry", "confidence", *_USUAL)


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
    usual_ml: tuple[float, float]  # from and to: in a brain of this size, see `client.expected`


@dataclass(frozen=True)
class Segmentation:
    """What a model says of a scan, on the scan's own voxels."""

    labels: np.ndarray  # (i, j, k) class indices, uint8
    structures: tuple[Structure, ...]
    mask_ml: float  # the brain with its fluid
    evidence: Evidence
    quality: Quality
    judgement: Judgement
    picture: Pixels
    view: str  # for the viewer, see `client.results_page`


@dataclass(frozen=True)
class Segmented:
    """One scan that was segmented, and what was written of it."""

    case: str  # the scan's name
    path: Path  # the label map: ids of the model's label table on the scan's own voxels
    structures: tuple[Structure, ...]  # all of the table, also those without a voxel
    mask_ml: float  # the brain with its fluid
    judgement: Judgement  # whether it can be used: predicted Dice, light, concerns

    @property
    def concerns(self) -> tuple[str, ...]:
        """Why a person should look at it; empty where nothing speaks against it."""
        return self.judgement.concerns

    @property
    def table(self) -> Path:
        """Id, name, voxels, ml, fraction, asymmetry and confidence of each structure, tab-separated."""
        return self._beside("volumes.tsv")

    @property
    def overlay(self) -> Path:
        """A picture of three slices, without and with labels."""
        return self._beside("overlay.png")

    @property
    def view(self) -> Path:
        """The scan and its labels for the viewer of `segmentations.html`."""
        return self._beside("view.js")

    @property
    def sidecar(self) -> Path:
        """The model's digest, how well the scan fits, and the concerns, as JSON."""
        return self._beside("dseg.json")

    @property
    def dicom(self) -> Path | None:
        """The label map as DICOM SEG, where the scan came in DICOM and any structure was found in it; else None."""
        path = self._beside("dseg.dcm")
        return path if path.is_file() else None

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
        return {row[0]: row for row in rows if len(row) == len(header) and self._is_there(row[0])}

    def label_map(self, case: str) -> Path:
        """Give where a scan's label map goes: named as BIDS has it, without the scan's suffix, where the scan is."""
        end = f"_{self.model.experiment.contrast}"
        name = case.removesuffix(end) if case.startswith("sub-") else case
        return home_of(case, self.folder) / f"{name}_desc-sst_dseg.nii.gz"

    def _is_there(self, case: str) -> bool:
        """Whether there is a label map of a case, by this version's name or by that of 0.3.0."""
        path = self.label_map(case)
        return path.is_file() or path.with_name(f"{case}_desc-sst_dseg.nii.gz").is_file()

    def _describe(self) -> None:
        card, table = self.model.card, self.model.experiment.table
        structures = table.structures
        by = f"model {self.model.digest}, run {card.get('run')}, site {card.get('site')}"
        describe(self.folder, "Segmentations by federated one-shot segmentation", "derivative", by, NO_BIDS)
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
        found = self._kept(scan.case)
        if found is None or found[1] != key or (_wants_dicom(scan, found[0]) and not found[0].dicom):
            return None
        return found[0]

    def _kept(self, case: str) -> tuple[Segmented, str] | None:
        """Give what lies there of a scan, and its key; None where it is not whole, or of another version."""
        blank = Segmented(case, self.label_map(case), (), 0.0, UNREAD)
        try:
            about = json.loads(blank.sidecar.read_text(encoding="utf-8"))
            if not all(path.is_file() for path in (blank.path, blank.overlay, blank.view)):
                return None
            with blank.table.open(encoding="utf-8", newline="") as file:
                rows = [dict(zip(_COLUMNS, row, strict=True)) for row in list(csv.reader(file, delimiter="\t"))[1:]]
            dice = math.nan if about["PredictedDice"] is None else float(about["PredictedDice"])
            judgement = Judgement(dice, about["Light"], tuple(about["Concerns"]))
            structures, mask_ml = tuple(map(_structure, rows)), float(about["MaskVolume"])
            return replace(blank, structures=structures, mask_ml=mask_ml, judgement=judgement), str(about["Key"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, scan: Scan, found: Segmentation, key: str) -> Segmented:
        """Write what was found of a scan, whose image is a NIfTI file; its sidecar comes last, and says all is there.

        Raises:
            DataError: `dicom`: the scan's series has changed since its headers were read.
        """
        path = self.label_map(scan.case)
        kept = Segmented(scan.case, path, found.structures, found.mask_ml, found.judgement)
        kept.sidecar.unlink(missing_ok=True)
        write_labels(found.labels, scan.image, path, self.model.experiment.table)
        rows = [
            [s.id, s.name, s.voxels, f"{s.ml:.4f}", _number(s.fraction, 6), _number(s.asymmetry), _number(s.confidence)]
            + [f"{end:.4f}" for end in s.usual_ml]
            for s in found.structures
        ]
        replace_file(kept.table, _table(_COLUMNS, rows))
        save_png(found.picture, kept.overlay)
        replace_file(kept.view, found.view)
        if kept.dicom:
            kept.dicom.unlink()
        if _wants_dicom(scan, kept):
            from client.dicom.segmentation import write_segmentation

            write_segmentation(found.labels, scan, path.with_name(path.name.replace(".nii.gz", ".dcm")), self.model)
        quality, seen, judgement = found.quality, found.evidence, found.judgement
        bids = scan.case.startswith("sub-") and scan.series is None
        about = {
            "Description": f"Structures by sst, see desc-sst_dseg.tsv; {MEANING[judgement.light]}",
            "SpatialReference": "orig",
            "Sources": [legible(f"bids:raw:{scan.name}" if bids else scan.name)],
            "Model": self.model.digest,
            "Key": key,
            "MaskVolume": round(found.mask_ml, 4),
            "Light": judgement.light,
            "PredictedDice": _known(judgement.dice),
            "Agreement": _known(seen.agreement),
            "Confidence": _known(seen.confidence),
            "WhiteOverGrey": _known(seen.grey_white),
            "GreyOverFluid": _known(seen.fluid_grey),
            "Overlap": round(quality.overlap, 4),
            "Similarity": round(quality.similarity, 4),
            "StyleDistance": round(quality.distance, 4),
            "Concerns": list(judgement.concerns),
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
        here = {case: one[0] for case in rows if (one := self._kept(case))}
        unread = {case: Segmented(case, self.label_map(case), (), math.nan, UNREAD) for case in sorted(rows)}
        judged = [here.get(case, blank) for case, blank in unread.items()]
        lines = [
            [one.case, one.judgement.light, _number(one.judgement.dice), "; ".join(one.concerns)] for one in judged
        ]
        replace_file(self.folder / JUDGEMENTS, _table(["scan", "light", "predicted_dice", "concerns"], lines))
        notes = (OF_NOBODY,) if self.model.of_nobody else ()
        write_page(self.folder, judged, self.model.experiment.table, notes)
        now, path = {legible(scan.name) for scan in asked}, self.folder / SET_ASIDE
        earlier: list[list[str]] = []
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                earlier = [row for row in list(csv.reader(file, delimiter="\t"))[1:] if row and row[0] not in now]
        replace_file(path, _table(["file", "reason"], [*earlier, *([item.file, item.reason] for item in aside)]))

    def _row(self, one: Segmented) -> list[str]:
        return [one.case, *(f"{s.ml:.4f}" for s in one.structures), f"{one.mask_ml:.4f}"]


def _wants_dicom(scan: Scan, found: Segmented) -> bool:
    """Whether a result has a DICOM SEG; without a segment there is none."""
    return scan.series is not None and any(structure.voxels for structure in found.structures)


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
        (float(row[_USUAL[0]]), float(row[_USUAL[1]])),
    )


def _table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    csv.writer(file, delimiter="\t", lineterminator="\n").writerows([header, *rows])
    return file.getvalue()


def _known(value: float) -> float | None:
    """Round for JSON, which knows no nan."""
    return None if math.isnan(value) else round(value, 4)


def _number(value: float, digits: int = 4) -> str:
    return "n/a" if value != value else f"{value:.{digits}f}"
