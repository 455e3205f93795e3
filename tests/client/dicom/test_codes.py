"""Codes of structures, held against the standard's lists as pydicom has them."""

import pytest

from client.dicom.codes import DCM, OWN, SCT, SIDES, STRUCTURE, SUBSTANCE, Coded, category_of, code_of, side
from client.dicom.codes import codes as table
from configs.structures import PAPER, Row, table_of

codes = pytest.importorskip("pydicom.sr.codedict").codes
CODES = table()

PLACES = {  # by hand, from PS3.16: CID 7153, and CID 7140 where that has none
    "Cerebral-WM": codes.cid7153.CerebralWhiteMatter,
    "Cerebral-CX": codes.cid7153.CerebralCortex,
    "Lateral-Vent": codes.cid7153.LateralVentricle,
    "Inf-Lat-Vent": codes.cid7140.InferiorHornOfLateralVentricle,
    "Cerebellum-WM": codes.cid7153.CerebellarWhiteMatter,
    "Cerebellum-CX": codes.cid7140.CerebellarCortex,
    "Thalamus-Proper": codes.cid7153.Thalamus,
    "Caudate": codes.cid7153.CaudateNucleus,
    "Putamen": codes.cid7153.Putamen,
    "Pallidum": codes.cid7153.GlobusPallidus,
    "3rd-Vent": codes.cid7153.ThirdVentricle,
    "4th-Vent": codes.cid7153.FourthVentricle,
    "Brain-Stem": codes.cid7153.BrainStem,
    "Hippocampus": codes.cid7153.Hippocampus,
    "Amygdala": codes.cid7153.Amygdala,
    "Accumbens-area": codes.cid7153.NucleusAccumbens,
    "CSF": codes.cid7153.CerebrospinalFluid,
    "VentralDC": codes.cid7140.VentralDiencephalon,
}


def same(ours: Coded, theirs: object) -> bool:
    """Whether two codes have one value, scheme and meaning."""
    return (ours.value, ours.scheme, ours.meaning.lower()) == (
        theirs.value,  # type: ignore[attr-defined]
        theirs.scheme_designator,  # type: ignore[attr-defined]
        theirs.meaning.lower(),  # type: ignore[attr-defined]
    )


def test_every_code_is_the_standards() -> None:
    """Of structures, categories and sides."""
    assert {code.value for code in CODES.values()} == {code.value for code in PLACES.values()}
    for name, code in PLACES.items():
        assert same(CODES[name], code), name
    assert same(STRUCTURE, codes.cid7150.AnatomicalStructure) and same(SUBSTANCE, codes.cid7150.BodySubstance)
    assert same(SIDES["left"], codes.cid244.Left) and same(SIDES["right"], codes.cid244.Right)


def test_each_of_the_usual_structures_has_a_code_and_its_side() -> None:
    """Left and right share a code; 16 groups have 16 codes."""
    for structure in PAPER.structures:
        assert code_of(structure).scheme in (SCT, DCM)
        word, found = structure.name.split("-")[0], side(structure)
        assert (found.meaning if found else None) == (word if word in ("Left", "Right") else None)
    assert len({code_of(structure).value for structure in PAPER.structures}) == 16
    fluid = next(structure for structure in PAPER.structures if structure.name == "CSF")
    assert category_of(code_of(fluid)) == SUBSTANCE


def test_a_structure_of_another_name_has_a_code_of_our_own() -> None:
    """Never that of a structure that has its number: 17 is the left hippocampus in FreeSurfer alone."""
    rows = (Row(17, "Left-Spleen", "Spleen", 17, (1, 2, 3)),)
    assert code_of(table_of(rows).structures[0]) == Coded("17", OWN, "Left-Spleen")
