"""The run folder: an adapter-only Hub repo from the first validation on, with what made it.

`config.json`, `adapter_config.json`, `adapter_model.safetensors` (all weights, as `model.safetensors`, where SAM's own
are trained), `preprocessor_config.json`, `README.md` (the card), `recipe.yaml` as resolved, `data.json` (what was known
of the data set, and where it lay), `versions.json`, `split.json`, `metrics.jsonl`; and `checkpoints/`, which are not
for the Hub.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medsam_adapter.data.layouts import LAYOUTS, Dataset
from medsam_adapter.training.checkpoint import has_checkpoint
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.writing import naming_write_errors, write_text

METRICS, BEST = "metrics.jsonl", "best.json"
MODEL_FILES = (
    "adapter_model.safetensors", "adapter_config.json", "model*.safetensors", "model.safetensors.index.json",
    "network.safetensors", "network.json", "config.json", "preprocessor_config.json", "README.md",
)  # fmt: skip
"""What a validation leaves, whatever was trained, `best.json` aside."""
FACTS = ("recipe.json", "data.json", "split.json", "log.jsonl", "skipped.jsonl", BEST)
"""What else trainings and pre-trainings write that may outlive them; recipe.yaml may be what a run is started with."""
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


def hardware() -> str:
    """What this process computes on, in words: "1 x NVIDIA H100", "8 CPU cores (AMD EPYC 7B13)"."""
    if torch.cuda.is_available():
        count = int(os.environ.get("WORLD_SIZE", 1))
        return f"{count} x {torch.cuda.get_device_name()}"
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = names[0] if names else platform.processor() or platform.machine()
    return f"{torch.get_num_threads()} CPU cores ({model})"


def data_facts(dataset: Dataset, cases: Mapping[str, int]) -> dict[str, Any]:
    """What is known of the data, for the model card, and where it lay, for evaluations.

    `path` is absolute, since that of the recipe counts from the folder in which the training was started; empty for
    data of the Hub. Publishing leaves only its last part.

    Args:
        cases: {part: number of cases that the run uses}; a split may name more.
    """
    layout = LAYOUTS[dataset.layout].INFO if dataset.layout in LAYOUTS else None
    root = Path(dataset.root)  # an address on the Hub is a pure path, which knows no disk
    return {
        "name": dataset.name,
        "path": str(root.resolve()) if root.is_dir() else "",
        "layout": dataset.layout,
        "modality": dataset.modality,
        "licence": dataset.licence,
        "citation": layout.citation if layout else "",
        "targets": list(dataset.targets),
        "cases": dict(cases),
    }


def clear_run(folder: Path) -> None:
    """Remove model, card, metrics and facts of an earlier run of any kind: they would stand beside the new recipe.

    Checkpoints stay; while they are there they also tell that there was a run.

    Raises:
        OutputError: files that cannot be removed.
    """
    with naming_write_errors(folder):
        (folder / METRICS).unlink(missing_ok=True)
        is_run = (folder / BEST).is_file() or any(folder.glob("*.safetensors")) or has_checkpoint(folder)
        if is_run:
            for file in [file for pattern in (*MODEL_FILES, *FACTS) for file in folder.glob(pattern)]:
                file.unlink(missing_ok=True)


def start_run(folder: Path, recipe: Recipe, dataset: Dataset, cases: Mapping[str, int]) -> None:
    """Make the folder and write what is known before the first step.

    Args:
        cases: see `data_facts`.

    Raises:
        OutputError: a full disk, or a place that cannot be written to.
    """
    with naming_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "recipe.yaml", recipe.to_yaml())
    write_text(folder / "data.json", json.dumps(data_facts(dataset, cases), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "versions.json", json.dumps(versions() | {"hardware": hardware()}, indent=1) + "\n")


def log_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Append a line to metrics.jsonl. Raises OutputError as `start_run`."""
    with naming_write_errors(folder / METRICS), (folder / METRICS).open("a") as file:
        file.write(json.dumps(row) + "\n")


def truncate_metrics(folder: Path, epoch: int) -> None:
    """Drop lines of epochs that a resumed run will write again."""
    truncate_log(folder / METRICS, "epoch", epoch)


def truncate_log(file: Path, key: str, last: int) -> None:
    """Keep the lines of a log of JSON objects whose `key` is at most `last`: no later ones, and no half ones, which a
    full disk or a kill has left."""
    if file.exists():
        lines = file.read_text(encoding="utf-8").splitlines()
        write_text(file, "".join(line + "\n" for line in lines if _number_in(line, key) <= last))


def _number_in(line: str, key: str) -> float:
    """Infinity for half a line."""
    try:
        return json.loads(line)[key]
    except (ValueError, KeyError, TypeError):
        return math.inf
