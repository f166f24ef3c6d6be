"""`python -m benchmarks.dry_run`: what `msa train --dry-run` estimates, beside steps that were really made.

Each case runs in a process of its own: estimate, then the largest step there can be (every object on every slice, all
corrections) with random weights, twice, so that the optimiser's state is there. Measured are the resident memory that
building the model and both steps add at their peak, and the seconds of the second step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import measure_added_memory
from benchmarks.models import TINY
from benchmarks.report import Table, figure, megabytes
from medsam_adapter.adapters.config import MSAAdapterConfig
from medsam_adapter.modeling_msa import MSAModel
from medsam_adapter.pretraining.backbone import BackboneConfig, build_backbone
from medsam_adapter.training.dry_run import dry_run
from medsam_adapter.training.dry_run_meter import materialise
from medsam_adapter.training.dry_run_model import plan_model
from medsam_adapter.training.methods import make_trainable, starting_point
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.recipe import Recipe, make_recipe

GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""What makes glibc return freed memory to the system, so that resident memory is that of tensors."""
ALWAYS_THE_LARGEST = {
    "click": 1, "clicks": 0, "box": 0, "box_and_click": 0, "neighbour": 0, "max_corrections": 1,
    "correction_probability": 1,
}  # fmt: skip
DEPTH = {"use_depth": True, "bottleneck_ratio": 0.25}
VIT_B = {"base": "facebook/sam-vit-base", "image_size": 256}
BF16 = {"mixed_precision": "bf16"}
CASES: dict[str, dict[str, Any]] = {
    "sam-tiny, msa, 8 slices": {"model": {"adapter": DEPTH | {"num_slices": 8}}},
    "sam-tiny, msa, 8 slices, bf16": {"model": {"adapter": DEPTH | {"num_slices": 8}}, "optim": BF16},
    "sam-tiny, msa, 8 slices, checkpointing": {
        "model": {"adapter": DEPTH | {"num_slices": 8}}, "optim": {"gradient_checkpointing": True}
    },
    "sam-tiny, lora, 8 slices": {"model": {"method": "lora"}, "data": {"chunk_slices": 8}},
    "sam-tiny, decoder, 8 slices": {"model": {"method": "decoder"}, "data": {"chunk_slices": 8}},
    "sam-tiny, full, 8 slices": {"model": {"method": "full"}, "data": {"chunk_slices": 8}},
    "ViT-B 256 px, msa, 2 slices": {"model": VIT_B | {"adapter": DEPTH | {"num_slices": 2}}},
    "ViT-B 256 px, msa, 2 slices, bf16": {"model": VIT_B | {"adapter": DEPTH | {"num_slices": 2}}, "optim": BF16},
    "ViT-B 256 px, lora, 2 slices": {"model": VIT_B | {"method": "lora"}, "data": {"chunk_slices": 2}},
    "ViT-B 256 px, full, 2 slices": {"model": VIT_B | {"method": "full"}, "data": {"chunk_slices": 2}},
}  # fmt: skip


def recipe_of(case: str) -> Recipe:
    """The recipe of a case: one sample of two objects, the largest step always."""
    values = {"prompts": ALWAYS_THE_LARGEST} | CASES[case]
    values["optim"] = {"batch_size": 1} | values.get("optim", {})
    return make_recipe(values)


def measure(case: str) -> dict[str, float]:
    """Estimate and measurement of one case, in this process, which is a new one."""
    recipe = recipe_of(case)
    _warm_up(recipe)
    seconds = []

    def work() -> None:
        planned = plan_model(recipe)
        step = make_step(recipe, materialise(planned.model))
        for _ in range(2):
            began = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - began)

    added = measure_added_memory(work, torch.device("cpu"))
    estimate = dry_run(recipe)
    return {
        "estimated_bytes": estimate.memory.peak, "measured_bytes": added,
        "estimated_seconds": estimate.step.seconds, "measured_seconds": seconds[-1],
    }  # fmt: skip


def _warm_up(recipe: Recipe) -> None:
    """A step of a very small model: what libraries load and set up at their first call is no part of a step."""
    tiny = MSAModel.from_base(build_backbone(BackboneConfig(image_size=64, **TINY)))
    make_trainable(tiny, starting_point(recipe, None, False).config, recipe.model.method)
    make_step(recipe, tiny)()


def make_step(recipe: Recipe, model: MSAModel):
    """A step as the training loop makes it, on one sample whose objects are seen on all of its slices."""
    adapter = recipe.model.adapter or {"num_slices": recipe.data.chunk_slices}
    slices = MSAAdapterConfig(**adapter).num_slices
    size, side = model.config.vision_config.image_size, 4 * model.vision_encoder.patch_embed.num_patches**0.5
    targets = torch.zeros(1, slices, recipe.data.objects, int(side), int(side))
    targets[..., int(side) // 4 : int(side) // 2, int(side) // 4 : int(side) // 2] = 1
    pixels, mask = torch.randn(1, slices, 3, size, size), torch.ones(1, slices, dtype=torch.bool)
    objective = PromptedObjective(model, recipe.prompts, recipe.loss).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    is_bf16 = recipe.optim.mixed_precision == "bf16"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
            objective(pixels, targets, mask, (0,))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    """All cases, each in a new process, as a table."""
    parser = argparse.ArgumentParser("python -m benchmarks.dry_run", description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=list(CASES), help="one case, in this process, as JSON")
    case = parser.parse_args().case
    if case:
        print(json.dumps(measure(case)))
        return
    headers = ["step", "MB estimated", "MB measured", "ratio", "MB given back", "ratio", "s estimated", "s measured"]
    table = Table("Dry run: estimated and measured", headers)
    for name in CASES:
        found, given_back = _in_a_new_process(name, {}), _in_a_new_process(name, GIVE_BACK)
        estimated, measured = found["estimated_bytes"], (found["measured_bytes"], given_back["measured_bytes"])
        cells = [cell for size in measured for cell in (megabytes(size), f"{estimated / size:.2f}")]
        seconds = [figure(found[f"{kind}_seconds"]) for kind in ("estimated", "measured")]
        table.rows.append([name, megabytes(estimated), *cells, *seconds])
    table.notes.append(
        "Measured: resident memory added at the peak. Given back: with glibc told to keep no freed memory."
    )
    print(table.markdown())


def _in_a_new_process(case: str, environment: dict[str, str]) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.dry_run", "--case", case]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, env=os.environ | environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
