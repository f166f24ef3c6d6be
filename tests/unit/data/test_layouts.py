"""Opening data set folders: what is found, what is concluded, and what is refused."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter.data.layouts import LAYOUTS, open_dataset
from medsam_adapter.errors import DataError


def nifti(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)


def png(path: Path, data: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data).save(path)


def write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def image(seed: int = 0, shape=(6, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)


def mask(*values: int, dtype=np.uint8) -> np.ndarray:
    """A mask with one pixel of each value."""
    result = np.zeros((6, 8), dtype)
    result.flat[1 : len(values) + 1] = values
    return result


def folder_set(root: Path, names=("a", "b"), mask_suffix="", values=(255,), folder="masks") -> Path:
    for number, name in enumerate(names):
        png(root / "images" / f"{name}.png", image(number))
        png(root / folder / f"{name}{mask_suffix}.png", mask(*values))
    return root


def msd_set(root: Path, channels: int = 1, **changes) -> Path:
    shape = (4, 5, 3) if channels == 1 else (4, 5, 3, channels)
    for number in range(3):
        nifti(root / f"imagesTr/case_{number}.nii.gz", np.arange(np.prod(shape)).reshape(shape).astype(np.int16))
        nifti(root / f"labelsTr/case_{number}.nii.gz", (np.arange(60).reshape(4, 5, 3) % 3).astype(np.uint8))
    content = {
        "name": "Toy",
        "modality": {str(n): f"kind {n}" for n in range(channels)},
        "labels": {"0": "background", "2": "second", "1": "first"},
        "licence": "CC0",
        "numTraining": 3,
        "training": [
            {"image": f"./imagesTr/case_{n}.nii.gz", "label": f"./labelsTr/case_{n}.nii.gz"} for n in (2, 0, 1)
        ],
    }
    write_json(root / "dataset.json", content | changes)
    return root


def nnunet_set(root: Path, channels: int = 2) -> Path:
    for number in range(2):
        for channel in range(channels):
            nifti(root / f"imagesTr/case_{number}_{channel:04d}.nii.gz", np.full((4, 5, 3), channel, np.int16))
        nifti(root / f"labelsTr/case_{number}.nii.gz", np.ones((4, 5, 3), np.uint8))
    write_json(
        root / "dataset.json",
        {
            "channel_names": {str(n): f"T{n + 1}" for n in range(channels)},
            "labels": {"background": 0, "tumour": 1},
            "numTraining": 2,
            "file_ending": ".nii.gz",
        },
    )
    return root


def test_msd(tmp_path):
    dataset = open_dataset(msd_set(tmp_path))
    assert [case.case_id for case in dataset.cases] == ["case_2", "case_0", "case_1"]
    assert dataset.label_names == {1: "first", 2: "second"}
    assert (dataset.name, dataset.modality, dataset.licence, dataset.notes) == ("Toy", "kind 0", "CC0", [])
    sample = dataset.read(dataset.case("case_0"))
    assert sample.scan.shape_zyx == sample.labels.shape == (3, 5, 4)
    assert set(np.unique(sample.labels)) == {0, 1, 2} and sample.label_names == dataset.label_names


def test_msd_with_channels_in_one_file_reads_the_chosen_one_and_says_so(tmp_path):
    msd_set(tmp_path, channels=2)
    for channel in (0, 1):
        dataset = open_dataset(tmp_path, channel=channel)
        assert "channel" in dataset.notes[0] and f"kind {channel}" in dataset.notes[0]
        assert dataset.read(dataset.cases[0]).scan.array[0, 0, 0] == channel
    with pytest.raises(DataError, match="wanted channel"):
        open_dataset(tmp_path, channel=2)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": None}, "names no labels"),
        ({"labels": {"whole": [1, 2]}}, "not one whole number"),
        ({"training": []}, "lists no image"),
        ({"training": [{"picture": "a"}]}, "names no image"),
        ({"training": [{"image": "imagesTr/gone.nii.gz"}]}, "lists no image"),
        ({"training": [{"image": "imagesTr/case_0.nii.gz"}]}, "without a label map"),
    ],
)
def test_msd_refuses(tmp_path, changes, problem):
    with pytest.raises(DataError, match=problem):
        open_dataset(msd_set(tmp_path, **changes))


def test_msd_says_when_the_number_of_cases_is_not_what_it_claims(tmp_path):
    assert "numTraining 7" in open_dataset(msd_set(tmp_path, numTraining=7)).notes[0]


def test_nnunet(tmp_path):
    dataset = open_dataset(nnunet_set(tmp_path), channel=1)
    assert [case.case_id for case in dataset.cases] == ["case_0", "case_1"]
    assert dataset.label_names == {1: "tumour"} and dataset.modality == "T2" and "channel 1" in dataset.notes[0]
    assert (dataset.read(dataset.cases[0]).scan.array == 1).all()
    assert (open_dataset(tmp_path).read(dataset.cases[0]).scan.array == 1).all()  # the case holds its channel's file
    assert (open_dataset(tmp_path).read(open_dataset(tmp_path).cases[0]).scan.array == 0).all()


def test_nnunet_without_a_label_or_a_channel(tmp_path):
    nnunet_set(tmp_path)
    (tmp_path / "labelsTr/case_1.nii.gz").unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(tmp_path)
    assert "case_1" in caught.value.found
    assert open_dataset(tmp_path, require_labels=False).case("case_1").label is None
    (tmp_path / "imagesTr/case_1_0000.nii.gz").unlink()
    with pytest.raises(DataError, match="no channel 0"):
        open_dataset(tmp_path, require_labels=False)


def test_nnunet_labels_without_an_image_are_refused(tmp_path):
    nnunet_set(tmp_path)
    nifti(tmp_path / "labelsTr/case_7.nii.gz", np.ones((4, 5, 3), np.uint8))
    with pytest.raises(DataError, match="labels without an image") as caught:
        open_dataset(tmp_path, require_labels=False)
    assert "case_7" in caught.value.found


def test_nnunet_v1_lists_cases_and_has_a_file_for_each_channel(tmp_path):
    nnunet_set(tmp_path)
    listed = [{"image": "./imagesTr/case_1.nii.gz", "label": "./labelsTr/case_1.nii.gz", "patient": "p"}]
    content = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "tumour"}, "training": listed}
    write_json(tmp_path / "dataset.json", content)
    for channel in (0, 1):
        dataset = open_dataset(tmp_path, channel=channel)
        (case,) = dataset.cases
        assert (case.case_id, case.patient_id, dataset.modality) == ("case_1", "p", f"T{channel + 1}")
        sample = dataset.read(case)
        assert (sample.scan.array == channel).all() and (sample.labels == 1).all()


@pytest.mark.parametrize("suffix", ["", "_segmentation", "_OD", "_mask", "-gt", "_label"])
@pytest.mark.parametrize("folder", ["masks", "labels"])
def test_folder_finds_the_shared_suffix(tmp_path, suffix, folder):
    dataset = open_dataset(folder_set(tmp_path, ("1", "10", "case_2"), suffix, folder=folder))
    assert {case.case_id: case.label.name for case in dataset.cases} == {
        name: f"{name}{suffix}.png" for name in ("1", "10", "case_2")
    }
    assert dataset.label_names == {1: "target"} and dataset.mask_values == {255: 1}
    assert "255 -> target" in dataset.notes[0]
    assert np.unique(dataset.read(dataset.cases[0]).labels).tolist() == [0, 1]


def test_folder_takes_suffix_names_patients_and_licence_from_labels_json(tmp_path):
    folder_set(tmp_path, mask_suffix="x7")
    with pytest.raises(DataError, match="do not match"):
        open_dataset(tmp_path)
    content = {
        "255": "optic disc",
        "mask_suffix": "x7",
        "patients": {"a": "p", "b": "p"},
        "licence": "CC0",
        "mask": "text",
    }
    write_json(tmp_path / "labels.json", content)
    dataset = open_dataset(tmp_path)
    assert dataset.label_names == {1: "optic disc"} and dataset.notes == [] and dataset.licence == "CC0"
    assert {case.patient_id for case in dataset.cases} == {"p"}


def test_words_of_a_json_file_must_be_words(tmp_path):
    folder_set(tmp_path)
    write_json(tmp_path / "labels.json", {"255": "optic disc", "mask_suffix": 7})
    with pytest.raises(DataError, match='"mask_suffix" is no text') as caught:
        open_dataset(tmp_path)
    assert caught.value.file == tmp_path / "labels.json" and caught.value.found == "7"
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "a": 1}, "file_ending": [".png"]})
    with pytest.raises(DataError, match='"file_ending" is no text'):
        open_dataset(tmp_path, "msd")


def test_folder_label_values_become_consecutive(tmp_path):
    folder_set(tmp_path, values=(50, 128, 200))
    write_json(tmp_path / "labels.json", {"200": "cup", "0": "background", "50": "disc", "128": "disc"})
    dataset = open_dataset(tmp_path)
    assert dataset.label_names == {1: "disc", 2: "cup"}
    assert dataset.read(dataset.cases[0]).labels[0, 0, :4].tolist() == [0, 1, 1, 2]


def test_folder_values_from_1_to_k_stay(tmp_path):
    folder_set(tmp_path, values=(1, 2))
    write_json(tmp_path / "labels.json", {"1": "liver", "2": "spleen"})
    dataset = open_dataset(tmp_path)
    assert dataset.mask_values is None and dataset.label_names == {1: "liver", 2: "spleen"}


def test_folder_colours(tmp_path):
    coloured = np.zeros((6, 8, 3), np.uint8)
    coloured[0, 0], coloured[0, 1] = (0, 255, 0), (255, 0, 0)
    png(tmp_path / "images/a.png", image())
    png(tmp_path / "masks/a.png", coloured)
    with pytest.raises(DataError, match="colours"):
        open_dataset(tmp_path)
    write_json(tmp_path / "labels.json", {"0, 255, 0": "benign", "255,0,0": "malignant", "0,0,0": "background"})
    dataset = open_dataset(tmp_path)
    assert dataset.label_names == {1: "benign", 2: "malignant"}
    assert dataset.read(dataset.cases[0]).labels[0, 0, :3].tolist() == [1, 2, 0]


def test_folder_refuses_mixed_values_and_colours(tmp_path):
    folder_set(tmp_path)
    write_json(tmp_path / "labels.json", {"1": "a", "1,2,3": "b"})
    with pytest.raises(DataError, match="both"):
        open_dataset(tmp_path)


def test_a_value_without_name_is_an_error_on_reading(tmp_path):
    folder_set(tmp_path, values=(255, 128))
    write_json(tmp_path / "labels.json", {"255": "lesion"})
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match="no name") as caught:
        dataset.read(dataset.cases[0])
    assert caught.value.found == "128 on 1 voxels" and "255" in caught.value.expected


def test_wrong_label_in_a_volume_is_an_error_on_reading(tmp_path):
    dataset = open_dataset(msd_set(tmp_path, labels={"0": "background", "1": "first"}))
    with pytest.raises(DataError, match="no name") as caught:
        dataset.read(dataset.cases[0])
    assert caught.value.found.startswith("2 on 20")


def test_unmatched_files_are_listed(tmp_path):
    folder_set(tmp_path, ("a", "b", "c"), "_mask")
    (tmp_path / "masks/b_mask.png").unlink()
    with pytest.raises(DataError, match="do not match") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "1 images without mask: b" and "require_labels" in caught.value.hint
    assert open_dataset(tmp_path, require_labels=False).case("b").label is None
    png(tmp_path / "masks/z_mask.png", mask(255))
    for require_labels in (True, False):
        with pytest.raises(DataError, match="do not match") as caught:
            open_dataset(tmp_path, require_labels=require_labels)
        assert "1 masks without image: z_mask" in caught.value.found


def test_two_images_of_one_name_are_refused(tmp_path):
    folder_set(tmp_path)
    Image.fromarray(image()).save(tmp_path / "images/a.jpg")
    with pytest.raises(DataError, match="differ only in their suffix"):
        open_dataset(tmp_path)


def test_macos_twins_are_not_images(tmp_path):
    folder_set(tmp_path)
    (tmp_path / "images/._a.png").write_bytes(b"junk")
    assert len(open_dataset(tmp_path).cases) == 2


def test_instances_are_noticed_and_each_object_is_a_label(tmp_path):
    for name, count in (("a", 12), ("b", 30)):
        png(tmp_path / f"images/{name}.png", image())
        png(tmp_path / f"masks/{name}.png", mask(*range(1, count + 1), dtype=np.uint16))
    dataset = open_dataset(tmp_path)
    assert dataset.instances and dataset.label_names == {} and "instances" in dataset.notes[0]
    sample = dataset.read(dataset.cases[0])
    assert sorted(sample.label_names) == list(range(1, 13)) and sample.labels.max() == 12


def test_a_few_values_are_classes_and_no_instances(tmp_path):
    dataset = open_dataset(folder_set(tmp_path, values=(1, 2, 3)))
    assert not dataset.instances and dataset.label_names == {1: "value 1", 2: "value 2", 3: "value 3"}


def test_folder_of_volumes(tmp_path):
    nifti(tmp_path / "images/a.nii.gz", np.ones((4, 5, 3), np.int16))
    nifti(tmp_path / "labels/a_seg.nii.gz", np.ones((4, 5, 3), np.uint8))
    dataset = open_dataset(tmp_path)
    assert dataset.read(dataset.cases[0]).labels.shape == (3, 5, 4)


def test_auto_prefers_dataset_json_and_names_what_it_found(tmp_path):
    (tmp_path / "stuff").mkdir()
    with pytest.raises(DataError, match="no known layout") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "stuff"
    msd_set(folder_set(tmp_path))
    assert open_dataset(tmp_path).name == "Toy"
    assert open_dataset(tmp_path, "folder").label_names == {1: "target"}


def test_unknown_layout_names_the_nearest(tmp_path):
    assert list(LAYOUTS)[-2:] == ["msd", "folder"]  # they fit what others claim, so they are asked last
    with pytest.raises(DataError, match="did you mean 'folder'"):
        open_dataset(tmp_path, "folders")


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_no_folder(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "file":
        path.touch()
    with pytest.raises(DataError, match="no data set folder"):
        open_dataset(path)


def test_broken_json(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="JSON"):
        open_dataset(tmp_path)


def test_unknown_case_id(tmp_path):
    with pytest.raises(DataError, match="no case 'x'"):
        open_dataset(msd_set(tmp_path)).case("x")


# -- what would be learned wrongly -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "patients",
    [
        {"a.png": "p7", "b.png": "p7"},  # with suffixes: both would be patients of their own
        {"A": "p7", "b": "p7"},
        ["p7", "p7"],
        {"a": None, "b": None},  # not one patient called None
        {"a": "", "b": "p7"},
    ],
)
def test_patients_that_are_not_understood_are_refused(tmp_path, patients):
    write_json(folder_set(tmp_path) / "labels.json", {"patients": patients})
    with pytest.raises(DataError, match="patients"):
        open_dataset(tmp_path)


def test_patients_may_be_told_for_some_images_or_for_more_than_are_here(tmp_path):
    write_json(folder_set(tmp_path) / "labels.json", {"patients": {"a": 7}})
    assert [case.patient_id for case in open_dataset(tmp_path).cases] == ["7", "b"]
    write_json(tmp_path / "labels.json", {"patients": {"a": "p", "b": "p", "c": "q"}})
    assert [case.patient_id for case in open_dataset(tmp_path).cases] == ["p", "p"]


def test_names_are_the_same_in_either_form_of_unicode(tmp_path):
    """macOS writes an umlaut as two characters, Linux and most programs as one."""
    two, one = (unicodedata.normalize(form, "Müller 1") for form in ("NFD", "NFC"))
    png(tmp_path / "images" / f"{two}.png", image())
    png(tmp_path / "masks" / f"{one}_grün.png", mask(1))
    suffix = unicodedata.normalize("NFD", "_grün")
    write_json(tmp_path / "labels.json", {"1": "a", "patients": {two: "p"}, "mask_suffix": suffix})
    (case,) = open_dataset(tmp_path).cases
    assert (case.case_id, case.patient_id) == (one, "p")
    assert open_dataset(tmp_path).read(case).labels.any()


def test_an_msd_patient_of_null_is_none(tmp_path):
    training = [{"image": f"imagesTr/case_{n}.nii.gz", "label": f"labelsTr/case_{n}.nii.gz"} for n in range(3)]
    msd_set(tmp_path, training=[{**entry, "patient": None} for entry in training])
    assert len({case.patient_id for case in open_dataset(tmp_path).cases}) == 3


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"background": 0, "tumor": 1, "ignore": 2}, "ignore"),
        ({"liver": 1, "tumor": 1}, "twice"),
        ({"1": "kidney", "2": "kidney"}, "twice"),
    ],
)
def test_labels_that_would_be_learned_wrongly_are_refused(tmp_path, labels, problem):
    msd_set(tmp_path, labels=labels)
    with pytest.raises(DataError, match=problem):
        open_dataset(tmp_path)
