"""The recipe of self-supervised pre-training; as in `training.recipe`, the text under a field is its help."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from medsam_adapter.errors import RecipeError
from medsam_adapter.training.recipe_reading import load_yaml


@dataclass
class ObjectiveWeights:
    emix: float = 1.0
    """Weight of e-Mix; 0 switches an objective off, and it is not computed."""
    shed: float = 1.0
    """Weight of ShED."""
    mae: float = 1.0
    """Weight of MAE."""
    stay: float = 0.0
    """Weight of the distance to the starting encoder, which keeps SAM's frozen decoder able to read the embeddings."""


@dataclass
class SslRecipe:
    """All that makes a pre-trained encoder."""

    base: str = "sam-tiny"
    """Where it starts: sam-tiny (ships with the package), a Hub id such as facebook/sam-vit-base, or a folder."""
    train: str = "encoder"
    """encoder: the whole image encoder, the result is a SAM; adapters: MSA adapters in it, the result is an adapter."""
    adapter: dict[str, Any] = field(default_factory=dict)
    """Fields of MSAAdapterConfig, for train: adapters."""
    image_size: int | None = None
    """Side of the model frame in pixels, a multiple of the patch; the base's own if empty."""
    gradient_checkpointing: bool = False
    """Recompute the encoder's activations in the backward pass: less memory, more time."""
    sources: list[dict[str, Any]] = field(default_factory=list)
    """Where pictures come from, one table each, see pretraining.sources: kind, weight (1 if not given) and its keys."""
    augment: bool = True
    """Random changes of the pictures."""
    workers: int = 1
    """Processes that read pictures, for each training process."""
    weights: ObjectiveWeights = field(default_factory=ObjectiveWeights)
    temperature: float = 0.2
    """e-Mix: divides the similarities."""
    projection_width: int = 128
    """e-Mix: length of the projected vectors."""
    shuffle_fraction: float = 0.15
    """ShED: share of a picture's tokens that change places."""
    mask_ratio: float = 0.6
    """MAE: share of a picture's patches that are masked."""
    decoder_width: int = 128
    """MAE: channels of the decoder."""
    decoder_depth: int = 2
    """MAE: blocks of the decoder."""
    steps: int = 10_000
    """Optimisation steps in all."""
    batch_size: int = 32
    """Pictures in a step of one process."""
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Weight decay of AdamW, on matrices and kernels only."""
    warmup_fraction: float = 0.05
    """Share of the steps with a rising learning rate; cosine decay follows."""
    gradient_clipping: float = 1.0
    """Largest norm of the gradient; 0 switches clipping off."""
    mixed_precision: str = "no"
    """no, bf16 or fp16."""
    seed: int = 0
    """Seed of new weights, of the pictures' order and of what the objectives draw."""
    log_every: int = 10
    """Steps that one line of log.jsonl sums up."""
    checkpoint_every: int = 500
    """Steps between checkpoints, which also write the model."""
    check_every: int = 500
    """Steps between looks for collapse; 0 for none."""
    check_pictures: int = 128
    """Pictures that are looked at."""
    collapse_fraction: float = 0.5
    """Warn if effective rank or spread fall below this share of the starting encoder's."""

    def to_yaml(self) -> str:
        """Every value, defaults included."""
        return yaml.safe_dump(dataclasses.asdict(self), sort_keys=False)


def load_ssl_recipe(path: str | Path, overrides: Sequence[str] = ()) -> SslRecipe:
    """Read a recipe and apply command line overrides; errors as `load_yaml` and `check_ssl_recipe`."""
    recipe = load_yaml(SslRecipe, path, overrides)
    check_ssl_recipe(recipe, path)
    return recipe


def check_ssl_recipe(recipe: SslRecipe, file: str | Path | None = None) -> None:
    """Look at values before anything is opened.

    Raises:
        RecipeError: a value out of its range, no objective, no sources, adapter fields without adapters, or a batch of
            one picture with e-Mix.
    """
    weights = dataclasses.asdict(recipe.weights)
    huge, tiny = 10**9, 1e-9
    bounds = [
        *((f"weights.{name}", value, 0, huge) for name, value in weights.items()),
        *((name, getattr(recipe, name), tiny, 1 - tiny) for name in ("shuffle_fraction", "mask_ratio")),
        *((name, getattr(recipe, name), 0, 1) for name in ("warmup_fraction", "collapse_fraction")),
        *((name, getattr(recipe, name), 0, huge) for name in ("weight_decay", "gradient_clipping", "check_every")),
        *((name, getattr(recipe, name), 0, huge) for name in ("workers", "decoder_depth", "seed")),
        *(
            (name, getattr(recipe, name), 1, huge)
            for name in ("projection_width", "decoder_width", "steps", "batch_size", "log_every", "checkpoint_every")
        ),
        ("temperature", recipe.temperature, tiny, huge),
        ("learning_rate", recipe.learning_rate, tiny, 10),
        ("check_pictures", recipe.check_pictures, 2, huge),
    ]
    for name, value, low, high in bounds:
        if not low <= value <= high:  # NaN is in no range either
            expected = "between 0 and 1" if (low, high) == (tiny, 1 - tiny) else f"{low:g} to {high:g}"
            raise RecipeError(f"{name} is out of range", file=file, expected=expected, found=str(value))
    for name, choices in (("train", ("encoder", "adapters")), ("mixed_precision", ("no", "bf16", "fp16"))):
        if getattr(recipe, name) not in choices:
            raise RecipeError(
                f"{name} is not one of its values", file=file, expected=", ".join(choices),
                found=str(getattr(recipe, name)),
            )  # fmt: skip
    if not any(weights.values()):
        raise RecipeError(
            "all weights are 0, so there is nothing to learn", file=file,
            expected=f"one of {', '.join(weights)} above 0", found=str(weights),
            hint="leave `weights` out for e-Mix, ShED and MAE at 1",
        )  # fmt: skip
    if recipe.weights.emix and recipe.batch_size < 2:
        raise RecipeError(
            "e-Mix mixes pictures of a batch", file=file, expected="batch_size of 2 or more, the larger the better",
            found=str(recipe.batch_size), hint="or switch it off with --weights.emix 0",
        )  # fmt: skip
    if recipe.adapter and recipe.train != "adapters":
        raise RecipeError(
            "`adapter` is for train: adapters", file=file, expected="train: adapters", found=f"train: {recipe.train}"
        )
    if not recipe.sources:
        raise RecipeError(
            "the recipe names no pictures", file=file, expected="sources: a list of tables", found="none",
            hint="sources: [{kind: folder, path: FOLDER}]; see hub_configs/ssl-tiny in the project's repository",
        )  # fmt: skip
