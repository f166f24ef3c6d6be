"""DDTI: polygons in XML, and the re-release with masks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.data.layouts.ddti_marks import fill_polygons
from medsam_adapter.errors import DataError
from miniatures import ddti, sketches


@pytest.fixture
def root(tmp_path) -> Path:
    ddti.write(tmp_path)
    return tmp_path


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_polygons_become_masks_by_patient(tmp_path):
    truth = ddti.write(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "ddti" and dataset.label_names == {1: "thyroid nodule"}
    assert [case.case_id for case in dataset.cases] == ["1_1", "1_2", "2_1", "3_1", "10_1"]
    assert [case.patient_id for case in dataset.cases] == ["1", "1", "2", "3", "10"]
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels[0], truth[case.case_id])
        np.testing.assert_array_equal(dataset.read_labels(case), sample.labels)
        assert case.label.suffix == ".xml" and sample.scan.array.shape == (1, *sketches.SHAPE_YX, 3)
    assert dataset.official_split is None and (dataset.read(dataset.case("3_1")).labels[0, :, 30:35] == 0).all()


def test_a_picture_without_a_polygon_is_unlabelled(root):
    notes = open_dataset(root).notes
    assert "1 pictures have no polygon and are unlabelled: 4_1." in notes
    unlabelled = open_dataset(root, require_labels=False)
    assert unlabelled.case("4_1").label is None and unlabelled.read(unlabelled.case("4_1")).labels is None
    with pytest.raises(DataError, match="was not marked by 'rater 1'"):
        unlabelled.read_labels(unlabelled.case("1_1"), rater="rater 1")
    change(root / "2.xml", '"points": [', '"points": [], "x": [')  # a region without points
    assert open_dataset(root, require_labels=False).case("2_1").label is None
    (root / "3.xml").unlink()
    dataset = open_dataset(root, require_labels=False)
    assert dataset.case("3_1").label is None and "3 pictures have no polygon" in dataset.notes[0]


def test_marks_that_are_cut_off_behind_their_last_point_are_used(root):
    assert not (root / "10.xml").read_text().count("freehand")
    assert any("10_1 are cut off" in note for note in open_dataset(root).notes)


def test_x_goes_to_the_right_and_outlines_belong_to_the_nodule():
    points, mask = ddti.triangle()
    filled = fill_polygons([points], mask.shape)
    assert filled.dtype == np.uint8 and set(np.unique(filled)) == {0, 1}
    assert (filled != mask).sum() <= 4  # along the slope a pixel may be rounded to either side
    assert filled[5, 10] and filled[5, 40] and filled[15, 10] and not filled[15, 40]
    both = fill_polygons([points, [(50, 30), (60, 30), (60, 40), (50, 40)]], mask.shape)
    assert (both >= filled).all() and both[35, 55]
    assert fill_polygons([[(-20, -20), (900, -20), (900, 900), (-20, 900)]], mask.shape).all()  # beyond the picture


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('{"x": 50, "y": 40}, {"x": 20, "y": 40}], "annotation": {}, "regionType": "freehand"}]', '{"x": 5', "image 1"),
        ('"x": 50', '"u": 50', "KeyError"),
        ('"x": 50', '"x": "wide"', "ValueError"),
        ('"x": 50', '"x": NaN', "not finite"),
        ('[{"points"', '{"p"', "JSONDecodeError"),
        ("</case>", "", "no element found"),
    ],
)
def test_damaged_marks_are_found_on_reading(root, old, new, found):
    change(root / "2.xml", old, new)
    dataset = open_dataset(root)
    with pytest.raises(DataError, match="marks that cannot be read") as caught:
        dataset.read(dataset.case("2_1"))
    assert caught.value.file == root / "2.xml" and "points" in caught.value.expected
    assert found in caught.value.found
    errors = [finding for finding in check_dataset(dataset) if finding.level == "error"]
    assert [(finding.case_id, finding.file.name) for finding in errors] == [("2_1", "2.xml")]


def test_marks_of_pictures_that_are_not_there(root):
    (root / "1_2.jpg").unlink()
    (root / "2_1.jpg").unlink()
    for require_labels in (True, False):
        with pytest.raises(DataError, match="marks pictures that are not there") as caught:
            open_dataset(root, require_labels=require_labels)
        assert caught.value.found == "2 lacking: 1_2, 2_1" and "<case>_<image>.jpg" in caught.value.expected


def test_two_marks_of_one_picture_are_united(root):
    svg = json.dumps(ddti.regions_of([(40, 2, 50, 8)]))
    change(root / "2.xml", "</case>", f"<mark><image>1</image><svg>{svg}</svg></mark></case>")
    dataset = open_dataset(root)
    labels = dataset.read(dataset.case("2_1")).labels[0]
    assert labels[5, 45] and labels[20, 30]


# -- the re-release ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "DDTI", "DDTI/1_or_data"])
def test_the_re_release(tmp_path, inside):
    truth = ddti.write(tmp_path, form="png")
    dataset = open_dataset(tmp_path / inside)
    assert dataset.layout == "ddti" and [case.case_id for case in dataset.cases] == list(truth)
    assert "1_or_data/image" in dataset.notes[0] and "patient" in dataset.notes[0]
    for case in dataset.cases:
        np.testing.assert_array_equal(dataset.read(case).labels[0], truth[case.case_id])


@pytest.mark.parametrize("inside", ["DDTI", "DDTI/2_preprocessed_data", "DDTI/2_preprocessed_data/stage1"])
def test_its_preprocessed_part_alone(tmp_path, inside):
    truth = ddti.write(tmp_path, form="png")
    shutil.rmtree(tmp_path / "DDTI/1_or_data")
    dataset = open_dataset(tmp_path / inside)
    assert dataset.layout == "ddti" and "stage1/p_image" in dataset.notes[0]
    np.testing.assert_array_equal(dataset.read(dataset.case("0002")).labels[0], truth["0002"][::2, ::2])


def test_missing_files_of_the_re_release(tmp_path):
    ddti.write(tmp_path, form="png")
    (tmp_path / "DDTI/1_or_data/mask/0001.PNG").unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "1 lacking: 0001"
    (tmp_path / "DDTI/1_or_data/image/0002.PNG").unlink()
    with pytest.raises(DataError, match="masks without their images") as caught:
        open_dataset(tmp_path, require_labels=False)
    assert caught.value.found == "1 masks without image: 0002" and caught.value.file.name == "1_or_data"


def test_the_check_names_what_is_broken(tmp_path):
    ddti.write(tmp_path, form="png")
    base = tmp_path / "DDTI/1_or_data"
    sketches.save(base / "mask/0000.PNG", np.full(sketches.SHAPE_YX, 7, np.uint8))
    sketches.save(base / "mask/0001.PNG", np.zeros((47, 64), np.uint8))
    errors = {f.case_id: f.problem for f in check_dataset(open_dataset(tmp_path)) if f.level == "error"}
    assert "no name" in errors.pop("0000") and "not on the grid" in errors.pop("0001") and not errors


def test_suffixes_in_capitals_are_read_as_they_are_detected(root):
    wanted = [case.case_id for case in open_dataset(root).cases]
    for file in list(root.rglob("*.xml")):
        file.rename(file.with_suffix(".XML"))
    assert [case.case_id for case in open_dataset(root, "ddti").cases] == wanted
