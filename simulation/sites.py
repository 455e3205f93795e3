"""Write a simulated site as a folder of NIfTI in BIDS, so that a client cannot tell it from a hospital's.

write_site(Path("work/candi"), CANDI, subjects=14, seed=1)
"""

# mypy: untyped-calls-exclude="SimpleITK"

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from configs.errors import ConfigError, DataError
from configs.structures import PAPER
from simulation.phantom import NOMINAL_SPACING, draw_anatomy
from simulation.scanner import Scanner, scan

_REFERENCE = Path("derivatives") / "reference"


@dataclass(frozen=True)
class Person:
    """One simulated participant."""

    id: str  # "sub-CANDI001"
    age: float  # years
    sex: str  # "F" or "M"
    seeds: tuple[int, int]  # of the anatomy and of the scan

    @staticmethod
    def of(scanner: Scanner, seed: int, number: int) -> "Person":
        """Participant `number` (from 1) of a site; whoever else takes part changes nothing."""
        rng = np.random.default_rng([seed, number])
        age = round(float(rng.uniform(*scanner.ages)), 1)
        sex = "FM"[int(rng.integers(2))]
        first, second = (int(s) for s in rng.integers(2**31, size=2))
        return Person(f"sub-{scanner.name}{number:03d}", age, sex, (first, second))


def write_site(
    folder: Path,
    scanner: Scanner,
    subjects: int,
    seed: int,
    spacing: float = NOMINAL_SPACING,
    *,
    done: Callable[[str], None] | None = None,
) -> Path:
    """Write a site's scans, reference label maps and tables; go on where an earlier call was interrupted.

    Each file is written under another name and then renamed, so that a file that is there is complete. The same
    arguments give the same bytes, and more `subjects` add to those that are there.

    Args:
        folder: the site's folder; made if need be.
        scanner: the site's scanner and ages.
        subjects: how many people, at least 1.
        seed: of the site; two sites of one scanner need two seeds.
        spacing: mm at which anatomies are drawn; above nominal the scanner's grid is coarser by as much.
        done: told each participant's id once their scan is on disk, for a progress display.

    Returns:
        `folder`.

    Raises:
        ConfigError: `subjects` or `spacing` is out of range.
        DataError: the folder holds something else, or cannot be written.
    """
    if subjects < 1 or spacing <= 0 or seed < 0:
        raise ConfigError(
            f"simulated site {folder}: subjects={subjects}, spacing={spacing} mm, seed={seed}; "
            "need at least 1 subject, a positive spacing and a seed from 0"
        )
    people = [Person.of(scanner, seed, number) for number in range(1, subjects + 1)]
    try:
        _claim(folder, _description(scanner, seed, spacing), people)
        _write_tables(folder, people)
        for person in people:
            _write_person(folder, person, scanner, spacing)
            if done is not None:
                done(person.id)
    except OSError as error:
        raise DataError(
            f"cannot write {folder}: {error.strerror or error}; give another folder or make room"
        ) from error
    return folder


def _description(scanner: Scanner, seed: int, spacing: float) -> str:
    made = {"Name": "simulated scanner", "Description": f"{scanner}, seed {seed}, drawn at {spacing} mm"}
    name = f"Simulated site {scanner.name}: no person's brain"
    return _json({"Name": name, "BIDSVersion": "1.9.0", "DatasetType": "raw", "License": "CC0", "GeneratedBy": [made]})


def _json(content: dict[str, object]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _claim(folder: Path, description: str, people: list[Person]) -> None:
    """Refuse a folder that was made otherwise or holds more people: their scans would be mixed with ours."""
    path = folder / "dataset_description.json"
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name a folder for the simulated site")
    if path.is_file() and path.read_text() == description:
        if surplus := {found.name for found in folder.glob("sub-*")} - {person.id for person in people}:
            raise DataError(f"{folder} holds {len(surplus)} more people than {len(people)}; ask for all, or remove it")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} holds other data than this simulated site; name an empty folder, or remove it")
    _write_text(path, description)


def _write_tables(folder: Path, people: list[Person]) -> None:
    names = "".join(f"{s.id}\t{s.name}\t{s.group}\n" for s in PAPER.structures)
    rows = "".join(f"{p.id}\t{p.age}\t{p.sex}\n" for p in people)
    reference = {"Name": "Simulated truth", "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
    made: dict[str, object] = {**reference, "GeneratedBy": [{"Name": "phantom"}]}
    _write_text(folder / "participants.tsv", f"participant_id\tage\tsex\n{rows}")
    _write_text(folder / _REFERENCE / "dataset_description.json", _json(made))
    _write_text(folder / _REFERENCE / "dseg.tsv", f"index\tname\tgroup\n{names}")


def _write_person(folder: Path, person: Person, scanner: Scanner, spacing: float) -> None:
    image_path = folder / person.id / "anat" / f"{person.id}_T1w.nii.gz"
    label_path = folder / _REFERENCE / person.id / "anat" / f"{person.id}_desc-sst28_dseg.nii.gz"
    if image_path.is_file() and label_path.is_file():
        return
    image, labels, affine = scan(draw_anatomy(person.seeds[0], person.age, spacing), scanner, person.seeds[1])
    ids = np.array(PAPER.ids, np.uint8)
    _write_nifti(label_path, ids[labels], affine)  # first, so that no scan is ever seen without its truth
    _write_nifti(image_path, image.astype(np.int16), affine)


def _write_text(path: Path, text: str) -> None:
    if path.is_file() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(path)


def _write_nifti(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Write an array (D, H, W) with its voxel-to-mm affine (RAS), compressed for speed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))  # SimpleITK's arrays are kji
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    lps = np.diag([-1.0, -1.0, 1.0])  # SimpleITK's world
    image.SetSpacing(edges.tolist())
    image.SetDirection((lps @ affine[:3, :3] / edges).ravel().tolist())
    image.SetOrigin((lps @ affine[:3, 3]).tolist())
    part = path.with_name(f".{path.name}.{os.getpid()}.part.nii.gz")
    try:
        sitk.WriteImage(image, str(part), useCompression=True, compressionLevel=1)
        part.replace(path)
    except RuntimeError as error:
        raise DataError(f"cannot write {path}: the disk may be full or read-only; make room and run again") from error
    finally:
        part.unlink(missing_ok=True)
