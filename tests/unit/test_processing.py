"""`MSAProcessor`: what it takes, what it refuses, and that prompts and masks keep their places."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor

from medsam_adapter.configuration_msa import MSAConfig
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import CheckpointError, DataError, PromptError
from medsam_adapter.processing_msa import MSAProcessor

SIZE = 64
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def processor(**kwargs) -> MSAProcessor:
    return MSAProcessor(image_size=SIZE, **kwargs)


def grey(*shape, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def as_unit(pixels: torch.Tensor) -> np.ndarray:
    """Back from the normalised (..., 3, S, S) to [0, 1]."""
    return pixels.numpy() * STD[:, None, None] + MEAN[:, None, None]


# -- inputs ------------------------------------------------------------------------------------------------------------

PICTURES = {
    "uint8 (H, W)": (grey(40, 64), None),
    "uint8 (H, W, 3)": (grey(40, 64, 3), None),
    "HU (H, W)": (grey(40, 64, dtype=np.int16) - 100, "ct:soft-tissue"),
    "uint16 (H, W)": (grey(40, 64, dtype=np.uint16), "percentile"),
    "float (H, W)": (grey(40, 64) / 255, "unit"),
    "float (H, W, 3)": (grey(40, 64, 3) / 255, "unit"),
    "torch": (torch.from_numpy(grey(40, 64)), None),
    "PIL L": (Image.fromarray(grey(40, 64)), None),
    "PIL RGB": (Image.fromarray(grey(40, 64, 3)), None),
    "PIL RGBA": (Image.fromarray(grey(40, 64, 4), "RGBA"), None),
    "PIL P": (Image.fromarray(grey(40, 64, 3)).quantize(32), None),
    "PIL 1": (Image.fromarray(grey(40, 64)).convert("1"), None),
    "PIL I;16": (Image.fromarray(grey(40, 64, dtype=np.uint16)), "percentile"),
    "Scan": (Scan(grey(1, 40, 64)), None),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
def test_pictures(name):
    image, intensity = PICTURES[name]
    out = processor(intensity=intensity)(image)
    assert out["pixel_values"].shape == (1, 3, SIZE, SIZE) and out["pixel_values"].dtype == torch.float32
    assert out["original_sizes"].tolist() == [[40, 64]] and out["reshaped_input_sizes"].tolist() == [[40, 64]]
    assert (out["pixel_values"][..., 40:, :] == 0).all()  # padded after normalising
    assert "slice_mask" not in out


def test_values_are_sams_normalisation_of_the_unit_range():
    picture = grey(64, 64, 3)
    got = as_unit(processor()(picture)["pixel_values"][0])
    np.testing.assert_allclose(got, picture.transpose(2, 0, 1) / 255, atol=1e-5)
    hu = grey(64, 64, dtype=np.int16) - 100
    got = as_unit(processor(intensity="window", window_hu=(-50, 50))(hu)["pixel_values"][0])
    for channel in got:
        np.testing.assert_allclose(channel, np.clip((hu + 50) / 100, 0, 1), atol=1e-5)


def test_equal_pictures_in_every_container():
    array = grey(40, 64)
    want = processor()(array)["pixel_values"]
    for image in (Image.fromarray(array), torch.from_numpy(array), Scan(array[None]), np.asfortranarray(array)):
        assert torch.equal(processor()(image)["pixel_values"], want)
    assert torch.equal(processor()(np.repeat(array[..., None], 3, -1))["pixel_values"], want)


@pytest.mark.parametrize("shape", [(5, 40, 64), (5, 40, 64, 3), (4, 3, 64)])
def test_volumes(shape):
    out = processor()(grey(*shape))
    assert out["pixel_values"].shape == (1, shape[0], 3, SIZE, SIZE)
    assert out["slice_mask"].tolist() == [[True] * shape[0]]


def test_kind_settles_what_the_shape_leaves_open():
    assert processor()(grey(3, 40, 64), kind="volume")["pixel_values"].shape == (1, 3, 3, SIZE, SIZE)
    assert processor()(grey(20, 40, 3), kind="volume")["pixel_values"].shape == (1, 20, 3, SIZE, SIZE)
    assert processor()(grey(20, 40, 3))["original_sizes"].tolist() == [[20, 40]]
    assert processor()(grey(40, 64), kind="volume")["pixel_values"].shape == (1, 1, 3, SIZE, SIZE)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_last_axis_as_short_as_channels_is_asked_about(channels):
    with pytest.raises(DataError, match="either a picture") as caught:
        processor()(grey(50, 60, channels))
    assert "kind='volume'" in caught.value.expected
    out = processor()(grey(50, 60, channels), kind="volume")
    assert out["pixel_values"].shape == (1, 50, 3, SIZE, SIZE)
    with pytest.raises(DataError, match="kind='image'"):
        processor()(grey(50, 60, channels), kind="image")


@pytest.mark.parametrize("names", ["RGB", "RGBA"])
def test_nibabel_images_in_colour_are_taken(names):
    data = np.zeros((7, 6, 5), [(name, "u1") for name in names])
    for number, name in enumerate("RGB"):
        data[name] = grey(7, 6, 5) // (number + 1)
    got = processor(orientation="file").to_scan(nib.Nifti1Image(data, np.eye(4)))
    assert got.array.shape == (5, 6, 7, 3)
    for number, name in enumerate("RGB"):
        np.testing.assert_array_equal(got.array[..., number], data[name].transpose(2, 1, 0))
    assert processor()(nib.Nifti1Image(data, np.eye(4)))["pixel_values"].shape == (1, 5, 3, SIZE, SIZE)


def nifti(data: np.ndarray, codes: str = "RAS") -> nib.Nifti1Image:
    affine = np.zeros((4, 4))
    for axis, code in enumerate(codes):
        row = next(row for row, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[row, axis] = 1 if code in "RAS" else -1
    affine[3, 3] = 1
    return nib.Nifti1Image(data, affine)


def test_nibabel_images_are_turned():
    data = grey(64, 40, 5, dtype=np.int16)  # i, j, k of a RAS file
    out = processor(intensity="window", window_hu=(0, 255))(nifti(data))
    assert out["original_sizes"].tolist() == [[40, 64]]
    got = as_unit(out["pixel_values"][0])[:, 0, :40]
    np.testing.assert_allclose(got, data.transpose(2, 1, 0)[:, ::-1, ::-1] / 255, atol=1e-5)
    same = processor(intensity="window", window_hu=(0, 255), orientation="file")(nifti(data))
    np.testing.assert_allclose(as_unit(same["pixel_values"][0])[:, 0, :40], data.transpose(2, 1, 0) / 255, atol=1e-5)


@pytest.mark.parametrize(
    "codes", ["".join(c) for axes in itertools.permutations(("LR", "PA", "IS")) for c in itertools.product(*axes)]
)
def test_one_patient_in_48_orientations_gives_one_volume(codes):
    data = grey(7, 6, 5, dtype=np.int16)
    want = processor(intensity="percentile")(nifti(data))["pixel_values"]
    transform = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes)
    )
    turned = nifti(data).as_reoriented(transform)
    assert nib.aff2axcodes(turned.affine) == tuple(codes)
    assert torch.equal(processor(intensity="percentile")(turned)["pixel_values"], want)


def test_a_trailing_axis_of_one_is_dropped():
    assert processor(intensity="percentile")(nifti(grey(7, 6, 5, 1, dtype=np.int16)))["pixel_values"].shape[1] == 5


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (grey(40, 64, dtype=np.int16), "scale of these intensities is not known"),
        (grey(40, 64) / 255, "scale of these intensities is not known"),
        (Image.fromarray(grey(40, 64, dtype=np.uint16)), "scale of these intensities is not known"),
        (grey(3, 40, 64), "three slices or a picture"),
        (grey(2, 5, 40, 64), "no image or volume"),
        (grey(5, 40, 64, 4), "no image or volume"),
        (grey(40), "no image or volume"),
        (nifti(grey(5, 4, 3, 2, dtype=np.int16)), "no image or volume"),
    ],
)
def test_refused(image, text):
    with pytest.raises(DataError, match=text):
        processor()(image)


def test_refused_with_a_kind():
    with pytest.raises(DataError, match="kind='image'"):
        processor()(grey(5, 40, 64), kind="image")
    with pytest.raises(DataError, match="not numbers"):
        processor(intensity="unit")(np.full((4, 4), np.nan))
    with pytest.raises(DataError, match="either images or volumes"):
        processor()([grey(40, 64), grey(5, 40, 64)])
    with pytest.raises(DataError, match="PyTorch"):
        processor()(grey(40, 64), return_tensors="np")


def test_an_error_names_the_scans_file(tmp_path):
    with pytest.raises(DataError) as caught:
        processor()(Scan(grey(1, 4, 4, dtype=np.int16), path=tmp_path / "ct.nii.gz"))
    assert str(tmp_path / "ct.nii.gz") in str(caught.value)


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_no_sam_takes_are_refused(tmp_path, channels):
    scan = Scan(grey(2, 40, 64, channels, dtype=np.int16), path=tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="number of channels") as caught:
        processor(intensity="percentile")(scan)
    assert caught.value.file == scan.path and caught.value.found == str(channels)
    assert "data.channel" in caught.value.hint


@pytest.mark.parametrize("channels", [1, 3])
def test_one_or_three_channels_are_taken(channels):
    scan = Scan(grey(2, 40, 64, channels, dtype=np.int16))
    assert processor(intensity="percentile")(scan)["pixel_values"].shape == (1, 2, 3, SIZE, SIZE)


@pytest.mark.parametrize("values", [{"intensity": "hu"}, {"intensity": "window"}, {"window_hu": (4, 2)}])
def test_wrong_settings(values):
    with pytest.raises(DataError):
        processor(**values)


@pytest.mark.parametrize("values", [{"orientation": 7}, {"image_std": [0, 0, 0]}, {"window_hu": [1, float("nan")]}])
def test_wrong_settings_are_told_however_they_come(tmp_path, values):
    """transformers sets some of them after the constructor."""
    processor().save_pretrained(tmp_path)
    with pytest.raises(DataError):
        MSAProcessor.from_dict({"image_size": SIZE, **values})
    with pytest.raises(DataError):
        MSAProcessor.from_dict({"image_size": SIZE}, **values)
    with pytest.raises(CheckpointError):
        MSAProcessor.from_pretrained(tmp_path, **values)
    assert MSAProcessor.from_pretrained(tmp_path, orientation="RAS").orientation == "RAS"


def test_a_window_alone_is_a_mode():
    assert processor(window_hu=(0, 10)).intensity == "window"


# -- prompts -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 90), st.integers(2, 90), st.data())
def test_a_point_lies_on_its_pixel(height, width, data):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    out = processor()(grey(height, width), input_points=[[[(x, y)]]])
    got, (new_height, new_width) = out["input_points"][0, 0, 0].numpy(), out["reshaped_input_sizes"][0].tolist()
    np.testing.assert_allclose(
        got, [(x + 0.5) * new_width / width - 0.5, (y + 0.5) * new_height / height - 0.5], atol=1e-4
    )
    assert out["input_labels"].tolist() == [[[1]]]


def test_points_of_different_number_are_filled_up():
    out = processor()(
        [grey(64, 64), grey(64, 64)],
        input_points=[[[(1, 2), (3, 4)], [(5, 6)]], [[(7, 8)]]],
        input_labels=[[[1, 0], [1]], [[0]]],
    )
    assert out["input_points"].shape == (2, 2, 2, 2)
    assert out["input_labels"].tolist() == [[[1, 0], [1, -1]], [[0, -1], [-1, -1]]]
    assert out["input_points"][0, 0].tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    "labels",
    [[], [[]], [[[1]]], [[[1, 0, 1]]], [[[1, 0], [1, 0]]], [[[7, 1]]], [[[1, 0.5]]], [[[1, "0"]]], [[1, 0]]],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("shape", [(50, 60), (5, 50, 60)])
def test_labels_that_do_not_fit_the_points_are_refused(shape, labels):
    points = [[[(1, 2, 3)[: len(shape)], (3, 4, 1)[: len(shape)]]]]
    with pytest.raises(PromptError, match="label"):
        processor()(grey(*shape), input_points=points, input_labels=labels)


def test_labels_without_points_are_refused():
    with pytest.raises(PromptError, match="label"):
        processor()(grey(50, 60), input_labels=[[[1]]])


def test_points_that_are_filled_up_already_are_taken():
    given = {"input_points": torch.tensor([[[[1, 2], [0, 0]]]]), "input_labels": torch.tensor([[[1, -1]]])}
    assert processor()(grey(50, 60), **given)["input_labels"].tolist() == [[[1, -1]]]


def test_points_of_volumes_stand_on_their_slice():
    out = processor()([grey(5, 64, 64), grey(2, 64, 64)], input_points=[[[(1, 2, 4), (3, 4, 0)]], [[(5, 6, 1)]]])
    points, labels = out["input_points"], out["input_labels"]
    assert points.shape == (2, 5, 1, 2, 2) and labels.shape == (2, 5, 1, 2)
    assert labels[0, 4, 0].tolist() == [1, -1] and labels[0, 0, 0].tolist() == [-1, 1]
    assert points[0, 4, 0, 0].tolist() == [1, 2] and points[0, 0, 0, 1].tolist() == [3, 4]
    assert (labels != -1).sum() == 3 and labels[1, 1, 0, 0] == 1


def test_boxes():
    out = processor()(grey(32, 64), input_boxes=[[(0, 0, 63, 31), (4, 5, 6, 7)]])
    assert out["input_boxes"].shape == (1, 2, 4) and out["input_boxes"][0, 0].tolist() == [0, 0, 63, 31]
    out = processor()(grey(32, 32), input_boxes=[[(0, 0, 31, 31)]])
    assert out["input_boxes"][0, 0].tolist() == [0.5, 0.5, 62.5, 62.5]
    on_every_slice = processor()(grey(5, 32, 64), input_boxes=[[(4, 5, 6, 7)]])["input_boxes"]
    assert on_every_slice.shape == (1, 5, 1, 4) and (on_every_slice == torch.tensor([4.0, 5, 6, 7])).all()


def test_volumes_of_different_depth_share_a_batch():
    volumes = [grey(5, 64, 40), grey(2, 40, 64)]
    out = processor()(volumes)
    assert out["pixel_values"].shape == (2, 5, 3, SIZE, SIZE)
    assert out["slice_mask"].tolist() == [[True] * 5, [True, True, False, False, False]]
    assert torch.equal(out["pixel_values"][1, :2], processor()(volumes[1])["pixel_values"][0])
    assert (out["pixel_values"][1, 2:] == 0).all()


@pytest.mark.parametrize(
    ("shape", "point", "text"),
    [
        ((40, 64), (64, 0), "0 <= x <= 63"),
        ((40, 64), (0, 40), "0 <= y <= 39"),
        ((40, 64), (-1, 0), "outside"),
        ((40, 64), (float("nan"), 0), "outside"),
        ((5, 40, 64), (0, 0, 5), "0 <= z <= 4"),
        ((5, 40, 64), (0, 0, -1), "outside"),
        ((5, 40, 64), (0, 0), "3 numbers"),
        ((40, 64), (0, 0, 0), "2 numbers"),
    ],
)
def test_points_outside(shape, point, text):
    with pytest.raises(PromptError, match=text):
        processor()(grey(*shape), input_points=[[[point]]])


@pytest.mark.parametrize(
    "box", [(0, 0, 64, 5), (0, 0, 5, 40), (-1, 0, 5, 5), (6, 0, 5, 5), (0, 6, 5, 5), (0, 0, 5), (0, 0, 5, 5, 1)]
)
def test_boxes_outside(box):
    with pytest.raises(PromptError, match="does not fit"):
        processor()(grey(40, 64), input_boxes=[[box]])


def test_empty_and_uneven_prompts():
    with pytest.raises(PromptError, match="no point"):
        processor()(grey(40, 64), input_points=[[]])
    for boxes in ([[], []], [[(0, 0, 5, 5)], [(0, 0, 5, 5), (1, 1, 2, 2)]]):
        with pytest.raises(PromptError, match="as many boxes"):
            processor()([grey(40, 64), grey(40, 64)], input_boxes=boxes)


def test_prompts_for_another_number_of_images():
    for name in ("input_points", "input_boxes"):
        with pytest.raises(PromptError, match="one entry for each image"):
            processor()(grey(40, 64), **{name: [[], []]})


# -- masks -------------------------------------------------------------------------------------------------------------


def test_masks_have_the_sources_sizes():
    sizes = [(40, 64), (77, 30)]
    pictures = processor().post_process_masks(torch.randn(2, 3, 1, 32, 32), sizes)
    assert [tuple(m.shape) for m in pictures] == [(3, 1, 40, 64), (3, 1, 77, 30)]
    assert all(m.dtype == torch.bool for m in pictures)
    volumes = processor().post_process_masks(torch.randn(2, 5, 3, 1, 32, 32), torch.tensor(sizes), binarize=False)
    assert [tuple(m.shape) for m in volumes] == [(5, 3, 1, 40, 64), (5, 3, 1, 77, 30)]
    assert volumes[0].dtype == torch.float32


def test_masks_of_a_batch_have_each_volumes_depth():
    batch = processor()([grey(5, 40, 64), grey(9, 40, 64)])
    masks = torch.randn(2, 9, 1, 1, 16, 16)
    got = processor().post_process_masks(masks, batch["original_sizes"], slice_mask=batch["slice_mask"])
    assert [tuple(each.shape) for each in got] == [(5, 1, 1, 40, 64), (9, 1, 1, 40, 64)]
    whole = processor().post_process_masks(masks, batch["original_sizes"])
    assert len(whole[0]) == 9 and torch.equal(whole[0][:5], got[0])


def test_a_mask_returns_to_its_place():
    picture = np.zeros((50, 90), np.uint8)
    picture[10:30, 20:70] = 255
    inputs = processor()(picture)
    logits = torch.nn.functional.avg_pool2d(inputs["pixel_values"][:, :1], 2)[:, None]  # (B, P, M, h, w)
    mask = processor().post_process_masks(logits, inputs["original_sizes"])[0][0, 0].numpy()
    assert 2 * (mask & (picture > 0)).sum() / (mask.sum() + (picture > 0).sum()) > 0.95


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values", [{}, {"intensity": "ct:liver", "orientation": None}, {"window_hu": (-10, 90), "orientation": "PIR"}]
)
def test_saved_and_opened(tmp_path, values):
    made = processor(**values)
    made.save_pretrained(tmp_path)
    MSAConfig().save_pretrained(tmp_path)
    for door in (MSAProcessor, AutoProcessor, AutoImageProcessor):
        read = door.from_pretrained(tmp_path)
        assert type(read) is MSAProcessor
        for name in ("image_size", "intensity", "window_hu", "orientation", "image_mean", "image_std"):
            assert getattr(read, name) == getattr(made, name), name


def test_from_model_takes_its_size(tiny_base):
    from medsam_adapter.modeling_msa import MSAModel

    model = MSAModel.from_base(tiny_base, image_size=96)
    made = MSAProcessor.from_model(model, intensity="unit")
    out = made(np.random.default_rng(0).random((50, 60)), input_points=[[[(59, 49)]]])
    assert made.image_size == 96 and model(
        pixel_values=out["pixel_values"], input_points=out["input_points"], input_labels=out["input_labels"]
    ).pred_masks.shape == (1, 1, 1, 48, 48)
    model(**out)  # the whole batch, sizes and all, may go in
