"""Frames: there and back again, and a point stays on its voxel."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam_adapter.data.geometry import Letterbox, Turn, resized, to_tensor
from medsam_adapter.errors import DataError

quick = settings(max_examples=60, deadline=None)
sides = st.integers(1, 700)
image_sizes = st.sampled_from([64, 128, 1024])
ALL_AXIS_CODES = [
    "".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)
]


# -- letterbox ---------------------------------------------------------------------------------------------------------


@quick
@given(sides, sides, image_sizes)
def test_the_picture_fills_the_frame_along_its_longer_side(height, width, size):
    new = Letterbox((height, width), size).resized_hw
    assert max(new) == size and min(new) >= 1
    shorter = min(height, width) * size / max(height, width)
    assert abs(min(new) - max(1, shorter)) <= 0.5 + 1e-9
    assert (new[0] >= new[1]) if height > width else (new[1] >= new[0])


@quick
@given(sides, sides, image_sizes, st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_points_there_and_back(height, width, size, where):
    box = Letterbox((height, width), size)
    point = np.array([where[0] * (width - 1), where[1] * (height - 1)])
    inside = box.points_to_model(point)
    new_height, new_width = box.resized_hw
    assert -0.5 <= inside[0] <= new_width - 0.5 and -0.5 <= inside[1] <= new_height - 0.5
    np.testing.assert_allclose(box.points_to_source(inside), point, atol=1e-2)
    np.testing.assert_allclose(box.boxes_to_model([*point, *point]), [*inside, *inside])


@quick
@given(sides, sides, image_sizes)
def test_outer_edges_meet(height, width, size):
    """Pixel x covers x - 0.5 to x + 0.5, so the picture's edges are the frame's, whatever the scale."""
    box = Letterbox((height, width), size)
    np.testing.assert_allclose(box.points_to_model([-0.5, -0.5]), [-0.5, -0.5], atol=1e-3)
    edge = box.points_to_model([width - 0.5, height - 0.5])
    np.testing.assert_allclose(edge, np.array(box.resized_hw[::-1]) - 0.5, atol=1e-3)


def test_leading_axes_of_points_and_boxes():
    box = Letterbox((10, 20), 64)
    assert box.points_to_model(np.zeros((3, 4, 2))).shape == (3, 4, 2)
    assert box.boxes_to_model(np.zeros((3, 4))).shape == (3, 4) and box.points_to_model([0, 0]).dtype == np.float32


def asymmetric(height: int, width: int) -> np.ndarray:
    """An L in the upper left part: no flip and no transposition leaves it as it is."""
    mask = np.zeros((height, width), np.float32)
    mask[height // 8 : height // 2, width // 8 : width // 4] = 1
    mask[3 * height // 8 : height // 2, width // 8 : 3 * width // 4] = 1
    return mask


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.mark.parametrize("size_hw", [(96, 160), (200, 120), (64, 64), (333, 251), (151, 40), (61, 77)])
def test_a_mask_returns(size_hw):
    mask, box = asymmetric(*size_hw), Letterbox(size_hw, 256)
    there = box.masks_to_model(torch.tensor(mask)[None, None])
    assert there.shape == (1, 1, 256, 256)
    height, width = box.resized_hw
    assert there[..., height:, :].sum() == 0 and there[..., :, width:].sum() == 0
    back = box.logits_to_source(20 * there - 10)[0, 0]
    assert back.shape == size_hw
    assert dice(back.numpy() > 0, mask > 0.5) > 0.98


@quick
@given(st.integers(40, 300), st.integers(40, 300))
def test_a_smooth_picture_returns(height, width):
    y, x = np.mgrid[:height, :width]
    picture = np.sin(4 * x / width) + np.cos(3 * y / height + 1)
    box = Letterbox((height, width), 128)
    back = box.logits_to_source(box.image_to_model(to_tensor(picture)[None, None]))[0, 0].numpy()
    inner = (slice(6, -6), slice(6, -6))  # at its border the letterbox meets its padding
    assert np.abs(back - picture)[inner].max() < 0.08


@pytest.mark.parametrize("size_hw", [(50, 90), (90, 50), (300, 200)])
def test_a_bright_pixel_lies_where_its_point_says(size_hw):
    box, picture = Letterbox(size_hw, 128), np.zeros(size_hw, np.float32)
    y, x = size_hw[0] // 3, 2 * size_hw[1] // 3
    picture[y, x] = 1
    for there in (box.image_to_model, box.masks_to_model):
        shown = there(torch.tensor(picture)[None, None])[0, 0]
        grid = np.mgrid[:128, :128][::-1]
        centre = [(shown.numpy() * axis).sum() / shown.sum().item() for axis in grid]
        np.testing.assert_allclose(centre, box.points_to_model([x, y]), atol=0.8)


def test_a_small_object_keeps_its_weight():
    mask = torch.zeros(1, 1, 512, 512)
    mask[..., 100:102, 200:202] = 1
    assert Letterbox((512, 512), 64).masks_to_model(mask).sum() * 64 == pytest.approx(4, rel=1e-4)


def test_padding_has_the_value_asked_for():
    there = Letterbox((10, 20), 64).image_to_model(torch.ones(1, 3, 10, 20), pad_value=-2)
    assert (there[..., 32:, :] == -2).all() and torch.allclose(there[..., :32, :], torch.ones(()))


def test_low_resolution_logits_cover_the_whole_frame():
    """The decoder's masks are those of the padded square: the padding is cut off, not squeezed in."""
    logits = torch.full((1, 1, 32, 32), -10.0)
    logits[..., :16, :16] = 10  # upper left quarter of the frame, all rows of a picture half as high as wide
    back = Letterbox((50, 100), 128).logits_to_source(logits)[0, 0] > 0
    assert back[:, :49].all() and not back[:, 51:].any()


