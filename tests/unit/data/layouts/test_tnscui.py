"""TN-SCUI 2020: image, mask and train.csv."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from miniatures import sketches, tnscui

TRAIN = "TNSCUI2020_train"


@pytest.fixture
def root(tmp_path) -> Path:
    tnscui.write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("inside", [False, True])
def test_pictures_and_masks(tmp_path, inside):
    truth = tnscui.write(tmp_path)
    dataset = open_dataset(tmp_path / TRAIN if inside else tmp_path)
    assert dataset.layout == "tnscui" and [case.case_id for case in dataset.cases] == ["1", "2", "3", "10", "11"]
    assert dataset.label_names == {1: "thyroid nodule"} and dataset.targets == {"thyroid nodule": (1,)}
    assert dataset.modality == "ultrasound" and dataset.official_split is None
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels[0], truth[case.case_id])
        assert sample.scan.array.shape == (1, *sketches.SHAPE_YX) and case.patient_id == case.case_id


def test_the_classes_are_in_the_notes(root):
    assert open_dataset(root).notes == ["Nodules: 2 benign, 3 malignant; the target is the nodule, whatever its class."]
    rows = (root / TRAIN / "train.csv").read_text().replace("10.PNG", "10").replace("11.PNG,1\n", "")
    (root / TRAIN / "train.csv").write_text("\ufeff" + rows)  # ids without suffix, and a byte order mark
    assert "2 benign, 2 malignant, 1 of no class" in open_dataset(root).notes[0]


@pytest.mark.parametrize(
    ("content", "problem", "found"),
    [
        ("ID,KIND\n1.PNG,0\n", "is damaged", "'id,kind', 1 rows"),
        ("ID,CATE\n", "is damaged", "0 rows"),
        ("ID,CATE\n1.PNG,0\n2.PNG\n", "is damaged", "2.PNG"),
        ("ID,CATE\n1.PNG,2\n", "is damaged", "1.PNG,2"),
        ("ID,CATE\n1.PNG,0\n1.PNG,0\n", "is damaged", "1.PNG,0 for the second time"),
        (b"ID,CATE\n\xff\xfe1,0\n", "cannot be read as a table", "utf-8"),
        ('ID,CATE\n"1.PNG,0\n', "cannot be read as a table", "unexpected end"),
    ],
)
def test_a_damaged_table(root, content, problem, found):
    file = root / TRAIN / "train.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=problem) as caught:
        open_dataset(root)
    assert caught.value.file == file and found in caught.value.found and "CATE" in caught.value.expected


def test_without_a_table_the_layout_can_be_named(root):
    (root / TRAIN / "train.csv").unlink()
    with pytest.raises(DataError, match="no known layout"):
        open_dataset(root)
    assert open_dataset(root, "tnscui").notes == []


def test_missing_files(root):
    (root / TRAIN / "mask/2.PNG").unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(root)
    assert caught.value.found == "1 lacking: 2" and "mask/" in caught.value.expected
    assert open_dataset(root, require_labels=False).case("2").label is None
    (root / TRAIN / "image/3.PNG").unlink()
    with pytest.raises(DataError, match="masks without their images") as caught:
        open_dataset(root)
    assert caught.value.found == "1 masks without image: 3"
    shutil.rmtree(root / TRAIN / "mask")
    with pytest.raises(DataError, match="no TN-SCUI data set") as caught:
        open_dataset(root, "tnscui")
    assert caught.value.expected == "image/ and mask/" and "image" in caught.value.found


def test_two_files_of_one_name(root):
    sketches.save(root / TRAIN / "image/2.bmp", sketches.lesion(9)[0])
    with pytest.raises(DataError, match="differ only in their suffix") as caught:
        open_dataset(root)
    assert caught.value.found == "2" and caught.value.file == root / TRAIN / "image"


def test_the_check_names_what_is_broken(root):
    sketches.save(root / TRAIN / "mask/1.PNG", np.full(sketches.SHAPE_YX, 128, np.uint8))
    sketches.save(root / TRAIN / "mask/2.PNG", np.zeros((48, 60), np.uint8))
    (root / TRAIN / "image/3.PNG").write_bytes(b"nonsense")
    errors = {f.case_id: f for f in check_dataset(open_dataset(root)) if f.level == "error"}
    assert set(errors) == {"1", "2", "3"} and errors["1"].file.name == "1.PNG"
    assert "no name" in errors["1"].problem and "128 on" in errors["1"].found
    assert "not on the grid" in errors["2"].problem and "cannot be read" in errors["3"].problem
