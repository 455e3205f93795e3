"""SNOMED CT codes of structures, by FreeSurfer's names, as DICOM has them.

All are of the two lists of DICOM PS3.16 that are made for this: CID 7153, CNS Segmentation Type, and CID 7140, Brain
Structure for Volumetric Measurement (which has the ventral diencephalon, FreeSurfer's own term, under DICOM's own
code); `tests/client/dicom/test_codes.py` holds each against pydicom's copy of these lists. SNOMED CT is used in DICOM
under the agreement of both (PS3.16, 8.1.1).
"""

from dataclasses import dataclass

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

SIDES = {"left": Coded("7771000", SCT, "Left"), "right": Coded("24028007", SCT, "Right")}
"""Of CID 244, Laterality."""

_CODES = {
    ("Cerebral-WM", "Cerebral-White-Matter"): Coded("68523003", SCT, "Cerebral White Matter"),
    ("Cerebral-CX", "Cerebral-Cortex"): Coded("40146001", SCT, "Cerebral cortex"),
    ("Lateral-Vent", "Lateral-Ventricle"): Coded("66720007", SCT, "Lateral ventricle"),
    ("Inf-Lat-Vent",): Coded("53118009", SCT, "Inferior Horn of Lateral Ventricle"),
    ("Cerebellum-WM", "Cerebellum-White-Matter"): Coded("33060004", SCT, "Cerebellar white matter"),
    ("Cerebellum-CX", "Cerebellum-Cortex"): Coded("25991003", SCT, "Cerebellar Cortex"),
    ("Thalamus", "Thalamus-Proper"): Coded("42695009", SCT, "Thalamus"),
    ("Caudate",): Coded("11000004", SCT, "Caudate nucleus"),
    ("Putamen",): Coded("89278009", SCT, "Putamen"),
    ("Pallidum",): Coded("14738005", SCT, "Globus pallidus"),
    ("3rd-Vent", "3rd-Ventricle"): Coded("49841001", SCT, "Third ventricle"),
    ("4th-Vent", "4th-Ventricle"): Coded("35918002", SCT, "Fourth ventricle"),
    ("Brain-Stem",): Coded("119238007", SCT, "Brain stem"),
    ("Hippocampus",): Coded("5366008", SCT, "Hippocampus"),
    ("Amygdala",): Coded("4958002", SCT, "Amygdala"),
    ("Accumbens-area",): Coded("427667007", SCT, "Nucleus accumbens"),
    ("CSF",): Coded("65216001", SCT, "Cerebrospinal Fluid"),
    ("VentralDC",): Coded("110700", DCM, "Ventral Diencephalon"),
}

CODES = {name: code for names, code in _CODES.items() for name in names}
"""By the name without its side: the paper's, and FreeSurfer's where it is another."""


def code_of(structure: Structure) -> Coded:
    """Give the code of a structure, whatever its side; one of our own, its id, where its name is not FreeSurfer's."""
    return CODES.get(side_of(structure.name)[1], Coded(str(structure.id), OWN, structure.name))


def category_of(code: Coded) -> Coded:
    """Give the category of a structure's code."""
    return SUBSTANCE if code.meaning == "Cerebrospinal Fluid" else STRUCTURE


def side(structure: Structure) -> Coded | None:
    """Give the code of a structure's side; None where it has none."""
    return SIDES.get(side_of(structure.name)[0])
