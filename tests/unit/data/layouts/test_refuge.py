"""REFUGE as its challenge distributes it, and as Kaggle does: grey 0 is the cup."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import DataError
from miniatures import refuge, sketches

MASKS = "Annotation-Training400/Annotation-Training400/Disc_Cup_Masks"


@pytest.fixture
def root(tmp_path) -> Path:
    refuge.write(tmp_path)
    return tmp_path


def test_pictures_labels_and_targets(tmp_path):
    truth = refuge.write(tmp_path)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "refuge" and [case.case_id for case in dataset.cases] == list(refuge.NAMES)
    assert dataset.label_names == {1: "optic disc rim", 2: "optic cup"} and dataset.nested
    assert dataset.targets == {"optic disc": (1, 2), "optic cup": (2,)}
    assert (dataset.modality, dataset.intensity) == ("fundus photograph", None)
    for case in dataset.cases:
        sample = dataset.read(case)
        np.testing.assert_array_equal(sample.labels, truth[case.case_id][None])
        assert sample.labels.dtype == np.uint8 and sample.scan.array.shape == (1, *sketches.SHAPE_YX, 3)
        assert case.patient_id == case.case_id and (sample.labels == 2).sum() > 50
    assert dataset.case("n0001").image == tmp_path / "Training400/Non-Glaucoma/n0001.jpg"


def test_the_split_is_that_of_the_challenge(root):
    assert open_dataset(root).official_split == {
        "train": ["g0001", "n0001", "n0002"], "val": ["V0001", "V0002"], "test": ["T0001", "T0002"],
    }  # fmt: skip


def test_other_places_of_the_same_files(root):
    """With a folder of the archive's name around them, or in the tree of REFUGE2."""
    (root / "REFUGE1-Train-400").mkdir()
    (root / "Training400").rename(root / "REFUGE1-Train-400/Images")
    (root / "Annotation-Training400/Annotation-Training400").rename(root / "REFUGE1-Train-400/Annotation-Training400")
    (root / "REFUGE-Validation400").rename(root / "v")
    (root / "REFUGE-Validation400").mkdir()
    (root / "v").rename(root / "REFUGE-Validation400/REFUGE-Validation400")
    dataset = open_dataset(root)
    assert dataset.layout == "refuge" and len(dataset.labelled) == 7


def test_kaggle_has_no_masks_of_the_test_part(tmp_path):
    truth = refuge.write(tmp_path, form="kaggle")
    dataset = open_dataset(tmp_path)
    assert [case.case_id for case in dataset.cases] == list(truth) and "T0001" not in truth
    np.testing.assert_array_equal(dataset.read(dataset.case("V0001")).labels[0], truth["V0001"])
    assert dataset.case("g0001").image.parent.name == "Images"
    assert dataset.official_split == {"train": ["g0001", "n0001", "n0002"], "test": ["V0001", "V0002"]}
    assert any("validation part is the test" in note for note in dataset.notes)
    everything = open_dataset(tmp_path, require_labels=False)
    assert len(everything.cases) == 7 and "'test'" in everything.notes[0]


def test_the_training_part_alone_has_no_official_split(root):
    for name in ("REFUGE-Validation400", "REFUGE-Validation400-GT", "REFUGE-Test400", "REFUGE-Test-GT"):
        shutil.rmtree(root / name)
    dataset = open_dataset(root)
    assert dataset.layout == "refuge" and len(dataset.cases) == 3 and dataset.official_split is None


@pytest.mark.parametrize("grey", [1, 100, 254])
def test_a_grey_level_that_means_nothing(root, grey):
    file = root / MASKS / "Glaucoma/g0001.bmp"
    greys = np.array(Image.open(file))
    greys[20, 30] = grey
    Image.fromarray(greys).save(file)
    with pytest.raises(DataError, match="grey levels that mean nothing") as caught:
        dataset = open_dataset(root)
        dataset.read(dataset.case("g0001"))
    assert caught.value.file == file and caught.value.found == f"{grey} on 1 pixels"
    assert "128 (optic disc rim)" in caught.value.expected and "0 (optic cup)" in caught.value.expected


def test_masks_the_other_way_round_are_not_read_as_something_else(root):
    file = root / MASKS / "Glaucoma/g0001.bmp"
    Image.fromarray(255 - np.array(Image.open(file)) // 128 * np.uint8(128) - np.uint8(127)).save(file)
    values = set(np.unique(np.array(Image.open(file))))
    assert values == {0, 128} or 0 in values  # black around the disc
    dataset = open_dataset(root)
    with pytest.raises(DataError, match="no background in its corners") as caught:
        dataset.read(dataset.case("g0001"))
    assert caught.value.file == file and "255 (background)" in caught.value.expected and "0" in caught.value.found


def test_missing_files(root):
    (root / MASKS / "Non-Glaucoma/n0002.bmp").unlink()
    with pytest.raises(DataError, match="without a label map") as caught:
        open_dataset(root)
    assert "n0002" in caught.value.found and "Disc_Cup_Masks" in caught.value.expected
    assert open_dataset(root, require_labels=False).case("n0002").label is None
    (root / "REFUGE-Validation400/V0001.jpg").unlink()
    for require_labels in (True, False):
        with pytest.raises(DataError, match="masks without their images") as caught:
            open_dataset(root, require_labels=require_labels)
        assert caught.value.found == "1 masks without image: V0001" and caught.value.file == root


def test_a_picture_that_is_there_twice(root):
    shutil.copytree(root / "Training400", root / "copy")
    with pytest.raises(DataError, match="g0001 more than once") as caught:
        open_dataset(root)
    assert "Training400/Glaucoma/g0001.jpg" in caught.value.found and "copy/Glaucoma/g0001.jpg" in caught.value.found


def test_no_pictures(tmp_path):
    (tmp_path / "Disc_Cup_Masks").mkdir()
    with pytest.raises(DataError, match="no REFUGE data set") as caught:
        open_dataset(tmp_path)
    assert "g0001.jpg" in caught.value.expected and caught.value.found == "Disc_Cup_Masks"


def test_the_check_names_what_is_broken(root):
    sketches.save(root / MASKS / "Glaucoma/g0001.bmp", np.full((48, 60), 255, np.uint8))
    (root / "REFUGE-Test400/Test400/T0001.jpg").write_bytes(b"\xff\xd8 cut off")
    errors = {f.case_id: f for f in check_dataset(open_dataset(root)) if f.level == "error"}
    assert set(errors) == {"g0001", "T0001"}
    assert "not on the grid" in errors["g0001"].problem and errors["g0001"].file.name == "g0001.bmp"
    assert "cannot be read as a picture" in errors["T0001"].problem
