"""Recipes: YAML, command line and dataclasses are one thing, and mistakes are named."""

import dataclasses
import typing
from pathlib import Path

import pytest

from medsam_adapter.errors import RecipeError
from medsam_adapter.training.recipe import Recipe, load_recipe, make_recipe
from medsam_adapter.training.recipe_bounds import BOUNDS

REPO = Path(__file__).parents[3]


def write(tmp_path, text):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return file


def test_overrides_win_over_the_file(tmp_path):
    file = write(tmp_path, "optim: {epochs: 3, learning_rate: 1e-4}\ndata: {path: a}\n")
    recipe = load_recipe(file, ["--optim.epochs", "7", "--data.path=b", "--model.adapter", "{use_depth: true}"])
    assert (recipe.optim.epochs, recipe.optim.learning_rate, recipe.data.path) == (7, 1e-4, "b")
    assert recipe.model.adapter == {"use_depth": True}


def test_the_resolved_recipe_reads_back_the_same(tmp_path):
    recipe = make_recipe({"data": {"window_hu": [-160, 240]}, "optim": {"batch_size": 4}})
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        ("optim: {epoch: 3}", [], "did you mean optim.epochs"),
        ("", ["--optim.learningrate", "1"], "did you mean optim.learning_rate"),
        ("optim: {epochs: many}", [], "int"),
        ("optim: {epochs: true}", [], "int"),
        ("optim: {epochs: 0}", [], "out of range"),
        ("optim: {mixed_precision: int8}", [], "no, bf16, fp16"),
        ("optim: 3", [], "section"),
        ("- a", [], "not a table"),
        ("a: [", [], "not YAML"),
        ("", ["optim.epochs", "3"], "--section.key"),
        ("", ["--optim.epochs"], "no value"),
    ],
)
def test_mistakes_are_named(tmp_path, text, overrides, said):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path, text), overrides)
    assert said in str(error.value)


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(RecipeError, match="nowhere.yaml") as error:
        load_recipe(tmp_path / "here" / "nowhere.yaml")
    assert "repository" in error.value.hint


@pytest.mark.parametrize("file", sorted(REPO.glob("hub_configs/msa-*/recipe.yaml")), ids=lambda f: f.parent.name)
def test_every_recipe_of_the_project_is_usable(file):
    from medsam_adapter.training.methods import make_adapter_config

    recipe = load_recipe(file)
    assert recipe != Recipe()
    make_adapter_config(recipe.model.adapter)


def test_an_unknown_adapter_field_is_a_recipe_error():
    from medsam_adapter.training.methods import make_adapter_config

    with pytest.raises(RecipeError, match="botleneck"):
        make_adapter_config({"botleneck_ratio": 0.5})


def test_a_bare_no_is_no(tmp_path):
    """YAML 1.1 reads it as false."""
    (tmp_path / "recipe.yaml").write_text("optim: {mixed_precision: no}\n")
    assert load_recipe(tmp_path).optim.mixed_precision == "no"
    assert load_recipe(tmp_path, ["--optim.mixed_precision", "no"]).optim.mixed_precision == "no"
    with pytest.raises(RecipeError, match="mixed_precision"):
        load_recipe(tmp_path, ["--optim.mixed_precision", "yes"])


WORDS = ("runs/fold #2", "a: b", "off", "2024-01-01", "123", "007", "1e3", "[x", "{a: b}", "'q'", "null #", "-5")


@pytest.mark.parametrize("word", WORDS)
def test_text_on_the_command_line_is_taken_as_it_stands(tmp_path, word):
    recipe = load_recipe(write(tmp_path, ""), ["--run.output", word, f"--data.path={word}", "--data.split", word])
    assert (recipe.run.output, recipe.data.path, recipe.data.split) == (word, word, word)


def test_an_empty_recipe_takes_overrides(tmp_path):
    assert load_recipe(write(tmp_path, "null"), ["--data.path", "a"]).data.path == "a"


@pytest.mark.parametrize("word", ["null", ""])
def test_what_may_be_empty_is_emptied_on_the_command_line(tmp_path, word):
    file = write(tmp_path, "data: {split: a.json, channel: t1, max_val_cases: 3}")
    recipe = load_recipe(file, ["--data.split", word, "--data.channel", "", "--data.max_val_cases", "null"])
    assert (recipe.data.split, recipe.data.channel, recipe.data.max_val_cases) == (None, "", None)


@pytest.mark.parametrize("word", ["1", "007", "0x10", "1_000", "1.50", "2024-01-01", "off", "t1"])
def test_text_in_a_recipe_is_taken_as_it_is_written(tmp_path, word):
    recipe = load_recipe(write(tmp_path, f"data:\n  channel: {word}  # a comment\n  targets: [{word}, b]\n"))
    assert recipe.data.channel == word and recipe.data.targets == [word, "b"]
    assert load_recipe(write(tmp_path, recipe.to_yaml())) == recipe


def test_a_list_on_the_command_line_takes_the_place_of_that_in_the_file(tmp_path):
    file = write(tmp_path, "data: {targets: [007, 8]}")
    assert load_recipe(file, ["--data.targets", "[1, 2, c]"]).data.targets == ["1", "2", "c"]
    assert make_recipe({"data": {"channel": 1}}).data.channel == "1"


NUMBERS = sorted(
    f"{section}.{field.name}"
    for section, kind in typing.get_type_hints(Recipe).items()
    if dataclasses.is_dataclass(kind)
    for field in dataclasses.fields(kind)
    if {int, float}
    & {typing.get_type_hints(kind)[field.name], *typing.get_args(typing.get_type_hints(kind)[field.name])}
)


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_bounds(name):
    low, high = BOUNDS[name]
    section, key = name.split(".")
    for value in (low, high):
        make_recipe({section: {key: value}})
    for value in (low - 1, high + 1):
        with pytest.raises(RecipeError, match=f"{name} is out of range"):
            make_recipe({section: {key: value}})


def test_bounds_are_of_numbers_only():
    assert sorted(BOUNDS) == NUMBERS


@pytest.mark.parametrize(
    ("name", "value"),
    [("optim.minutes", 0), ("run.validate_every", 0), ("data.max_train_cases", 0), ("optim.warmup_fraction", 3)],
)
def test_what_no_run_could_mean_is_out_of_range(name, value):
    with pytest.raises(RecipeError, match=f"{name} is out of range"):
        make_recipe({name.split(".")[0]: {name.split(".")[1]: value}})


def test_a_loss_without_weights_is_refused():
    with pytest.raises(RecipeError, match="no part of the loss has a weight"):
        make_recipe({"loss": {"dice": 0, "bce": 0}})
    make_recipe({"loss": {"dice": 0, "bce": 0, "focal": 1}})
