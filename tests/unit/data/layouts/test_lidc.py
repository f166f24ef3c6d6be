"""LIDC-IDRI as The Cancer Imaging Archive distributes it."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.data.layouts.lidc_xml import draw_session
from medsam_adapter.data.sample import Scan
from medsam_adapter.data.splits import make_split
from medsam_adapter.errors import DataError
from miniatures import lidc

FIRST = "LIDC-IDRI-0001"


@pytest.fixture
def made(tmp_path) -> tuple[Path, dict[str, lidc.Truth]]:
    return tmp_path, lidc.write(tmp_path)


def xml_of(truth: lidc.Truth) -> Path:
    return next(truth.folder.glob("*.xml"))


def edit(file: Path, pattern: str, replacement: str, count: int = 1) -> None:
    text, number = re.subn(pattern, replacement, file.read_text(), count=count, flags=re.S)
    assert number
    file.write_text(text)


def test_each_reader_and_the_majority(made):
    root, truth = made
    dataset = open_dataset(root)
    assert dataset.label_names == {1: "lung nodule"} and dataset.targets == {"lung nodule": (1,)}
    assert (dataset.modality, dataset.intensity, dataset.orientation) == ("CT", "ct:lung", "LPS")
    for case in dataset.cases:
        sample = dataset.read(case)
        assert list(case.raters) == ["reader 1", "reader 2", "reader 3", "reader 4"]
        drawn = truth[case.case_id].readers
        for name, marks in zip(case.raters, drawn, strict=True):
            np.testing.assert_array_equal(dataset.read_labels(case, sample.scan, name), marks)
        np.testing.assert_array_equal(sample.labels, np.sum(drawn, axis=0) >= 3)
        assert sample.labels.dtype == np.uint8 and drawn[0][4].any() and not sample.labels[4].any()  # two of four


def test_the_scan_is_in_hounsfield_units_with_slices_by_their_position(made):
    root, truth = made
    dataset = open_dataset(root)
    scan = dataset.read_scan(dataset.case(FIRST))
    assert scan.spacing_mm == pytest.approx(lidc.SPACING_MM) and scan.shape_zyx == (lidc.DEPTH, lidc.SIDE, lidc.SIDE)
    assert scan.affine[:3, 3] == pytest.approx((160, 150, lidc.FIRST_Z_MM))
    seen = np.sum(truth[FIRST].readers, axis=0) > 1
    assert (scan.array[seen] == 30).all() and scan.array[~seen].mean() == pytest.approx(-850, abs=3)


def test_ids_patients_and_the_xray_that_is_left_out(made):
    root, truth = made
    dataset = open_dataset(root)
    assert [case.case_id for case in dataset.cases] == [
        FIRST, "LIDC-IDRI-0003", "LIDC-IDRI-0004", "LIDC-IDRI-0132-30180", "LIDC-IDRI-0132-30181",
    ]  # fmt: skip
    assert {case.patient_id for case in dataset.cases} == {f"LIDC-IDRI-{n}" for n in ("0001", "0003", "0004", "0132")}
    assert all(case.image == truth[case.case_id].folder for case in dataset.cases)
    assert dataset.notes[-1] == "Left out, as they are no CT: 1 series." and dataset.official_split is None
    split = make_split(dataset.cases, {"train": 0.5, "test": 0.5}, 3)
    assert sum("0132" in case_id for case_id in split["train"]) in (0, 2)


def test_an_xray_without_xml_is_left_out_by_its_header(made):
    root, _ = made
    next(root.glob("LIDC-IDRI/LIDC-IDRI-0001/*/3000923*/072.xml")).unlink()
    assert len(open_dataset(root, require_labels=False).cases) == 5


@pytest.mark.parametrize("form", ["inside", "manifest"])
def test_the_folder_may_be_given_at_each_level(made, form):
    root, _ = made
    if form == "inside":
        assert len(open_dataset(root / "LIDC-IDRI").cases) == 5
        return
    (root / "manifest-1600709154662").mkdir()
    (root / "LIDC-IDRI").rename(root / "manifest-1600709154662/LIDC-IDRI")
    assert len(open_dataset(root).cases) == 5


def test_a_scan_without_marks_in_its_readings_is_an_empty_reference(made):
    root, truth = made
    edit(xml_of(truth[FIRST]), r"<unblindedReadNodule>.*?</unblindedReadNodule>", "", count=0)
    dataset = open_dataset(root)
    assert dataset.case(FIRST).has_reference and not dataset.read(dataset.case(FIRST)).labels.any()


def test_a_reader_less_is_a_rater_less(made):
    root, truth = made
    edit(xml_of(truth[FIRST]), r"<readingSession>.*?</readingSession>", "")
    dataset = open_dataset(root)
    case = dataset.case(FIRST)
    assert list(case.raters) == ["reader 1", "reader 2", "reader 3"]
    np.testing.assert_array_equal(dataset.read_labels(case, rater="reader 1"), truth[FIRST].readers[1])
    with pytest.raises(DataError, match="not marked by 'reader 4'"):
        dataset.read_labels(case, rater="reader 4")


def test_a_contour_of_few_points_is_closed_and_its_line_is_left_out(tmp_path):
    edges = "".join(
        f"<edgeMap><xCoord>{x}</xCoord><yCoord>{y}</yCoord></edgeMap>" for x, y in ((2, 3), (9, 3), (9, 12), (2, 12))
    )
    file = tmp_path / "1.xml"
    file.write_text(
        '<LidcReadMessage xmlns="http://www.nih.gov"><readingSession><unblindedReadNodule><roi><imageZposition>-130'
        f"</imageZposition><inclusion>TRUE</inclusion>{edges}</roi></unblindedReadNodule></readingSession>"
        "</LidcReadMessage>"
    )
    affine = np.diag([-0.7, -0.7, 2.5, 1.0])
    affine[2, 3] = -130
    labels = draw_session(file, 0, Scan(np.zeros((1, 16, 20)), lidc.SPACING_MM, affine))
    assert labels.sum() == 6 * 8 and labels[0, 4:12, 3:9].all()  # columns 3 to 8, rows 4 to 11


def test_slices_stored_from_head_to_foot_get_their_contours(made):
    _, truth = made
    affine = np.diag([-0.7, -0.7, -2.5, 1.0])
    affine[2, 3] = lidc.FIRST_Z_MM + 2.5 * (lidc.DEPTH - 1)
    scan = Scan(np.zeros((lidc.DEPTH, lidc.SIDE, lidc.SIDE)), lidc.SPACING_MM, affine)
    np.testing.assert_array_equal(draw_session(xml_of(truth[FIRST]), 0, scan), truth[FIRST].readers[0][::-1])


def test_rounded_positions_belong_to_the_nearest_slice(made):
    root, truth = made
    edit(xml_of(truth[FIRST]), r"-127\.500000", "-127.8", count=0)
    dataset = open_dataset(root)
    np.testing.assert_array_equal(dataset.read_labels(dataset.case(FIRST), rater="reader 1"), truth[FIRST].readers[0])


@pytest.mark.parametrize(
    ("pattern", "replacement", "problem", "found"),
    [
        (r"</LidcReadMessage>", "", "cannot be read as XML", "no element found"),
        (r"(<readingSession>).*", r"\1<unblinded", "cannot be read as XML", "unclosed token"),
        (r"<readingSession>.*</readingSession>", "", "holds no reading", "0"),
        (r"(</?)LidcReadMessage", r"\1OtherMessage", "no reading of a CT", "OtherMessage"),
        (r"<imageZposition>-127.500000 ", "<imageZposition>-20.0 ", "lies on no slice", "-20 mm"),
        (r"<imageZposition>-127.500000 ", "<imageZposition>-131.3 ", "lies on no slice", "-131.3 mm"),
        (r"<imageZposition>-127.500000 ", "<imageZposition>low ", "contour that cannot be read", "low"),
        (r"<inclusion>TRUE", "<inclusion>MAYBE", "contour that cannot be read", "MAYBE"),
        (r"<xCoord>\d+", "<xCoord>32", "contour outside the image", "to 32"),
        (r"<yCoord>\d+", "<yCoord>-1", "contour outside the image", "y from -1"),
        (r"<xCoord>\d+", "<xCoord>", "contour that cannot be read", "ValueError"),
    ],
)
def test_a_damaged_reading_is_refused(made, pattern, replacement, problem, found):
    root, truth = made
    edit(xml_of(truth[FIRST]), pattern, replacement, count=0 if "Message" in pattern else 1)
    dataset = open_dataset(root)
    with pytest.raises(DataError, match=problem) as caught:
        dataset.read(dataset.case(FIRST))
    assert caught.value.file == xml_of(truth[FIRST]) and caught.value.expected and found in caught.value.found
    assert [f.case_id for f in check_dataset(dataset) if f.level == "error"] == [FIRST]


def test_slices_that_are_not_axial_are_refused(made):
    _, truth = made
    affine = np.array([[0.7, 0, 0, 0], [0, 0, 2.5, 0], [0, 0.7, 0, -130], [0, 0, 0, 1]])
    scan = Scan(np.zeros((lidc.DEPTH, lidc.SIDE, lidc.SIDE)), lidc.SPACING_MM, affine)
    with pytest.raises(DataError, match="does not consist of axial slices"):
        draw_session(xml_of(truth[FIRST]), 0, scan)


def test_a_missing_xml_file_is_refused(made):
    root, truth = made
    xml_of(truth[FIRST]).unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(root)
    assert caught.value.found == f"1 lacking: {FIRST}" and "annotation files" in caught.value.expected
    case = open_dataset(root, require_labels=False).case(FIRST)
    assert not case.has_reference and open_dataset(root, require_labels=False).read(case).labels is None


def test_two_xml_files_are_refused(made):
    root, truth = made
    (truth[FIRST].folder / "other.xml").write_text("<LidcReadMessage/>")
    with pytest.raises(DataError, match="several XML files") as caught:
        open_dataset(root)
    assert caught.value.file == truth[FIRST].folder and "other.xml" in caught.value.found


def test_a_missing_slice_and_a_missing_scan_are_named(made):
    root, truth = made
    files = sorted(truth[FIRST].folder.glob("*.dcm"))
    positions = {file: int(_header(file).SOPInstanceUID.rpartition(".")[2]) for file in files}
    next(file for file, z in positions.items() if z == 2).unlink()
    dataset = open_dataset(root)
    with pytest.raises(DataError) as caught:
        dataset.read(dataset.case(FIRST))
    assert str(truth[FIRST].folder) in str(caught.value)
    for file in root.glob("LIDC-IDRI/*/*/*/*.dcm"):
        file.unlink()
    with pytest.raises(DataError, match="holds no CT series") as caught:
        open_dataset(root)
    assert "without DICOM files" in caught.value.found


def _header(file: Path):
    from medsam_adapter.data.dicom.series import header

    return header(file)


def test_without_pydicom_the_error_says_what_to_install(made, monkeypatch):
    root, _ = made
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match="pydicom") as caught:
        open_dataset(root)
    assert "medsam-adapter[formats]" in caught.value.hint


def test_no_patient_folders(tmp_path):
    (tmp_path / "CT").mkdir()
    with pytest.raises(DataError, match="not LIDC-IDRI as it is distributed") as caught:
        open_dataset(tmp_path, "lidc")
    assert caught.value.expected == "patient folders LIDC-IDRI-0001" and caught.value.found == "CT"


def test_a_download_in_parts_is_read_whole(made, tmp_path_factory):
    root, truth = made
    parts, whole = tmp_path_factory.mktemp("parts"), {case.case_id for case in open_dataset(root).cases}
    patients = sorted({case.patient_id for case in open_dataset(root).cases})
    assert len(patients) > 1
    for number, patient in enumerate(patients):
        folder = next(path for path in root.rglob(patient) if path.is_dir())
        target = parts / f"manifest-{number}/LIDC-IDRI/{patient}"
        target.parent.mkdir(parents=True)
        shutil.copytree(folder, target)
    assert {case.case_id for case in open_dataset(parts).cases} == whole
    shutil.copytree(parts / f"manifest-0/LIDC-IDRI/{patients[0]}", parts / f"manifest-1/LIDC-IDRI/{patients[0]}")
    with pytest.raises(DataError, match=f"{patients[0]} twice"):
        open_dataset(parts)


def test_a_patient_whose_download_broke_off_is_refused(made):
    root, _ = made
    folder = next(path for path in root.rglob(FIRST) if path.is_dir())
    for file in folder.rglob("*.dcm"):
        file.unlink()
    with pytest.raises(DataError, match=f"without a DICOM file(?s:.)*{FIRST}"):
        open_dataset(root)
