"""What is known of a file without reading it: enough to see that its voxels have changed."""

from __future__ import annotations

import os

import numpy as np
import pytest

from medsam_adapter.data.file_state import file_state

sitk = pytest.importorskip("SimpleITK")


@pytest.mark.parametrize(
    "header, voxels", [("scan.mhd", "scan.raw"), ("scan.nhdr", "scan.raw"), ("scan.mha", "scan.mha")]
)
def test_changed_voxels_are_another_state(tmp_path, header, voxels):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5), np.int16)), str(tmp_path / header))
    before = file_state(tmp_path / header)
    assert before and before == file_state(tmp_path / header)
    os.utime(tmp_path / voxels, ns=(1, 1))
    assert file_state(tmp_path / header) != before


def test_a_broken_header_has_a_state_too(tmp_path):
    (tmp_path / "scan.mhd").write_text("NDims = 9\nElementDataFile = scan.raw\n")
    assert [name for name, *_ in file_state(tmp_path / "scan.mhd")] == ["scan.mhd"]
    assert file_state(tmp_path / "none.mhd") == []
