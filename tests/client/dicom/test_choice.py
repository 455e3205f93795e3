"""Which series of a study is the T1: tags as scanners of three makers write them, and what is refused."""

import pytest

pytest.importorskip("pydicom")
pytest.importorskip("dcm2niix")

from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from client.dicom.choice import choose  # noqa: E402
from client.dicom.headers import read_volumes  # noqa: E402
from study import LOCALISER, T1, T2, Study, volume, write_series, write_study  # noqa: E402

GE = T1 | {"ScanningSequence": "GR", "SequenceVariant": ["SS", "SP", "SK"], "RepetitionTime": 8.2, "EchoTime": 3.2}
GE |= {"InversionTime": 450.0, "ImageType": ["ORIGINAL", "PRIMARY", "OTHER"]}
PHILIPS = T1 | {"ScanningSequence": "GR", "SequenceVariant": "MP", "RepetitionTime": 8.1, "EchoTime": 3.7}
PHILIPS |= {"InversionTime": None, "ImageType": ["ORIGINAL", "PRIMARY", "M_FFE", "M", "FFE"]}
SPOILED = T1 | {"ScanningSequence": "GR", "SequenceVariant": "SP", "RepetitionTime": 18.0, "InversionTime": None}

OTHERS: dict[str, dict[str, Any]] = {
    "a spin echo": T2,
    "a localiser": LOCALISER | {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
    "two-dimensional": LOCALISER,
    "made from other images": T1 | {"ImageType": ["DERIVED", "PRIMARY", "MPR"]},
    "no magnitude image": T1 | {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]},
    "not said to be three-dimensional": T1 | {"MRAcquisitionType": None},
    "echo planar": T1 | {"ScanningSequence": ["EP", "GR"]},
    "angiography": SPOILED | {"AngioFlag": "Y", "RepetitionTime": 22.0},
    "echo time too long, or not said": SPOILED | {"EchoTime": 20.0, "RepetitionTime": 28.0},
    "its times or flip angle are not those of T1": T1 | {"RepetitionTime": 5000.0, "InversionTime": 2500.0},
    "balanced, not spoiled": SPOILED | {"SequenceVariant": "SS", "RepetitionTime": 5.0},
    "no MR image": T1 | {"Modality": "CT"},
}


def write_t1(folder: Path, number: int, tags: dict[str, Any], **how: Any) -> Study:
    """Write a whole head as a series."""
    study = Study()
    write_series(folder / str(number), study, number, tags, *volume(), **how)
    return study


def chosen(folder: Path, number: int | None = None) -> tuple[int | None, str]:
    """Give the number of the series that is chosen, and what is said."""
    volumes, broken = read_volumes([path for path in sorted(folder.rglob("*")) if path.is_file()])
    assert broken == 0
    choice = choose(volumes, number)
    return choice.volume.number if choice.volume else None, choice.text


@pytest.mark.parametrize("tags", [T1, GE, PHILIPS, SPOILED])
def test_the_t1_of_each_maker_is_found_among_other_series(tmp_path: Path, tags: dict[str, Any]) -> None:
    """Before its reformats, the other contrasts, and the same after contrast agent; all are listed."""
    write_study(tmp_path)
    for path in (tmp_path / "DOE^JANE MRN-4711" / "DoeJane t1").iterdir():
        path.unlink()
    write_t1(tmp_path, 7, tags)
    number, text = chosen(tmp_path)
    assert number == 7
    for listed in ("series 1 (3 of 50 x 50", "series 3 (", "series 4 (", "series 5 (", "series 99 ("):
        assert listed in text
    assert "after contrast agent" in text and "TR 3200, TE 402 ms" in text


@pytest.mark.parametrize("why", OTHERS)
def test_what_is_no_t1_is_refused_with_the_reason(tmp_path: Path, why: str) -> None:
    """Alone in a study, it is not taken for want of a better."""
    write_t1(tmp_path, 3, OTHERS[why])
    number, text = chosen(tmp_path)
    assert number is None
    assert why in text and "--series N" in text and "series 3 (50 of 50 x 50, 3 x 3 x 3 mm" in text


