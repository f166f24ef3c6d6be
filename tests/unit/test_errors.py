"""Errors cross processes and are copied whole: class, text, every field."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from medsam_adapter import errors
from medsam_adapter.errors import Interrupted, MSAError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MSAError)]


@pytest.mark.parametrize("through", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_comes_through_whole(kind, through):
    more = {"signal_number": 15} if kind is Interrupted else {}
    error = kind("is wrong", file="ct.nii.gz", expected="this", found="that", hint="mend it", **more)
    error.add_note("seen in case p1")
    got = through(error)
    assert type(got) is kind and got is not error
    assert str(got) == str(error) and got.args == error.args and vars(got) == vars(error)
    assert vars(got) | {"__notes__": None} == {
        "problem": "is wrong", "file": "ct.nii.gz", "expected": "this", "found": "that", "hint": "mend it",
        "__notes__": None,
    } | ({"exit_code": 143} if kind is Interrupted else {})  # fmt: skip
