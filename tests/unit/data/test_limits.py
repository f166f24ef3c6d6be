"""Ceilings are kept by header, before anything is allocated, and by every kind of file."""

from __future__ import annotations

import gzip
import tracemalloc

import h5py
import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from medsam_adapter.data.ceiling import VARIABLE, ceiling_bytes, refuse_bytes, refuse_cut_off, within_memory
from medsam_adapter.data.io import read_label, read_scan
from medsam_adapter.data.limits import refuse_larger_than
from medsam_adapter.errors import DataError
from miniatures import dicom

SHAPE = (5, 12, 11)
VOXELS = 5 * 12 * 11


def write(folder, name):
    """A file of SHAPE, int16, and how many bytes of values it claims."""
    array, path = np.arange(VOXELS, dtype=np.int16).reshape(SHAPE), folder / name
    if name.endswith((".nii", ".nii.gz")):
        kind = nib.Nifti2Image if name.startswith("second") else nib.Nifti1Image
        nib.save(kind(array.T, np.eye(4)), path)
        return path, 2 * VOXELS + (544 if name.startswith("second") else 352)
    if name.endswith((".mha", ".mhd", ".nrrd", ".nhdr")):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path), useCompression=True)
    elif name.endswith(".npy"):
        np.save(path, array)
    elif name.endswith(".npz"):
        np.savez_compressed(path, image=array)
        return path, 2 * VOXELS + 128
    elif name.endswith(".h5"):
        with h5py.File(path, "w") as file:
            file.create_dataset("image", data=array, compression="gzip")
    elif name.endswith(".tif"):
        pages = [Image.fromarray(page.astype(np.uint16)) for page in array]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    elif name.endswith(".dcm"):
        dicom.save(dicom.image(array), path)
    else:
        Image.fromarray(array[0].astype(np.uint8)).convert("RGB").save(path)
        return path, 3 * 12 * 11
    return path, 2 * VOXELS


NAMES = (
    "a.nii", "a.nii.gz", "second.nii", "second.nii.gz", "a.mha", "a.mhd", "a.nrrd", "a.nhdr", "a.npy", "a.npz", "a.h5",
    "a.tif", "a.dcm", "a.png", "a.jpg", "a.bmp",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_refused_from_its_size_on(tmp_path, name):
    path, claimed = write(tmp_path, name)
    large_enough = max(claimed, path.stat().st_size)  # headers, or a packing that does not pay
    refuse_larger_than(path, large_enough)
    with pytest.raises(DataError, match="too large"):
        refuse_larger_than(path, claimed - 1)
    refuse_larger_than(path)  # 8 GiB


@pytest.mark.parametrize("name", NAMES)
def test_reading_keeps_the_ceiling_too(tmp_path, monkeypatch, name):
    path, claimed = write(tmp_path, name)
    channel = 0 if name == "a.dcm" else None
    values = claimed if name != "a.npz" else 2 * VOXELS
    monkeypatch.setenv(VARIABLE, str(values))
    read_scan(path, channel=channel)
    monkeypatch.setenv(VARIABLE, str(values - 1))
    key = "image" if name in ("a.npz", "a.h5") else None
    for read in (lambda: read_scan(path, channel=channel), lambda: read_label(path, key=key)):
        with pytest.raises(DataError, match="too large") as error:
            read()
        assert f"{VARIABLE}={values}" in error.value.hint


def test_the_files_of_a_series_are_added_up(tmp_path, monkeypatch):
    dicom.series(tmp_path / "ct", np.zeros(SHAPE, np.int16))
    total = sum(file.stat().st_size for file in (tmp_path / "ct").iterdir())
    refuse_larger_than(tmp_path / "ct", total)
    with pytest.raises(DataError, match="too large"):
        refuse_larger_than(tmp_path / "ct", total - 1)
    monkeypatch.setenv(VARIABLE, str(2 * VOXELS - 1))
    with pytest.raises(DataError, match="too large"):
        read_scan(tmp_path / "ct")


def test_a_gz_is_unpacked_to_count_it(tmp_path):
    """What stands behind the voxels is no part of the header's claim."""
    path, claimed = write(tmp_path, "a.nii.gz")
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(10**6)))
    refuse_larger_than(path, claimed + 10**6)
    with pytest.raises(DataError, match="too large"):
        refuse_larger_than(path, claimed + 10**6 - 1)
    assert read_scan(path).array.shape == SHAPE


def test_counting_a_bomb_takes_no_memory(tmp_path):
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(6):
            file.write(bytes(2**24))
    tracemalloc.start()
    with pytest.raises(DataError, match="too large"):
        refuse_larger_than(path, 2**25)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


def test_a_claim_that_the_file_cannot_hold_is_told_before_it_is_tried(tmp_path):
    path, _ = write(tmp_path, "a.nii.gz")
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[42:48] = np.array([1000, 1000, 1000], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(data)))
    tracemalloc.start()
    with pytest.raises(DataError, match="shorter than its header says"):
        read_scan(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_deflated_stream_can_grow_a_thousandfold():
    refuse_cut_off("a", 1032, 1, is_deflated=True)
    refuse_cut_off("a", 7, 7)
    for claimed, in_file, is_deflated in ((1033, 1, True), (8, 7, False)):
        with pytest.raises(DataError, match="shorter"):
            refuse_cut_off("a", claimed, in_file, is_deflated=is_deflated)


def test_a_picture_with_too_many_pixels_is_a_data_error(tmp_path, monkeypatch):
    path, _ = write(tmp_path, "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12 * 11 // 2 - 1)
    with pytest.raises(DataError, match="more pixels"):
        read_scan(path)
    with pytest.raises(DataError, match="too large"):
        refuse_larger_than(path, 10**9)


def test_no_memory_is_a_data_error():
    with pytest.raises(DataError, match="does not fit into memory"), within_memory("a"):
        raise MemoryError


@pytest.mark.parametrize("text", ["0", "-1", "8GB", "1e9", "٣", "1.5"])
def test_a_ceiling_that_is_none(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(DataError, match=VARIABLE):
        ceiling_bytes()


def test_the_ceiling_is_eight_gib(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    refuse_bytes("a", 8 * 2**30)
    with pytest.raises(DataError, match="8 GiB"):
        refuse_bytes("a", 8 * 2**30 + 1)


def test_values_are_read_from_the_file_alone(tmp_path):
    """Headers that name other files of the machine, and HDF5 that looks into them."""
    (tmp_path / "secret.txt").write_bytes(bytes(range(200)))
    path, _ = write(tmp_path, "a.mhd")
    text = path.read_text()
    for name in (str(tmp_path / "secret.txt"), "../secret.txt", "LIST\n/etc/passwd"):
        (tmp_path / "below").mkdir(exist_ok=True)
        other = tmp_path / "below" / "a.mhd"
        other.write_text(text.replace("a.zraw", name))
        with pytest.raises(DataError, match="another folder"):
            read_scan(other)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", (10, 20), "u1", external=[(str(tmp_path / "secret.txt"), 0, 200)])
    with pytest.raises(DataError, match="another file"):
        read_scan(tmp_path / "a.h5")
