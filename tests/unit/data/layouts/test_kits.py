"""KiTS19, KiTS21 and KiTS23 as their repositories distribute them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from medsam_adapter.processing_msa import MSAProcessor
from miniatures import kits
from miniatures.volumes import save_nifti

YEARS = ["19", "21", "23"]


@pytest.fixture
def root(tmp_path) -> Path:
    kits.write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("year", YEARS)
def test_arrays_labels_and_geometry(tmp_path, year):
    truth = kits.write(tmp_path, year=year)
    dataset = open_dataset(tmp_path)
    assert dataset.name == f"KiTS{year}" and [case.case_id for case in dataset.cases] == sorted(truth)
    assert (dataset.modality, dataset.intensity, dataset.orientation) == ("CT", "ct:soft-tissue", "LPS")
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id])
        assert sample.scan.spacing_mm == pytest.approx(kits.SPACING_IJK_MM[::-1])  # as stored: slices along x
        assert sample.scan.shape_zyx == (32, 32, 6) and case.patient_id == case.case_id
        masses = sample.scan.array[sample.labels == 2]
        assert masses.mean() == pytest.approx(40, abs=5)


def test_regions_are_those_of_the_challenges(tmp_path):
    for year in YEARS:
        (tmp_path / year).mkdir()
        kits.write(tmp_path / year, year=year)
    for year in ("21", "23"):
        dataset = open_dataset(tmp_path / year)
        assert dataset.label_names == {1: "kidney", 2: "tumor", 3: "cyst"}
        assert dataset.targets == {"kidney and masses": (1, 2, 3), "masses": (2, 3), "tumor": (2,)}
    dataset = open_dataset(tmp_path / "19")
    assert dataset.label_names == {1: "kidney", 2: "tumor"}
    assert dataset.targets == {"kidney and masses": (1, 2), "tumor": (2,)}
    assert any("includes cysts" in note for note in dataset.notes)


def test_slices_come_first_in_the_file_and_axial_in_the_model_frame(root):
    dataset = open_dataset(root)
    sample = dataset.read(dataset.cases[0])
    processor = MSAProcessor(image_size=32, intensity=dataset.intensity, orientation=dataset.orientation)
    turn = processor.turn_of(sample.scan)
    labels = turn.array_to_source(sample.labels)
    assert labels.shape == (6, 32, 32)
    assert turn.spacing_to_source(sample.scan.spacing_mm) == pytest.approx((3, 0.8, 0.8))
    # i runs to the feet, so the first stored slice is the topmost, which is the last from the feet up; rows and
    # columns are as a radiologist sees them.
    np.testing.assert_array_equal(labels, sample.labels.T[::-1])


def test_kits21_reads_the_vote_of_the_majority(tmp_path):
    kits.write(tmp_path, year="21")
    dataset = open_dataset(tmp_path)
    assert {case.label.name for case in dataset.cases} == {"aggregated_MAJ_seg.nii.gz"}
    assert any("majority" in note for note in dataset.notes)
    dataset.cases[0].label.unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(tmp_path)
    assert "aggregated_MAJ_seg.nii.gz" in caught.value.expected


def test_the_test_cases_of_kits19_have_no_labels(tmp_path):
    kits.write(tmp_path, year="19")
    assert "case_00210, case_00211" in open_dataset(tmp_path).notes[0]
    cases = open_dataset(tmp_path, require_labels=False).cases
    assert [case.case_id for case in cases if not case.has_reference] == ["case_00210", "case_00211"]
    (tmp_path / "data/case_00209/segmentation.nii.gz").unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "1 lacking: case_00209"


@pytest.mark.parametrize(
    ("year", "place"), [("19", "data"), ("21", "kits21/data"), ("21", "kits21"), ("23", "dataset")]
)
def test_the_folder_may_be_given_at_each_level(tmp_path, year, place):
    kits.write(tmp_path, year=year)
    dataset = open_dataset(tmp_path / place)
    assert len(dataset.cases) == 4 and dataset.name == f"KiTS{year}"


def test_case_folders_alone_are_not_taken_for_kits19(root):
    assert open_dataset(root).notes == []
    (root / "dataset/kits23.json").unlink()
    dataset = open_dataset(root)
    assert dataset.name == "KiTS23" and dataset.notes[0].startswith("Read as KiTS23")  # a guess, so it is said


def test_files_of_before_april_2019_are_refused(tmp_path):
    kits.write(tmp_path, year="19")
    dataset = open_dataset(tmp_path)
    first, second = dataset.cases[:2]
    for file in (first.image, first.label):
        array = np.zeros((32, 32, 6), np.uint8)
        array[3:9, 3:9, 1:4] = 1
        save_nifti(file, array, np.diag([3.0, 0.8, 0.8, 1.0]))
    with pytest.raises(DataError, match="slices are sagittal") as caught:
        dataset.read(first)
    assert caught.value.file == first.image and caught.value.found == "diag(3, 0.8, 0.8, 1)"
    assert dataset.read(second).labels.any()
    assert [f.case_id for f in check_dataset(dataset) if f.level == "error"] == [first.case_id]


def test_a_scan_turned_by_its_owner_is_read(root):
    dataset = open_dataset(root)
    case = dataset.cases[0]
    for file, array in ((case.image, dataset.read_scan(case).array), (case.label, dataset.read_labels(case))):
        save_nifti(file, array.T[::-1, :, :], np.array([[0.8, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, 3.0, 0], [0, 0, 0, 1]]))
    assert dataset.read(case).scan.shape_zyx == (6, 32, 32)


def test_a_missing_scan_says_how_to_get_it(tmp_path):
    kits.write(tmp_path, year="21")
    for file in tmp_path.glob("kits21/data/*/imaging.nii.gz"):
        file.unlink()
    for require_labels in (True, False):
        with pytest.raises(DataError, match="cases without their scan") as caught:
            open_dataset(tmp_path, require_labels=require_labels)
        assert caught.value.found.startswith("4 lacking: case_00000") and "get_imaging" in caught.value.hint
        assert caught.value.file.name == "data"


def test_a_missing_folder_is_refused(root):
    (root / "dataset").rename(root / "cases")
    with pytest.raises(DataError, match="not KiTS as it is distributed") as caught:
        open_dataset(root, "kits")
    assert "case_00000" in caught.value.expected and "README.md" in caught.value.found


def test_what_is_wrong_inside_a_file_is_said_on_reading(root):
    dataset = open_dataset(root)
    marks = np.zeros((32, 32, 6), np.uint8)
    marks[0, 0, 0] = 4
    save_nifti(dataset.cases[0].label, marks, kits.AFFINE)
    save_nifti(dataset.cases[1].label, marks[:, :-1], kits.AFFINE)
    with pytest.raises(DataError, match="no name") as caught:
        dataset.read(dataset.cases[0])
    assert caught.value.found == "4 on 1 voxels" and caught.value.expected == "0 and 1, 2, 3"
    with pytest.raises(DataError, match="not on the grid") as caught:
        dataset.read(dataset.cases[1])
    assert caught.value.file == dataset.cases[1].label


def test_there_is_one_channel(root):
    with pytest.raises(DataError, match="images of one channel"):
        open_dataset(root, channel="1")
