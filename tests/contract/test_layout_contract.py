"""What every layout promises, held against a small copy of its data set in the form in which it is distributed.

A layout whose copy is tests/miniatures/<layout>.py is tested here: `write(root, seed=0)`, and with each of `VARIANTS`
(keyword arguments) where there are several forms.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

from medsam_adapter.data.check import check_dataset
from medsam_adapter.data.layouts import LAYOUTS, open_dataset
from medsam_adapter.data.splits import make_split, verify_split
from medsam_adapter.errors import DataError

# Kinds of folders, not data sets: they have no licence or address of their own, and fit what others claim too.
GENERIC = ("parquet", "msd", "folder")
MINIATURES = {
    name: import_module(f"miniatures.{name}") for name in LAYOUTS if find_spec(f"miniatures.{name}") is not None
}
FORMS = [
    pytest.param(name, variant, id="-".join([name, *map(str, variant.values())]))
    for name, module in MINIATURES.items()
    for variant in getattr(module, "VARIANTS", ({},))
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """written(layout, variant): the folder of a miniature, made once."""
    made = {}

    def write(name, variant):
        key = (name, *variant.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp(name) / "set"
            made[key].mkdir()
            MINIATURES[name].write(made[key], **variant)
        return made[key]

    return write


def test_every_public_data_set_has_a_miniature():
    assert [name for name in LAYOUTS if name not in MINIATURES and name not in GENERIC] == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_said_of_a_layout_is_complete(name):
    info = LAYOUTS[name].INFO
    assert LAYOUTS[name].__doc__ and info.title and info.recognised_by and "SET/" in info.example and info.licence
    assert max(len(line) for line in info.example.splitlines()) <= 120
    if name in GENERIC:
        return
    assert info.modality and info.size and info.split and "http" in info.where
    assert re.search(r"\b(19|20)\d\d\b", info.citation), "the citation says no year"
    assert info.labels and all(set(values) <= set(info.labels) for values in info.targets.values())


@pytest.mark.parametrize(("name", "variant"), FORMS)
def test_auto_finds_the_layout_and_no_other_claims_the_folder(name, variant, written):
    root = written(name, variant)
    claims = [other for other, layout in LAYOUTS.items() if layout.detect(root)]
    assert claims[0] == name and [other for other in claims if other not in GENERIC] == [name] * (name not in GENERIC)
    dataset = open_dataset(root)
    assert dataset.root == root and dataset.cases


@pytest.mark.parametrize(("name", "variant"), FORMS)
def test_what_is_found_is_what_was_said(name, variant, written):
    dataset, info = open_dataset(written(name, variant), name), LAYOUTS[name].INFO
    if name in GENERIC:
        return
    assert dataset.modality and dataset.modality.split(" ")[0] in info.modality and dataset.licence
    assert set(dataset.label_names.items()) <= set(info.labels.items()) or name.startswith("isic")
    assert set(dataset.targets) <= set(info.targets or info.labels.values()) | set(dataset.label_names.values())
    assert all(note.endswith(".") for note in dataset.notes)


@pytest.mark.parametrize(("name", "variant"), FORMS)
def test_ids_are_unique_and_safe_as_file_names(name, variant, written):
    cases = open_dataset(written(name, variant), name, require_labels=False).cases
    assert len(cases) >= 4 and [i for i, count in Counter(case.case_id for case in cases).items() if count > 1] == []
    assert all(re.fullmatch(r"[\w][\w.-]*", case.case_id, re.ASCII) and case.patient_id for case in cases)
    assert len({case.case_id.lower() for case in cases}) == len(cases)  # for disks that know no capitals


@pytest.mark.parametrize(("name", "variant"), FORMS)
def test_every_labelled_case_reads_with_labels_on_its_grid(name, variant, written):
    dataset = open_dataset(written(name, variant), name)
    assert dataset.labelled == dataset.cases
    seen = set()
    for case in dataset.cases:
        sample = dataset.read(case)
        assert sample.labels.shape == sample.scan.shape_zyx and np.issubdtype(sample.labels.dtype, np.integer)
        values = {int(value) for value in np.unique(sample.labels)} - {0}
        assert dataset.instances or values <= set(dataset.label_names)
        seen |= values
        for rater in case.raters:
            marks = dataset.read_labels(case, sample.scan, rater)
            assert marks.shape == sample.labels.shape and set(np.unique(marks)) <= {0, *dataset.label_names}
    assert dataset.instances or seen == set(dataset.label_names)


@pytest.mark.parametrize(("name", "variant"), FORMS)
def test_the_official_split_names_cases_that_are_there_by_patient(name, variant, written):
    for require_labels in (True, False):
        dataset = open_dataset(written(name, variant), name, require_labels=require_labels)
        split = dataset.official_split
        if split is None:
            make_split(dataset.labelled)
            continue
        assert set(split) <= {"train", "val", "test"} and len(split["train"]) >= 2
        assert split.get("val") or split.get("test")
        verify_split(split, dataset.cases)  # ids exist, no id or patient in two parts
        labelled = {case.case_id for case in dataset.labelled}
        assert all(set(ids) <= labelled for ids in split.values())


@pytest.mark.parametrize(("name", "variant"), FORMS)
def test_a_sound_data_set_has_no_errors(name, variant, written):
    findings = check_dataset(open_dataset(written(name, variant), name))
    assert [(f.case_id, f.problem, f.found) for f in findings if f.level == "error"] == []


@pytest.mark.parametrize(("name", "variant"), FORMS)
def test_a_reference_that_is_lacking_is_said(name, variant, written, tmp_path):
    """`msa train` opens every case, with or without reference: what it does not learn from must be in the notes."""
    root = shutil.copytree(written(name, variant), tmp_path / "set")
    case = open_dataset(root, name).cases[0]
    files = {file for file in (case.label, *case.raters.values()) if file not in (None, case.image)}
    if not files:
        pytest.skip("references are in the files of the images")
    for file in files:
        file.unlink()
    try:
        dataset = open_dataset(root, name, require_labels=False)
        case = dataset.case(case.case_id)
        if not case.has_reference:
            assert any(re.search(rf"(No label map|unlabelled).*\b{case.case_id}\b", note) for note in dataset.notes)
            return
        dataset.read(case)  # a list names the file
    except DataError as error:
        assert any(file.name in str(error) for file in files)
    else:
        pytest.fail("nothing said that a reference is lacking")


@pytest.mark.parametrize("name", [name for name in MINIATURES if name != "folder"])
def test_another_folder_is_refused(name, tmp_path):
    (tmp_path / "stuff").mkdir()
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, name)
    assert caught.value.expected and caught.value.found and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_channel_that_is_not_there_is_refused(name, written):
    with pytest.raises(DataError) as caught:
        open_dataset(written(name, {}), name, channel="no such channel")
    assert caught.value.expected and caught.value.found == "no such channel"
