"""The folder layout with every kind of image file, DICOM folders, and files that hold image and labels both."""

from __future__ import annotations

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from miniatures import dicom, folder, volumes


def test_volumes_of_all_kinds_and_folders_of_dicom_are_cases(tmp_path):
    truth = folder.write(tmp_path, form="volumes")
    dataset = open_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == list(truth) == list("abcdef")
    assert (tmp_path / "images/e").is_dir() and dataset.case("e").image == tmp_path / "images/e"
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id])
        assert sample.scan.spacing_mm == pytest.approx(folder.SPACING_MM) and sample.scan.affine is not None
        darkest = sample.scan.array[sample.labels == 0].mean()
        assert darkest < sample.scan.array[sample.labels == 1].mean() < sample.scan.array[sample.labels == 2].mean()


def test_a_dicom_folder_whose_name_has_dots_or_a_suffix_keeps_it(tmp_path):
    folder.write(tmp_path, form="volumes")
    (tmp_path / "images/e").rename(tmp_path / "images/1.2.840.png")
    (tmp_path / "masks/e_seg.nii.gz").rename(tmp_path / "masks/1.2.840.png_seg.nii.gz")
    assert open_dataset(tmp_path).case("1.2.840.png").label.name == "1.2.840.png_seg.nii.gz"


def test_other_folders_in_images_are_no_cases(tmp_path):
    truth = folder.write(tmp_path, form="volumes")
    (tmp_path / "images/notes").mkdir()
    (tmp_path / "images/notes/readme.txt").write_text("nothing here")
    (tmp_path / "images/.hidden").mkdir()
    dicom.series(tmp_path / "images/.hidden", np.zeros((2, 4, 4), np.int16))
    assert [case.case_id for case in open_dataset(tmp_path).cases] == list(truth)


def test_a_folder_and_a_file_of_one_name_are_refused(tmp_path):
    folder.write(tmp_path, form="volumes")
    np.savez(tmp_path / "images/e.npz", image=np.zeros(volumes.SHAPE_ZYX))
    with pytest.raises(DataError, match="differ only in their suffix") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "e" and "DICOM folder" in caught.value.expected


def test_a_slice_missing_in_a_dicom_folder_is_found_by_the_check(tmp_path):
    folder.write(tmp_path, form="volumes")
    sorted((tmp_path / "images/e").iterdir())[2].unlink()
    errors = [f for f in check_dataset(open_dataset(tmp_path)) if f.level == "error"]
    assert {finding.case_id for finding in errors} == {"e"}


def test_arrays_that_hold_image_and_label_need_no_masks_folder(tmp_path):
    truth = folder.write(tmp_path, form="arrays")
    dataset = open_dataset(tmp_path)
    assert list(truth) == [case.case_id for case in dataset.cases] and dataset.layout == "folder"
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id])
        assert case.label == case.image and sample.scan.array.dtype == np.int16
        assert sample.scan.spacing_mm == pytest.approx(folder.SPACING_MM)


def test_an_array_without_a_label_is_an_image_without_mask_and_never_its_own_label(tmp_path):
    folder.write(tmp_path, form="arrays")
    np.savez(tmp_path / "images/only.npz", data=np.zeros(volumes.SHAPE_ZYX, np.uint8))
    np.savez(tmp_path / "images/seg.npz", seg=np.zeros(volumes.SHAPE_ZYX, np.uint8))
    with pytest.raises(DataError, match="do not match") as caught:
        open_dataset(tmp_path)
    assert caught.value.found == "2 images without mask: only, seg"
    assert open_dataset(tmp_path, require_labels=False).case("only").label is None


def test_a_broken_array_file_does_not_keep_the_set_from_opening(tmp_path):
    folder.write(tmp_path, form="arrays")
    (tmp_path / "images/a.npz").write_bytes(b"PK\3\4 cut off")
    errors = [f for f in check_dataset(open_dataset(tmp_path)) if f.level == "error"]
    assert errors and {finding.case_id for finding in errors} == {"a"} and errors[0].file.name == "a.npz"


def test_masks_beside_arrays_come_before_what_the_arrays_hold(tmp_path):
    truth = folder.write(tmp_path, form="arrays")
    for name, labels in truth.items():
        np.savez(tmp_path / f"images/../{name}.npz", label=labels[::-1])
    (tmp_path / "masks").mkdir()
    for name in truth:
        (tmp_path / f"{name}.npz").rename(tmp_path / f"masks/{name}.npz")
    dataset = open_dataset(tmp_path)
    np.testing.assert_array_equal(dataset.read(dataset.case("a")).labels, truth["a"][::-1])


def test_pictures_without_masks_are_still_refused(tmp_path):
    folder.write(tmp_path)
    (tmp_path / "masks").rename(tmp_path / "marks")
    with pytest.raises(DataError, match="no known layout"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="not in the folder layout") as caught:
        open_dataset(tmp_path, "folder")
    assert ".npz" in caught.value.expected and "marks" in caught.value.found
