"""Where a voxel of the file is seen: for every orientation of a file the patient lies alike in each plane."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from medsam_adapter.data.sample import Scan
from medsam_adapter.demo.planes import PLANES, planes_of

SHAPE_RAS, SPACING_RAS = (9, 11, 7), (1.5, 2.0, 4.0)
# The ends of the patient, as voxels of a RAS array: i grows to the right.
MARKS = {"R": (8, 5, 3), "L": (0, 5, 3), "A": (4, 10, 3), "P": (4, 0, 3), "S": (4, 5, 6), "I": (4, 5, 0)}
VALUES = {side: value for value, side in enumerate("RLAPSI", 1)}
EDGES = {
    "axial": {"left": "R", "right": "L", "top": "A", "bottom": "P"},
    "coronal": {"left": "R", "right": "L", "top": "S", "bottom": "I"},
    "sagittal": {"left": "A", "right": "P", "top": "S", "bottom": "I"},
}
ORIENTATIONS = [
    "".join(codes)
    for order in itertools.permutations(("LR", "PA", "IS"))
    for codes in itertools.product(*order)
]  # fmt: skip


def patient() -> nib.Nifti1Image:
    """Six marked voxels, one at each end."""
    data = np.zeros(SHAPE_RAS, np.int16)
    for side, (i, j, k) in MARKS.items():
        data[i, j, k] = VALUES[side]
    return nib.Nifti1Image(data, np.diag([*SPACING_RAS, 1.0]))


def scan_in(codes: str) -> Scan:
    image = patient()
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
    image = image.as_reoriented(turn)
    assert "".join(nib.aff2axcodes(image.affine)) == codes
    array = np.asarray(image.dataobj).transpose(2, 1, 0)
    return Scan(array, tuple(float(v) for v in image.header.get_zooms()[::-1]), image.affine)


def test_there_are_48_orientations():
    assert len(ORIENTATIONS) == len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_the_patient_lies_alike(codes):
    scan = scan_in(codes)
    planes = planes_of(scan)
    assert tuple(planes) == PLANES
    for name, plane in planes.items():
        assert plane.edges == EDGES[name]
        seen = np.stack([plane.slice_of(scan.array, index) for index in range(plane.num_slices)])
        assert seen.shape == plane.shape_zyx
        ends = {"left": (2, 0), "right": (2, -1), "top": (1, 0), "bottom": (1, -1)}
        # Slices count from the feet, from the front, from the right.
        first = {"axial": "I", "coronal": "A", "sagittal": "R"}[name]
        assert np.argwhere(seen == VALUES[first])[0, 0] == 0
        for edge, side in plane.edges.items():
            axis, at = ends[edge]
            where = np.argwhere(seen == VALUES[side])
            assert where.shape == (1, 3) and where[0, axis] == range(seen.shape[axis])[at], (name, edge)


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_sizes_and_proportions(codes):
    planes = planes_of(scan_in(codes))
    x, y, z = SHAPE_RAS
    mm_x, mm_y, mm_z = SPACING_RAS
    assert planes["axial"].shape_zyx == (z, y, x) and planes["axial"].spacing_mm == pytest.approx((mm_z, mm_y, mm_x))
    assert planes["coronal"].shape_zyx == (y, z, x) and planes["coronal"].spacing_mm == pytest.approx(
        (mm_y, mm_z, mm_x)
    )
    assert planes["sagittal"].shape_zyx == (x, z, y) and planes["sagittal"].spacing_mm == pytest.approx(
        (mm_x, mm_z, mm_y)
    )
    aspects = {"axial": mm_y / mm_x, "coronal": mm_z / mm_x, "sagittal": mm_z / mm_y}
    for name, plane in planes.items():
        assert plane.pixel_aspect == pytest.approx(aspects[name]) and plane.num_slices == plane.shape_zyx[0]


@pytest.mark.parametrize("codes", ORIENTATIONS)
def test_a_pixel_is_the_voxel_under_it(codes):
    scan = scan_in(codes)
    scan.array = np.arange(scan.array.size).reshape(scan.array.shape)
    for plane in planes_of(scan).values():
        depth, height, width = plane.shape_zyx
        for x, y, index in [
            (0, 0, 0),
            (width - 1, 0, 0),
            (0, height - 1, 1),
            (width - 1, height - 1, depth - 1),
            (2, 3, 1),
        ]:
            i, j, k = plane.to_file(x, y, index)
            assert scan.array[int(k), int(j), int(i)] == plane.slice_of(scan.array, index)[y, x]
            np.testing.assert_array_equal(plane.from_file((i, j, k)), (x, y, index))
        along = np.subtract(plane.to_file(0, 0, 1), plane.to_file(0, 0, 0))
        assert np.flatnonzero(along).tolist() == [plane.slicing_axis]


def test_a_click_between_pixels_is_the_nearest_voxel():
    plane = planes_of(scan_in("LPS"))["axial"]
    assert plane.to_file(3.4, 2.6, 1) == (3.0, 3.0, 1.0)
    assert all(isinstance(value, float) for value in plane.to_file(3.4, 2.6, 1))


@pytest.mark.parametrize("degrees", [3, 20, 44])
def test_an_oblique_scan_is_shown_by_its_nearest_axes(degrees):
    scan = scan_in("LPS")
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    scan.affine = np.array([[1, 0, 0, 5.0], [0, c, -s, -3], [0, s, c, 2], [0, 0, 0, 1]]) @ scan.affine
    for name, plane in planes_of(scan).items():
        assert plane.edges == EDGES[name]


def test_a_volume_without_an_affine_is_taken_as_it_is():
    scan = Scan(np.arange(2 * 3 * 4).reshape(2, 3, 4), (3.0, 1.0, 2.0))
    planes = planes_of(scan)
    np.testing.assert_array_equal(planes["axial"].slice_of(scan.array, 1), scan.array[1])
    assert all(plane.edges == {} for plane in planes.values())
    assert planes["coronal"].slice_of(scan.array, 1)[0].tolist() == scan.array[-1, 1].tolist()  # the head is up


def test_a_picture_has_one_plane():
    scan = Scan(np.arange(12, dtype=np.uint8).reshape(1, 3, 4))
    planes = planes_of(scan)
    assert list(planes) == ["picture"]
    plane = planes["picture"]
    np.testing.assert_array_equal(plane.slice_of(scan.array, 0), scan.array[0])
    assert plane.edges == {} and plane.pixel_aspect == 1 and plane.num_slices == 1


def test_colours_stay_together():
    scan = scan_in("PIR")
    scan.array = np.stack([scan.array, scan.array + 10, scan.array + 20], -1)
    for plane in planes_of(scan).values():
        seen = plane.slice_of(scan.array, 0)
        assert seen.shape == (*plane.shape_zyx[1:], 3)
        np.testing.assert_array_equal(seen[..., 1] - seen[..., 0], np.full(seen.shape[:2], 10))
