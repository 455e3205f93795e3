"""SNOMED CT codes of structures, by FreeSurfer's names, as DICOM has them.

All are of the two lists of DICOM PS3.16 that are made for this: CID 7153, CNS Segmentation Type, and CID 7140, Brain
Structure for Volumetric Measurement (which has the ventral diencephalon, FreeSurfer's own term, under DICOM's own
code); `tests/client/dicom/test_codes.py` holds each against pydicom's copy of these lists. SNOMED CT is used in DICOM
under the agreement of both (PS3.16, 8.1.1).
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from configs.structures import Structure, side_of

SCT, DCM, OWN = "SCT", "DCM", "99SST"
"""Coding schemes: SNOMED CT, DICOM's own, and ours for structures that neither list has (PS3.16, 8: 99 begins private
schemes)."""


@dataclass(frozen=True)
class Coded:
    """A code of DICOM: its value, scheme and meaning."""

    value: str
    scheme: str
    meaning: str


STRUCTURE, SUBSTANCE = Coded("91723000", SCT, "Anatomical Structure"), Coded("91720002", SCT, "Body Substance")
"""Categories, of CID 7150, Segmentation Property Category."""

FLUID = "65216001"
"""Cerebrospinal fluid, the one structure that is a substance."""

SIDES = {"left": Coded("7771000", SCT, "Left"), "right": Coded("24028007", SCT, "Right")}
"""Of CID 244, Laterality."""


@cache
def codes() -> dict[str, Coded]:
    """Read `codes.tsv`, by names without their sides: the paper's, and FreeSurfer's where they differ."""
    with Path(__file__).with_name("codes.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return {row["name"]: Coded(row["value"], row["scheme"], row["meaning"]) for row in rows}


def code_of(structure: Structure) -> Coded:
    """Give the code of a structure, whatever its side; one of our own, its id, where its name is not FreeSurfer's."""
    return codes().get(side_of(structure.name)[1], Coded(str(structure.id), OWN, structure.name))


def category_of(code: Coded) -> Coded:
    """Give the category of a structure's code."""
    return SUBSTANCE if code.value == FLUID else STRUCTURE


def side(structure: Structure) -> Coded | None:
    """Give the code of a structure's side; None where it has none."""
    return SIDES.get(side_of(structure.name)[0])
