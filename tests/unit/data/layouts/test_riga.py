"""RIGA: labels from what six people drew into a picture, and the masks of RIGA+."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.data.layouts.raters import majority
from medsam_adapter.errors import DataError
from miniatures import riga, sketches

BINRUSHED = "BinRushedcorrected/BinRushed"


@pytest.fixture
def root(tmp_path) -> Path:
    riga.write(tmp_path)
    return tmp_path


@pytest.fixture
def plus(tmp_path) -> Path:
    riga.write(tmp_path, form="plus")
    return tmp_path


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_what_each_rater_drew(tmp_path):
    truth = riga.write(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "riga" and {case.case_id for case in dataset.cases} == set(truth)
    assert dataset.targets == {"optic disc": (1, 2), "optic cup": (2,)} and dataset.nested
    for case in dataset.cases:
        assert tuple(case.raters) == riga.RATERS and case.label is None and case.patient_id == case.case_id
        sample = dataset.read(case)
        is_jpeg = case.image.suffix == ".jpg"
        for rater, marks in truth[case.case_id].items():
            read = dataset.read_labels(case, sample.scan, rater)
            assert read.shape == (1, *sketches.SHAPE_YX) and read.dtype == np.uint8
            if is_jpeg:  # of the pixels beside a line that JPEG has blurred some are lost or won
                assert dice(read[0] > 0, marks > 0) > 0.97 and dice(read[0] == 2, marks == 2) > 0.93
            else:
                np.testing.assert_array_equal(read[0], marks)
                np.testing.assert_array_equal(dataset.read_labels(case, None, rater), read)
        if not is_jpeg:
            agreed = majority(list(truth[case.case_id].values()), nested=True)
            np.testing.assert_array_equal(sample.labels[0], agreed)
            cups = {int((marks == 2).sum()) for marks in truth[case.case_id].values()}
            assert len(cups) > 3 and (agreed == 2).sum() not in (min(cups), max(cups))


def test_the_names_as_they_are_distributed(root):
    dataset = open_dataset(root)
    male = dataset.case("MagrabiaMale_image1")
    assert male.raters["rater 1"].name == "Image1-1.tif" and male.raters["rater 2"].name == "image1-2.tif"
    assert dataset.case("BinRushed1-Corrected_image1").image.name == "image1prime.jpg"
    note = next(note for note in dataset.notes if "no clean picture" in note)
    assert "BinRushed1/image1" in note and "MagrabiFemale/image48" in note and note.startswith("2 pictures")


def test_the_split_is_by_source(root):
    split = open_dataset(root).official_split
    assert set(split["train"]) == {"BinRushed1-Corrected_image1", "BinRushed2_image1", "MESSIDOR_image1"}
    assert set(split["test"]) == {"MagrabiaMale_image1", "MagrabiFemale_image1"} and set(split) == {"train", "test"}


def test_a_part_of_the_archives_is_enough(root):
    shutil.rmtree(root / "BinRushedcorrected")
    shutil.rmtree(root / "Magrabia")
    dataset = open_dataset(root)
    assert dataset.layout == "riga" and [case.case_id for case in dataset.cases] == ["MESSIDOR_image1"]
    assert dataset.official_split is None
    assert open_dataset(root / "MESSIDOR").case("MESSIDOR_image1").raters
    assert open_dataset(root / "MESSIDOR/MESSIDOR").layout == "riga"


def test_messidor_without_drawings_is_not_riga(tmp_path):
    sketches.save(tmp_path / "MESSIDOR/20051019_38557_0100_PP.tif", sketches.eye(0)[0])
    with pytest.raises(DataError, match="no known layout"):
        open_dataset(tmp_path)


def test_masks_of_riga_plus(tmp_path):
    truth = riga.write(tmp_path, form="plus")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.name) == ("riga", "RIGA+")
    assert {case.case_id for case in dataset.cases} == set(riga.PLUS)
    for case in dataset.cases:
        sample = dataset.read(case)
        for rater, marks in truth[case.case_id].items():
            np.testing.assert_array_equal(dataset.read_labels(case, sample.scan, rater)[0], marks)
        np.testing.assert_array_equal(sample.labels[0], majority(list(truth[case.case_id].values()), nested=True))
    assert dataset.official_split["test"] == ["Magrabia_MagrabiaMale_image1"]


def test_masks_of_riga_plus_that_are_missing_or_lost(plus):
    (plus / "RIGA-mask/BinRushed/BinRushed1/image1-3.tif").unlink()
    dataset = open_dataset(plus)
    assert tuple(dataset.cases[0].raters) == tuple(name for name in riga.RATERS if name != "rater 3")
    assert "1 pictures were marked by fewer than 6 raters: BinRushed_BinRushed1_image1." in dataset.notes
    (plus / "RIGA/BinRushed/BinRushed1/image1.tif").unlink()
    with pytest.raises(DataError, match="masks without their images") as caught:
        open_dataset(plus)
    assert "BinRushed/BinRushed1/image1" in caught.value.found and caught.value.file == plus / "RIGA"


def test_masks_of_riga_plus_coded_as_in_refuge_are_refused(plus):
    file = plus / "RIGA-mask/BinRushed/BinRushed1/image1-1.tif"
    labels = riga.marks_of(sketches.eye(0)[1], 0)
    sketches.save(file, np.array([255, 128, 0], np.uint8)[labels])
    dataset = open_dataset(plus)
    with pytest.raises(DataError, match="no background in its corners") as caught:
        dataset.read(dataset.case("BinRushed_BinRushed1_image1"))
    assert caught.value.file == file and "0 (background)" in caught.value.expected and "255" in caught.value.found


def test_nobody_has_drawn(root):
    for file in (root / "MESSIDOR/MESSIDOR").glob("image1-*"):
        file.unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(root)
    assert "MESSIDOR_image1" in caught.value.found and "image>-6" in caught.value.expected
    assert not open_dataset(root, require_labels=False).case("MESSIDOR_image1").has_reference


def test_two_files_of_one_rater(root):
    shutil.copy(root / BINRUSHED / "BinRushed2/image1-4.tif", root / BINRUSHED / "BinRushed2/Image1-4.jpg")
    with pytest.raises(DataError, match="two files of rater 4") as caught:
        open_dataset(root)
    assert "image1-4.tif" in caught.value.found and "Image1-4.jpg" in caught.value.found


@pytest.mark.parametrize(
    ("change", "problem", "found"),
    [
        (lambda clean, marks: clean, "no outlines", "no line"),
        (lambda clean, marks: riga.draw(clean, (marks > 0).astype(np.uint8) * 2), "no outlines", "one closed curve"),
        (lambda clean, marks: np.where(np.arange(64)[:, None] < 30, riga.draw(clean, marks), clean),
         "no outlines", "no closed curve"),
        (lambda clean, marks: riga.draw(clean, marks)[:, :-1], "not on the grid", "(1, 48, 63, 3)"),
        (lambda clean, marks: riga.draw(clean, marks)[..., 0], "not on the grid", "(1, 48, 64)"),
    ],
)  # fmt: skip
def test_drawings_that_cannot_be_read(root, change, problem, found):
    file = root / BINRUSHED / "BinRushed2/image1-2.tif"
    clean, labels = sketches.eye(1)
    sketches.save(file, np.ascontiguousarray(change(clean, riga.marks_of(labels, 1))))
    dataset = open_dataset(root)
    case = dataset.case("BinRushed2_image1")
    assert dataset.read_labels(case, None, "rater 1").any()  # the others can still be read
    with pytest.raises(DataError, match=problem) as caught:
        dataset.read(case)
    assert caught.value.file == file and found in caught.value.found and caught.value.expected
    errors = [finding for finding in check_dataset(dataset) if finding.level == "error"]
    assert [(finding.case_id, finding.file) for finding in errors] == [("BinRushed2_image1", file)]