# -- turn --------------------------------------------------------------------------------------------------------------


def affine_of(codes: str, sizes_xyz=(0.7, 1.5, 4.0)) -> np.ndarray:
    affine = np.zeros((4, 4))
    for axis, code in enumerate(codes):
        row = next(row for row, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[row, axis] = sizes_xyz[axis] * (1 if code in "RAS" else -1)
    affine[:, 3] = (-31.5, 12.25, 101.0, 1)
    return affine


@pytest.mark.parametrize("codes", ALL_AXIS_CODES)
@pytest.mark.parametrize("wanted", ["LPS", "PIR"])
def test_every_orientation(codes, wanted):
    shape_ijk, affine = (5, 4, 3), affine_of(codes)
    array = np.arange(60).reshape(shape_ijk[::-1])
    turn = Turn.to_codes(affine, shape_ijk, wanted)
    source = turn.array_to_source(array)
    np.testing.assert_array_equal(turn.array_to_file(source), array)
    colour = np.stack([array, array + 100, array + 200], -1)
    np.testing.assert_array_equal(turn.array_to_source(colour)[..., 1], source + 100)
    np.testing.assert_array_equal(turn.array_to_file(turn.array_to_source(colour)), colour)
    for i, j, k in itertools.product(*map(range, shape_ijk)):
        x, y, z = turn.points_to_source([i, j, k]).astype(int)
        assert source[z, y, x] == array[k, j, i]
        np.testing.assert_array_equal(turn.points_to_file([x, y, z]), [i, j, k])
    # x, y and z of the source point where the codes say, by the spacing
    spacing = turn.spacing_to_source((4.0, 1.5, 0.7))[::-1]
    for axis, code in enumerate(wanted):
        step = np.eye(3)[axis]
        first, second = turn.points_to_file(np.stack([np.zeros(3), step]))
        moved = affine[:3, :3] @ (second - first)
        row = next(row for row, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        assert moved[row] == pytest.approx(spacing[axis] * (1 if code in "RAS" else -1))
        assert np.abs(moved).sum() == pytest.approx(spacing[axis])


@quick
@given(st.sampled_from(ALL_AXIS_CODES), st.lists(st.floats(0, 2), min_size=3, max_size=3))
def test_fractional_points_there_and_back(codes, point):
    turn = Turn.to_codes(affine_of(codes), (5, 4, 3), "LPS")
    np.testing.assert_allclose(turn.points_to_file(turn.points_to_source(point)), point, atol=1e-9)


@quick
@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.sampled_from(ALL_AXIS_CODES))
def test_an_oblique_scan_turns_as_its_nearest_axes(a, b, codes):
    rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    rotation = rotation @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = affine_of(codes, (1, 1, 1))
    oblique = affine.copy()
    oblique[:3, :3] = rotation @ affine[:3, :3]
    assert Turn.to_codes(oblique, (5, 4, 3), "LPS") == Turn.to_codes(affine, (5, 4, 3), "LPS")


def test_lps_is_the_picture_a_radiologist_sees():
    """x runs to the patient's left, y to the back: the nose is up and the right hand on the left side of the screen."""
    array = np.zeros((3, 4, 5))  # a RAS file, (k, j, i)
    array[2, 3, 4] = 1  # right, front, top
    source = Turn.to_codes(np.eye(4), (5, 4, 3), "LPS").array_to_source(array)
    assert source[2, 0, 0] == 1


def test_no_turn():
    turn, array = Turn.none((5, 4, 3)), np.arange(60).reshape(3, 4, 5)
    np.testing.assert_array_equal(turn.array_to_source(array), array)
    np.testing.assert_array_equal(turn.points_to_source([1, 2, 0]), [1, 2, 0])
    assert turn.spacing_to_source((3, 2, 1)) == (3, 2, 1)


def test_lower_case_codes_are_codes():
    assert Turn.to_codes(np.eye(4), (5, 4, 3), "lps") == Turn.to_codes(np.eye(4), (5, 4, 3), "LPS")


@pytest.mark.parametrize("codes", ["", "LP", "LPSA", "LRS", "XYZ", "LLL"])
def test_wrong_codes(codes):
    with pytest.raises(DataError, match="not an orientation"):
        Turn.to_codes(np.eye(4), (5, 4, 3), codes)


def test_singular_affine():
    with pytest.raises(DataError, match="singular"):
        Turn.to_codes(np.diag([1.0, 1, 0, 1]), (5, 4, 3), "LPS")


def test_nibabel_agrees():
    affine = affine_of("PIR")
    image = nib.Nifti1Image(np.arange(60, dtype=np.int16).reshape(5, 4, 3), affine)
    ras = np.asarray(nib.as_closest_canonical(image).dataobj).transpose(2, 1, 0)
    turned = Turn.to_codes(affine, (5, 4, 3), "RAS").array_to_source(np.asarray(image.dataobj).transpose(2, 1, 0))
    np.testing.assert_array_equal(turned, ras)


@pytest.mark.parametrize(("width", "new_width"), [(1, 1), (3, 1), (200, 64), (7, 1)])
def test_a_column_of_one_pixel_is_resized_as_a_row(width, new_width):
    """torch 2.13 gives every pixel of such a column the value of its last ones."""
    ramp = torch.arange(200.0)[:, None].expand(200, width)[None, None]
    new = resized(ramp, (64, new_width))
    rows = resized(ramp.transpose(2, 3), (new_width, 64)).transpose(2, 3)
    torch.testing.assert_close(new, rows, atol=1e-3, rtol=0)
    assert new[0, 0, 0, 0] < 5 and new[0, 0, -1, 0] > 194


def test_to_tensor_takes_flipped_and_foreign_arrays():
    array = np.arange(6, dtype=">i2").reshape(2, 3)[::-1, ::-1]
    np.testing.assert_array_equal(to_tensor(array).numpy(), array.astype(np.float32))
