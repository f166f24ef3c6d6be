"""The run folder: an adapter-only Hub repo from the first validation on, with what made it.

`config.json`, `adapter_config.json`, `adapter_model.safetensors`, `preprocessor_config.json`, `README.md` (the card),
`recipe.yaml` as resolved, `versions.json`, `split.json`, `metrics.jsonl`; and `checkpoint.pt`, which is not for the
Hub.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

from medsam_adapter.training.recipe import Recipe

PACKAGES = ("medsam-adapter", "torch", "transformers", "peft", "accelerate", "monai", "numpy", "nibabel")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            from medsam_adapter import __version__

            found[package] = __version__ if package == "medsam-adapter" else "not installed"
    return found


def start_run(folder: Path, recipe: Recipe) -> None:
    """Make the folder and write what is known before the first step."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    (folder / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")


def log_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Append a line to metrics.jsonl."""
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def truncate_metrics(folder: Path, epoch: int) -> None:
    """Drop lines of epochs that a resumed run will write again."""
    file = folder / "metrics.jsonl"
    if file.exists():
        kept = [line for line in file.read_text().splitlines() if json.loads(line)["epoch"] <= epoch]
        file.write_text("".join(line + "\n" for line in kept))
