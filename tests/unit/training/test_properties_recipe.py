"""Any override either makes a recipe that reads back the same, or is a RecipeError that names the key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam_adapter.errors import RecipeError
from medsam_adapter.training.recipe import Recipe, load_recipe, make_recipe

quick = settings(max_examples=80, deadline=None)
HINTS = {
    f"{section}.{field.name}": typing.get_type_hints(kind)[field.name]
    for section, kind in typing.get_type_hints(Recipe).items()
    if dataclasses.is_dataclass(kind)
    for field in dataclasses.fields(kind)
}
keys = st.sampled_from(sorted(HINTS))
plain = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=8)
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@quick
@given(st.dictionaries(keys, values, max_size=3))
def test_values_of_any_kind_make_a_recipe_or_an_error(tmp_path_factory, chosen):
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    content: dict = {}
    for key, value in chosen.items():
        section, name = key.split(".")
        content.setdefault(section, {})[name] = value
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    try:
        recipe = load_recipe(file)
    except RecipeError as error:
        assert error.problem
        return
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(file) == recipe == make_recipe(dataclasses.asdict(recipe))
    for key in chosen:
        section, name = key.split(".")
        kept = getattr(getattr(recipe, section), name)
        hint = HINTS[key]
        wanted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        assert isinstance(kept, tuple(typing.get_origin(each) or each for each in wanted)), f"{key}: {kept!r}"


@quick
@given(keys, st.text(max_size=30))
def test_words_of_the_command_line_make_a_recipe_or_an_error(tmp_path_factory, key, word):
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text("")
    try:
        recipe = load_recipe(file, [f"--{key}", word])
    except RecipeError as error:
        assert error.problem
        return
    file.write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(file) == recipe
    assert load_recipe(file, [f"--{key}={word}"]) == recipe


def likeness(typed: str, name: str) -> float:
    return difflib.SequenceMatcher(None, name, typed.replace("-", "_")).ratio()


@quick
@given(keys, st.sampled_from(["lost", "doubled", "swapped", "dashed"]), st.data())
def test_the_right_key_is_suggested_for_a_mistyped_one(tmp_path_factory, key, how, data):
    section, name = key.split(".")
    at = data.draw(st.integers(0, len(name) - 2))
    typed = {
        "lost": name[:at] + name[at + 1 :],
        "doubled": name[: at + 1] + name[at:],
        "swapped": name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        "dashed": name.replace("_", "-"),
    }[how]
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text("")
    known = {other.split(".")[1] for other in HINTS if other.startswith(f"{section}.")}
    try:
        load_recipe(file, [f"--{section}.{typed}", "1"])
    except RecipeError as error:
        if typed.replace("-", "_") not in known:
            assert f"unknown key {section}.{typed.replace('-', '_')}" in str(error)
            suggested = (error.hint or "").removeprefix(f"did you mean {section}.").removesuffix("?")
            # A key that is as near may be named as well: box_05 for box_50 and box_75.
            assert suggested in known and likeness(typed, suggested) >= likeness(typed, name) - 1e-9, str(error)
    else:
        assert typed.replace("-", "_") in known


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "nan", "inf", "'1e999'", "1.0e+999", "9" * 400])
@pytest.mark.parametrize("key", ["optim.weight_decay", "optim.gradient_clipping", "loss.dice"])
def test_numbers_are_finite(tmp_path, key, text):
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(RecipeError, match=key):
        load_recipe(tmp_path, [f"--{key}", text])
