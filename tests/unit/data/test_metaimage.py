"""MetaImage and NRRD: the same voxels in the same place as SimpleITK and nibabel see them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam_adapter.data.io import content_digest, read_label, read_scan, write_mask
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import DataError, OutputError

SUFFIXES = (".mha", ".mhd", ".nrrd", ".nhdr")
SHAPE = (3, 4, 5)


def save(path: Path, array: np.ndarray, *, is_vector: bool = False, **geometry) -> Path:
    image = SimpleITK.GetImageFromArray(array, isVector=is_vector)
    for name, value in geometry.items():
        getattr(image, f"Set{name}")(value)
    SimpleITK.WriteImage(image, str(path))
    return path


def volume(dtype=np.int16) -> np.ndarray:
    return np.arange(60).reshape(SHAPE).astype(dtype)


def nrrd(path: Path, space: str, directions: str = "(2,0,0) (0,3,0) (0,0,4)", more: str = "") -> Path:
    """Written by hand, as other programs do."""
    head = f"NRRD0004\ntype: short\ndimension: 3\n{space}sizes: 5 4 3\nspace directions: {directions}\n{more}"
    path.write_bytes(f"{head}endian: little\nencoding: raw\n\n".encode() + volume("<i2").tobytes())
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_and_place_are_those_of_simpleitk(tmp_path, suffix, dtype):
    direction = nib.eulerangles.euler2mat(0.3, 0.2, -0.4)
    place = {"Spacing": (0.5, 0.75, 2), "Origin": (10, -20, 30), "Direction": direction.ravel()}
    path = save(tmp_path / f"a{suffix}", volume(dtype), **place)
    scan = read_scan(path)
    assert scan.array.dtype == dtype and scan.spacing_mm == pytest.approx((2, 0.75, 0.5)) and scan.path == path
    np.testing.assert_array_equal(scan.array, volume(dtype))
    lps = SimpleITK.ReadImage(str(path)).TransformIndexToPhysicalPoint((4, 1, 2))
    np.testing.assert_allclose((scan.affine @ (4, 1, 2, 1))[:3], np.multiply(lps, (-1, -1, 1)), atol=1e-6)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("right-anterior-superior", (1, 1, 1)), ("LPS", (-1, -1, 1)), ("left-anterior-superior", (-1, 1, 1))],
)
def test_every_space_of_nrrd_is_brought_to_ras(tmp_path, space, signs):
    scan = read_scan(nrrd(tmp_path / "a.nrrd", f"space: {space}\n", more="space origin: (7,8,9)\n"))
    np.testing.assert_allclose(scan.affine[:3, :3], np.diag(np.multiply(signs, (2, 3, 4))))
    np.testing.assert_allclose(scan.affine[:3, 3], np.multiply(signs, (7, 8, 9)))
    np.testing.assert_array_equal(scan.array, volume())


@settings(max_examples=20, deadline=None)
@given(
    suffix=st.sampled_from([".mha", ".nrrd"]),
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    sizes=st.tuples(*[st.floats(0.1, 9)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    flip=st.sampled_from([(1, 1, 1), (-1, 1, 1), (1, -1, -1)]),
)
def test_a_mask_goes_there_and_back(tmp_path_factory, suffix, shape, angles, sizes, origin, flip):
    affine = nib.affines.from_matvec(nib.eulerangles.euler2mat(*angles) * sizes * flip, origin)
    scan = Scan(np.zeros(shape), tuple(sizes[::-1]), affine)
    mask = np.arange(np.prod(shape)).reshape(shape).astype(np.uint16)
    path = write_mask(tmp_path_factory.mktemp("meta") / f"m{suffix}", mask, scan)
    np.testing.assert_array_equal(read_label(path, like=scan), mask)
    back = read_scan(path)
    np.testing.assert_allclose(back.affine, affine, atol=1e-4)
    assert back.spacing_mm == pytest.approx(sizes[::-1], rel=1e-5)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_mask_without_affine_keeps_its_spacing(tmp_path):
    scan = Scan(volume(), (3.0, 2.0, 0.5))
    for suffix in (".mha", ".nrrd"):
        path = write_mask(tmp_path / f"m{suffix}", volume(), scan)
        assert read_scan(path).spacing_mm == (3.0, 2.0, 0.5)
        assert SimpleITK.ReadImage(str(path)).GetPixelID() == SimpleITK.sitkUInt8


def test_a_sheared_grid_survives(tmp_path):
    affine = np.diag([1.0, 2, 3, 1])
    affine[0, 2] = 0.5
    for suffix in (".mha", ".nrrd"):
        path = write_mask(tmp_path / f"m{suffix}", volume(), Scan(volume(), affine=affine))
        np.testing.assert_allclose(read_scan(path).affine, affine, atol=1e-6)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("space: scanner-xyz\n", "where the patient lies"),
        ("space: 3D-right-handed\n", "where the patient lies"),
        ('space: LPS\nspace units: "cm" "cm" "cm"\n', "not in mm"),
        ('space: LPS\nspace units: "mm" "mm" "um"\n', "not in mm"),
    ],
)
def test_a_space_that_itk_takes_for_another_is_refused(tmp_path, header, says):
    with pytest.raises(DataError, match=says) as caught:
        read_scan(nrrd(tmp_path / "a.nrrd", header))
    assert caught.value.file.name == "a.nrrd" and caught.value.found in header


def test_a_label_of_another_kind_of_file_is_compared_in_space(tmp_path):
    affine = nib.affines.from_matvec(np.diag([-1.0, -2, 3]), (4, 5, 6))
    nib.save(nib.Nifti1Image(volume().T, affine), tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz")
    same = save(tmp_path / "same.nrrd", volume(np.uint8), Spacing=(1, 2, 3), Origin=(-4, -5, 6))
    np.testing.assert_array_equal(read_label(same, like=scan), volume())
    flipped = np.ascontiguousarray(volume(np.uint8)[::-1])
    turned = save(
        tmp_path / "turned.mha", flipped, Spacing=(1, 2, 3), Origin=(-4, -5, 12), Direction=(1, 0, 0, 0, 1, 0, 0, 0, -1)
    )
    np.testing.assert_array_equal(read_label(turned, like=scan), volume())
    elsewhere = save(tmp_path / "elsewhere.mha", volume(np.uint8), Spacing=(1, 2, 3), Origin=(4, 5, 6))
    with pytest.raises(DataError, match="elsewhere in space"):
        read_label(elsewhere, like=scan)


def test_a_file_of_two_axes_is_a_picture(tmp_path):
    scan = read_scan(save(tmp_path / "a.mha", volume()[0], Spacing=(0.5, 0.75)))
    assert scan.array.shape == (1, 4, 5) and scan.affine is None and scan.spacing_mm == (1.0, 0.75, 0.5)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_colour_vectors_and_four_axes(tmp_path, suffix):
    rgb = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 3), dtype=np.uint8)
    path = save(tmp_path / f"rgb{suffix}", rgb, is_vector=True)
    np.testing.assert_array_equal(read_scan(path).array, rgb)
    np.testing.assert_array_equal(read_scan(path, channel=1).array, rgb[..., 1])
    for name, array, is_vector in (("vector", rgb.astype(np.int16), True), ("two", rgb[..., :2], True)):
        path = save(tmp_path / f"{name}{suffix}", array, is_vector=is_vector)
        with pytest.raises(DataError, match="more than one channel") as caught:
            read_scan(path)
        assert f"{array.shape[-1]} components" in caught.value.found and "channel=0" in caught.value.hint
        np.testing.assert_array_equal(read_scan(path, channel=1).array, array[..., 1])
    series = np.stack([volume(), volume() + 100])
    path = tmp_path / f"four{suffix}"
    parts = [SimpleITK.GetImageFromArray(part) for part in series]
    SimpleITK.WriteImage(SimpleITK.JoinSeries(parts), str(path))
    with pytest.raises(DataError, match="more than one channel"):
        read_scan(path)
    scan = read_scan(path, channel=1)
    np.testing.assert_array_equal(scan.array, series[1])
    assert scan.affine.shape == (4, 4)
    with pytest.raises(DataError, match="wanted channel"):
        read_scan(path, channel=2)


def test_a_segmentation_of_3d_slicer(tmp_path):
    said = "Segment0_ID:=Segment_1\nSegment0_LabelValue:=3\nSegment0_Name:=liver\n"
    path = nrrd(tmp_path / "a.seg.nrrd", "space: left-posterior-superior\n", more="space origin: (0,0,0)\n" + said)
    scan = Scan(volume(), (4.0, 3.0, 2.0), np.diag([-2.0, -3, 4, 1]))
    np.testing.assert_array_equal(read_label(path, like=scan), volume())
    layers = tmp_path / "layers.seg.nrrd"
    head = "NRRD0004\ntype: short\ndimension: 4\nspace: LPS\nsizes: 2 5 2 3\nkinds: list domain domain domain\n"
    head += "space directions: none (2,0,0) (0,3,0) (0,0,4)\nendian: little\nencoding: raw\nspace origin: (0,0,0)\n\n"
    layers.write_bytes(head.encode() + volume("<i2").tobytes())
    with pytest.raises(DataError, match="more than one channel") as caught:
        read_label(layers)
    assert "overlap" in caught.value.hint


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["text", "cut", "no voxels"])
@pytest.mark.parametrize("read", [read_scan, read_label, content_digest])
def test_broken_files_are_data_errors(tmp_path, suffix, damage, read):
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 16), dtype=np.uint8)
    path = save(tmp_path / f"a{suffix}", noise)
    voxels = next((entry for entry in tmp_path.iterdir() if entry != path), path)
    if damage == "text":
        path.write_text("this is not an image " * 50)
    elif damage == "cut":
        voxels.write_bytes(voxels.read_bytes()[: voxels.stat().st_size // 2])
    elif voxels == path:
        path.write_bytes(b"")
    else:
        voxels.unlink()
    if read is content_digest and suffix in (".mha", ".nrrd") and path.stat().st_size:
        assert read(path)  # of the bytes, whatever they are
        return
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value) and caught.value.expected and caught.value.hint


def test_values_that_are_not_numbers_are_counted(tmp_path):
    array = volume(np.float32)
    array[0, 0, :2] = np.nan
    with pytest.raises(DataError, match="not numbers") as caught:
        read_scan(save(tmp_path / "a.nrrd", array))
    assert caught.value.found.startswith("2 of 60")


def test_complex_voxels_are_refused(tmp_path):
    with pytest.raises(DataError, match="complex"):
        read_scan(save(tmp_path / "a.nrrd", volume(np.complex64)))


def test_the_digest_of_a_header_is_that_of_its_voxels(tmp_path):
    """Two headers with the same text, beside files of the same name in two folders."""
    digests = []
    for name, more in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        digests.append(content_digest(save(tmp_path / name / "x.mhd", volume() + more)))
    texts = {(tmp_path / name / "x.mhd").read_text() for name in "abc"}
    assert len(texts) == 1 and digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_masks_are_written_as_one_file(tmp_path, suffix):
    with pytest.raises(DataError, match="cannot be kept") as caught:
        write_mask(tmp_path / f"m{suffix}", volume(), Scan(volume(), affine=np.eye(4)))
    assert ".mha" in caught.value.expected and not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    scan = Scan(volume(), affine=np.eye(4))
    write_mask(tmp_path / "m.nrrd", volume() * 0, scan)
    path = write_mask(tmp_path / "m.nrrd", volume(), scan)
    np.testing.assert_array_equal(read_label(path), volume())
    before = path.read_bytes()

    def break_off(image, target, **_):
        Path(target).write_bytes(b"half")
        raise RuntimeError("disk full")

    monkeypatch.setattr(SimpleITK, "WriteImage", break_off)
    with pytest.raises(OutputError, match="disk full"):
        write_mask(path, volume() * 0, scan)
    assert path.read_bytes() == before and [entry.name for entry in tmp_path.iterdir()] == ["m.nrrd"]
