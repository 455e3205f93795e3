"""Preparing, segmenting, generating, exporting and evaluating from Python.

`import sst` gives all of it, `sst` the same commands.

In a folder with a model that a federation delivered, scans, and label maps to compare with:

    >>> import sst
    >>> model = sst.open_model("model")
    >>> found = sst.segment("scans", model, "segmented", device="cpu")
    >>> [(scan.case, scan.path.name) for scan in found.scans]
    [('a', 'a_desc-sst_dseg.nii.gz')]
    >>> [item.reason for item in found.set_aside]
    []
    >>> figures = sst.evaluate("segmented", "reference", "figures")
    >>> 0 <= figures.mean_dice <= 1
    True
    >>> pairs = sst.generate(model, "pairs", count=1, seed=7, device="cpu").pairs
    >>> pairs[0].image.name, pairs[0].labels.name
    ('pair-0001_T1w.nii.gz', 'pair-0001_dseg.nii.gz')

What the user gave is checked before anything heavy is imported. Every error that a user can mend is an `SstError`, with
the message of the command, which calls the functions here: where it names an option (`--mask-pattern`), the argument of
that meaning is meant (`mask_pattern`). Nothing is printed, and what is given is never changed.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from client.preparation import Preparation, Stripping
from configs.errors import ConfigError, DataError, RunError, disk_error
from configs.structures import PAPER, LabelTable, read_table, table_of

if TYPE_CHECKING:  # torch and all that: imported only when work begins
    from client.check import Row
    from client.evaluate import Agreement
    from client.export.check import Checked
    from client.generate import PairFiles
    from client.model import Model
    from client.prepare import PreparedCase, SetAside
    from client.segmented import Segmented

StrPath = str | os.PathLike[str]
Paths = StrPath | Sequence[StrPath]
"""Files, folders (BIDS, any NIfTI files, or DICOM), or tables of files (.csv, .tsv): one, or several."""

Watch = Callable[[int, int], None]
"""Called with (done, in all) after each scan or pair."""

Begin = Callable[[int, int, str], None]
"""Called with (number, in all, name) before each scan or pair."""

DEVICES = ("auto", "cpu", "cuda")
LAYOUTS = ("nifti", "bids", "nnunet")
FORMATS = ("monai-bundle", "torchscript", "onnx")


@dataclass(frozen=True)
class PreparedScans:
    """Scans on the atlas's grid, as the networks see them."""

    folder: Path  # of the volumes that are aligned to this atlas
    scans: tuple["PreparedCase", ...]  # case, person, path, labelled
    set_aside: tuple["SetAside", ...]  # file, code, reason
    notes: tuple[str, ...]  # what a person should know of the choice of files, and of label maps that are not used
    report: Path | None  # check.html; None where none was asked for
    checks: tuple["Row", ...]  # of the report, the worst first: case, light, overlap, similarity, distance, concerns


@dataclass(frozen=True)
class SegmentedScans:
    """Label maps on the scans' own voxels, and what else was written of each."""

    folder: Path  # a BIDS derivative
    scans: tuple["Segmented", ...]  # case, path, structures (ml, confidence), judgement, table, overlay, sidecar
    set_aside: tuple["SetAside", ...]  # file, code, reason
    notes: tuple[str, ...]  # what a person should know of the model, and of the choice of masks and of series
    volumes: Path  # tab-separated: ml of each structure, a row for each scan
    judgements: Path  # tab-separated: light, predicted Dice and concerns, a row for each scan
    page: Path  # segmentations.html: all results, the worst first, with a viewer


@dataclass(frozen=True)
class GeneratedPairs:
    """Labelled images that nobody was scanned for."""

    folder: Path
    pairs: tuple["PairFiles", ...]  # image, labels, recipe


@dataclass(frozen=True)
class Exported:
    """A model's network for people who have other software."""

    folder: Path
    files: tuple[Path, ...]  # the network first, README.md among the others
    checked: "Checked"  # on the atlas: largest difference of a probability, and voxels with another label


