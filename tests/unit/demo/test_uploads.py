"""What of reading an upload needs no server; the rest is tests/integration/test_demo_uploads.py."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from demo_setup import write_organ
from medsam_adapter.demo.uploads import Limits, read_upload, without_folders
from medsam_adapter.errors import DataError, PromptError
from miniatures.dicom import series
from miniatures.volumes import save_nifti


def test_the_series_of_a_folder_is_called_by_the_archive_and_not_by_our_folder(tmp_path):
    for name in "ab":
        series(tmp_path / "in", np.zeros((3, 9, 9), np.int16), name=name + "{}.dcm", series=name)
    files = sorted((tmp_path / "in").iterdir())
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    for given, name in ((files, None), ([tmp_path / "mine.zip"], "mine.zip")):
        folder = tmp_path / f"tmp_{name}"
        folder.mkdir()
        with pytest.raises(DataError, match="several series") as error:
            read_upload(given, folder, Limits())
        assert error.value.file == name and folder.name not in str(error.value)


def test_names_without_folders(tmp_path):
    file = tmp_path / "a.nii"
    error = PromptError("is bad", file=file, expected=f"not {file}", found=f"{tmp_path}/b.nii", hint="go")
    told = without_folders(error)
    assert str(told) == "a.nii: is bad\n  expected: not a.nii\n  found: b.nii\n  next: go"
    assert str(without_folders(PromptError("x", expected="y"))) == "x\n  expected: y"


def test_the_visitors_file_is_left_alone(tmp_path):
    file, folder = write_organ(tmp_path / "organ.nii.gz"), tmp_path / "own"
    folder.mkdir()
    before = file.read_bytes()
    scan = read_upload([file], folder, Limits())
    assert scan.path == folder / "organ.nii.gz" and file.read_bytes() == before


@pytest.mark.parametrize("spacing_ijk_mm", [(0.001, 0.001, 1000), (1, 0.0001, 1000), (1e-30, 1, 1)])
def test_voxels_that_are_too_long_to_be_drawn(tmp_path, spacing_ijk_mm):
    """A slice is drawn in the patient's proportions: a header of a few bytes must not ask for gigabytes."""
    save_nifti(tmp_path / "long.nii.gz", np.indices((16, 16, 16))[0].astype(np.int16), np.diag([*spacing_ijk_mm, 1]))
    (tmp_path / "own").mkdir()
    with pytest.raises(DataError, match="too long to be drawn"):
        read_upload([tmp_path / "long.nii.gz"], tmp_path / "own", Limits())
