"""A run folder whose files are broken is named before any model is opened."""

from __future__ import annotations

import pytest

from medsam_adapter.cli.evaluate_cases import choose_cases, picture_settings
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.errors import CheckpointError, DataError, RecipeError
from miniatures import folder, refuge


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (None, "no such recipe"),
        ("data: [", "not YAML"),
        ("- data", "not a table"),
        ("name: msa", "does not say"),
        ("data: {path: 3, layout: auto}", "does not say"),
        ("data: here", "does not say"),
    ],
)
def test_a_recipe_that_does_not_name_its_data(tmp_path, recipe, said):
    (tmp_path / "split.json").write_text("{}")
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
    with pytest.raises(RecipeError, match=said) as error:
        choose_cases([str(tmp_path)], None)
    assert error.value.file == tmp_path / "recipe.yaml"


def test_a_recipe_of_another_version_still_names_its_data(tmp_path):
    folder.write(tmp_path / "data")
    run = tmp_path / "run"
    run.mkdir()
    (run / "split.json").write_text("{}")
    (run / "recipe.yaml").write_text(f"data: {{path: {tmp_path / 'data'}, layout: folder, of_tomorrow: 1}}")
    with pytest.raises(DataError, match="no test cases"):
        choose_cases([str(run)], None)
    assert len(choose_cases([str(run)], None, part="all").cases) > 1


@pytest.mark.parametrize(
    ("learned", "expected"),
    [
        ("[optic cup]", ["optic cup"]),
        ("null", None),
        ("[optic cup, optic disc]", None),
        ("[liver]", None),
        ("[3]", None),
    ],
)
def test_targets_are_those_that_the_run_has_learned(tmp_path, learned, expected):
    """Of what it was never shown, its figures say nothing. Other data is asked for all that it has."""
    for name in ("data", "other"):
        refuge.write(tmp_path / name)
    run = tmp_path / "run"
    run.mkdir()
    (run / "split.json").write_text("{}")
    (run / "recipe.yaml").write_text(f"data: {{path: {tmp_path / 'data'}, layout: refuge, targets: {learned}}}")
    assert choose_cases([str(run)], None, part="all").targets == expected
    assert choose_cases([str(run)], tmp_path / "data", part="all").targets == expected
    assert choose_cases([str(run)], tmp_path / "other", part="all").targets is None


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_how_scans_are_prepared_that_cannot_be_read(tmp_path, text):
    folder.write(tmp_path / "data")
    (tmp_path / "preprocessor_config.json").write_text(text)
    given = {"intensity": None, "window": None, "orientation": None}
    with pytest.raises(CheckpointError, match="preprocessor_config.json cannot be read"):
        picture_settings([str(tmp_path)], open_dataset(tmp_path / "data", require_labels=False), given)
