"""What is said of a data set and of its split before training."""

from __future__ import annotations

import json
from pathlib import PurePosixPath

from medsam_adapter.data.layouts import Dataset
from medsam_adapter.training.recipe import DataSection
from medsam_adapter.training.run_folder import data_facts
from medsam_adapter.training.setup import open_data
from miniatures import folder, refuge


def test_an_official_split(tmp_path):
    refuge.write(tmp_path)
    data = open_data(DataSection(path=str(tmp_path), split_seed=4))
    counts = f"{len(data.train)} cases to train on, {len(data.val)} to validate, {len(data.test)} to test"
    assert data.notes == [*data.dataset.notes, f"{counts}: the data set's official split."]
    drawn = open_data(DataSection(path=str(tmp_path), split_seed=4, official_split=False))
    assert drawn.notes[-1].endswith("to test: drawn by patient with seed 4.")


def test_a_split_of_ones_own(tmp_path):
    folder.write(tmp_path / "set")
    names = [case.case_id for case in open_data(DataSection(path=str(tmp_path / "set"))).dataset.cases]
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"train": names[:-1], "test": names[-1:]}))
    data = open_data(DataSection(path=str(tmp_path / "set"), split=str(file), max_train_cases=2))
    assert data.notes[-1] == f"2 cases to train on, 0 to validate, 1 to test: split by {file}."


def test_data_of_the_hub_lies_nowhere_on_this_disk():
    dataset = Dataset("a", PurePosixPath("hf://datasets/org/a"), [])
    assert data_facts(dataset, {"train": 3})["path"] == ""
