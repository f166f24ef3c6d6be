"""A Hub on localhost, and a finished run without the training."""

from __future__ import annotations

import json

import pytest

from fake_hub import FakeHub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with FakeHub() as hub:
        hub.serve_here(monkeypatch, tmp_path / "hf")
        yield hub


@pytest.fixture
def shipped(tiny_base, monkeypatch):
    """The tiny base under the name of the shipped one, so that adapters on it open anywhere."""
    from medsam_adapter import backbones

    monkeypatch.setitem(backbones.EMBEDDED, "sam-tiny", tiny_base)
    return "sam-tiny"


@pytest.fixture
def make_run(randomise, tmp_path):
    """make_run(name, base, ...) -> a run folder as `msa train` leaves it, checkpoint included."""
    from medsam_adapter.adapters.config import MSAAdapterConfig
    from medsam_adapter.modeling_msa import MSAModel
    from medsam_adapter.processing_msa import MSAProcessor
    from medsam_adapter.training.recipe import make_recipe

    def make(name: str = "msa-liver", base="sam-tiny", val_dice: float | None = 0.81, seed: int = 1, labels=None,
             intensity: str = "percentile", **adapter):  # fmt: skip
        folder = tmp_path / "runs" / name
        recipe = make_recipe(
            {
                "name": name,
                "model": {"base": str(base), "adapter": {"bottleneck_ratio": 0.25, **adapter}},
                "data": {"path": "/home/doctor/secret project/scans", "intensity": intensity, "split": "my/split.json"},
                "run": {"output": f"outputs/deep/{name}"},
            }
        )
        config = MSAAdapterConfig(**{"bottleneck_ratio": 0.25, "num_slices": 4, **adapter})
        labels = {0: "background", 1: "liver", 2: "spleen"} if labels is None else labels
        model = MSAModel.from_base(base, config, id2label=labels)
        randomise(randomise(model, seed), seed, only="modules_to_save").save_pretrained(folder)
        MSAProcessor.from_model(model, intensity=intensity).save_pretrained(folder)
        rows = [{"epoch": 1, "seconds": 1800.0}, {"epoch": 2, "seconds": 3600.0}, {"epoch": 3, "seconds": 5400.0}]
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for file in ("checkpoint.pt", "checkpoints/step-00000009/weights.safetensors", "nonfinite/batch_0.safetensors"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(b"optimizer state")
        for file, content in {
            "best": {"epoch": 2, "val_dice": val_dice},
            "versions": {"python": "3.11.7", "torch": "2.13.0", "hardware": "2 CPU cores (Test)"},
            "split": {"train": ["a", "b"], "val": ["c"], "test": []},
            "data": {
                "name": "Livers", "layout": "folder", "modality": "CT", "licence": "CC BY 4.0", "citation": "Doe 2020",
                "targets": ["liver", "spleen"], "cases": {"train": 2, "val": 1, "test": 0},
                "path": "/home/doctor/secret project/scans",
            },
        }.items():  # fmt: skip
            (folder / f"{file}.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture
def add_result():
    """add_result(run, model=None, dice=0.7, sha256=None, **settings) -> the folder of an evaluation in the run."""
    from medsam_adapter.evaluation.metrics import MaskMetrics
    from medsam_adapter.evaluation.model_hash import model_sha256
    from medsam_adapter.evaluation.results import CaseResult, EvaluationResult

    def add(run, model: str | None = None, dice: float = 0.7, sha256: str | None = None, folder: str = "evaluation",
            **more):  # fmt: skip
        cases = [
            CaseResult(
                "c1", target, MaskMetrics(dice + shift, dice / 2, 3.0, 9, 10), {"points": [[1.0, 2.0, 3.0]]}, 0.5
            )
            for target, shift in (("liver", 0.1), ("spleen", -0.1))
        ]
        settings = {
            "protocol": "1-point", "per": "volume", "seed": 3, "data": "/home/doctor/secret project/scans",
            "dataset": "Livers", "part": "test", "model_sha256": sha256 or model_sha256(run), **more,
        }  # fmt: skip
        result = EvaluationResult(model or run.name, "1-point per volume", cases, settings)
        (run / folder).mkdir(parents=True, exist_ok=True)
        (run / folder / "best_median_worst.png").write_bytes(b"a patient")
        return result.save(run / folder)

    return add
