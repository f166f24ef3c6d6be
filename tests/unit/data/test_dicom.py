"""Reading DICOM: the volume lies where the headers say, its values mean what they say, and nothing broken passes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam_adapter.data.io import content_digest, is_dicom_folder, read_label, read_scan, stem
from medsam_adapter.errors import DataError
from miniatures import dicom

SHAPE = (4, 5, 6)


def stored(dtype=np.int16, shape=SHAPE) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def oblique(*angles: float) -> tuple[float, ...]:
    turned = nib.eulerangles.euler2mat(*angles)
    return tuple(float(f"{value:.9f}") for value in (*turned[:, 0], *turned[:, 1]))


def refused(path: Path, problem: str, *said: str, **arguments) -> DataError:
    with pytest.raises(DataError, match=problem) as caught:
        read_scan(path, **arguments)
    for text in said:
        assert text in str(caught.value)
    assert caught.value.expected and caught.value.found
    return caught.value


# --- geometry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "orientation",
    [dicom.AXIAL, (0, 1, 0, 0, 0, -1), (1, 0, 0, 0, 0, -1), (-1, 0, 0, 0, -1, 0), oblique(0.3, -0.2, 0.5)],
    ids=["axial", "sagittal", "coronal", "prone", "oblique"],
)
@pytest.mark.parametrize("order", [None, [3, 2, 1, 0], [2, 0, 3, 1]], ids=["in order", "reversed", "mixed"])
def test_a_series_lies_where_its_positions_say(tmp_path, orientation, order):
    affine = dicom.series(tmp_path, stored(), orientation=orientation, order=order)
    scan = read_scan(tmp_path)
    np.testing.assert_array_equal(scan.array, stored())
    np.testing.assert_allclose(scan.affine, affine, atol=1e-6)
    assert scan.spacing_mm == pytest.approx((2.0, 0.5, 0.75)) and scan.is_volume and scan.path == tmp_path
    assert scan.series == dicom.uid("series", "a")


@settings(max_examples=15, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-1.5, 1.5)] * 3),
    spacing_mm=st.tuples(*[st.floats(0.3, 8)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    order=st.permutations(range(4)),
)
def test_any_grid_is_read_to_a_hundredth_of_a_mm(tmp_path_factory, angles, spacing_mm, origin, order):
    folder = tmp_path_factory.mktemp("series")
    spacing_mm = tuple(float(f"{size:.6g}") for size in spacing_mm)
    affine = dicom.series(
        folder, stored(), orientation=oblique(*angles), spacing_mm=spacing_mm, origin_lps=origin, order=order
    )
    scan = read_scan(folder)
    np.testing.assert_array_equal(scan.array, stored())
    corners = np.array([(0, 0, 0, 1), (5, 4, 3, 1), (5, 0, 3, 1)]).T
    np.testing.assert_allclose(scan.affine @ corners, affine @ corners, atol=1e-2)
    assert scan.spacing_mm == pytest.approx(spacing_mm, rel=1e-4)


def test_thickness_and_spacing_between_slices_do_not_count_where_positions_do(tmp_path):
    dicom.series(tmp_path, stored(), SliceThickness=3, SpacingBetweenSlices=5)
    assert read_scan(tmp_path).spacing_mm[0] == 2.0


@pytest.mark.parametrize(
    ("values", "depth_mm"),
    [({"SliceThickness": 3}, 3), ({"SpacingBetweenSlices": 4}, 4), ({"SliceThickness": None}, 1)],
)
def test_one_slice_is_as_thick_as_its_header_says(tmp_path, values, depth_mm):
    affine = dicom.series(tmp_path, stored()[:1], spacing_mm=(depth_mm, 0.5, 0.75), name="{}.dcm", **values)
    for path in (tmp_path, tmp_path / "0.dcm"):
        scan = read_scan(path)
        assert scan.spacing_mm == (depth_mm, 0.5, 0.75) and scan.is_volume
        np.testing.assert_allclose(scan.affine, affine)


def test_frames_of_a_multi_frame_image_are_sorted_too(tmp_path):
    affine = dicom.enhanced(tmp_path / "a.dcm", stored(np.uint16), heights=[2, 0, 3, 1])
    scan = read_scan(tmp_path / "a.dcm")
    np.testing.assert_array_equal(scan.array, stored()[[1, 3, 0, 2]] - 1000)
    np.testing.assert_allclose(scan.affine, affine)
    assert scan.spacing_mm == (2.0, 0.5, 0.75)
    dicom.enhanced(tmp_path / "a.dcm", stored(np.uint16), heights=[0, 1, 2, 4])
    refused(tmp_path / "a.dcm", "lacks 1 slice", "4 mm between (-10, 20, -26)")


def test_rounded_positions_are_one_grid_and_worse_ones_are_not(tmp_path):
    dicom.series(tmp_path / "good", stored(), heights=[0, 1.02, 1.99, 3])
    assert read_scan(tmp_path / "good").spacing_mm[0] == pytest.approx(2)
    dicom.series(tmp_path / "bad", stored(), heights=[0, 1.2, 2, 3])
    refused(tmp_path / "bad", "unequal steps", "expected: steps of 2 mm", "2.4 mm between (-10, 20, -30)")


@pytest.mark.parametrize("lean_mm", [0.1, 1.0])
def test_a_tilted_gantry_is_refused(tmp_path, lean_mm):
    dicom.series(tmp_path, stored(), lean_mm=(0, lean_mm, 0))
    refused(tmp_path, "straight above each other", f"{np.degrees(np.arctan(lean_mm / 2)):.1f} degrees", "dcm2niix")


def test_a_missing_slice_is_named(tmp_path):
    dicom.series(tmp_path, stored(), heights=[0, 1, 3, 4])
    error = refused(tmp_path, "lacks 1 slice", "4 mm between (-10, 20, -28)", "(-10, 20, -24)")
    assert error.file == tmp_path


def test_two_images_in_one_place_say_what_tells_them_apart(tmp_path):
    dicom.series(tmp_path, stored(), series="a", name="a{}", EchoTime=10)
    dicom.series(tmp_path, stored(), series="a", name="b{}", EchoTime=90)
    refused(tmp_path, "two images in one place", "(-10, 20, -30), and 3 more", "differ in EchoTime")


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        ({"Columns": 5, "Rows": 6}, "different sizes"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "different orientations"),
        ({"PixelSpacing": [0.5, 0.8]}, "different pixel spacings"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "different kinds"),
        ({"FrameOfReferenceUID": "1.2.3"}, "frames of reference"),
        ({"ImagePositionPatient": None}, "without a place"),
        ({"ImagePositionPatient": [1, 2]}, "ImagePositionPatient that is none"),
    ],
)
def test_a_slice_unlike_the_others_is_refused(tmp_path, odd, problem):
    dicom.series(tmp_path, stored())
    placed = {"ImagePositionPatient": [-10, 20, -22], "ImageOrientationPatient": list(dicom.AXIAL)}
    values = {**placed, "PixelSpacing": [0.5, 0.75], **odd}
    dicom.save(dicom.image(stored()[0], **{k: v for k, v in values.items() if v is not None}), tmp_path / "CT.odd")
    error = refused(tmp_path, problem)
    assert "CT.odd" in str(error) or problem == "frames of reference"


@pytest.mark.parametrize("odd", [{"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, {"PixelSpacing": [0, 1]}])
def test_a_degenerate_plane_is_refused(tmp_path, odd):
    dicom.series(tmp_path, stored(), **odd)
    refused(tmp_path, "orientation or a pixel spacing that is none")


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, 0, np.uint16), (1, -1024, np.int16), (2, 0, np.int16), (1000, 0, np.int32), (0.5, 0, np.float32)],
)
def test_rescaling_keeps_integers_where_it_can(tmp_path, slope, intercept, dtype):
    dicom.series(tmp_path, stored(np.uint16), RescaleSlope=slope, RescaleIntercept=intercept)
    scan = read_scan(tmp_path)
    assert scan.array.dtype == dtype
    np.testing.assert_allclose(scan.array, stored(np.int64) * slope + intercept)


def test_each_slice_is_rescaled_by_its_own_numbers(tmp_path):
    for number, slope in enumerate((1, 3)):
        place = {"ImagePositionPatient": [0, 0, number], "ImageOrientationPatient": list(dicom.AXIAL)}
        pixels = stored(np.uint16)[number]
        dicom.save(
            dicom.image(pixels, PixelSpacing=[1, 1], RescaleSlope=slope, RescaleIntercept=0, **place),
            tmp_path / f"{number}.dcm",
        )
    np.testing.assert_array_equal(read_scan(tmp_path).array, stored()[:2] * np.array([1, 3])[:, None, None])


def test_compressed_slices_are_the_same(tmp_path):
    dicom.series(tmp_path, stored(np.uint16, (2, 64, 64)), is_compressed=True, RescaleIntercept=-100, RescaleSlope=1)
    np.testing.assert_array_equal(read_scan(tmp_path).array, stored(shape=(2, 64, 64)) - 100)


def test_unused_bits_above_a_signed_value_do_not_count(tmp_path):
    twelve_bits = np.array([[5, -5], [2047, -2048]], np.int16) & 0x0FFF
    image = dicom.image(twelve_bits.astype(np.int16), BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read_scan(dicom.save(image, tmp_path / "a")).array[0], [[5, -5], [2047, -2048]])


def test_a_radiograph_in_which_low_is_bright_is_turned_over_and_a_ct_is_not(tmp_path):
    pixels = np.array([[0, 100, 4095]], np.uint16)
    values = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    radiograph = dicom.image(pixels, PixelSpacing=[0.2, 0.1], **{**values, "Modality": "DX"})
    scan = read_scan(dicom.save(radiograph, tmp_path / "dx.dcm"))
    assert scan.array.tolist() == [[[4095, 3995, 0]]] and scan.spacing_mm == (1.0, 0.2, 0.1)
    assert scan.affine is None and not scan.is_volume
    scan = read_scan(dicom.save(dicom.image(pixels, **values, RescaleIntercept=-1024), tmp_path / "ct.dcm"))
    assert scan.array.tolist() == [[[-1024, -924, 3071]]]


def test_colour_is_rgb(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (4, 3, 3), dtype=np.uint8)
    scan = read_scan(dicom.save(dicom.image(rgb, dicom.SECONDARY_CAPTURE), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(scan.array, rgb[None])
    planes_first = dicom.image(rgb, dicom.SECONDARY_CAPTURE, PlanarConfiguration=1)
    planes_first.PixelData = rgb.transpose(2, 0, 1).tobytes()
    np.testing.assert_array_equal(read_scan(dicom.save(planes_first, tmp_path / "b.dcm")).array, rgb[None])
    yellow = dicom.image(np.full((2, 2, 3), (226, 0, 149), np.uint8), PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(
        read_scan(dicom.save(yellow, tmp_path / "c.dcm")).array, [[[(255, 255, 0)] * 2] * 2], atol=2
    )


def test_three_columns_are_not_colour(tmp_path):
    dicom.series(tmp_path, stored(shape=(2, 4, 3)))
    assert read_scan(tmp_path).array.shape == (2, 4, 3)


def test_a_palette_gives_its_colours(tmp_path):
    image = dicom.image(
        np.array([[0, 1]], np.uint8), dicom.SECONDARY_CAPTURE, PhotometricInterpretation="PALETTE COLOR"
    )
    for colour, values in (("Red", (10, 40)), ("Green", (20, 50)), ("Blue", (30, 60))):
        setattr(image, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 16])
        setattr(image, f"{colour}PaletteColorLookupTableData", (np.array(values, "<u2") * 256).tobytes())
    scan = read_scan(dicom.save(image, tmp_path / "a.dcm"))
    assert scan.array.dtype == np.uint8 and scan.array.tolist() == [[[[10, 20, 30], [40, 50, 60]]]]


def test_a_film_needs_a_frame(tmp_path):
    path = dicom.save(dicom.image(stored(np.uint8), dicom.SECONDARY_CAPTURE), tmp_path / "a.dcm")
    refused(path, "film", "4 frames", "channel=0")
    refused(path, "wanted frame", "0 to 3", channel=4)
    np.testing.assert_array_equal(read_scan(path, channel=2).array, stored()[2:3])
    # One position for all frames is that of none.
    place = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": list(dicom.AXIAL), "PixelSpacing": [1, 1]}
    image = dicom.image(stored(np.uint8), dicom.SECONDARY_CAPTURE, **place)
    refused(dicom.save(image, tmp_path / "b.dcm"), "film", "4 frames")


# --- which files ------------------------------------------------------------------------------------------------------


def test_one_of_several_series_is_chosen_by_its_uid(tmp_path):
    dicom.series(tmp_path, stored(), series="a", name="a{}", SeriesDescription="arterial")
    dicom.series(tmp_path, stored()[:3] + 7, series="b", name="b{}", SeriesDescription="venous")
    uids = [dicom.uid("series", word) for word in "ab"]
    refused(tmp_path, "several series", *uids, "arterial, CT, 4 images", "venous, CT, 3 images", "--series")
    scan = read_scan(tmp_path, series=uids[1])
    np.testing.assert_array_equal(scan.array, stored()[:3] + 7)
    assert scan.series == uids[1]
    refused(tmp_path, "no series 1.2.3", uids[0], series="1.2.3")


def test_what_is_no_image_is_passed_over(tmp_path):
    dicom.series(tmp_path, stored(), name="{}")
    report = dicom.image(stored()[0], sop_class="1.2.840.10008.5.1.4.1.1.88.11", Rows=None, PixelData=None)
    dicom.save(report, tmp_path / "report.dcm")
    for name in ("README.txt", "notes", ".hidden.dcm"):
        (tmp_path / name).write_text("no DICOM")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "sub").mkdir()
    assert read_scan(tmp_path).array.shape == SHAPE and is_dicom_folder(tmp_path)
    refused(tmp_path / "report.dcm", "no DICOM image", "Basic Text SR")


def test_a_single_file_of_a_series_is_a_slice(tmp_path):
    affine = dicom.series(tmp_path, stored())
    scan = read_scan(tmp_path / "CT.1.2.2")
    np.testing.assert_array_equal(scan.array, stored()[2:3])
    np.testing.assert_allclose(scan.affine[:3, 3], (affine @ (0, 0, 2, 1))[:3])


def test_folders_without_dicom_say_where_it_is(tmp_path):
    assert not is_dicom_folder(tmp_path) and not is_dicom_folder(tmp_path / "nowhere")
    refused(tmp_path, "without DICOM", "0 other files")
    dicom.series(tmp_path / "case", stored())
    refused(tmp_path, "without DICOM", f"such as {tmp_path / 'case'}")
    assert is_dicom_folder(tmp_path / "case") and stem(tmp_path / "case") == "case"
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert not is_dicom_folder(tmp_path)
    refused(tmp_path, "without DICOM", f"such as {tmp_path / 'case'}")


@pytest.mark.parametrize("keep", [0, 300, 0.5, 0.98])
def test_a_file_that_is_cut_off_is_named(tmp_path, keep):
    # The last slice: without it the others would still make a volume.
    dicom.series(tmp_path, stored(np.uint16, (4, 32, 32)), name="{}.dcm")
    broken = tmp_path / "3.dcm"
    content = broken.read_bytes()
    broken.write_bytes(content[: keep if keep > 1 or not keep else int(keep * len(content))])
    for path in (tmp_path, broken):
        with pytest.raises(DataError) as caught:
            read_scan(path)
        assert str(broken) in str(caught.value) and caught.value.hint


def test_a_slice_overwritten_by_something_else_is_named(tmp_path):
    dicom.series(tmp_path, stored())
    (tmp_path / "CT.1.2.3").write_text("something else " * 100)
    refused(tmp_path, "among DICOM files", "CT.1.2.3")


def test_no_pixels_and_unknown_compression(tmp_path):
    dicom.series(tmp_path, stored()[:1], name="{}.dcm", PixelData=None)
    refused(tmp_path, "no pixels", str(tmp_path / "0.dcm"))
    image = dicom.image(np.zeros((4, 4), np.uint8))
    image.compress("1.2.840.10008.1.2.5")  # RLE, which pydicom can do itself
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"  # HTJ2K, whose decoder it cannot be
    refused(dicom.save(image, tmp_path / "odd.dcm"), "cannot be decoded", "odd.dcm")


def test_series_and_key_are_refused_where_they_mean_nothing(tmp_path):
    nib.save(nib.Nifti1Image(stored(), np.eye(4)), tmp_path / "a.nii")
    refused(tmp_path / "a.nii", "no series", series="1.2")
    refused(tmp_path / "a.nii", "no named arrays", key="image")
    dicom.series(tmp_path / "d", stored())
    refused(tmp_path / "d", "no named arrays", key="image")


# --- labels and copies ------------------------------------------------------------------------------------------------


def test_a_nifti_label_whose_axes_run_otherwise_is_turned_onto_the_series(tmp_path):
    affine = dicom.series(tmp_path / "d", stored())
    scan = read_scan(tmp_path / "d")
    labels = (stored() % 5).astype(np.uint8)
    flipped = nib.as_closest_canonical(nib.Nifti1Image(labels.T, affine))
    nib.save(flipped, tmp_path / "label.nii.gz")
    assert not np.array_equal(flipped.affine, affine)
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii.gz", like=scan), labels)
    # The same axes run the other way, and so the voxels are in other places.
    nib.save(nib.Nifti1Image(labels.T, affine @ np.diag([1, -1, 1, 1])), tmp_path / "other.nii.gz")
    with pytest.raises(DataError, match="elsewhere in space"):
        read_label(tmp_path / "other.nii.gz", like=scan)


def test_a_dicom_image_of_label_values_is_a_label_map(tmp_path):
    dicom.series(tmp_path / "image", stored())
    dicom.series(tmp_path / "label", stored(np.uint8) % 3)
    labels = read_label(tmp_path / "label", like=read_scan(tmp_path / "image"))
    np.testing.assert_array_equal(labels, stored() % 3)


def test_the_digest_of_a_folder_is_that_of_its_files(tmp_path):
    for name, file_name in (("a", "a{}"), ("b", "b{}.dcm"), ("c", "a{}")):
        dicom.series(tmp_path / name, stored() + (name == "c"), name=file_name)
    (tmp_path / "b" / "notes.txt").write_text("not counted")
    digests = {name: content_digest(tmp_path / name) for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]
    assert content_digest(tmp_path / "a" / "a0") == content_digest(tmp_path / "b" / "b0.dcm")
