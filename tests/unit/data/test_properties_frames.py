"""The changes of frame in a row, and bringing one grid onto another: nothing is lost and nothing moves."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam_adapter.data.geometry import Letterbox, Turn
from medsam_adapter.data.grids import GRID_TOLERANCE_MM, grid_offset_mm, onto_grid

quick = settings(max_examples=80, deadline=None)
codes = st.sampled_from(
    ["".join(c) for axes in itertools.permutations(("LR", "PA", "IS")) for c in itertools.product(*axes)]
)
shapes = st.tuples(*[st.integers(1, 6)] * 3)
sizes_mm = st.tuples(*[st.floats(0.2, 9)] * 3)
angles = st.tuples(*[st.floats(-1.5, 1.5)] * 3)


def affine_of(axis_codes: str, sizes, around) -> np.ndarray:
    """Axes that point to the codes, then turned by three angles about x, y and z."""
    signed = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(tuple(axis_codes)), (1, 1, 1))
    turn = np.eye(4)
    turn[:3, :3] = nib.eulerangles.euler2mat(*around)
    affine = turn @ signed @ np.diag([*sizes, 1.0])
    affine[:3, 3] = (10.0, -20.0, 30.0)
    return affine


@quick
@given(codes, codes, shapes, sizes_mm, st.sampled_from([64, 256, 1024]), st.data())
def test_a_voxel_goes_to_the_model_and_comes_back(have, wanted, shape_ijk, sizes, side, data):
    """A click on a voxel of the file is on the same voxel after both frames and the way back."""
    turn = Turn.to_codes(affine_of(have, sizes, (0, 0, 0)), shape_ijk, wanted)
    voxel = [data.draw(st.integers(0, size - 1)) for size in shape_ijk]
    array = np.zeros(shape_ijk[::-1])
    array[voxel[2], voxel[1], voxel[0]] = 1
    source = turn.array_to_source(array)
    x, y, z = turn.points_to_source(voxel)
    assert source[int(z), int(y), int(x)] == 1
    box = Letterbox(source.shape[1:], side)
    back = box.points_to_source(box.points_to_model([x, y]))
    np.testing.assert_array_equal(np.rint(turn.points_to_file([*back, z])), voxel)
    np.testing.assert_array_equal(turn.array_to_file(source), array)
    assert sorted(turn.spacing_to_source(sizes[::-1])) == sorted(map(float, sizes))


@quick
@given(codes, codes, shapes, sizes_mm, angles)
def test_onto_another_grid_and_back_is_the_same_array(have, wanted, shape_ijk, sizes, around):
    affine = affine_of(have, sizes, around)
    array = np.arange(np.prod(shape_ijk), dtype=np.int32).reshape(shape_ijk[::-1])
    image = nib.Nifti1Image(array.T, affine)
    order = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(tuple(wanted)))
    turned = image.as_reoriented(order)
    there = onto_grid(array, affine, turned.affine, turned.shape[::-1])
    np.testing.assert_array_equal(there, np.asarray(turned.dataobj).T)
    np.testing.assert_array_equal(onto_grid(there, turned.affine, affine, array.shape), array)


@quick
@given(codes, shapes, sizes_mm, angles, st.integers(0, 2), st.floats(0.02, 0.98))
def test_a_shifted_grid_is_another_grid(have, shape_ijk, sizes, around, axis, share):
    """A part of a voxel is never rounded away."""
    affine = affine_of(have, sizes, around)
    moved = affine.copy()
    moved[:3, 3] += share * affine[:3, axis]
    array = np.zeros(shape_ijk[::-1])
    is_same = grid_offset_mm(affine, moved, array.shape) <= GRID_TOLERANCE_MM
    assert (onto_grid(array, affine, moved, array.shape) is not None) == is_same


@quick
@given(shapes, sizes_mm)
def test_a_grid_without_a_third_axis_is_no_other_grid(shape_ijk, sizes):
    flat = np.diag([*sizes[:2], 0.0, 1.0])
    assert onto_grid(np.zeros(shape_ijk[::-1]), np.diag([*sizes, 1.0]), flat, (7, 7, 7)) is None
