"""What a `Dataset` makes of regions, several raters and channels in files of their own, and what training draws."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from medsam_adapter.data.layouts.base import Dataset
from medsam_adapter.data.layouts.raters import majority
from medsam_adapter.data.loader import PromptedDataset, load_cases, prepare_case, wanted_targets
from medsam_adapter.data.sample import Case, Sample, Scan
from medsam_adapter.errors import DataError
from medsam_adapter.processing_msa import MSAProcessor

REGIONS = {"optic disc": (1, 2), "optic cup": (2,)}


def png(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


@pytest.fixture
def eyes(tmp_path) -> Dataset:
    """One picture, three raters: discs of 8, 8 and 2 rows; a cup that two of them see."""
    files = {}
    for name, disc, cup in (("a", 8, 4), ("b", 8, 3), ("c", 2, 0)):
        marks = np.zeros((16, 16), np.uint8)
        marks[4 : 4 + disc, 4:12] = 1
        marks[4 : 4 + cup, 6:10] = 2
        files[name] = png(tmp_path / f"{name}.png", marks)
    image = png(tmp_path / "image.png", np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))
    names = {1: "optic disc rim", 2: "optic cup"}
    return Dataset("eyes", tmp_path, [Case("e", image, raters=files)], names, REGIONS, nested=True)


def test_majority_of_labels_side_by_side():
    votes = [np.array([1, 1, 2, 0, 1]), np.array([1, 2, 2, 0, 2]), np.array([1, 2, 0, 1, 0])]
    assert majority(votes).tolist() == [1, 2, 2, 0, 0]


def test_majority_of_nested_labels_counts_the_inner_one_as_the_outer_too():
    votes = [np.array([1, 2, 2, 1]), np.array([2, 1, 2, 0]), np.array([0, 0, 1, 0])]
    assert majority(votes, nested=True).tolist() == [1, 1, 2, 0]
    assert majority(votes[:2], nested=True).tolist() == [1, 1, 2, 0]  # half of the raters is no majority


def test_a_case_is_what_the_majority_says_and_each_rater_can_be_asked(eyes):
    case = eyes.cases[0]
    assert case.has_reference and eyes.labelled == [case]
    sample = eyes.read(case)
    assert sample.targets == REGIONS
    assert (sample.labels[0, 4:12, 4:12] > 0).all() and (sample.labels[0, 4:7, 6:10] == 2).all()
    assert (sample.labels == 2).sum() == 12
    assert [int((eyes.read_labels(case, sample.scan, name) > 0).sum()) for name in "abc"] == [64, 64, 16]
    with pytest.raises(DataError, match="not marked by 'd'") as error:
        eyes.read_labels(case, rater="d")
    assert "a, b, c" in str(error.value)


def test_training_draws_one_rater_for_each_sample_and_regions_are_unions(eyes):
    processor = MSAProcessor(image_size=16)
    areas = {}
    for each in (True, False):
        cases = load_cases(eyes, eyes.cases, processor, each_rater=each)
        assert cases[0].targets == [(1, 2), (2,)]
        made = PromptedDataset(cases, processor, 1, 16, 2)
        made.set_epoch(1)
        areas[each] = {int(t.sum()) for e in range(30) for t in (made.set_epoch(e), made[0])[1]["targets"][0]}
    assert areas[False] == {64, 12}
    assert areas[True] == {64, 16, 16 + 0, 12}  # discs of the three; cups of 16, 12 and, drawn in its place, the disc


def marked_by_few(tmp_path) -> Dataset:
    """A volume of 12 slices in which one of four readers marks slice 2, and all but the last mark slice 9."""
    files = []
    for number in range(4):
        labels = np.zeros((12, 16, 16), np.uint8)
        labels[2, 4:8, 4:8] = number == 0
        labels[9, 4:12, 4:12] = number < 3
        files.append(tmp_path / f"{number}.npz")
        np.savez(files[-1], image=labels * 50, label=labels)
    raters = {path.stem: path for path in files}
    return Dataset("nodules", tmp_path, [Case("n", files[0], raters=raters)], {1: "nodule"})


def test_what_few_raters_marked_is_trained_by_the_marks_of_those_who_did(tmp_path):
    dataset, processor = marked_by_few(tmp_path), MSAProcessor(image_size=16, intensity="percentile")
    areas = {}
    for each in (True, False):
        made = PromptedDataset(load_cases(dataset, dataset.cases, processor, each_rater=each), processor, 1, 16, 1)
        areas[each] = {int(t.sum()) for e in range(40) for t in (made.set_epoch(e), made[0])[1]["targets"]}
    assert areas == {True: {16, 64}, False: {64}}  # never the empty map of who marked nothing there


def test_wanted_targets_keep_the_data_sets_order_and_refuse_strangers(eyes):
    assert wanted_targets(eyes, None) == REGIONS
    assert list(wanted_targets(eyes, ["optic cup", "optic disc"])) == ["optic disc", "optic cup"]
    with pytest.raises(DataError, match="no target 'optic disc rim'"):
        wanted_targets(eyes, ["optic disc rim"])


@pytest.fixture
def brains(tmp_path) -> Dataset:
    files = []
    for number in range(3):
        files.append(tmp_path / f"channel{number}.nii.gz")
        nib.save(nib.Nifti1Image(np.full((4, 5, 6), number, np.int16), np.diag([2.0, 1, 1, 1])), files[-1])
    return Dataset("brains", tmp_path, [Case("b", files[0], channels=tuple(files[1:]))])


def test_channels_are_stacked_last(brains):
    scan = brains.read_scan(brains.cases[0])
    assert scan.array.shape == (6, 5, 4, 3) and scan.array[0, 0, 0].tolist() == [0, 1, 2]
    assert scan.spacing_mm == (1, 1, 2) and scan.is_volume


@pytest.mark.parametrize(("shape", "shift"), [((4, 5, 7), 0.0), ((4, 5, 6), 0.5)])
def test_a_channel_on_another_grid_is_refused(brains, shape, shift):
    affine = np.diag([2.0, 1, 1, 1])
    affine[0, 3] = shift
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), affine), brains.cases[0].channels[1])
    with pytest.raises(DataError, match="not lie on the grid") as error:
        brains.read_scan(brains.cases[0])
    assert "channel2" in str(error.value)


def test_channels_reach_the_model_as_colours(brains):
    sample = brains.read(brains.cases[0])
    sample.labels, sample.targets = np.ones((6, 5, 4), np.uint8), {"all": (1,)}
    made = prepare_case(sample, MSAProcessor(image_size=16, intensity="window", window_hu=[0, 4])).image
    assert made.shape == (6, 3, 16, 16) and made.amax((0, 2, 3)).tolist() == [0, 64, 128]


# -- targets that are tiny, or vanish ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [(0, 0, 0), (1, 63, 41), (2, 150, 298)])
def test_a_single_voxel_of_a_large_picture_keeps_a_pixel(at):
    """Nearest-neighbour resizing to a fifth leaves out most voxels."""
    labels = np.zeros((3, 151, 299), np.uint8)
    labels[at] = 4
    sample = Sample("a", Scan(np.zeros(labels.shape, np.float32)), labels, {4: "spot"}, {"spot": (4,)})
    case = prepare_case(sample, MSAProcessor(image_size=60, intensity="unit"))
    (found,) = np.argwhere(case.labels.numpy() == 4)
    assert found[0] == at[0] and np.abs(found[1:] - np.array(at[1:]) * 60 / 299).max() < 1.2
    assert case.targets == [(4,)]
    item = PromptedDataset([case], MSAProcessor(image_size=60, intensity="unit"), 3, 15, 2)[0]
    assert (item["targets"] > 0.5).sum((0, 2, 3)).tolist() == [1, 1]  # one pixel of each of two prompts


def test_only_objects_that_would_vanish_are_filled_up():
    dataset = PromptedDataset([], MSAProcessor(image_size=16, intensity="unit"), 1, 4, 2)
    masks = torch.zeros(2, 3, 16, 16)
    masks[0, 0, 0, 0] = masks[1, 0, 4, 4] = masks[1, 0, 4, 5] = 1  # a voxel, and two
    masks[0, 1, :4, :4] = masks[1, 1, 8, 8] = 1  # a full pixel, and a voxel elsewhere
    got = dataset._to_mask_size(masks)
    assert got[0, 0, 0, 0] == 0.5 and got[1, 0, 1, 1] == 1 and got[:, 0].sum() == 1.5
    assert got[0, 1, 0, 0] == 1 and got[1, 1, 2, 2] == 1 / 16
    assert got[:, 2].sum() == 0


@pytest.mark.parametrize("size_hw", [(16, 8), (8, 16), (16, 16), (16, 1)])
def test_an_augmentation_sees_the_picture_and_no_padding(size_hw):
    """Mirrored both ways, it stays in the part of the frame that it fills, with its label."""
    labels = np.zeros((1, *size_hw), np.uint8)
    labels[:, :3, :2] = 1
    sample = Sample("a", Scan(labels.astype(np.float32)), labels, {1: "corner"}, {"corner": (1,)})
    processor = MSAProcessor(image_size=16, intensity="unit", image_mean=[0] * 3, image_std=[1] * 3)

    def mirror(image, labels, seed):
        assert image.shape == (1, 1, *size_hw) and labels.shape == (1, *size_hw)
        return image.flip(-1, -2), labels.flip(-1, -2)

    item = PromptedDataset([prepare_case(sample, processor)], processor, 1, 16, 1, augmentation=mirror)[0]
    expected = torch.zeros(16, 16)
    expected[: size_hw[0], : size_hw[1]] = torch.from_numpy(labels[0].astype(np.float32)).flip(0, 1)
    assert torch.equal(item["targets"][0, 0], expected) and torch.equal(item["pixel_values"][0, 0], expected)


def test_an_augmentation_that_loses_the_only_target_is_not_made():
    labels = np.zeros((2, 16, 16), np.uint8)
    labels[0, 4, 4] = 1
    sample = Sample("a", Scan(np.zeros(labels.shape, np.float32)), labels, {1: "spot"}, {"spot": (1,)})
    processor = MSAProcessor(image_size=16, intensity="unit")
    case = prepare_case(sample, processor)
    for lost in (True, False):
        moved = torch.zeros_like(case.labels) if lost else case.labels.roll(3, 2)
        move = lambda image, labels, seed, to=moved: (image, to)  # noqa: E731
        made = PromptedDataset([case], processor, 2, 16, 1, augmentation=move)
        expected = case.labels if lost else moved
        assert torch.equal(made[0]["targets"][:, 0], (expected == 1).float())
