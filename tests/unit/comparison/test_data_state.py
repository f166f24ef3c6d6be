"""`msa compare` knows a state of the data again, and another one as another."""

from __future__ import annotations

import os
import shutil
from pathlib import PurePosixPath

import numpy as np

from medsam_adapter.comparison.data_state import data_state
from medsam_adapter.data.layouts import Dataset, open_dataset
from medsam_adapter.data.sample import Case
from miniatures import dicom, folder


def test_a_state_is_that_of_files_and_split(tmp_path):
    folder.write(tmp_path / "set")
    dataset = open_dataset(tmp_path / "set")
    ids = [case.case_id for case in dataset.cases]
    state = data_state(dataset, {"train": ids})
    assert data_state(open_dataset(tmp_path / "set"), {"train": ids}) == state
    assert data_state(dataset, {"train": ids[1:], "test": ids[:1]}) != state
    os.utime(dataset.cases[0].label, ns=(1, 1))
    assert data_state(dataset, {"train": ids}) != state


def test_tables_count_and_those_of_the_hub_have_a_state(tmp_path):
    folder.write(tmp_path / "set")
    dataset = open_dataset(tmp_path / "set")
    state = data_state(dataset, {})
    (tmp_path / "set/data").mkdir()
    shutil.copy(dataset.cases[0].image, tmp_path / "set/data/t.parquet")
    assert data_state(dataset, {}) != state
    assert data_state(Dataset("a", PurePosixPath("hf://datasets/org/a"), []), {})


def test_a_changed_file_of_a_dicom_series_is_noticed(tmp_path):
    dicom.series(tmp_path / "ct", np.zeros((3, 9, 9), np.int16))
    dataset = Dataset("a", tmp_path, [Case("ct", tmp_path / "ct", tmp_path / "ct.nii.gz")])
    state = data_state(dataset, {})
    os.utime(next((tmp_path / "ct").iterdir()), ns=(1, 1))  # the folder's own time stays
    assert data_state(dataset, {}) != state
