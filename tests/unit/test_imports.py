"""Imports point one way, and importing the package costs nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import medsam_adapter

ROOT = Path(medsam_adapter.__file__).parent

# A file may import from its own row and from rows above it. The longest matching entry counts.
LAYERS = [
    ["__init__", "errors", "losses", "backbones", "data/sample", "prompts/types",
     "baselines/names", "writing", "file_locks", "native"],
    ["data", "prompts", "adapters"],
    ["configuration_msa", "image_size", "frozen_features", "several_adapters", "model_opening",
     "model_saving", "processor_settings", "hub/commit", "hub/push_model",
     "evaluation/metrics", "evaluation/results",
     "evaluation/files", "evaluation/grids", "evaluation/tables", "evaluation/overlays", "evaluation/sheets",
     "training/recipe", "training/recipe_bounds", "training/recipe_reading", "training/schedule", "training/checkpoint",
     "training/processes", "training/sharded", "training/run_lock",
     "training/interruption"],
    ["modeling_msa", "processing_msa"],
    ["data/loader", "baselines", "inference", "pretraining", "training/objective", "training/run_folder"],
    ["evaluation", "training/methods", "training/setup"],
    ["hub"],
    ["training", "comparison", "demo"],
    ["cli"],
]  # fmt: skip
SAME_ROW_STRANGERS = {("data", "adapters"), ("adapters", "data"), ("prompts", "adapters"), ("adapters", "prompts")}


def names() -> list[str]:
    return sorted(str(p.relative_to(ROOT).with_suffix("")) for p in ROOT.rglob("*.py"))


def layer_of(name: str) -> tuple[int, str]:
    matches = [
        (len(e), row, e) for row, entries in enumerate(LAYERS) for e in entries if name == e or name.startswith(e + "/")
    ]
    assert matches, f"{name}.py stands in no row of LAYERS"
    _, row, entry = max(matches)
    return row, entry


def imported(name: str) -> set[str]:
    """Files of the package that a file imports, at its top or in a function."""
    package = ["medsam_adapter", *name.split("/")[:-1]]
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            base = [] if not node.level else package[: len(package) - node.level + 1]
            parts = base + (node.module.split(".") if node.module else [])
            modules = [[*parts, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        else:
            continue
        for module in modules:
            if module[0] != "medsam_adapter":
                continue
            path = "/".join(module[1:])
            while path and not (ROOT / f"{path}.py").exists() and not (ROOT / path / "__init__.py").exists():
                path = path.rpartition("/")[0]
            if (ROOT / path / "__init__.py").exists():
                path = f"{path}/__init__" if path else "__init__"
            found.add(path)
    return found


@pytest.mark.parametrize("name", names())
def test_imports_point_one_way(name):
    row, entry = layer_of(name)
    for other in sorted(imported(name)):
        other_row, other_entry = layer_of(other)
        assert other_row <= row, f"{name}.py (row {row}) imports {other}.py (row {other_row})"
        assert (entry, other_entry) not in SAME_ROW_STRANGERS, f"{name}.py imports {other}.py"


def test_no_circles():
    graph = {name: imported(name) for name in names()}
    done: set[str] = set()

    def walk(name, path):
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph[name] - {name}:
                walk(other, [*path, name])
            done.add(name)

    for name in graph:
        walk(name, [])


def test_importing_the_package_imports_no_torch():
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import medsam_adapter; print(dir(medsam_adapter))"],
        capture_output=True, text=True, check=True, cwd=ROOT.parent,
    )  # fmt: skip
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in run.stderr.splitlines() if "|" in line}
    assert "medsam_adapter" in loaded and "MSAModel" in run.stdout
    assert not loaded & {"torch", "transformers", "peft", "numpy", "nibabel", "scipy", "monai"}


def test_every_public_name_is_there():
    for name in medsam_adapter.__all__:
        assert getattr(medsam_adapter, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        medsam_adapter.nothing  # noqa: B018
