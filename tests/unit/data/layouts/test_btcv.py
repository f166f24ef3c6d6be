"""BTCV as Synapse distributes it, and as MONAI's tutorials lay it out."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from miniatures import btcv, volumes

FEW = (1, 2, 35, 36)
# In the order of the challenge's page.
ORGANS = [
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal and splenic veins", "pancreas", "right adrenal gland", "left adrenal gland",
]  # fmt: skip


@pytest.fixture
def few(tmp_path) -> Path:
    """Four labelled scans."""
    btcv.write(tmp_path, labelled=FEW)
    return tmp_path


def split_file(root: Path, content: object, name: str = "dataset_0.json") -> None:
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))


def images(*names: str) -> list[dict[str, str]]:
    return [{"image": f"imagesTr/{name}.nii.gz", "label": "..."} for name in names]


def test_arrays_labels_and_geometry(tmp_path):
    truth = btcv.write(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.name == "BTCV" and [case.case_id for case in dataset.cases] == sorted(truth)
    assert list(dataset.label_names) == list(range(1, 14)) and list(dataset.targets) == ORGANS
    assert (dataset.modality, dataset.intensity, dataset.orientation) == ("CT", "ct:soft-tissue", "LPS")
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id])
        assert sample.scan.shape_zyx == volumes.SHAPE_ZYX and case.patient_id == case.case_id
        np.testing.assert_allclose(sample.scan.spacing_mm, btcv.SPACING_MM, rtol=1e-6)
        np.testing.assert_allclose(sample.scan.affine, btcv.AFFINE, rtol=1e-5)
        inside = sample.scan.array[sample.labels == 13]
        assert inside.mean() > sample.scan.array[sample.labels == 0].mean() + 200


def test_the_usual_24_and_6(tmp_path):
    btcv.write(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.official_split["test"] == [f"img00{n}" for n in range(35, 41)]
    assert len(dataset.official_split["train"]) == 24 and "img0034" in dataset.official_split["train"]
    assert any("UNETR" in note for note in dataset.notes)
    (tmp_path / "RawData/Training/label/label0007.nii.gz").unlink()
    lacking = open_dataset(tmp_path, require_labels=False)
    assert lacking.official_split is None  # a case is missing: not that split
    assert any("Not split as UNETR" in note and note.endswith("img0007.") for note in lacking.notes)


def test_the_testing_scans_have_no_labels(few):
    assert [c.case_id for c in open_dataset(few, require_labels=False).cases][-2:] == ["img0061", "img0062"]
    kept = open_dataset(few)
    assert len(kept.cases) == 4 and "img0061, img0062" in kept.notes[0]


@pytest.mark.parametrize("place", ["", "RawData", "RawData/Training"])
def test_the_folder_may_be_given_at_each_level(few, place):
    assert len(open_dataset(few / place).cases) == 4


def test_the_folder_may_be_called_abdomen(tmp_path):
    btcv.write(tmp_path / "Abdomen", labelled=FEW)
    assert len(open_dataset(tmp_path).cases) == 4


def test_monais_form_and_its_split(tmp_path):
    truth = btcv.write(tmp_path, form="monai", labelled=FEW)
    dataset = open_dataset(tmp_path)
    assert dataset.official_split == {"train": ["img0001", "img0002"], "test": ["img0035", "img0036"]}
    np.testing.assert_array_equal(dataset.read(dataset.case("img0035")).labels, truth["img0035"])


def test_a_split_beside_the_raw_data_counts_before_the_usual_one(tmp_path):
    btcv.write(tmp_path)
    split_file(tmp_path, {"training": images("img0001", "img0099"), "validation": images("img0002")})
    dataset = open_dataset(tmp_path)
    assert dataset.official_split == {"train": ["img0001"], "test": ["img0002"]}
    assert any("lists 1 cases that are not there: img0099" in note for note in dataset.notes)
    assert open_dataset(tmp_path / "RawData/Training").official_split["train"] != ["img0001"]  # not asked to look there


def test_a_split_with_labelled_test_cases_has_three_parts(few):
    content = {"training": images("img0001"), "validation": images("img0002"), "test": ["imagesTr/img0035.nii.gz"]}
    split_file(few, content, "dataset.json")
    assert open_dataset(few).official_split == {"train": ["img0001"], "val": ["img0002"], "test": ["img0035"]}


MONAI = ("spleen rkid lkid gall eso liver sto aorta IVC veins pancreas rad lad").split()


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "background", "1": "bladder", "2": "uterus"},  # other names
        {"background": 0, "bladder": 1},  # as nnU-Net writes them
        {str(number): name for number, name in enumerate(sorted(ORGANS), 1)},  # other numbers
        {str(number): name for number, name in enumerate([*ORGANS, "duodenum"], 1)},
    ],
)
def test_foreign_data_with_such_file_names_are_read_by_their_own_dataset_json(tmp_path, labels):
    btcv.write(tmp_path, form="monai", labelled=FEW)
    (tmp_path / "dataset_0.json").unlink()
    entries = [{"image": f"imagesTr/img{n:04d}.nii.gz", "label": f"labelsTr/label{n:04d}.nii.gz"} for n in FEW]
    content = {"name": "Pelvis", "modality": {"0": "MRI"}, "labels": labels, "training": entries}
    split_file(tmp_path, content, "dataset.json")
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.name, dataset.modality, dataset.intensity) == ("msd", "Pelvis", "MRI", None)
    with pytest.raises(DataError, match="names other labels than BTCV has") as caught:
        open_dataset(tmp_path, "btcv")
    assert caught.value.file.name == "dataset.json" and "--layout msd" in caught.value.hint


@pytest.mark.parametrize("names", [ORGANS, MONAI, [name.title().replace(" ", "_") for name in ORGANS]])
def test_a_dataset_json_may_write_the_names_in_other_ways(tmp_path, names):
    btcv.write(tmp_path, form="monai", labelled=FEW)
    labels = {"0": "background", **{str(number): name for number, name in enumerate(names, 1)}}
    split_file(tmp_path, {"labels": labels, "training": images("img0001")}, "dataset.json")
    assert open_dataset(tmp_path).layout == "btcv"


def test_label_maps_may_be_named_as_the_images(tmp_path):
    btcv.write(tmp_path, form="monai", labelled=FEW)
    for path in (tmp_path / "labelsTr").iterdir():
        path.rename(path.with_name(path.name.replace("label", "img")))
    assert len(open_dataset(tmp_path).labelled) == len(FEW)


def test_a_dataset_json_without_validation_is_no_split(few):
    split_file(few, {"training": images("img0001")}, "dataset.json")
    assert open_dataset(few).official_split is None and open_dataset(few).name == "BTCV"


@pytest.mark.parametrize(
    ("content", "problem", "expected"),
    [
        ("{", "cannot be read as JSON", "JSON object"),
        ("[1]", "no JSON object", "{...}"),
        ({"training": [{"picture": "a"}], "validation": images("img0002")}, "no split in MONAI's form", "lists of"),
        ({"training": "img0001", "validation": images("img0002")}, "no split in MONAI's form", "lists of"),
        (
            {"training": images("img0001", "img0002"), "validation": images("img0002")},
            "lists cases in two parts", "each case in one list",
        ),
    ],
)  # fmt: skip
def test_a_damaged_split_is_refused(few, content, problem, expected):
    split_file(few, content)
    with pytest.raises(DataError, match=problem) as caught:
        open_dataset(few)
    assert expected in caught.value.expected and caught.value.file.name == "dataset_0.json"


def test_missing_files_are_refused(few):
    (few / "RawData/Training/label/label0002.nii.gz").unlink()
    with pytest.raises(DataError, match="images without a label map") as caught:
        open_dataset(few)
    assert caught.value.found == "1 lacking: img0002" and "label0001.nii.gz" in caught.value.expected
    assert open_dataset(few, require_labels=False).case("img0002").label is None
    (few / "RawData/Training/img/img0035.nii.gz").unlink()
    for require_labels in (True, False):
        with pytest.raises(DataError, match="labels without an image") as caught:
            open_dataset(few, require_labels=require_labels)
        assert caught.value.found == "1 lacking: img0035" and caught.value.file.name == "img"


def test_a_folder_that_is_missing_is_refused(few):
    (few / "RawData/Training/label").rename(few / "RawData/Training/labels")
    with pytest.raises(DataError, match="not BTCV as it is distributed") as caught:
        open_dataset(few, "btcv")
    assert "RawData/Training/img" in caught.value.expected and caught.value.found == "RawData"


def test_two_files_of_one_case_are_refused(few):
    path = few / "RawData/Training/img/img0001.nii.gz"
    nib.save(nib.load(path), path.with_name("img0001.nii"))
    with pytest.raises(DataError, match="two files of 'img0001'"):
        open_dataset(few)


def test_what_is_wrong_inside_a_file_is_said_on_reading(few):
    base = few / "RawData/Training"
    marks = volumes.blocks((1, 14), 0)
    volumes.save_nifti(base / "label/label0001.nii.gz", marks, btcv.AFFINE)
    volumes.save_nifti(base / "label/label0002.nii.gz", marks[:-1], btcv.AFFINE)
    (base / "img/img0035.nii.gz").write_bytes(b"nonsense")
    dataset = open_dataset(few)
    for case_id, problem, file in (
        ("img0001", "label values that have no name", "label0001.nii.gz"),
        ("img0002", "not on the grid of its scan", "label0002.nii.gz"),
        ("img0035", "cannot be read as NIfTI", "img0035.nii.gz"),
    ):
        with pytest.raises(DataError, match=problem) as caught:
            dataset.read(dataset.case(case_id))
        assert caught.value.file.name == file and caught.value.expected and caught.value.found
    errors = {finding.case_id for finding in check_dataset(dataset) if finding.level == "error"}
    assert errors == {"img0001", "img0002", "img0035"}


def test_there_is_one_channel(few):
    assert open_dataset(few, channel=0).cases
    with pytest.raises(DataError, match="images of one channel"):
        open_dataset(few, channel=1)
