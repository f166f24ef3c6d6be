"""Any folder tree is opened as a data set that makes sense, or is a DataError."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medsam_adapter.data.layouts import LAYOUTS, open_dataset
from medsam_adapter.errors import DataError

FOLDERS = (
    "", "images", "masks", "labels", "imagesTr", "labelsTr", "imagesTs", "img", "label", "data", "training",
    "Training400", "patient001", "case_00001", "LIDC-IDRI-0001", "images/deep", "train", "test",
    "database/training/patient001",
)  # fmt: skip
NAMES = (
    "a.png", "a_mask.png", "b.png", "b.jpg", "img0001.nii.gz", "label0001.nii.gz", "amos_0001.nii.gz", "dataset.json",
    "labels.json", "Info.cfg", "imaging.nii.gz", "segmentation.nii.gz", "patient001_frame01.nii.gz", "train.csv",
    "patient001_frame01_gt.nii.gz", "1.xml", "1_1.jpg", "ISIC_0000000.jpg", "ISIC_0000000_Segmentation.png", "a.dcm",
    "split.json", "msa_dataset.json", "V0001.jpg", "readme.txt", ".hidden.png", "CON.png", "a b.png", "ä.png",
    "BraTS20_Training_001_flair.nii", "BraTS20_Training_001_seg.nii", "a.npz", "a.h5",
)  # fmt: skip
CONTENTS = (
    b"", b"hello", b"{}", b"[]", b'{"training": [], "labels": {}}', b'{"1": "liver"}', b'{"255": 3, "patients": []}',
    b'{"training": [{"image": "images/a.png", "label": "masks/a.png"}], "labels": {"0": "ground", "1": "liver"}}',
    b'{"labels": {"ground": 0, "liver": 1}, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}}', b"png", b"<a/>",
)  # fmt: skip
files = st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES), st.sampled_from(CONTENTS))
trees = st.lists(files, max_size=9)
layouts = st.sampled_from([name for name in LAYOUTS if name != "parquet"])


def build(root, tree) -> None:
    for folder, name, content in tree:
        (root / folder).mkdir(parents=True, exist_ok=True)
        file = root / folder / name
        if content == b"png" or name.endswith((".png", ".jpg")):
            Image.fromarray((np.indices((9, 8)).sum(0) % 3 == 0).astype(np.uint8)).save(file, "PNG")
        else:
            file.write_bytes(content)


def assert_consistent(dataset, root) -> None:
    ids = [case.case_id for case in dataset.cases]
    assert ids and len(set(ids)) == len(ids)
    assert all(case.patient_id for case in dataset.cases)
    for case in dataset.cases:
        for file in (case.image, case.label, *case.channels, *case.raters.values()):
            assert file is None or root in file.parents
    assert all(isinstance(value, int) and value > 0 for value in dataset.label_names)
    assert json.dumps(dataset.label_names) and all(isinstance(note, str) for note in dataset.notes)
    try:
        dataset.read(dataset.cases[0])
    except DataError:
        pass


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.booleans())
def test_any_folder_is_a_data_set_or_an_error(tmp_path_factory, tree, require_labels):
    root = tmp_path_factory.mktemp("set")
    build(root, tree)
    try:
        dataset = open_dataset(root, require_labels=require_labels)
    except DataError as error:
        assert error.problem and "Traceback" not in str(error)
        return
    assert_consistent(dataset, root)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    trees, st.sampled_from([name for name in LAYOUTS if name != "parquet"]), st.sampled_from(["", "0", "3", "t1", "x"])
)
def test_any_folder_opened_as_a_given_layout(tmp_path_factory, tree, layout, channel):
    root = tmp_path_factory.mktemp("set")
    build(root, tree)
    try:
        dataset = open_dataset(root, layout, require_labels=False, channel=channel)
    except DataError as error:
        assert error.problem
        return
    assert_consistent(dataset, root)
