"""BraTS 2020, 2021 and 2023 as they are distributed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from medsam_adapter.processing_msa import MSAProcessor
from miniatures import brats, volumes

TRAINING_2020 = "MICCAI_BraTS2020_TrainingData"


def labelled_ids(year: str) -> list[str]:
    return [place.rpartition("/")[2] for place in brats.CASES[year] if "Validation" not in place]


@pytest.fixture
def root(tmp_path) -> Path:
    brats.write(tmp_path)
    return tmp_path


@pytest.mark.parametrize("year", ["2020", "2021", "2023"])
def test_values_become_1_2_3_and_regions_are_nested(tmp_path, year):
    truth = brats.write(tmp_path, year=year)
    dataset = open_dataset(tmp_path)
    assert dataset.name == f"BraTS {year}" and [case.case_id for case in dataset.cases] == labelled_ids(year)
    assert dataset.label_names == {1: "necrotic core", 2: "edema", 3: "enhancing tumor"}
    assert dataset.targets == {"whole tumor": (1, 2, 3), "tumor core": (1, 3), "enhancing tumor": (3,)}
    assert (dataset.modality, dataset.intensity, dataset.orientation) == ("MRI", "percentile", "LPS")
    assert dataset.official_split is None
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id])
        assert sample.scan.spacing_mm == (1, 1, 1) and sample.scan.array.shape == (*volumes.SHAPE_ZYX, 3)
        np.testing.assert_allclose(sample.scan.affine, brats.AFFINE)


def test_a_patient_of_2023_keeps_the_number_without_the_visit(tmp_path):
    brats.write(tmp_path, year="2023")
    patients = {case.case_id: case.patient_id for case in open_dataset(tmp_path).cases}
    assert patients["BraTS-GLI-00003-000"] == patients["BraTS-GLI-00003-001"] == "BraTS-GLI-00003"
    assert len(set(patients.values())) == 3


@pytest.mark.parametrize("year", ["2020", "2023"])
@pytest.mark.parametrize(
    ("channel", "sequences"),
    [
        ("", ("t1ce", "t2", "flair")),
        ("flair", ("flair",)),
        ("t2f", ("flair",)),
        ("T1c, t1n, t2w", ("t1ce", "t1", "t2")),
        ("flair,t1,t1ce", ("flair", "t1", "t1ce")),
        ("all", ("t1", "t1ce", "t2", "flair")),
    ],
)
def test_channels(tmp_path, year, channel, sequences):
    truth = brats.write(tmp_path, year=year)
    dataset = open_dataset(tmp_path, channel=channel)
    assert dataset.notes[0] == f"Channels are {', '.join(sequences)}."
    case = dataset.cases[0]
    array = dataset.read_scan(case).array
    array = array[..., None] if len(sequences) == 1 else array
    assert array.shape == (*volumes.SHAPE_ZYX, len(sequences))
    for number, sequence in enumerate(sequences):  # a tumor's brightness tells which sequence it is
        enhancing = array[..., number][truth[case.case_id] == 3].mean()
        assert enhancing == pytest.approx(3 * brats.STEPS[sequence], rel=0.1)


@pytest.mark.parametrize("channel", ["t1,t2", "t1,t1,t2", "t1,t1n,t2", "pd", "0", "t1,t2,t1ce,flair,all", "t1,,t2"])
def test_other_channels_are_refused(root, channel):
    with pytest.raises(DataError, match="wanted channel") as caught:
        open_dataset(root, channel=channel)
    assert "t1ce" in caught.value.expected and caught.value.found == channel and "t1ce,t2,flair" in caught.value.hint


def test_each_channel_has_its_own_scale_and_four_are_refused_by_the_processor(root):
    processor = MSAProcessor(image_size=32, intensity="percentile")
    dataset = open_dataset(root)
    unit = processor.unit_intensities(dataset.read_scan(dataset.cases[0]))
    assert unit.shape == (*volumes.SHAPE_ZYX, 3) and (unit.max((0, 1, 2)) == 1).all()
    dataset = open_dataset(root, channel="all")
    with pytest.raises(DataError, match="number of channels") as caught:
        processor(dataset.read_scan(dataset.cases[0]))
    assert caught.value.found == "4" and "data.channel" in caught.value.hint
    assert caught.value.file.name == "BraTS20_Training_001_t1.nii"


def test_the_misnamed_label_map_of_2020(root):
    case = open_dataset(root).case("BraTS20_Training_355")
    assert case.label.name == "W39_1998.09.19_Segm.nii" and case.has_reference
    case.label.rename(case.label.with_name("BraTS20_Training_355_seg.nii"))  # as many have mended it
    assert open_dataset(root).case("BraTS20_Training_355").label.name == "BraTS20_Training_355_seg.nii"


def test_the_validation_part_has_no_labels(root):
    assert not open_dataset(root, require_labels=False).case("BraTS20_Validation_001").has_reference
    assert "BraTS20_Validation_001" in open_dataset(root).notes[-1]
    with pytest.raises(DataError, match="without a label map"):
        open_dataset(root / "MICCAI_BraTS2020_ValidationData")


def test_training_and_validation_cases_in_one_folder(root):
    for folder in list(root.glob("*/BraTS20_*")):
        folder.rename(root / folder.name)
    assert [case.case_id for case in open_dataset(root).cases] == labelled_ids("2020")


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_the_folder_may_be_given_above(tmp_path, depth):
    brats.write(tmp_path / "/".join("ab"[:depth]), year="2021")
    assert len(open_dataset(tmp_path).cases) == 4


def test_kaggles_folders_and_compressed_files(root):
    (root / "BraTS2020_TrainingData").mkdir()
    (root / TRAINING_2020).rename(root / "BraTS2020_TrainingData" / TRAINING_2020)
    (root / "BraTS2020_ValidationData").mkdir()
    (root / "MICCAI_BraTS2020_ValidationData").rename(root / "BraTS2020_ValidationData/V")
    folder = root / "BraTS2020_TrainingData" / TRAINING_2020 / "BraTS20_Training_001"
    label = open_dataset(root).case("BraTS20_Training_001").label
    volumes.save_nifti(label.with_name(label.name + ".gz"), np.full(volumes.SHAPE_ZYX, 4, np.uint8), brats.AFFINE)
    label.unlink()
    (folder / "._BraTS20_Training_001_t1.nii").write_bytes(b"\0")
    dataset = open_dataset(root)
    assert len(dataset.cases) == 4 and (dataset.read(dataset.case("BraTS20_Training_001")).labels == 3).all()


def test_years_are_not_mixed(root):
    brats.write(root, year="2021")
    for folder in (root / TRAINING_2020).glob("BraTS20_*"):
        folder.rename(root / folder.name)
    with pytest.raises(DataError, match="cases of several years") as caught:
        open_dataset(root)
    assert caught.value.found == "4 of 2020, 4 of 2021" and "2023 has the patients of 2021" in caught.value.hint


def test_a_case_that_is_there_twice_is_refused(root):
    shutil.copytree(root / TRAINING_2020 / "BraTS20_Training_002", root / "copy/BraTS20_Training_002")
    with pytest.raises(DataError, match="holds cases twice") as caught:
        open_dataset(root)
    assert caught.value.found == "BraTS20_Training_002"


@pytest.mark.parametrize(
    ("year", "name", "written"),
    [("2020", "_t1ce.nii", "_t1ce.nii.gz"), ("2023", "-t1c.nii.gz", "-t1c.nii.gz")],
)
def test_a_sequence_that_is_missing_is_named(tmp_path, year, name, written):
    brats.write(tmp_path, year=year)
    case = open_dataset(tmp_path).cases[1]
    (case.image.parent / f"{case.case_id}{name}").unlink()
    with pytest.raises(DataError, match="lacks a sequence") as caught:
        open_dataset(tmp_path)
    assert caught.value.expected == f"{case.case_id}{written}" and caught.value.file == case.image.parent
    assert len(open_dataset(tmp_path, channel="flair").cases) == 4  # what is not read may be missing


def test_a_label_map_that_is_missing_is_named(root):
    open_dataset(root).case("BraTS20_Training_002").label.unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(root)
    assert caught.value.found == "1 lacking: BraTS20_Training_002" and "_seg.nii.gz" in caught.value.expected
    assert len(open_dataset(root, require_labels=False).labelled) == 3


@pytest.mark.parametrize(("year", "value"), [("2020", 3), ("2021", 3), ("2023", 4)])
def test_the_value_of_another_year_is_an_error(tmp_path, year, value):
    brats.write(tmp_path, year=year)
    dataset = open_dataset(tmp_path)
    marks = np.zeros(volumes.SHAPE_ZYX, np.uint8)
    marks[0, 0, :5] = value
    volumes.save_nifti(dataset.cases[0].label, marks, brats.AFFINE)
    with pytest.raises(DataError, match="no name") as caught:
        dataset.read(dataset.cases[0])
    assert caught.value.found == f"{value} on 5 voxels" and caught.value.file == dataset.cases[0].label


def test_sequences_and_labels_on_other_grids_are_refused(root):
    dataset = open_dataset(root)
    first, second = dataset.cases[:2]
    volumes.save_nifti(first.channels[0], np.zeros((5, 32, 32), np.int16), brats.AFFINE)
    volumes.save_nifti(second.label, np.zeros((5, 32, 32), np.uint8), brats.AFFINE)
    with pytest.raises(DataError, match="channel does not lie on the grid") as caught:
        dataset.read(first)
    assert caught.value.file == first.channels[0]
    with pytest.raises(DataError, match="not on the grid of its scan"):
        dataset.read(second)
    errors = {finding.case_id for finding in check_dataset(dataset) if finding.level == "error"}
    assert errors == {first.case_id, second.case_id}


def test_no_case_folders(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="not BraTS as it is distributed") as caught:
        open_dataset(tmp_path, "brats")
    assert "BraTS2021_00000" in caught.value.expected and caught.value.found == "images"