@dataclass(frozen=True)
class Evaluation:
    """How label maps agree with a reference."""

    folder: Path
    scans: tuple["Agreement", ...]  # case, mean_dice, figures: structure or "group:" + group -> measure -> value
    left_out: tuple[str, ...]  # what was not compared, and why
    table: Path  # evaluation.csv: a row for each scan and structure
    summary: Path  # evaluation.json: the same, with means, spreads and the rules for what is not there
    plot: Path  # dice.png

    @property
    def mean_dice(self) -> float:
        """Mean over the scans of the mean Dice of the groups of structures, 0 to 1; nan where a scan has no figure."""
        return sum(scan.mean_dice for scan in self.scans) / len(self.scans)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Turn what the system says of a full or read-only disk into an `SstError`."""
    try:
        yield
    except OSError as error:
        if full := disk_error(error):
            raise full from error
        raise


@_disk_errors()
def prepare(
    scans: Paths,
    atlas: StrPath,
    out: StrPath,
    *,
    preset: str | None = None,
    report: bool = False,
    mask_pattern: str = "",
    skull_stripping: str = "",
    bias_correction: bool = True,
    series: int | None = None,
    jobs: int = 1,
    label_table: StrPath | None = None,
    progress: Watch | None = None,
    begin: Begin | None = None,
) -> PreparedScans:
    """Bring scans to an atlas as a federation does, to check them before it does; one that is unfit is set aside.

    Each scan is masked, corrected for the bias field (N4), registered to the atlas (affine), resampled to its grid and
    scaled to [0, 1]. What is in `out` already, made of the same files in the same way, is not made again.

    Args:
        scans: T1-weighted scans, skull-stripped, with a mask, or whole heads for a stripper.
        atlas: a model's folder, a run's folder with its atlas, or a skull-stripped scan.
        out: folder to write to. Each scan becomes a .safetensors with `image` (D, H, W) float32 in [0, 1],
            `atlas_to_scan` (4, 4) between RAS worlds in mm, and `labels` (D, H, W) uint8 where the scan has them.
        preset: whose grid to use where the atlas is a scan.
        report: write check.html, each scan with the outline of the atlas's brain over it.
        mask_pattern: where masks lie, from a scan's folder, e.g. "{stem}_brainmask.nii.gz".
        skull_stripping: for scans that are evidently whole heads and have no mask: "deepbet", or the command of
            another stripper, e.g. "mri_synthstrip -i {in} -o {out} -m {mask}"; run without a shell.
        bias_correction: take the scanner's bias field out (N4).
        series: number of the series to take of each study in DICOM; None takes the T1-weighted one by its tags.
        jobs: scans at a time, each in a process; 0: one a core. With more than one, a script needs the usual
            `if __name__ == "__main__":` around its calls.
        label_table: ids, names and groups of labels (a dseg.tsv), where the atlas comes with none; without it
            FreeSurfer's 28 of the paper.
        progress: called with (scans done, scans in all).
        begin: called with (number of the scan, scans in all, its name) before each.

    Returns:
        Where the prepared scans are, what was set aside and why, and the report.

    Raises:
        ConfigError: an argument is out of range, there is no such preset, the label table is none, or scans are in
            DICOM and what reads it is not installed.
        DataError: a path is missing, the atlas cannot be used, or no scan can.
        RunError: `out` cannot be written.
    """
    sources, place, folder = _sources(scans), Path(atlas), Path(out)
    _at_least("--jobs", jobs, 0)
    if not place.exists():
        raise DataError(f"--atlas: there is no {place}")
    how = Preparation(bias_correction, mask_pattern, Stripping(skull_stripping), jobs or os.cpu_count() or 1)
    how = replace(how, series=series)
    given = _table(label_table)

    from client.check import write_check
    from client.frames import find_atlas
    from client.prepare import prepare_site, store_of

    atlas_found = find_atlas(place, preset)
    frame, contrast = atlas_found.frame, atlas_found.contrast
    how = replace(how, table=given or atlas_found.table, contrast=contrast)
    _writable(folder)
    store, page = store_of(folder, frame), folder / "check.html"
    done = prepare_site(sources, frame, store, progress, how, begin=begin)
    checks = write_check(done, frame, page, contrast) if report else []
    return PreparedScans(store, done.cases, done.set_aside, done.notes, page if report else None, tuple(checks))


def open_model(folder: StrPath) -> "Model":
    """Open a model that a federation delivered; every file is held against its digest first.

    Args:
        folder: the one that holds card.json, e.g. RUN/sites/SITE/runs/NAME/model of a simulation.

    Returns:
        The model: `card` (what it was made of and for, its figures), `digest`, `frame` (the atlas's image and grid),
        `segmenter(device)`, the 3D U-Net, from volumes (N, 1, D, H, W) in [0, 1] to logits (N, classes, D, H, W).

    Raises:
        DataError: it is no model, of another format, a file is missing, or one was changed.
    """
    from client import model

    return model.open_model(Path(folder))


@_disk_errors()
def segment(
    scans: Paths,
    model: "Model | StrPath",
    out: StrPath,
    *,
    mask_pattern: str = "",
    skull_stripping: str = "",
    bias_correction: bool = True,
    series: int | None = None,
    largest_component: bool = False,
    device: str = "auto",
    progress: Watch | None = None,
    begin: Begin | None = None,
) -> SegmentedScans:
    """Segment scans: label maps on their own voxels, volumes in ml, a judgement; one that is unfit is set aside.

    Args:
        scans: T1-weighted scans, skull-stripped, with a mask, or whole heads for a stripper.
        model: an opened model, or its folder.
        out: folder to write to, a BIDS derivative: for each scan *_dseg.nii.gz (ids of the model's label table,
            with the scan's shape, affine and header), *_volumes.tsv, *_overlay.png, *_view.js and *_dseg.json; of a
            scan in DICOM also *_dseg.dcm, a DICOM SEG on the slices of its series.
        mask_pattern: as in `prepare`.
        skull_stripping: as in `prepare`.
        bias_correction: as in `prepare`, and as in the model's training.
        series: as in `prepare`.
        largest_component: keep only the largest connected component of each structure.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        progress: called with (scans done, scans in all).
        begin: called with (number of the scan, scans in all, its name) before each.

    Returns:
        What was written of each scan, its volumes and concerns, and what was set aside and why.

    Raises:
        ConfigError: an argument is none of its values, there is no GPU, or scans are in DICOM and what reads it is not
            installed.
        DataError: a path is missing, the model cannot be used, or no scan can.
        RunError: `out` cannot be written.
    """
    sources, folder = _sources(scans), Path(out)
    how = Preparation(bias_correction, mask_pattern, Stripping(skull_stripping))
    _one_of("--device", device, DEVICES)

    from client.model import OF_NOBODY
    from client.results_page import PAGE
    from client.segment import scans_at, segment_all
    from client.segmented import JUDGEMENTS, VOLUMES
    from sst_models.training.device import choose

    opened, where = _opened(model), choose(device)
    found = scans_at(sources, mask_pattern, opened.experiment.contrast, opened.experiment.table, series)
    _writable(folder)
    done, aside = segment_all(found, opened, folder, how, where, largest=largest_component, watch=progress, begin=begin)
    if not done:
        listed = f"{folder / 'set_aside.tsv'} says why"
        raise DataError(f"none of {len(found)} scans could be segmented ({listed}); the first: {aside[0].reason}")
    noted = (note for scan in found for note in (scan.series_note, scan.mask_note) if note)
    notes = (*((OF_NOBODY.strip(),) if opened.of_nobody else ()), *noted)
    tables = (folder / name for name in (VOLUMES, JUDGEMENTS, PAGE))
    return SegmentedScans(folder, tuple(done), tuple(aside), notes, *tables)


@_disk_errors()
def generate(
    model: "Model | StrPath",
    out: StrPath,
    *,
    count: int = 200,
    layout: str = "nifti",
    seed: int = 1,
    device: str = "auto",
    progress: Watch | None = None,
    begin: Begin | None = None,
) -> GeneratedPairs:
    """Make labelled pairs in the style of a site's scanner, to train a network with; those that are there are kept.

    Args:
        model: an opened model, or its folder.
        out: folder to write to; it holds pairs of one model in one layout. Images are (D, H, W) float32 in [0, 1] on
            the model's grid, label maps uint8 on the same voxels, and a recipe (JSON) is beside each pair.
        count: how many pairs: numbers 1 to `count` of this seed.
        layout: "nifti", "bids", or "nnunet" (a raw dataset of version 2, with class indices as labels, and
            label_ids.json from these to the label table's ids).
        seed: of all draws; the same model, seed and number give the same pair.
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        progress: called with (pairs done, pairs in all).
        begin: called with (number of the pair, pairs in all, its name) before each.

    Returns:
        Where each pair is, in the order of their numbers.

    Raises:
        ConfigError: an argument is out of range or none of its values, or there is no GPU.
        DataError: the model cannot be used or has no generator, or `out` holds pairs of another model or layout.
        RunError: `out` cannot be written.
    """
    folder = Path(out)
    _one_of("--layout", layout, LAYOUTS)
    _one_of("--device", device, DEVICES)
    _at_least("--count", count, 1)
    _at_least("--seed", seed, 0)

    from client import generate as pairs
    from sst_models.training.device import choose

    opened, where = _opened(model), choose(device)
    _writable(folder)
    made = pairs.generate(opened, count, folder, layout, seed=seed, device=where, watch=progress, begin=begin)
    return GeneratedPairs(folder, tuple(made))


@_disk_errors()
def regenerate(recipe: StrPath, model: "Model | StrPath", out: StrPath, *, device: str = "auto") -> "PairFiles":
    """Make one pair again from its recipe, bit for bit on the same kind of processor.

    Args:
        recipe: the .json beside a generated pair.
        model: the model that the pair is of, opened, or its folder.
        out: folder to write the two files to, in layout "nifti".
        device: "auto" (a GPU if there is one), "cpu" or "cuda".

    Returns:
        Where the pair is; its recipe is the one given.

    Raises:
        ConfigError: the device is none of its values, or there is no GPU.
        DataError: it is no recipe, or of another model; the model cannot be used or has no generator.
        RunError: `out` cannot be written.
    """
    _one_of("--device", device, DEVICES)

    from client.generate import PairFiles, again
    from sst_models.training.device import choose

    opened, where = _opened(model), choose(device)
    _writable(Path(out))
    return PairFiles(*again(Path(recipe), opened, Path(out), where), Path(recipe))


@_disk_errors()
def export(model: "Model | StrPath", out: StrPath, *, to: str, with_atlas: bool = False) -> Exported:
    """Write a model's network for other software, with a model card; it is held against the model before it is kept.

    It goes from a prepared scan to the probability of each class, with the preset's test-time augmentation. It has
    neither preparation nor what refines labels afterwards, so its labels are not those of `segment`; its README.md
    says what is left out.

    Args:
        model: an opened model, or its folder.
        out: folder to write to; a new one, an empty one, or one that holds this export.
        to: "monai-bundle" (runs with `python -m monai.bundle run`), "torchscript", or "onnx".
        with_atlas: write the image of the atlas, too, for others to align scans to. It is a scan of a person, shared
            with the sites of the federation: only where it may be passed on.

    Returns:
        What was written, and how it compares with the model.

    Raises:
        ConfigError: an unknown format, or a package that it needs is missing.
        DataError: the model cannot be used, or `out` holds something else.
        RunError: `out` cannot be written, or the network cannot be exported by the versions that are installed.
    """
    folder = Path(out)
    _one_of("--to", to, FORMATS)

    from client.export.write import write_export

    opened = _opened(model)
    _writable(folder.parent)
    written = write_export(opened, folder, to, with_atlas)
    return Exported(folder, written.files, written.checked)


@_disk_errors()
def evaluate(
    found: StrPath,
    reference: StrPath,
    out: StrPath,
    *,
    label_table: StrPath | None = None,
    progress: Watch | None = None,
    begin: Begin | None = None,
) -> Evaluation:
    """Compare label maps with a reference: Dice, surface distances (mm) and volumes, by structure and by group.

    Files are paired by the names of their scans. A structure that neither map holds has no figures and counts in no
    mean; one that only one map holds has a Dice of 0, no distance, and its whole volume as error.

    Args:
        found: a label map, or a folder of them.
        reference: what they should be, likewise, on the same voxels.
        out: folder to write evaluation.csv, evaluation.json and dice.png to.
        label_table: ids, names and groups of labels (a dseg.tsv); without it FreeSurfer's 28 of the paper.
        progress: called with (pairs done, pairs in all).
        begin: called with (number of the pair, pairs in all, its name) before each.

    Returns:
        The figures of each scan, and what was not compared and why.

    Raises:
        ConfigError: the label table is none.
        DataError: a path is missing, or nothing can be compared.
        RunError: `out` cannot be written.
    """
    ours, theirs, folder = Path(found), Path(reference), Path(out)
    for path in (ours, theirs):
        if not path.exists():
            raise DataError(f"there is no {path}; give a label map or a folder of them")

    table = _table(label_table) or PAPER

    from client.evaluate import evaluate_folder

    _writable(folder)
    scans, left_out = evaluate_folder(ours, theirs, folder, progress, table, begin=begin)
    written = (folder / name for name in ("evaluation.csv", "evaluation.json", "dice.png"))
    return Evaluation(folder, tuple(scans), tuple(left_out), *written)


def _table(path: StrPath | None) -> LabelTable | None:
    return None if path is None else table_of(read_table(Path(path)))


def _sources(scans: Paths) -> list[Path]:
    sources = [Path(scans)] if isinstance(scans, str | os.PathLike) else [Path(path) for path in scans]
    if not sources:
        raise DataError("no scans are given; give files, folders, or tables of files")
    for path in sources:
        if not path.exists():
            raise DataError(f"there is no {path}; give files, folders, or tables of files")
    return sources


def _opened(model: "Model | StrPath") -> "Model":
    return open_model(model) if isinstance(model, str | os.PathLike) else model


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{option}: '{value}' is none of {', '.join(known)}")


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{option}: {value} is less than {least}")


def _writable(folder: Path) -> None:
    """Make the folder, or say at once that it cannot be written: not after an hour's work."""
    probe = folder / f".sst-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror}; give another folder") from error
