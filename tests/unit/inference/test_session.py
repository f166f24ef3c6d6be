"""session.json: what is saved is what is read, and what is no session is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from medsam_adapter.errors import DataError
from medsam_adapter.inference.session import FORMAT, Carried, Session, SessionObject
from medsam_adapter.prompts.types import ObjectPrompt

FIRST = ObjectPrompt([(3.0, 4.0, 5.0)], [1])
SECOND = ObjectPrompt([(3.0, 4.0, 5.0), (9.5, 2.0, 5.0)], [1, 0], [(1.0, 2.0, 3.0, 7.0, 8.0, 3.0)], "the spleen")
SESSION = Session(
    "snöw ☃.nii.gz", "ab" * 32, (7, 40, 34), "org/msa-btcv", "org/msa-amos22", False,
    [
        SessionObject("liver", "#22c3e6", SECOND, Carried(SECOND, 3, Carried(FIRST, None)), "window", (-160.0, 240.0)),
        SessionObject("nothing yet", "#f2a900"),
        SessionObject("picture", "#000000", FIRST, None, "rgb"),
    ],
    (-100.5, 300.0),
)  # fmt: skip


def test_there_and_back(tmp_path):
    file = SESSION.save(tmp_path / "session.json")
    assert Session.load(file) == SESSION
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_read_is_of_the_same_kinds(tmp_path):
    again = Session.load(SESSION.save(tmp_path / "session.json"))
    prompt = again.objects[0].prompt
    assert isinstance(again.shape_zyx, tuple) and isinstance(again.window, tuple)
    assert isinstance(prompt.points[0], tuple) and isinstance(prompt.boxes[0], tuple)
    assert again.objects[0].carried.before.rounds is None and again.objects[0].carried.rounds == 3
    assert again.objects[1].window_hu is None and again.adapter == "org/msa-amos22"


def test_numbers_of_numpy_are_no_hindrance(tmp_path):
    prompt = ObjectPrompt([tuple(float(v) for v in np.array([1, 2, 3]))], [1])
    session = Session("a.nii", "0", (1, 2, 3), "sam-tiny", None, True, [SessionObject("a", "#000000", prompt)])
    again = Session.load(session.save(tmp_path / "s.json"))
    assert again == session and again.is_plain and again.adapter is None and again.window is None


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    file = SESSION.save(tmp_path / "session.json")
    broken = Session("a", "0", (1, 1, 1), "m", objects=[SessionObject("a", object())])
    with pytest.raises(TypeError):
        broken.save(file)
    assert Session.load(file) == SESSION and list(tmp_path.iterdir()) == [file]


def changed(**values) -> str:
    content = {"format": FORMAT, "scan_name": "a.nii", "scan_sha256": "0", "shape_zyx": [1, 2, 3], "model": "sam-tiny",
               "objects": [thing()]}  # fmt: skip
    return json.dumps({key: value for key, value in {**content, **values}.items() if value is not ...})


def thing(**values) -> dict:
    content = {"name": "a", "colour": "#000000", "prompt": {"points": [[1, 2, 0]], "labels": [1]}, **values}
    return {key: value for key, value in content.items() if value is not ...}


def test_the_smallest_session(tmp_path):
    (tmp_path / "s.json").write_text(changed())
    assert Session.load(tmp_path / "s.json").objects[0].prompt == ObjectPrompt([(1.0, 2.0, 0.0)], [1])


def deep(levels: int) -> str:
    return '{"prompt": {}, "before": ' * levels + "null" + "}" * levels


BROKEN = {
    "nothing": "", "a word": "hello", "a list": "[1, 2]", "null": "null", "a number": "7", "an empty object": "{}",
    "a cut file": changed()[:-9], "bytes": b"\xff\xfe\x00", "zeros": bytes(50), "brackets": "[" * 100_000,
    "another format": changed(format="medsam-adapter session 2"), "no format": changed(format=...),
    "no shape": changed(shape_zyx=...), "a shape of words": changed(shape_zyx="abc"),
    "a shape of null": changed(shape_zyx=None),
    "no model": changed(model=...), "no objects": changed(objects=...), "objects that are none": changed(objects=[1]),
    "an object without a name": changed(objects=[thing(name=...)]), "objects as a word": changed(objects="ab"),
    "an object without prompts": changed(objects=[thing(prompt=...)]),
    "prompts as a list": changed(objects=[thing(prompt=[])]),
    "a point of two": changed(objects=[thing(prompt={"points": [[1, 2]], "labels": [1]})]),
    "a point of words": changed(objects=[thing(prompt={"points": [["a", 2, 3]], "labels": [1]})]),
    "a point nowhere": changed(objects=[thing(prompt={"points": [[float("nan"), 2, 3]], "labels": [1]})]),
    "a point at infinity": changed(objects=[thing(prompt={"points": [[1, 2, float("inf")]], "labels": [1]})]),
    "a point without a label": changed(objects=[thing(prompt={"points": [[1, 2, 3]]})]),
    "a label of 2": changed(objects=[thing(prompt={"points": [[1, 2, 3]], "labels": [2]})]),
    "a box of four": changed(objects=[thing(prompt={"boxes": [[1, 2, 3, 4]]})]),
    "a window of one": changed(window=[1]), "a window of words": changed(window="ab"),
    "a window of an object": changed(objects=[thing(window_hu=7)]),
    "carried as a list": changed(objects=[thing(carried=[1])]),
    "carried without prompts": changed(objects=[thing(carried={})]),
    "rounds as a word": changed(objects=[thing(carried={"prompt": {}, "rounds": "many"})]),
    "carried without end": changed(objects=[thing(carried=[])]).replace('"carried": []', '"carried": ' + deep(50_000)),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_session(tmp_path, what):
    file, content = tmp_path / "broken.json", BROKEN[what]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match="is no session") as error:
        Session.load(file)
    assert error.value.file == file and FORMAT in error.value.expected and len(str(error.value)) < 800


@pytest.mark.parametrize("name", ["missing.json", "", "folder/missing.json", "a\0b.json"])
def test_no_file(tmp_path, name):
    with pytest.raises(DataError):
        Session.load(tmp_path / name)
