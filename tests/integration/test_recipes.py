"""Every training recipe of hub_configs/ is parsed and trains two steps on a miniature of its data, on sam-tiny."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from medsam_adapter import MSAModel
from medsam_adapter.data.phantom import write_phantom_dataset
from medsam_adapter.training import loop
from medsam_adapter.training.dry_run import dry_run
from medsam_adapter.training.dry_run_model import plan_model
from medsam_adapter.training.methods import WHOLE
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.recipe import Recipe, load_recipe

ROOT = Path(__file__).parents[2]
HEADER = ("What", "Data", "Launch", "Override", "Memory")
PAPER = {  # ../shared/paper: what is known of its settings
    "msa-btcv-vith": 60, "msa-amos22-vith": 60, "msa-brats-vith": 60, "msa-refuge-vith": 40, "msa-riga-vith": 40,
    "msa-thyroid-vith": 40, "msa-isic-vith": 40,
}  # fmt: skip
OTHER_DATA = {"msa-hippocampus": "msd", "msa-phantom-text": "phantom", "msa-pictures": "folder"}
"""Miniatures of recipes that leave the layout open."""


def is_training(file: Path) -> bool:
    return "model" in yaml.safe_load(file.read_text())


RECIPES = [file for file in sorted(ROOT.glob("hub_configs/*/recipe.yaml")) if is_training(file)]
every_recipe = pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.parent.name)


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """miniature(layout) -> folder with a few small cases as they are distributed; written once."""
    written: dict[str, Path] = {}

    def write(layout: str) -> Path:
        if layout not in written:
            root = tmp_path_factory.mktemp("data") / layout
            if layout == "phantom":
                write_phantom_dataset(root, 4, shape_zyx=(12, 48, 48))
            else:
                importlib.import_module(f"miniatures.{layout}").write(root)
            written[layout] = root
        return written[layout]

    return write


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def header(file: Path) -> dict[str, str]:
    """The comment lines at the top: {word: text}."""
    found: dict[str, str] = {}
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        start = re.match(r"# (\w+): +(.*)", line)
        if start:
            found[start[1]] = start[2]
        else:
            found[list(found)[-1]] += " " + line.lstrip("# ")
    return found


def test_all_recipes_of_the_issue_are_there():
    names = {file.parent.name for file in RECIPES}
    volumes, pictures = ("btcv", "amos22", "brats"), ("refuge", "riga", "thyroid", "isic")
    assert names >= {f"msa-{data}{size}" for data in (*volumes, *pictures) for size in ("", "-vith")}
    assert names >= {"medsam-btcv", "lora-btcv", "msa-hippocampus"}


@every_recipe
def test_a_recipe_says_what_it_is(file):
    recipe, name, said = load_recipe(file), file.parent.name, header(file)
    assert recipe != Recipe() and recipe.name == name and recipe.run.output == f"outputs/{name}"
    assert list(said) == list(HEADER) and all(said.values())
    assert said["Launch"].startswith(f"msa train hub_configs/{name}/recipe.yaml --data.path FOLDER")
    assert re.search(r"[\d.]+ [MG]B", said["Memory"])
    assert f"[{name}]({name}/recipe.yaml)" in (ROOT / "hub_configs/README.md").read_text()


@every_recipe
def test_a_recipe_fits_its_own_base(file):
    """Without its weights: fields of the adapter, the image size, the method."""
    recipe = load_recipe(file)
    vision = plan_model(recipe).model.config.vision_config
    assert vision.image_size == (recipe.model.image_size or vision.image_size)
    if file.parent.name in PAPER:
        assert recipe.model.base == "facebook/sam-vit-huge" and vision.image_size == 1024
        assert recipe.model.adapter["bottleneck_ratio"] == 1 / 16 and recipe.optim.epochs == PAPER[file.parent.name]
        assert recipe.model.adapter.get("num_slices") == (16 if recipe.model.adapter.get("use_depth") else None)
        assert min(recipe.prompts.click, recipe.prompts.clicks, recipe.prompts.box_75, recipe.prompts.box_50) > 0


@pytest.mark.parametrize("name", ["msa-pictures", "msa-hippocampus"])
def test_the_memory_a_recipe_states_is_that_of_a_dry_run(name, monkeypatch):
    monkeypatch.setattr("medsam_adapter.training.dry_run_parts.REPEATS", 1)
    file = ROOT / f"hub_configs/{name}/recipe.yaml"
    stated = re.match(r"about ([\d.]+) MB on a GPU, ([\d.]+) MB on a CPU", header(file)["Memory"])
    memory = dry_run(load_recipe(file)).memory
    assert [float(mb) for mb in stated.groups()] == pytest.approx(
        [memory.peak_on_gpu / 1e6, memory.peak / 1e6], rel=0.1
    )


def test_the_comparisons_have_the_same_data_and_prompts():
    msa, *others = (load_recipe(ROOT / f"hub_configs/{name}") for name in ("msa-btcv", "medsam-btcv", "lora-btcv"))
    assert [other.model.method for other in others] == ["full", "lora"]
    for other in others:
        assert other.data.chunk_slices == msa.model.adapter["num_slices"]
        other.data.chunk_slices = None
        assert (other.data, other.prompts, other.loss) == (msa.data, msa.prompts, msa.loss)
        assert (other.optim.epochs, other.optim.batch_size) == (msa.optim.epochs, msa.optim.batch_size)
        assert (other.model.base, other.model.image_size) == (msa.model.base, msa.model.image_size)


@every_recipe
def test_a_recipe_trains_two_steps_on_a_miniature(file, miniature, tmp_path, monkeypatch, quiet):
    torch.set_num_threads(1)
    told = load_recipe(file)
    data = miniature(told.data.layout if told.data.layout != "auto" else OTHER_DATA[file.parent.name])
    small = {
        "model.base": "sam-tiny", "model.image_size": 64, "data.path": data, "run.output": tmp_path / "run",
        "optim.epochs": 2, "optim.batch_size": 1, "data.samples_per_case": 1, "data.max_train_cases": 1,
        "data.max_val_cases": 1, "data.workers": 0, "run.validate_every": 2,
    }  # fmt: skip
    if told.model.adapter.get("num_slices", 0) > 6 or told.data.chunk_slices:
        small |= {"model.adapter.num_slices": 4} if told.model.method == "msa" else {"data.chunk_slices": 4}
    if file.parent.name == "msa-hippocampus":  # its own set has other structures than the miniature
        small["data.targets"] = "null"
    if file.parent.name == "msa-phantom-text":
        small |= {"data.targets": "[liver]", "data.test_fraction": 0.25}
    recipe = load_recipe(file, [f"--{key}={value}" for key, value in small.items()])
    steps = []
    original = PromptedObjective.forward
    monkeypatch.setattr(PromptedObjective, "forward", lambda *a, **k: steps.append(original(*a, **k)) or steps[-1])
    result = loop.train(recipe, show_progress=False)
    assert len(steps) == 2 and all(torch.isfinite(step["loss"]) for step in steps)
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and np.isfinite(rows[-1]["loss"])
    weights = "model.safetensors" if recipe.model.method in WHOLE else "adapter_model.safetensors"
    assert (result.folder / weights).is_file()
    if recipe.model.method not in WHOLE:
        stored = json.loads((result.folder / "adapter_config.json").read_text())
        assert stored["peft_type"] == {"msa": "MSA_ADAPTER", "lora": "LORA"}[recipe.model.method]
        for name, value in (recipe.model.adapter if recipe.model.method == "msa" else recipe.model.lora).items():
            assert stored[name] == value, name
    opened = MSAModel.from_pretrained(result.folder)
    assert opened.config.vision_config.image_size == 64 and len(opened.config.id2label) > 1
