"""YAML of strangers: plain values, once each, and neither deep nor large."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam_adapter.data import plain_yaml
from medsam_adapter.data.plain_yaml import MAX_DEPTH, read_yaml

# PyYAML writes these four as they are where unicode is allowed, and reads them as line breaks or not at all.
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\x85\u2028\u2029\ufeff")
texts = st.text(letters, max_size=8)
plain = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | texts
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(letters, max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(values)
def test_plain_values_come_back(value):
    assert read_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


def test_aliases_and_merges_are_read():
    text = "a: &a {x: 1, y: 2}\nb: *a\nc:\n  <<: *a\n  y: 3\n"
    assert read_yaml(text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}, "c": {"x": 1, "y": 3}}
    assert read_yaml("") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a' stands twice in the mapping at line 1"),
        ("a: {1: x, 1: y}", "1 stands twice"),
        ("a: &a [*a]", "within itself"),
        ("a: !!python/object/apply:os.getpid []", "python"),
        ("a: !x 1", "!x"),
        ("a: 2024-99-99", "month"),
        (f"a: {'9' * 5000}", "digits"),
        ("? [a]\n: b", "unhashable"),
        ("a: [", "flow"),
        ("a: 1\n---\nb: 2", "document"),
    ],
)
def test_what_is_refused(text, said):
    with pytest.raises(yaml.YAMLError, match=said):
        read_yaml(text)


def test_depth_has_a_limit():
    assert read_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    for text in ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "[" * 10**5, "{a: " * 10**5):
        with pytest.raises(yaml.YAMLError, match="levels"):
            read_yaml(text)


def test_aliases_count_as_what_they_stand_for(monkeypatch):
    monkeypatch.setattr(plain_yaml, "MAX_VALUES", 1000)
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    with pytest.raises(yaml.YAMLError, match="more than 1000 values"):
        read_yaml(laughs)
    many = "a: &a [x, x, x, x]\n"
    read_yaml(many + "b: [" + "*a, " * 197 + "]")
    with pytest.raises(yaml.YAMLError, match="values"):
        read_yaml(many + "b: [" + "*a, " * 200 + "]")


def test_length_has_a_limit(monkeypatch):
    monkeypatch.setattr(plain_yaml, "MAX_CHARACTERS", 10)
    assert read_yaml("a: 4567890") == {"a": 4567890}
    with pytest.raises(yaml.YAMLError, match="11 characters"):
        read_yaml("a: 45678901")
