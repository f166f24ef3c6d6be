"""A disk that is full while a mask is written is named, and no mask is there; some writers would not say a word."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medsam_adapter.data.io import read_scan, write_mask
from medsam_adapter.data.sample import Scan
from medsam_adapter.errors import OutputError

resource = pytest.importorskip("resource")
SUFFIXES = (".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".tif", ".bmp")


@contextmanager
def room_for(num_bytes: int):
    """The kernel takes so many bytes of a file and no more, as on a disk that has no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def scan_and_mask(folder: Path, suffix: str) -> tuple[Scan, np.ndarray]:
    is_volume = suffix in SUFFIXES[:4]
    if is_volume:
        nib.save(nib.Nifti1Image(np.zeros((80, 90, 1), np.int16), np.eye(4)), folder / "scan.nii.gz")
    else:
        Image.fromarray(np.zeros((90, 80), np.uint8)).save(folder / "scan.png")
    scan = read_scan(folder / ("scan.nii.gz" if is_volume else "scan.png"))
    return scan, np.random.default_rng(0).integers(0, 2, scan.shape_zyx).astype(np.uint8)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("num_bytes", [0, 600])
def test_a_mask_that_is_cut_off_is_an_error_and_leaves_no_file(tmp_path, suffix, num_bytes):
    scan, mask = scan_and_mask(tmp_path, suffix)
    path = tmp_path / "out" / f"mask{suffix}"
    with pytest.raises(OutputError, match=rf"mask\{suffix}: cannot be written"), room_for(num_bytes):
        write_mask(path, mask, scan)
    assert not list(path.parent.iterdir())
    assert write_mask(path, mask, scan).stat().st_size > 600


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_named_and_the_mask_before_stays(tmp_path, suffix, monkeypatch):
    scan, mask = scan_and_mask(tmp_path, suffix)
    path = write_mask(tmp_path / f"mask{suffix}", mask, scan)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=rf"mask\{suffix}: cannot be written: the disk is full"):
        write_mask(path, mask * 2, scan)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
