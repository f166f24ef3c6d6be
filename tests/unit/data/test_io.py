"""Reading and writing files: nothing may change on the way, and nothing broken may pass."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medsam_adapter.data.grids import onto_grid
from medsam_adapter.data.io import content_digest, is_nifti, read_label, read_scan, stem, write_mask
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import DataError, OutputError

SHAPE_XYZ = (5, 4, 3)
ALL_AXIS_CODES = [
    "".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)
]


def affine_of(codes: str, sizes_xyz=(0.7, 1.5, 4.0)) -> np.ndarray:
    """An affine whose voxel axes run towards `codes`, with an off-centre origin."""
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, code in enumerate(codes):
        row = next(row for row, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[row, axis] = sizes_xyz[axis] * (1 if code in "RAS" else -1)
    affine[:3, 3] = (-31.5, 12.25, 101.0)
    return affine


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(data, np.diag([1.5, 1.5, 3, 1]) if affine is None else affine), path)
    return path


def volume(dtype=np.int16) -> np.ndarray:
    return np.arange(np.prod(SHAPE_XYZ)).reshape(SHAPE_XYZ).astype(dtype)


def test_all_orientations_are_48():
    assert len(set(ALL_AXIS_CODES)) == 48


@pytest.mark.parametrize("codes", ALL_AXIS_CODES)
def test_every_orientation_reads_as_stored_and_the_mask_lands_on_the_same_points(tmp_path, codes):
    affine = affine_of(codes)
    scan = read_scan(save(tmp_path / "scan.nii.gz", volume(), affine))
    assert scan.array.shape == SHAPE_XYZ[::-1]
    assert scan.array[2, 3, 1] == volume()[1, 3, 2]  # (z, y, x) is voxel (i, j, k) backwards
    assert scan.spacing_mm == pytest.approx((4.0, 1.5, 0.7))
    np.testing.assert_allclose(scan.affine, affine, atol=1e-5)
    mask = (scan.array % 7 == 0).astype(np.uint8)
    written = nib.load(write_mask(tmp_path / "mask.nii.gz", mask, scan))
    assert nib.aff2axcodes(written.affine) == tuple(codes)
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), mask.T)
    np.testing.assert_array_equal(read_label(tmp_path / "mask.nii.gz", like=scan), mask)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    angles=st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    sizes=st.tuples(*[st.floats(0.3, 8)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
)
def test_oblique_grids_go_there_and_back(tmp_path_factory, shape, angles, sizes, origin):
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles) * sizes, origin)
    folder = tmp_path_factory.mktemp("oblique")
    scan = read_scan(save(folder / "a.nii", np.ones(shape, np.int16), affine))
    mask = np.zeros(shape[::-1], np.uint8)
    mask.flat[0] = 3
    written = write_mask(folder / "m.nii.gz", mask, scan)
    np.testing.assert_allclose(nib.load(written).affine, affine, atol=1e-3)
    np.testing.assert_array_equal(read_label(written, like=scan), mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_nifti_keeps_the_dtype_on_disk(tmp_path, dtype):
    scan = read_scan(save(tmp_path / "a.nii.gz", volume(dtype)))
    assert scan.array.dtype == dtype
    np.testing.assert_array_equal(scan.array, volume(dtype).T)


def test_scaled_nifti_becomes_float32(tmp_path):
    image = nib.Nifti1Image(volume(), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    # nibabel stores the unscaled values when slope and intercept are set by hand and the data fit
    nib.save(image, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.array.dtype == np.float32
    np.testing.assert_allclose(scan.array, nib.load(tmp_path / "a.nii").get_fdata().T, atol=1e-3)


def test_big_endian_nifti_reads_in_native_order(tmp_path):
    image = nib.Nifti1Image(volume(), np.eye(4), nib.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(">i2")
    nib.save(image, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.array.dtype.isnative
    np.testing.assert_array_equal(scan.array, volume().T)


def test_metres_and_microns_become_mm(tmp_path):
    image = nib.Nifti1Image(volume(), np.diag([0.0015, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    scan = read_scan(tmp_path / "a.nii")
    assert scan.spacing_mm == pytest.approx((3, 2, 1.5))
    written = write_mask(tmp_path / "m.nii", np.zeros(scan.shape_zyx, np.uint8), scan)
    np.testing.assert_allclose(nib.load(written).affine, image.affine, atol=1e-7)
    assert nib.load(written).header.get_xyzt_units()[0] == "meter"


def test_flat_nifti_and_a_trailing_axis_are_one_volume(tmp_path):
    assert read_scan(save(tmp_path / "flat.nii", np.ones((5, 4), np.uint8))).array.shape == (1, 4, 5)
    assert read_scan(save(tmp_path / "four.nii", volume()[..., None])).array.shape == (3, 4, 5)


def test_4d_is_refused_unless_a_channel_is_chosen(tmp_path):
    data = np.stack([volume(), volume() + 100], axis=-1)
    path = save(tmp_path / "four.nii.gz", data)
    with pytest.raises(DataError, match="more than three axes") as caught:
        read_scan(path)
    assert "(5, 4, 3, 2)" in caught.value.found and "channel" in caught.value.hint
    np.testing.assert_array_equal(read_scan(path, channel=1).array, (volume() + 100).T)
    with pytest.raises(DataError, match="wanted channel"):
        read_scan(path, channel=2)


def test_mask_keeps_geometry_codes_and_drops_patient_text(tmp_path):
    image = nib.Nifti1Image(volume(), affine_of("LPS"))
    image.set_sform(affine_of("LPS"), code=4)
    image.set_qform(affine_of("LPS"), code=2)
    image.header["descrip"] = b"John Doe"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"John Doe"))
    nib.save(image, tmp_path / "scan.nii")
    scan = read_scan(tmp_path / "scan.nii")
    written = write_mask(tmp_path / "out" / "mask.nii", (scan.array > 300).astype(np.int64), scan)
    header = nib.load(written).header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (4, 2)
    assert header.get_data_dtype() == np.uint8
    assert b"John Doe" not in written.read_bytes()


def test_mask_dtype_is_the_smallest_and_values_survive(tmp_path):
    scan = Scan(np.zeros((2, 3, 4), np.int16), (5, 1, 1), affine_of("RAS"))
    for top, dtype in ((255, np.uint8), (256, np.uint16), (70000, np.uint32)):
        mask = np.full((2, 3, 4), top, np.int64)
        path = write_mask(tmp_path / f"{top}.nii.gz", mask, scan)
        assert nib.load(path).get_data_dtype() == dtype
        np.testing.assert_array_equal(read_label(path), mask)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    scan = Scan(np.zeros((2, 3, 4), np.int16), affine=np.eye(4))
    path = write_mask(tmp_path / "m.nii.gz", np.ones((2, 3, 4), np.uint8), scan)
    before = path.read_bytes()

    def break_off(image, target):
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", break_off)
    with pytest.raises(OutputError, match="disk full"):
        write_mask(path, np.zeros((2, 3, 4), np.uint8), scan)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.nii.gz"]


@pytest.mark.parametrize(
    ("mask", "name", "problem"),
    [
        (np.zeros((1, 4, 5), np.uint8), "m.nii.gz", "not on the grid"),
        (np.zeros((2, 4, 5), np.float32), "m.nii.gz", "holds labels"),
        (np.full((2, 4, 5), -1), "m.nii.gz", "negative"),
        (np.zeros((2, 4, 5), np.uint8), "m.png", "does not fit"),
        (np.zeros((2, 4, 5), np.uint8), "m.jpg", "cannot be kept"),
    ],
)
def test_masks_that_cannot_be_written_are_refused(tmp_path, mask, name, problem):
    with pytest.raises(DataError, match=problem):
        write_mask(tmp_path / name, mask, Scan(np.zeros((2, 4, 5)), affine=np.eye(4)))
    assert not list(tmp_path.iterdir())


def test_mask_of_a_scan_turned_in_memory_gets_the_new_affine(tmp_path):
    scan = read_scan(save(tmp_path / "a.nii", volume(), affine_of("RAS")))
    turned = Scan(scan.array[::-1], scan.spacing_mm, affine_of("RAI"), scan.path)
    written = write_mask(tmp_path / "m.nii", np.zeros(scan.shape_zyx, np.uint8), turned)
    np.testing.assert_allclose(nib.load(written).affine, affine_of("RAI"), atol=1e-5)


# --- pictures ---------------------------------------------------------------------------------------------------------


def picture(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_pictures_keep_their_depth(tmp_path, dtype, suffix):
    array = np.arange(12).reshape(3, 4).astype(dtype) * (20 if dtype == np.uint8 else 5000)
    scan = read_scan(picture(tmp_path / f"a{suffix}", array))
    assert scan.array.dtype == dtype and scan.affine is None and not scan.is_volume
    np.testing.assert_array_equal(scan.array, array[None])
    written = write_mask(tmp_path / f"m{suffix}", array[None], scan)
    np.testing.assert_array_equal(read_label(written, like=scan), array[None])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_wide_tiffs_keep_their_dtype(tmp_path, dtype):
    array = (np.arange(12).reshape(3, 4) * 1000 - 500).astype(dtype)
    scan = read_scan(picture(tmp_path / "a.tif", array))
    assert scan.array.dtype == dtype
    np.testing.assert_array_equal(scan.array[0], array)


def test_colour_alpha_palette_and_one_bit(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    rgba = np.concatenate([rgb, np.full((3, 4, 1), 7, np.uint8)], axis=-1)
    np.testing.assert_array_equal(read_scan(picture(tmp_path / "rgba.png", rgba)).array, rgb[None])
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    palette = Image.fromarray(indices)
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_label(tmp_path / "p.png")[0], indices)
    assert read_scan(tmp_path / "p.png").array[0, 0, 1].tolist() == [255, 0, 0]
    by_colour = read_label(tmp_path / "p.png", colours={(255, 0, 0): 5, (0, 255, 0): 6})
    np.testing.assert_array_equal(by_colour[0], np.array([0, 5, 6])[indices])
    Image.fromarray(indices > 0).save(tmp_path / "one.png")
    np.testing.assert_array_equal(read_label(tmp_path / "one.png")[0], indices > 0)


def test_exif_orientation_is_respected(tmp_path):
    array = np.zeros((8, 16), np.uint8)
    array[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif)
    scan = read_scan(tmp_path / "a.jpg")
    assert scan.array.shape == (1, 16, 8)
    assert scan.array[0, 2].mean() > 200 and scan.array[0, 13].mean() < 50


def test_pages_of_a_tiff_are_slices(tmp_path):
    pages = [np.full((3, 4), value, np.uint16) for value in (1, 500, 3)]
    Image.fromarray(pages[0]).save(
        tmp_path / "a.tif", save_all=True, append_images=[Image.fromarray(p) for p in pages[1:]]
    )
    scan = read_scan(tmp_path / "a.tif")
    np.testing.assert_array_equal(scan.array, np.stack(pages))
    assert scan.is_volume
    other = [Image.fromarray(np.zeros((2, 2), np.uint16))]
    Image.fromarray(pages[0]).save(tmp_path / "b.tif", save_all=True, append_images=other)
    with pytest.raises(DataError, match="do not stack"):
        read_scan(tmp_path / "b.tif")


def test_mask_values_are_never_renumbered(tmp_path):
    mask = np.array([[0, 255], [255, 0]], np.uint8)
    np.testing.assert_array_equal(read_label(picture(tmp_path / "m.png", mask))[0], mask)
    np.testing.assert_array_equal(read_label(picture(tmp_path / "g.png", np.stack([mask] * 3, -1)))[0], mask)


def test_coloured_masks_need_a_colour_for_each_label(tmp_path):
    mask = np.zeros((4, 5, 3), np.uint8)
    mask[0, 0], mask[1, :3] = (0, 255, 0), (255, 0, 0)
    path = picture(tmp_path / "m.png", mask)
    with pytest.raises(DataError, match="colours") as caught:
        read_label(path)
    assert "(255, 0, 0) on 3 pixels, (0, 255, 0) on 1 pixels" in caught.value.found
    labels = read_label(path, colours={(0, 255, 0): 1, (255, 0, 0): 2})
    assert labels[0, 0, 0] == 1 and (labels == 2).sum() == 3
    with pytest.raises(DataError, match="no label is given") as caught:
        read_label(path, colours={(0, 255, 0): 1})
    assert "(255, 0, 0)" in caught.value.found


def test_jpeg_masks_need_a_threshold(tmp_path):
    mask = np.zeros((32, 32), np.uint8)
    mask[5:20, 7:23] = 255
    path = picture(tmp_path / "m.jpg", mask, quality=60)
    with pytest.raises(DataError, match="JPEG") as caught:
        read_label(path)
    assert "threshold" in caught.value.hint
    np.testing.assert_array_equal(read_label(path, threshold=128)[0], mask // 255)


# --- what is broken ---------------------------------------------------------------------------------------------------


def truncated(path: Path, keep: float = 0.5) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "folder"])
@pytest.mark.parametrize("read", [read_scan, read_label])
def test_broken_files_are_data_errors(tmp_path, name, damage, read):
    path = tmp_path / name
    if damage == "empty":
        path.touch()
    elif damage == "text":
        path.write_text("this is not an image " * 50)
    elif damage == "folder":
        path.mkdir()
    elif damage == "cut":
        noise = np.random.default_rng(0).integers(0, 255, (32, 32, 32), dtype=np.uint8)
        truncated(save(path, noise) if is_nifti(path) else picture(path, noise[0]))
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value) and caught.value.expected and caught.value.hint


def test_unknown_suffix_says_what_to_do(tmp_path):
    (tmp_path / "a.gipl").write_bytes(b"x" * 200)
    with pytest.raises(DataError, match="3D Slicer") as caught:
        read_scan(tmp_path / "a.gipl")
    assert "'.gipl'" in caught.value.found and ".nrrd" in caught.value.expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_counted(tmp_path, bad):
    data = volume(np.float32)
    data[0, 0, :2] = bad
    for read in (read_scan, read_label):
        with pytest.raises(DataError, match="not numbers") as caught:
            read(save(tmp_path / "a.nii", data))
        assert caught.value.found.startswith("2 of 60")


def test_labels_must_be_whole_numbers(tmp_path):
    np.testing.assert_array_equal(read_label(save(tmp_path / "a.nii", volume(np.float32))), volume().T)
    assert np.issubdtype(read_label(tmp_path / "a.nii").dtype, np.integer)
    broken = volume(np.float32)
    broken[0, 0, 0] = 1.5
    with pytest.raises(DataError, match="whole numbers") as caught:
        read_label(save(tmp_path / "b.nii", broken))
    assert "1.5" in caught.value.found


def test_label_of_another_grid_names_both_files(tmp_path):
    scan = read_scan(save(tmp_path / "scan.nii", volume()))
    with pytest.raises(DataError, match="not on the grid") as caught:
        read_label(save(tmp_path / "label.nii", volume()[:4]), like=scan)
    text = str(caught.value)
    assert "scan.nii" in text and "label.nii" in text and "(3, 4, 5)" in text and "(3, 4, 4)" in text


@pytest.mark.parametrize(("shift_mm", "is_refused"), [(0.0, False), (0.005, False), (0.02, True), (5.0, True)])
def test_label_of_another_place_is_refused(tmp_path, shift_mm, is_refused):
    scan = read_scan(save(tmp_path / "scan.nii", volume()))
    affine = scan.affine.copy()
    affine[1, 3] += shift_mm
    path = save(tmp_path / "label.nii", volume(), affine)
    if is_refused:
        with pytest.raises(DataError, match="elsewhere in space"):
            read_label(path, like=scan)
    else:
        read_label(path, like=scan)


def test_a_flipped_label_is_refused(tmp_path):
    scan = read_scan(save(tmp_path / "scan.nii", volume(), affine_of("RAS")))
    with pytest.raises(DataError, match="elsewhere in space"):
        read_label(save(tmp_path / "label.nii", volume(), affine_of("LAS")), like=scan)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    angles=st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    codes=st.sampled_from(ALL_AXIS_CODES),
)
def test_the_same_voxels_stored_otherwise_are_turned_onto_the_scan(shape, angles, codes):
    oblique = nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles) * (0.7, 1.5, 4.0), (5, -7, 11))
    labels = np.arange(np.prod(shape)).reshape(shape).astype(np.int16)
    turn = nib.orientations.axcodes2ornt(codes)
    stored = nib.Nifti1Image(labels, oblique).as_reoriented(turn)
    turned = onto_grid(np.asanyarray(stored.dataobj).T, stored.affine, oblique, shape[::-1])
    np.testing.assert_array_equal(turned, labels.T)
    moved = nib.affines.from_matvec(oblique[:3, :3], oblique[:3, 3] + (0.02, 0, 0))
    assert onto_grid(np.asanyarray(stored.dataobj).T, stored.affine, moved, shape[::-1]) is None
    assert onto_grid(np.asanyarray(stored.dataobj).T, stored.affine, oblique, (shape[2] + 1, *shape[1::-1])) is None


@pytest.mark.parametrize("turn", [0.3, np.pi / 4])
def test_grids_at_an_angle_are_not_the_same(turn):
    turned = nib.affines.from_matvec(nib.eulerangles.euler2mat(turn))
    assert onto_grid(np.ones((2, 2, 2)), turned, np.eye(4), (2, 2, 2)) is None
    assert onto_grid(np.ones((2, 2, 2)), np.diag([2.0, 1, 1, 1]), np.eye(4), (2, 2, 2)) is None


def test_a_canonical_label_of_a_turned_scan_reads_on_its_grid(tmp_path):
    scan = read_scan(save(tmp_path / "scan.nii", volume(), affine_of("LIP")))
    canonical = nib.as_closest_canonical(nib.load(tmp_path / "scan.nii"))
    nib.save(canonical, tmp_path / "label.nii")
    assert canonical.shape != SHAPE_XYZ
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii", like=scan), scan.array)


def test_degenerate_affine_is_refused(tmp_path):
    image = nib.Nifti1Image(volume(), None)
    image.header.set_sform(np.diag([1.0, 1, 0, 1]), code=1)
    image.header.set_qform(np.eye(4), code=0)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match="affine"):
        read_scan(tmp_path / "a.nii")


def test_stem_takes_nii_gz_as_one():
    assert [stem(name) for name in ("a/b.c.nii.gz", "b.NII", "x.png", "y")] == ["b.c", "b", "x", "y"]
    assert [stem(name) for name in ("a.mha", "b.seg.nrrd", "c.NPZ", "d.h5", "CT.1.2.3")] == [
        "a", "b.seg", "c", "d", "CT.1.2.3"
    ]  # fmt: skip


def test_digests_are_of_the_content(tmp_path):
    for name in ("a.nii", "b.nii"):
        save(tmp_path / name, volume())
    save(tmp_path / "c.nii", volume() + 1)
    digests = [content_digest(tmp_path / name) for name in ("a.nii", "b.nii", "c.nii")]
    assert digests[0] == digests[1] != digests[2]
    assert digests[0] == hashlib.sha256((tmp_path / "a.nii").read_bytes()).hexdigest()
