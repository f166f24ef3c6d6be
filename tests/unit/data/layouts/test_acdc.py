"""ACDC as its makers distribute it, and as the HDF5 files of SSL4MIS."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from miniatures import acdc, volumes


@pytest.fixture
def root(tmp_path) -> Path:
    acdc.write(tmp_path)
    return tmp_path


@pytest.fixture
def h5(tmp_path) -> Path:
    acdc.write(tmp_path, form="h5")
    return tmp_path


# -- the original ------------------------------------------------------------------------------------------------------


def test_arrays_labels_and_geometry(tmp_path):
    truth = acdc.write(tmp_path)
    dataset = open_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == list(truth) and "patient001_frame12" in truth
    assert dataset.label_names == {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
    assert (dataset.modality, dataset.intensity, dataset.orientation) == ("MRI", "percentile", "file")
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id])
        assert sample.scan.spacing_mm == pytest.approx(acdc.SPACING_MM) and sample.scan.shape_zyx == volumes.SHAPE_ZYX
        assert case.patient_id == case.case_id[:10] and len(case.patient_id) == 10


def test_the_split_is_training_and_testing(root):
    split = open_dataset(root).official_split
    assert set(split) == {"train", "test"} and len(split["train"]) == 8
    assert split["test"] == ["patient101_frame01", "patient101_frame14", "patient102_frame01", "patient102_frame08"]


def test_testing_patients_without_labels_as_before_2022(root):
    for file in (root / "database/testing").glob("*/*_gt.nii.gz"):
        file.unlink()
    dataset = open_dataset(root)
    assert len(dataset.cases) == 8 and dataset.official_split is None and "patient101_frame01" in dataset.notes[0]
    assert len(open_dataset(root, require_labels=False).cases) == 12
    (root / "database/training/patient002/patient002_frame01_gt.nii.gz").unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(root)
    assert caught.value.found == "1 lacking: patient002_frame01"


def test_one_label_map_of_testing_that_is_missing_is_an_error(root):
    (root / "database/testing/patient101/patient101_frame14_gt.nii.gz").unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(root)
    assert caught.value.found == "1 lacking: patient101_frame14" and "_gt.nii.gz" in caught.value.expected
    assert open_dataset(root, require_labels=False).official_split["test"][1] == "patient102_frame01"


@pytest.mark.parametrize(("place", "count"), [("", 12), ("database", 12), ("database/training", 8)])
def test_the_folder_may_be_given_at_each_level(root, place, count):
    dataset = open_dataset(root / place)
    assert len(dataset.cases) == count and (dataset.official_split is None) == (count == 8)


def test_without_info_the_files_say_which_frames_there_are(root):
    (root / "database/training/patient001/Info.cfg").unlink()
    assert len(open_dataset(root).cases) == 12


@pytest.mark.parametrize("content", ["", "ED: 1\nGroup: DCM\n", "ED: one\nES: 12\n"])
def test_a_damaged_info_is_refused(root, content):
    file = root / "database/training/patient001/Info.cfg"
    file.write_text(content)
    with pytest.raises(DataError, match="does not say which frames are marked") as caught:
        open_dataset(root)
    assert caught.value.file == file and caught.value.expected == "lines ED: 1 and ES: 12" and caught.value.found


@pytest.mark.parametrize("has_info", [True, False])
def test_a_missing_frame_is_refused(root, has_info):
    folder = root / "database/training/patient003"
    (folder / "patient003_frame15.nii.gz").unlink()
    if has_info:
        (folder / "patient003_frame15_gt.nii.gz").unlink()
    else:
        (folder / "Info.cfg").unlink()
    with pytest.raises(DataError, match="lacks a frame") as caught:
        open_dataset(root)
    assert caught.value.found == "1 lacking: patient003_frame15" and caught.value.file == folder


def test_what_is_wrong_inside_a_file_is_said_on_reading(root):
    dataset = open_dataset(root)
    marks = volumes.blocks((1, 4), 0)
    volumes.save_nifti(dataset.cases[0].label, marks, acdc.AFFINE)
    volumes.save_nifti(dataset.cases[1].label, marks[1:], acdc.AFFINE)
    with pytest.raises(DataError, match="no name") as caught:
        dataset.read(dataset.cases[0])
    assert caught.value.found.startswith("4 on ") and caught.value.file == dataset.cases[0].label
    with pytest.raises(DataError, match="not on the grid"):
        dataset.read(dataset.cases[1])
    assert sum(finding.level == "error" for finding in check_dataset(dataset)) == 2


def test_neither_form(root):
    shutil.rmtree(root / "database/training")
    shutil.rmtree(root / "database/testing")
    with pytest.raises(DataError, match="not ACDC as it is distributed") as caught:
        open_dataset(root, "acdc")
    assert "patient001_frame01.nii.gz" in caught.value.expected and caught.value.found == "database"


# -- SSL4MIS -----------------------------------------------------------------------------------------------------------


def test_h5_volumes(tmp_path):
    truth = acdc.write(tmp_path, form="h5")
    dataset = open_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == sorted(truth)
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id])
        assert sample.scan.spacing_mm == (1, 1, 1) and sample.scan.array.dtype == np.float32
        assert case.patient_id == case.case_id[:10]
    assert any("not in mm" in note for note in dataset.notes)


def test_h5_split_is_by_the_lists(h5):
    assert open_dataset(h5).official_split == {
        "train": [f"patient{p}_frame0{f}" for p in ("038", "099") for f in (1, 2)],
        "val": ["patient028_frame01", "patient028_frame02"],
        "test": ["patient011_frame01", "patient011_frame02"],
    }
    (h5 / "ACDC/test.list").unlink()
    assert open_dataset(h5).official_split is None


def test_h5_slices_are_cases_where_the_volume_is_missing(tmp_path):
    truth = acdc.write(tmp_path, form="h5")
    for frame in (1, 2):
        (tmp_path / f"ACDC/data/patient099_frame0{frame}.h5").unlink()
    dataset = open_dataset(tmp_path / "ACDC")
    ids = [case.case_id for case in dataset.cases if case.patient_id == "patient099"]
    assert ids == [f"patient099_frame0{f}_slice_{n}" for f in (1, 2) for n in range(1, 7)]
    assert set(ids) < set(dataset.official_split["train"])
    assert any("12 cases are single slices" in note for note in dataset.notes)
    sample = dataset.read(dataset.case("patient099_frame02_slice_3"))
    np.testing.assert_array_equal(sample.labels[0], truth["patient099_frame02"][2])


def test_h5_slices_are_in_the_order_of_their_numbers(h5):
    slices = h5 / "ACDC/data/slices"
    shutil.copy(slices / "patient099_frame01_slice_2.h5", slices / "patient099_frame01_slice_10.h5")
    (h5 / "ACDC/data/patient099_frame01.h5").unlink()
    ids = [case.case_id for case in open_dataset(h5).cases if case.case_id.startswith("patient099_frame01")]
    assert [int(case_id.rpartition("_")[2]) for case_id in ids] == [1, 2, 3, 4, 5, 6, 10]


@pytest.mark.parametrize(
    ("content", "found"), [("", "no lines"), ("patient028_frame01\n<html>\n", "<html>"), ("28\n", "28")]
)
def test_a_damaged_list_is_refused(h5, content, found):
    (h5 / "ACDC/val.list").write_text(content)
    with pytest.raises(DataError, match="no list of ACDC cases") as caught:
        open_dataset(h5)
    assert caught.value.found == found and caught.value.file.name == "val.list" and "slice_1" in caught.value.expected


def test_a_list_that_names_missing_files_is_refused(h5):
    (h5 / "ACDC/data/patient011_frame02.h5").unlink()
    with pytest.raises(DataError, match="names cases that are not there") as caught:
        open_dataset(h5)
    assert caught.value.found == "1 lacking: patient011_frame02" and caught.value.file.name == "test.list"


def test_lists_that_share_cases_are_refused(h5):
    (h5 / "ACDC/val.list").write_text("patient011_frame01\n")
    with pytest.raises(DataError, match="lists that share cases") as caught:
        open_dataset(h5)
    assert caught.value.found == "patient011_frame01"


def test_what_is_wrong_inside_an_h5_file_is_said_on_reading(h5):
    import h5py

    dataset = open_dataset(h5)
    first, second, third, fourth = dataset.cases[:4]
    with h5py.File(first.image, "a") as file:
        del file["label"]
    with h5py.File(second.image, "a") as file:
        labels = file["label"][()]
        del file["label"]
        file["label"] = labels[1:]
    with h5py.File(third.image, "a") as file:
        file["label"][0, 0, 0] = 7
    fourth.image.write_bytes(b"nonsense")
    for case, problem in (
        (first, "no array that could be the label map"),
        (second, "not on the grid of its scan"),
        (third, "no name"),
        (fourth, "cannot be read as arrays"),
    ):
        with pytest.raises(DataError, match=problem) as caught:
            dataset.read(case)
        assert caught.value.file == case.image and caught.value.expected and caught.value.found
    assert {f.case_id for f in check_dataset(dataset) if f.level == "error"} == {
        case.case_id for case in (first, second, third, fourth)
    }


def test_there_is_one_channel(h5):
    with pytest.raises(DataError, match="images of one channel"):
        open_dataset(h5, channel="image")


def test_lists_that_tear_a_patient_apart_are_refused(h5):
    """Two frames of one patient in two lists: no case twice, and all the same a leak."""
    base = next(path.parent for path in h5.rglob("train_slices.list"))
    lists = {name: (base / name).read_text().splitlines() for name in ("train_slices.list", "test.list")}
    moved = next(name for name in lists["train_slices.list"] if "_frame01" in name)
    patient = moved.split("_")[0]
    other = next(
        file.stem for file in sorted((base / "data").glob(f"{patient}_frame*.h5")) if "frame01" not in file.stem
    )
    kept = [name for name in lists["train_slices.list"] if not name.startswith(other)]
    (base / "train_slices.list").write_text("\n".join(kept) + "\n")
    (base / "test.list").write_text("\n".join([*lists["test.list"], other]) + "\n")
    with pytest.raises(DataError, match=f"two sides(?s:.)*{patient}"):
        open_dataset(h5)


def test_a_patient_without_frames_is_refused(root):
    folder = next(path for path in root.rglob("patient001") if path.is_dir())
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="without frames"):
        open_dataset(root)
