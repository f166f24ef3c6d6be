"""`msa compare RECIPE --methods sam,lora,msa,nnunet --budget 20m`: what a user would pick instead, in one table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer


def compare_command(
    context: typer.Context,
    recipe: Annotated[Path | None, typer.Argument(help="recipe.yaml, or a folder that holds one.")] = None,
    methods: Annotated[str, typer.Option(help="Names from --list, by commas.")] = "all",
    budget: Annotated[str, typer.Option(help="Training time of each method: 20m, 90s, 2h; else the recipe's.")] = "",
    epochs: Annotated[int | None, typer.Option(min=1, help="In place of --budget: passes over the cases.")] = None,
    size: Annotated[str, typer.Option(help="Of the networks: published, small (minutes on a CPU) or tiny.")] = "small",
    part: Annotated[str, typer.Option(help="Part of the split that is scored.")] = "test",
    max_cases: Annotated[int | None, typer.Option(min=1, help="Score at most so many cases.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the prompts.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs, results and the table.")] = Path(
        "outputs/compare"
    ),
    show_list: Annotated[bool, typer.Option("--list", help="Name the methods and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print table and outcomes as JSON.")] = False,
) -> None:
    """Train and score methods on one split with one protocol and one budget, and print them in one table.

    Any value of the recipe can be given as --section.key VALUE, for all methods. A method that is done is not done
    again, one that was interrupted goes on, one that fails gets its reason in the table.

    Example: msa compare hub_configs/msa-hippocampus --data.path Task04 --methods sam,lora,msa,nnunet --budget 5m
    """
    from rich.console import Console
    from transformers.utils import find_adapter_config_file

    from medsam_adapter.backbones import resolve_base
    from medsam_adapter.comparison.contestants import CONTESTANTS, ZERO_SHOT, chosen
    from medsam_adapter.comparison.data_state import data_state
    from medsam_adapter.comparison.runs import run_method
    from medsam_adapter.comparison.table import comparison_grid
    from medsam_adapter.data.splits import save_split
    from medsam_adapter.errors import RecipeError
    from medsam_adapter.evaluation.exports import write_tables
    from medsam_adapter.evaluation.grids import print_grid
    from medsam_adapter.evaluation.published.protocols import protocol_of_layout
    from medsam_adapter.training.recipe import load_recipe
    from medsam_adapter.training.recipe_reading import EXAMPLES
    from medsam_adapter.training.setup import open_data

    if show_list:
        for name, method in CONTESTANTS.items():
            typer.echo(f"{name:<14}{method.group:<17}{method.title}: trains {method.what}")
        return
    if recipe is None:
        raise RecipeError("there is no recipe to compare by", expected="msa compare RECIPE", hint=EXAMPLES)
    names = chosen(methods)
    loaded = load_recipe(recipe, context.args)
    if find_adapter_config_file(resolve_base(loaded.model.base)) is not None:
        raise RecipeError(
            "methods are compared from one SAM, and model.base is an adapter", file=recipe, expected="a SAM",
            found=loaded.model.base, hint="--model.base sam-tiny, or the SAM that the adapter was trained on",
        )  # fmt: skip
    data = open_data(loaded.data)
    scored = _scored(data, part)[:max_cases]
    if not scored:
        filled = ", ".join(name for name in data.split if _scored(data, name))
        raise RecipeError(
            f"the split has no {part} cases to score", file=recipe, expected=filled, found=part,
            hint="set data.test_fraction, or choose --part",
        )  # fmt: skip
    output.mkdir(parents=True, exist_ok=True)
    split = save_split(output / "split.json", data.split).resolve()
    resolved = output / "recipe.yaml"
    resolved.write_text(loaded.to_yaml())
    common = {
        "data.split": str(split), "data.max_val_cases": 0, "model.size": size, "run.validate_every": 10**9,
        **_length(budget, epochs),
    }  # fmt: skip
    evaluation = _evaluation_options(loaded.data, split, part, seed, max_cases)
    pictures = _picture_options(loaded, data.dataset)
    state = data_state(data.dataset, data.split)
    cases = f"{len(scored)} {part} case{'s' if len(scored) > 1 else ''}"
    title = f"{data.dataset.name}, {cases}, {_length_in_words(loaded.optim, budget, epochs)} each"
    outcomes = {}
    for number, name in enumerate(names, 1):
        say = lambda what, number=number: typer.echo(f"{number}/{len(names)}  {what}", err=True)  # noqa: E731
        is_sam = CONTESTANTS[name].group == ZERO_SHOT
        words = [*evaluation, *(pictures if is_sam else [])]
        outcomes[name] = run_method(name, resolved, common, words, loaded.model.base, output, say, state)
        if outcomes[name].failed:
            say(f"{name} failed: {outcomes[name].failed}")
        # After each method, so that a look is possible at any time and nothing is lost.
        grid = comparison_grid(outcomes, title, protocol_of_layout(data.dataset.layout))
        write_tables(output, [grid])
    if as_json:
        facts = {"seed": seed, "budget": budget, "epochs": epochs, "size": size}
        typer.echo(json.dumps(_as_json(grid, outcomes, facts), indent=1))
    else:
        print_grid(grid, Console())
        typer.echo(f"runs, results and tables in {output}")


def _length(budget: str, epochs: int | None) -> dict[str, float | int | None]:
    """Overrides of the recipe for a budget such as 20m, or a number of epochs."""
    from medsam_adapter.errors import RecipeError

    if budget and epochs:
        raise RecipeError("a run is as long as --budget or as --epochs says", expected="one of them", found="both")
    if epochs:
        return {"optim.epochs": epochs, "optim.minutes": None}
    if not budget:
        return {}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", budget)
    if not match or not float(match[1]):
        raise RecipeError("--budget is no time", expected="90s, 20m or 2h", found=budget)
    return {"optim.minutes": float(match[1]) * {"s": 1 / 60, "m": 1, "h": 60}[match[2]]}


def _length_in_words(optim, budget: str, epochs: int | None) -> str:
    """How long each method is trained: as the options say, else as the recipe's section `optim` does."""
    if budget or (optim.minutes and not epochs):
        return budget or f"{optim.minutes:g} min"
    count = epochs or optim.epochs
    return f"{count} epoch{'s' if count > 1 else ''}"


