"""AMOS 2022 as Zenodo distributes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from miniatures import amos22, volumes

CT = ["amos_0001", "amos_0004", "amos_0005"]
MR = ["amos_0507", "amos_0508"]


@pytest.fixture
def root(tmp_path) -> Path:
    amos22.write(tmp_path)
    return tmp_path


def test_ct_by_default(tmp_path):
    truth = amos22.write(tmp_path)
    dataset = open_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == [*CT, "amos_0008", "amos_0013"]
    assert (dataset.modality, dataset.intensity, dataset.orientation) == ("CT", "ct:soft-tissue", "LPS")
    # As dataset.json has them, in our spelling.
    ours = {"gall bladder": "gallbladder", "arota": "aorta", "postcava": "inferior vena cava"}
    ours["prostate/uterus"] = "prostate or uterus"
    assert dataset.label_names == {n: ours.get(name, name) for n, name in enumerate(amos22.NAMES) if n}
    assert any("mr or both" in note for note in dataset.notes)
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id])
        np.testing.assert_allclose(sample.scan.spacing_mm, amos22.SPACING_MM, rtol=1e-6)
        assert case.patient_id == case.case_id and case.image.parents[1].name == "amos22"


def test_training_and_validation_folders_are_the_split(root):
    assert open_dataset(root).official_split == {"train": CT, "test": ["amos_0008", "amos_0013"]}
    assert open_dataset(root, channel="mr").official_split == {"train": MR, "test": ["amos_0517"]}


def test_channels_choose_ct_mr_or_both(root):
    mr, both = open_dataset(root, channel="MR"), open_dataset(root, channel="both")
    assert [case.case_id for case in mr.cases] == [*MR, "amos_0517"]
    assert (mr.modality, mr.intensity) == ("MRI", "percentile")
    assert (both.modality, both.intensity, len(both.cases)) == ("CT and MRI", "percentile", 8)
    assert not any("data.channel" in note for note in both.notes)
    with pytest.raises(DataError, match="wanted channel") as caught:
        open_dataset(root, channel="pet")
    assert caught.value.expected == "ct, mr or both"


def test_test_scans_have_no_labels_and_500_is_a_ct(root):
    cases = open_dataset(root, require_labels=False).cases
    assert [case.case_id for case in cases if not case.has_reference] == ["amos_0002", "amos_0500"]
    assert "amos_0002, amos_0500" in open_dataset(root).notes[0]


def test_the_folder_amos22_may_be_given_and_dataset_json_be_missing(root):
    (root / "amos22/dataset.json").unlink()
    dataset = open_dataset(root / "amos22")
    assert dataset.name == "AMOS 2022" and len(dataset.cases) == 5


def test_a_part_of_the_data_says_so_and_has_no_split_without_its_test_part(root):
    for number in (8, 13):
        (root / f"amos22/imagesVa/amos_{number:04d}.nii.gz").unlink()
        (root / f"amos22/labelsVa/amos_{number:04d}.nii.gz").unlink()
    dataset = open_dataset(root)
    assert dataset.official_split is None and any("lists 8 labelled scans, and 6 are there" in n for n in dataset.notes)


def test_only_mr_is_there(root):
    for path in (root / "amos22").glob("*/amos_0*.nii.gz"):
        if int(path.name[5:9]) <= 500:
            path.unlink()
    with pytest.raises(DataError, match="holds no CT scans") as caught:
        open_dataset(root)
    assert "amos_0507" in caught.value.found and "data.channel" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "problem", "expected"),
    [
        ("{", "cannot be read as JSON", "JSON object"),
        ({"labels": {"0": "background", "1": "liver"}}, "other labels than AMOS", '"1" to "15"'),
        ({"labels": None}, "other labels than AMOS", '"1" to "15"'),
    ],
)
def test_a_dataset_json_that_does_not_fit_is_refused(root, content, problem, expected):
    file = root / "amos22/dataset.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(DataError, match=problem) as caught:
        open_dataset(root)
    assert expected in caught.value.expected and caught.value.file == file


def test_missing_files_are_refused(root):
    (root / "amos22/labelsVa/amos_0013.nii.gz").unlink()
    with pytest.raises(DataError, match="images without a label map") as caught:
        open_dataset(root)
    assert caught.value.found == "1 lacking: amos_0013"
    assert open_dataset(root, require_labels=False).official_split["test"] == ["amos_0008"]
    (root / "amos22/imagesTr/amos_0004.nii.gz").unlink()
    with pytest.raises(DataError, match="labels without an image") as caught:
        open_dataset(root, require_labels=False)
    assert caught.value.found == "1 lacking: amos_0004" and caught.value.file.name == "imagesTr"


def test_a_missing_folder_is_refused(root):
    (root / "amos22/labelsTr").rename(root / "amos22/labels")
    with pytest.raises(DataError, match="not AMOS 2022 as it is distributed") as caught:
        open_dataset(root, "amos22")
    assert "labelsTr" in caught.value.expected and caught.value.found == "amos22"


def test_nnunets_copy_is_not_taken_for_it(root):
    for path in list((root / "amos22/imagesTr").iterdir()):
        path.rename(path.with_name(path.name.replace(".nii.gz", "_0000.nii.gz")))
    with pytest.raises(DataError, match="not AMOS"):
        open_dataset(root, "amos22")


def test_what_is_wrong_inside_a_file_is_said_on_reading(root):
    marks = volumes.blocks((1, 16), 0)
    volumes.save_nifti(root / "amos22/labelsTr/amos_0001.nii.gz", marks, amos22.AFFINE)
    volumes.save_nifti(root / "amos22/labelsTr/amos_0004.nii.gz", marks[:, :-2], amos22.AFFINE)
    dataset = open_dataset(root)
    with pytest.raises(DataError, match="no name") as caught:
        dataset.read(dataset.case("amos_0001"))
    assert caught.value.found.startswith("16 on ") and caught.value.file.name == "amos_0001.nii.gz"
    with pytest.raises(DataError, match="not on the grid") as caught:
        dataset.read(dataset.case("amos_0004"))
    assert "(6, 32, 32)" in caught.value.expected and "(6, 30, 32)" in caught.value.found
    assert sum(finding.level == "error" for finding in check_dataset(dataset)) == 2
