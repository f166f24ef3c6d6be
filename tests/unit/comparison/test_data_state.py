"""`msa compare` knows a state of the data again, and another one as another."""

from __future__ import annotations

import os
import shutil
from pathlib import PurePosixPath

from medsam_adapter.comparison.data_state import data_state
from medsam_adapter.data.layouts import Dataset, open_dataset
from miniatures import folder


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
    shutil.copy(dataset.cases[0].image, tmp_path / "set/t.parquet")
    assert data_state(dataset, {}) != state
    assert data_state(Dataset("a", PurePosixPath("hf://datasets/org/a"), []), {})
