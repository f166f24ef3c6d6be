"""The range of each number of a recipe, both ends included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medsam_adapter.errors import RecipeError

MANY = 10**6
SEEDS = (0, 2**63 - 1)
SHARE = (0, 1)

BOUNDS: dict[str, tuple[float, float]] = {
    "model.image_size": (1, 2**15),
    "data.val_fraction": (0, 0.9),
    "data.test_fraction": (0, 0.9),
    "data.split_seed": SEEDS,
    "data.max_train_cases": (1, 10**9),
    "data.max_val_cases": (0, 10**9),
    "data.chunk_slices": (1, MANY),
    "data.samples_per_case": (1, MANY),
    "data.objects": (1, 1000),
    "data.workers": (0, 1000),
    **{
        f"prompts.{kind}": (0, MANY)
        for kind in (
            "click", "clicks", "box", "box_75", "box_50", "box_and_click", "neighbour", "text", "text_and_click",
        )
    },
    "prompts.max_corrections": (0, 1000),
    "prompts.correction_probability": SHARE,
    "prompts.correction_ramp": SHARE,
    "prompts.carry_slices": (0, MANY),
    **{f"text.{name}": SHARE for name in ("elsewhere", "union", "absent", "anywhere")},
    **{f"loss.{name}": (0, MANY) for name in ("dice", "bce", "focal", "carry", "empty", "score")},
    "optim.epochs": (1, MANY),
    "optim.minutes": (0.001, MANY),
    "optim.batch_size": (1, MANY),
    "optim.learning_rate": (0, 10),
    "optim.weight_decay": (0, 1000),
    "optim.warmup_fraction": SHARE,
    "optim.gradient_accumulation": (1, MANY),
    "optim.gradient_clipping": (0, 10**9),
    "run.seed": SEEDS,
    "run.validate_every": (1, 10**9),
    "run.checkpoint_every": (1, 10**9),
    "run.checkpoint_every_steps": (1, 10**9),
    "run.keep_checkpoints": (1, 1000),
}  # fmt: skip


def check_bounds(recipe: Any, file: str | Path | None) -> None:
    """Look at every number of a recipe; what is empty is left to its default.

    Raises:
        RecipeError: a number out of its range.
    """
    for name, (low, high) in BOUNDS.items():
        section, key = name.split(".")
        value = getattr(getattr(recipe, section), key)
        if value is not None and not low <= value <= high:
            raise RecipeError(f"{name} is out of range", file=file, expected=f"{low} to {high}", found=str(value))