def _scored(data, part: str) -> list[str]:
    """Ids of the cases of a part of the split that have a reference."""
    labelled = {case.case_id for case in data.dataset.labelled}
    return [case_id for case_id in data.split.get(part, ()) if case_id in labelled]


def _evaluation_options(data, split: Path, part: str, seed: int, max_cases: int | None) -> list[str]:
    """What is scored, the same for every method; `data` is the recipe's section."""
    words = ["--data", data.path, "--layout", data.layout, "--channel", data.channel]
    words += ["--split", str(split), "--part", part]
    words += ["--seed", str(seed), *(["--max-cases", str(max_cases)] if max_cases else [])]
    return words + [word for name in data.targets or () for word in ("--target", name)]


def _as_json(grid, outcomes: dict, facts: dict) -> dict:
    from medsam_adapter.training.run_folder import versions

    headings = ["method", "prompts", *(heading.text for heading in grid.headings)]
    rows = [dict(zip(headings, [cell.text for cell in (*r.names, *r.cells)], strict=True)) for r in grid.rows]
    found = {name: vars(outcome) for name, outcome in outcomes.items()}
    return {"title": grid.title, "versions": versions(), **facts, "rows": rows, "outcomes": found}


def _picture_options(recipe, dataset) -> list[str]:
    """How SAM as it is sees the scans: as the recipe says for the others."""
    data = recipe.data
    if data.window_hu:
        words = ["--window", ",".join(f"{value:g}" for value in data.window_hu)]
    else:
        intensity = data.intensity or dataset.intensity
        words = ["--intensity", intensity] if intensity else []
    orientation, size = data.orientation or dataset.orientation, recipe.model.image_size
    words += ["--image-size", str(size)] if size else []
    return [*words, *(["--orientation", orientation] if orientation else [])]
