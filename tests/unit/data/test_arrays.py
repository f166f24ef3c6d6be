"""NumPy and HDF5 files: the right array is read, or none."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from medsam_adapter.data.io import content_digest, read_label, read_scan
from medsam_adapter.errors import DataError

SHAPE = (3, 4, 5)
AFFINE = np.array([[0, -2.0, 0, 7], [3, 0, 0, 8], [0, 0, 4, 9], [0, 0, 0, 1]])


def volume(dtype=np.int16) -> np.ndarray:
    return np.arange(60).reshape(SHAPE).astype(dtype)


def save(path: Path, **arrays) -> Path:
    """The arrays under their names, "." for "/"."""
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name.replace(".", "/"), data=array)
    return path


def refused(read, path: Path, problem: str, *said: str, **arguments) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        read(path, **arguments)
    for text in (str(path), *said):
        assert text in str(caught.value)
    assert caught.value.expected and caught.value.found


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".hdf5"])
@pytest.mark.parametrize(
    ("image", "label"), [("image", "label"), ("imgs", "gts"), ("img", "seg"), ("data", "mask"), ("x", "gt")]
)
def test_image_and_label_are_told_apart_by_name(tmp_path, suffix, image, label):
    path = save(tmp_path / f"a{suffix}", **{image: volume(), label: volume(np.uint8) % 3})
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array, volume())
    assert scan.array.dtype == np.int16 and scan.affine is None and scan.spacing_mm == (1, 1, 1)
    np.testing.assert_array_equal(read_label(path, like=scan), volume() % 3)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_the_only_array_is_meant_whatever_its_name(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", whatever=volume(), spacing=[4.0, 3, 2], note=np.array(5))
    assert read_scan(path).array.shape == read_label(path).shape == SHAPE
    path = save(tmp_path / f"d{suffix}", whatever=volume(), affine=AFFINE)
    assert read_scan(path).array.shape == SHAPE
    path = save(tmp_path / f"b{suffix}", imgs=volume())
    refused(read_label, path, "no array that could be the label map", "imgs (3, 4, 5) int16")
    path = save(tmp_path / f"c{suffix}", gts=volume())
    refused(read_scan, path, "no array that could be the image", "gts (3, 4, 5) int16")


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_several_candidates_need_a_key(tmp_path, suffix):
    arrays = {"t1": volume(), "t2": volume() + 100, "seg": volume(np.uint8) % 2}
    path = save(tmp_path / f"a{suffix}", **arrays)
    refused(read_scan, path, "several arrays", "t1 (3, 4, 5) int16", "t2 (3, 4, 5) int16", "key='t1'")
    np.testing.assert_array_equal(read_scan(path, key="t2").array, arrays["t2"])
    np.testing.assert_array_equal(read_label(path, key="seg"), arrays["seg"])
    np.testing.assert_array_equal(read_label(path), arrays["seg"])
    refused(read_scan, path, "no array 't3'", "t1 (3, 4, 5)", key="t3")
    both = save(tmp_path / f"b{suffix}", image=volume(), data=volume(), gt=volume(), mask=volume())
    refused(read_scan, both, "several arrays", "image", "data")
    refused(read_label, both, "several arrays", "gt", "mask")


def test_a_plain_npy_is_its_array(tmp_path):
    np.save(tmp_path / "a.npy", volume(np.float32))
    scan = read_scan(tmp_path / "a.npy")
    np.testing.assert_array_equal(scan.array, volume())
    assert scan.array.dtype == np.float32 and scan.array.flags.writeable
    np.testing.assert_array_equal(read_label(tmp_path / "a.npy", like=scan), volume())


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("name", ["spacing", "spacing_mm"])
def test_spacing_is_in_array_order(tmp_path, suffix, name):
    assert read_scan(save(tmp_path / f"a{suffix}", image=volume(), **{name: [4.0, 3, 2]})).spacing_mm == (4, 3, 2)
    flat = read_scan(save(tmp_path / f"b{suffix}", image=volume()[0], **{name: np.array([3, 2])}))
    assert flat.spacing_mm == (1, 3, 2) and flat.array.shape == (1, 4, 5)
    for bad in ([4.0, 3, 0], [1.0], [np.nan, 1, 1], [-1.0, 1, 1]):
        refused(read_scan, save(tmp_path / f"c{suffix}", image=volume(), **{name: bad}), "spacing that is none")


def test_spacing_and_affine_may_be_attributes(tmp_path):
    path = save(tmp_path / "a.h5", image=volume(), other=volume())
    with h5py.File(path, "a") as file:
        file.attrs["spacing_mm"] = (4.0, 3, 2)
    assert read_scan(path).spacing_mm == (4, 3, 2)
    with h5py.File(path, "a") as file:
        file["image"].attrs["spacing_mm"] = (9.0, 3, 2)
    assert read_scan(path).spacing_mm == (9, 3, 2) and read_scan(path, key="other").spacing_mm == (4, 3, 2)
    path = save(tmp_path / "b.h5", image=volume())
    with h5py.File(path, "a") as file:
        file["image"].attrs["affine"] = AFFINE
    np.testing.assert_array_equal(read_scan(path).affine, AFFINE)


def test_arrays_in_groups_have_their_own_spacing(tmp_path):
    path = save(tmp_path / "a.h5", **{"ct.image": volume(), "ct.spacing": [4.0, 3, 2], "spacing": [1.0, 1, 1]})
    assert read_scan(path).spacing_mm == read_scan(path, key="ct/image").spacing_mm == (4, 3, 2)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_an_affine_makes_a_volume_in_space(tmp_path, suffix):
    path = save(tmp_path / f"a{suffix}", image=volume(), label=volume(np.uint8), affine=AFFINE, spacing=[4.0, 2, 3])
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.affine, AFFINE)
    assert scan.spacing_mm == (4, 2, 3) and scan.is_volume
    np.testing.assert_array_equal(read_label(path, like=scan), volume())
    moved = AFFINE.copy()
    moved[0, 3] += 1
    refused(read_label, save(tmp_path / f"m{suffix}", label=volume(), affine=moved), "elsewhere in space", like=scan)
    # Array order is (z, y, x): the other way round is the usual slip, and this file shows it.
    swapped = save(tmp_path / f"s{suffix}", image=volume(), affine=AFFINE, spacing=[3.0, 2, 4])
    refused(read_scan, swapped, "do not agree", "array order")
    for bad in (np.eye(3), np.zeros((4, 4)), AFFINE * np.nan, AFFINE.T):
        refused(read_scan, save(tmp_path / f"b{suffix}", image=volume(), affine=bad), "affine that describes no volume")


def test_colour_has_three_last(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (2, 4, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_scan(save(tmp_path / "a.npz", image=rgb)).array, rgb)
    np.testing.assert_array_equal(read_scan(save(tmp_path / "b.npz", image=rgb[0])).array, rgb[:1])


def test_other_axes_and_kinds_are_refused(tmp_path):
    refused(read_scan, save(tmp_path / "a.npz", image=np.zeros((2, 3, 4, 5))), "other axes", "(2, 3, 4, 5)")
    refused(read_scan, save(tmp_path / "b.npz", image=np.zeros(5)), "no array that could be", "(5,)")
    refused(read_scan, save(tmp_path / "b.npz", image=np.zeros(5)), "other axes", "(5,)", key="image")
    refused(read_scan, save(tmp_path / "c.npz", image=volume(np.complex64)), "no real numbers", "complex64")
    refused(read_scan, save(tmp_path / "d.npz", image=np.array([["a"]])), "no array that could be")
    refused(read_scan, save(tmp_path / "e.npz", image=np.zeros((0, 4, 5))), "holds no image", "(0, 4, 5)")
    refused(read_scan, save(tmp_path / "f.npz"), "no array that could be", "no arrays")
    refused(read_label, save(tmp_path / "g.npz", label=volume() / 7), "whole numbers")
    refused(read_scan, save(tmp_path / "h.npz", image=np.full(SHAPE, np.nan)), "not numbers")


def test_booleans_are_labels(tmp_path):
    mask = volume() > 30
    np.testing.assert_array_equal(read_label(save(tmp_path / "a.npz", mask=mask)), mask)
    assert read_label(tmp_path / "a.npz").dtype == np.uint8


class Exploding:
    """Unpickling this fails the test."""

    def __reduce__(self):
        return pytest.fail, ("a pickled object was loaded",)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_pickled_objects_are_never_loaded(tmp_path, name):
    array = np.empty((1, 1), dtype=object)
    array[0, 0] = Exploding()
    (np.savez if name.endswith("z") else np.save)(tmp_path / name, array)
    for read in (read_scan, read_label):
        refused(read, tmp_path / name, "Python objects")


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.h5", "a.hdf5"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut"])
def test_broken_files_are_data_errors(tmp_path, name, damage):
    path = tmp_path / name
    if damage == "empty":
        path.touch()
    elif damage == "text":
        path.write_text("this is not an array " * 50)
    elif damage == "cut":
        noise = np.random.default_rng(0).integers(0, 255, (16, 16, 16))
        np.save(path, noise) if name.endswith("npy") else save(path, image=noise)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (read_scan, read_label):
        with pytest.raises(DataError) as caught:
            read(path)
        assert str(path) in str(caught.value) and caught.value.expected and caught.value.hint


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.h5", image=volume())
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(read_scan, path, "needs the Python package h5py", "medsam-adapter[formats]")


def test_the_digest_is_that_of_the_bytes(tmp_path):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, volume())
    assert content_digest(tmp_path / "a.npy") == content_digest(tmp_path / "b.npy")


def test_medsams_spacing_is_turned_round(tmp_path):
    """Its preprocessing writes SimpleITK's (x, y, z): https://github.com/bowang-lab/MedSAM, pre_CT_MR.py."""
    path = save(tmp_path / "m.npz", imgs=volume(), gts=volume().astype(np.uint8), spacing=np.array([0.5, 0.7, 3.0]))
    assert read_scan(path).spacing_mm == (3.0, 0.7, 0.5)
    path = save(tmp_path / "o.npz", image=volume(), spacing=np.array([3.0, 0.7, 0.5]))
    assert read_scan(path).spacing_mm == (3.0, 0.7, 0.5)