def test_of_two_equals_none_is_taken_but_the_one_that_is_named(tmp_path: Path) -> None:
    """A repeated scan is nobody's to choose; a number that is not there is said with the list."""
    write_t1(tmp_path, 2, T1)
    write_t1(tmp_path, 6, T1 | {"AcquisitionTime": "195959"})
    assert chosen(tmp_path)[0] is None and chosen(tmp_path)[1].startswith("2 series are T1-weighted")
    assert chosen(tmp_path, 6)[0] == 6
    number, text = chosen(tmp_path, 5)
    assert number is None and text.startswith("series 5 is not in it; there are series 2 (")


def test_a_series_that_is_named_needs_not_be_t1_by_its_tags(tmp_path: Path) -> None:
    """Tags may be lost; slices that are missing are another matter."""
    write_t1(tmp_path, 2, T1 | {"MRAcquisitionType": None, "ScanningSequence": None})
    assert chosen(tmp_path)[0] is None
    assert chosen(tmp_path, 2)[0] == 2


def test_one_acquisition_reconstructed_twice_is_taken_corrected(tmp_path: Path) -> None:
    """Siemens sends a T1 with and without correction for distortion."""
    write_t1(tmp_path, 2, T1 | {"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND"]})
    write_t1(tmp_path, 3, T1)
    assert chosen(tmp_path)[0] == 3


def test_after_contrast_agent_a_t1_is_taken_where_it_is_alone(tmp_path: Path) -> None:
    """And said so; an agent that only the description tells of counts, too."""
    write_t1(tmp_path, 5, T1 | {"ContrastBolusAgent": "Gadolinium"})
    number, text = chosen(tmp_path)
    assert number == 5 and "after contrast agent, as there is no other" in text
    write_t1(tmp_path, 6, T1 | {"SeriesDescription": "t1_mprage_sag +C"})
    assert chosen(tmp_path)[0] is None
    write_t1(tmp_path, 7, T1 | {"SeriesDescription": "t1_mprage_sag_posterior"})
    assert chosen(tmp_path)[0] == 7


@pytest.mark.parametrize(
    ("order", "why"),
    [
        ([k for k in range(50) if k != 20], "slices are missing: 49 are there, 1 or more are not (after slice 20)"),
        ([k for k in range(50) if not 10 <= k < 13], "slices are missing: 47 are there, 3 or more are not"),
        ([20], "a single slice"),
    ],
)
def test_slices_that_are_missing_are_counted(tmp_path: Path, order: list[int], why: str) -> None:
    """A series without them is no volume, named or not; a whole one beside it is taken."""
    write_t1(tmp_path, 2, T1, order=order)
    assert chosen(tmp_path)[0] is None
    number, text = chosen(tmp_path, 2)
    assert number is None and text.startswith("series 2 cannot be used") and (why in text or len(order) == 1)
    if len(order) > 1:
        write_t1(tmp_path, 5, T1 | {"ContrastBolusAgent": "Gadolinium", "AcquisitionTime": "195959"})
        assert chosen(tmp_path)[0] is None  # not the one after contrast agent in its place
    write_t1(tmp_path, 3, T1 | {"AcquisitionTime": "195958"})
    assert chosen(tmp_path)[0] == 3


def test_several_volumes_in_one_series_are_refused(tmp_path: Path) -> None:
    """As a series of a moving heart, or of contrast agent arriving, has them."""
    for acquisition in (1, 2):
        write_t1(tmp_path / str(acquisition), 2, T1 | {"AcquisitionNumber": acquisition})
    number, text = chosen(tmp_path)
    assert number is None and "several volumes in one series: 100 slices at 50 places" in text


def test_the_same_export_twice_counts_once(tmp_path: Path) -> None:
    """Two folders with the same slices are one series."""
    write_t1(tmp_path / "a", 2, T1)
    write_t1(tmp_path / "b", 2, T1)
    assert chosen(tmp_path)[0] == 2


def test_slices_are_in_the_order_of_their_places(tmp_path: Path) -> None:
    """Whatever files and instances are numbered."""
    order = np.random.default_rng(1).permutation(50).tolist()
    write_t1(tmp_path, 2, T1, order=order)
    volumes, _ = read_volumes(sorted((tmp_path / "2").iterdir()))
    assert (np.diff(volumes[0].places) > 2.9).all()
    assert [order[int(one.file.name[-4:]) - 1] for one in volumes[0].slices] in ([*range(50)], [*range(49, -1, -1)])
