"""ISIC 2016, 2017 and 2018: parts in folders of their own, and classes in CSV files."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from miniatures import isic2016, isic2017, isic2018, sketches

YEARS = ("isic2016", "isic2017", "isic2018")
TRAIN = {
    "isic2016": ("ISBI2016_ISIC_Part1_Training_Data", "ISBI2016_ISIC_Part1_Training_GroundTruth", "_Segmentation"),
    "isic2017": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", "_segmentation"),
    "isic2018": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", "_segmentation"),
}
SPLITS = {
    "isic2016": {"train": ["0", "1", "2", "4"], "test": ["3", "12"]},
    "isic2017": {"train": ["0", "1", "2"], "val": ["3", "4"], "test": ["5", "6"]},
    "isic2018": {"train": ["0", "1", "3"], "val": ["12255", "12346"], "test": ["12169", "12236"]},
}


@pytest.fixture(params=YEARS)
def year(request) -> str:
    return request.param


def write(year: str, root: Path) -> dict[str, np.ndarray]:
    return import_module(f"miniatures.{year}").write(root)


def test_every_lesion_is_a_skin_lesion(year, tmp_path):
    truth = write(year, tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == year and {case.case_id for case in dataset.cases} == set(truth)
    assert dataset.label_names == {1: "skin lesion"} and dataset.targets == {"skin lesion": (1,)}
    assert dataset.modality == "dermoscopy" and dataset.notes == []
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels[0], truth[case.case_id])
        assert case.image.suffix == ".jpg" and sample.scan.array.shape == (1, *sketches.SHAPE_YX, 3)
        assert case.patient_id == case.case_id


def test_the_split_is_by_folder(year, tmp_path):
    write(year, tmp_path)
    assert open_dataset(tmp_path).official_split == {
        part: [f"ISIC_{int(number):07d}" for number in ids] for part, ids in SPLITS[year].items()
    }


def test_a_folder_in_a_folder_of_its_name(year, tmp_path):
    truth = write(year, tmp_path)
    for name in TRAIN[year][:2]:
        (tmp_path / name).rename(tmp_path / "x")
        (tmp_path / name).mkdir()
        (tmp_path / "x").rename(tmp_path / name / name)
    assert len(open_dataset(tmp_path).labelled) == len(truth)


def test_parts_that_are_not_there(year, tmp_path):
    write(year, tmp_path)
    for folder in tmp_path.iterdir():
        if folder.is_dir() and "Training" not in folder.name:
            shutil.rmtree(folder)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == year and len(dataset.cases) == len(SPLITS[year]["train"])
    assert dataset.official_split is None and "'test' is not here" in dataset.notes[-1]


def test_masks_of_a_part_that_were_never_unpacked(year, tmp_path):
    write(year, tmp_path)
    test_masks = next(folder for folder in tmp_path.glob("*Test*GroundTruth") if folder.is_dir())
    shutil.rmtree(test_masks)
    dataset = open_dataset(tmp_path)
    assert not any(case.label is None for case in dataset.cases)
    assert any("without labels" in note for note in dataset.notes)
    assert len(open_dataset(tmp_path, require_labels=False).cases) == len(dataset.cases) + 2
    if "val" in SPLITS[year]:
        assert dataset.official_split["test"] == [f"ISIC_{int(n):07d}" for n in SPLITS[year]["val"]]


def test_missing_files(year, tmp_path):
    write(year, tmp_path)
    images, masks, ending = TRAIN[year]
    (tmp_path / masks / f"ISIC_0000001{ending}.png").unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "1 lacking: ISIC_0000001" and "segmentation.png" in caught.value.expected
    assert open_dataset(tmp_path, require_labels=False).case("ISIC_0000001").label is None
    (tmp_path / images / "ISIC_0000000.jpg").unlink()
    with pytest.raises(DataError, match="masks without their images") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "1 masks without image: ISIC_0000000" and caught.value.file.name == images
    shutil.rmtree(tmp_path / images)
    with pytest.raises(DataError, match="masks without their images") as caught:
        open_dataset(tmp_path, year)
    assert caught.value.expected == images and images in caught.value.hint and caught.value.file.name == masks


def test_a_picture_in_two_parts(tmp_path):
    isic2018.write(tmp_path)
    shutil.copy(tmp_path / TRAIN["isic2018"][0] / "ISIC_0000001.jpg", tmp_path / "ISIC2018_Task1-2_Test_Input")
    with pytest.raises(DataError, match="more than once") as caught:
        open_dataset(tmp_path)
    assert "Test_Input/ISIC_0000001.jpg" in caught.value.found


def test_the_check_names_what_is_broken(year, tmp_path):
    write(year, tmp_path)
    _, masks, ending = TRAIN[year]
    sketches.save(tmp_path / masks / f"ISIC_0000000{ending}.png", np.full(sketches.SHAPE_YX, 1, np.uint8))
    sketches.save(tmp_path / masks / f"ISIC_0000001{ending}.png", np.zeros((40, 64), np.uint8))
    errors = {f.case_id: f.problem for f in check_dataset(open_dataset(tmp_path)) if f.level == "error"}
    assert "no name" in errors.pop("ISIC_0000000") and "not on the grid" in errors.pop("ISIC_0000001") and not errors


# -- classes -----------------------------------------------------------------------------------------------------------


def values_of(dataset, truth: dict[str, np.ndarray]) -> dict[int, str]:
    """{number: class}; each lesion must have one label value, where it is."""
    found = {}
    for case in dataset.cases:
        labels = dataset.read(case).labels[0]
        np.testing.assert_array_equal(labels > 0, truth[case.case_id] > 0)
        (value,) = set(np.unique(labels)) - {0}
        found[int(case.case_id[5:])] = dataset.label_names[value]
    return found


def test_classes_of_2016(tmp_path):
    truth = isic2016.write(tmp_path)
    dataset = open_dataset(tmp_path, channel="class")
    assert dataset.targets == {"melanoma": (1,), "benign lesion": (2,)}
    benign = dict.fromkeys((0, 1, 4, 3), "benign lesion")
    assert values_of(dataset, truth) == benign | {2: "melanoma", 12: "melanoma"}
    assert dataset.official_split == open_dataset(tmp_path).official_split


def test_classes_of_2017(tmp_path):
    truth = isic2017.write(tmp_path)
    dataset = open_dataset(tmp_path, channel="class")
    assert dataset.label_names == {1: "melanoma", 2: "nevus", 3: "seborrheic keratosis"}
    assert values_of(dataset, truth) == {
        0: "nevus", 1: "seborrheic keratosis", 2: "melanoma", 3: "nevus", 4: "seborrheic keratosis", 5: "melanoma",
        6: "nevus",
    }  # fmt: skip
    for part in ("Training", "Validation", "Test_v2"):  # as a copy on Kaggle has them
        name = f"ISIC-2017_{part}_Part3_GroundTruth.csv"
        (tmp_path / name).rename(tmp_path / f"ISIC-2017_{part}_Data" / name)
    assert values_of(open_dataset(tmp_path, channel="class"), truth)[5] == "melanoma"


def test_no_classes_come_with_2018(tmp_path):
    isic2018.write(tmp_path)
    with pytest.raises(DataError, match="wanted channel") as caught:
        open_dataset(tmp_path, channel="class")
    assert "no classes" in caught.value.expected and caught.value.found == "class"


@pytest.mark.parametrize(
    ("content", "problem", "found"),
    [
        (None, "lacks the classes", "no such file"),
        ("image_id,melanoma,seborrheic_keratosis\nISIC_0000000,0.0,0.0\n", "class of every image", "ISIC_0000001"),
        ("image_id,melanoma\nISIC_0000000,0.0\n", "is damaged", "image_id,melanoma"),
        ("image_id,melanoma,seborrheic_keratosis\nISIC_0000000,1.0,1.0\n", "is damaged", "ISIC_0000000,1.0,1.0"),
        ("image_id,melanoma,seborrheic_keratosis\nISIC_0000000,maybe,0.0\n", "is damaged", "maybe"),
        (
            "image_id,melanoma,seborrheic_keratosis\nISIC_0000000,1.0,0.0\nISIC_0000000,0.0,0.0\n",
            "two classes",
            "ISIC_0000000: melanoma and nevus",
        ),
    ],
)
def test_classes_that_are_not_there_or_damaged(tmp_path, content, problem, found):
    isic2017.write(tmp_path)
    file = tmp_path / "ISIC-2017_Training_Part3_GroundTruth.csv"
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(DataError, match=problem) as caught:
        open_dataset(tmp_path, channel="class")
    assert caught.value.file == file and found in caught.value.found and caught.value.expected
    assert open_dataset(tmp_path).label_names == {1: "skin lesion"}  # which needs no classes
