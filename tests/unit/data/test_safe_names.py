"""Names of strangers never lead out of the folder that they are meant for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.data.safe_names import MAX_NAME_BYTES, inside, is_safe_name, refuse_unsafe_name
from medsam_adapter.errors import DataError
from miniatures import msd

BAD_NAMES = (
    "", " ", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "..\\x", "C:\\x", "C:x", "a\0b", "a\nb", "\x7f", "CON",
    "nul", "a:b", "aux.png", "COM1", "lpt9.nii.gz", "Con .txt", "a" * (MAX_NAME_BYTES + 1),
    "ä" * (MAX_NAME_BYTES // 2 + 1), "\ud800", None, 7,
)  # fmt: skip
GOOD_NAMES = (
    "a", "case_0001", "patient 7", "ISIC_0000000", "...a", "a.b.c", "LIDC-IDRI-0001", "脾脏", "console", "ConA",
    "com10", "a" * MAX_NAME_BYTES, "~", "-rf", "T1:post",
)  # fmt: skip
BAD_PATHS = (
    "", " ", "..", "../x", "a/../../x", "a/..", "/etc/passwd", "\\x", "\\\\server\\x", "C:\\x", "c:x", "a\0b",
    "a" * 300, ".", "./", "a/" * 3000, None, 7, ["a"], "a\\..\\x",
)  # fmt: skip
GOOD_PATHS = ("a.png", "./a.png", "imagesTr/a.nii.gz", "a/b/c.png", "..a/b", "a..b", "a b/ä.png", ".hidden/x")


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name)[:20])
def test_what_is_no_file_name(name):
    assert not is_safe_name(name)
    with pytest.raises(DataError, match="case id"):
        refuse_unsafe_name(name, "case id")


@pytest.mark.parametrize("name", GOOD_NAMES, ids=lambda name: name[:20])
def test_what_is_a_file_name(name, tmp_path):
    assert is_safe_name(name)
    (tmp_path / f"{name}_prediction.nii.gz").write_text("")
    assert len(os.listdir(tmp_path)) == 1


@pytest.mark.parametrize("name", BAD_PATHS, ids=lambda name: repr(name)[:20])
def test_paths_that_lead_out(name, tmp_path):
    with pytest.raises(DataError, match="outside its folder"):
        inside(tmp_path, name)


@pytest.mark.parametrize("name", GOOD_PATHS)
def test_paths_that_stay(name, tmp_path):
    assert tmp_path in inside(tmp_path, name).parents


@settings(max_examples=300, deadline=None)
@given(st.text("./\\ab:~\0 ", max_size=12))
def test_whatever_is_let_through_stays(name):
    root = Path("/somewhere/set")
    try:
        path = inside(root, name)
    except DataError:
        pass
    else:
        assert os.path.normpath(path).startswith("/somewhere/set/")
    if is_safe_name(name):
        assert os.path.dirname(os.path.normpath(root / name)) == str(root)


@pytest.mark.parametrize("field", ["image", "label"])
@pytest.mark.parametrize("name", ["/etc/hostname", "../outside.nii.gz", "imagesTr/../../outside.nii.gz"])
def test_a_data_set_does_not_read_its_neighbours(tmp_path, field, name):
    root = tmp_path / "set"
    msd.write(root)
    file = root / "dataset.json"
    content = json.loads(file.read_text())
    (tmp_path / "outside.nii.gz").write_bytes((root / content["training"][0][field]).read_bytes())
    content["training"][0][field] = name
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="outside its folder"):
        open_dataset(root)


def test_a_case_id_that_is_a_device_is_refused(tmp_path):
    root = tmp_path / "set"
    msd.write(root)
    text = (root / "dataset.json").read_text().replace("liver_1", "NUL")
    (root / "dataset.json").write_text(text)
    with pytest.raises(DataError, match="case id"):
        open_dataset(root)
