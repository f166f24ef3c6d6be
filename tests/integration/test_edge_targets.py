"""Targets and images at the edge of what there can be: empty, one voxel, one grey value, one slice. All of it trains,
validates, predicts and is scored."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from medsam_adapter.cli.models import open_predictor
from medsam_adapter.data.layouts import open_dataset
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.training import loop
from medsam_adapter.training.recipe import make_recipe


@pytest.fixture(autouse=True)
def fresh_accelerator():
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def scan(rng, shape):
    return rng.integers(-100, 200, shape).astype(np.int16)


def box(shape):
    labels = np.zeros(shape, np.uint8)
    labels[shape[0] // 3 : shape[0] // 3 + 2, 20:40, 16:44] = 1
    return labels


def voxel(shape, at=(0.5, 0.37, 0.71)):
    labels = np.zeros(shape, np.uint8)
    labels[tuple(int(part * size) for part, size in zip(at, shape, strict=True))] = 1
    return labels


VOLUME, LARGE, SLICE = (6, 48, 56), (5, 300, 260), (1, 48, 56)
SETS = {
    "every other case is empty": lambda rng, n: (scan(rng, VOLUME), box(VOLUME) if n % 2 else box(VOLUME) * 0),
    "the validation case is empty": lambda rng, n: (scan(rng, VOLUME), box(VOLUME) if n == 2 else box(VOLUME) * 0),
    "one voxel": lambda rng, n: (scan(rng, VOLUME), voxel(VOLUME)),
    "one voxel of many": lambda rng, n: (scan(rng, LARGE), voxel(LARGE)),
    "one voxel in a corner": lambda rng, n: (scan(rng, LARGE), voxel(LARGE, (0, 0, 0))),
    "one grey value": lambda rng, n: (np.full(VOLUME, 40, np.int16), box(VOLUME)),
    "nothing but zeros": lambda rng, n: (np.zeros(VOLUME, np.uint8), box(VOLUME)),
    "one slice": lambda rng, n: (scan(rng, SLICE), box(SLICE)),
    "one slice of a volume": lambda rng, n: (scan(rng, SLICE), box(SLICE)),
    "one slice, one grey value, one voxel": lambda rng, n: (np.full(SLICE, 7, np.uint8), voxel(SLICE)),
}
KINDS_OF_METHOD = {
    "msa": {"method": "msa", "adapter": {"bottleneck_ratio": 0.25, "num_slices": 4}},
    "decoder": {"method": "decoder"},
    "resunet": {"method": "resunet", "size": "tiny"},
    "nnunet": {"method": "nnunet", "size": "tiny"},
}
RUNS = [(name, method) for method in ("msa", "resunet") for name in SETS]
RUNS += [(name, method) for method in ("decoder", "nnunet") for name in ("one voxel of many", "nothing but zeros")]


def write(root, name):
    (root / "images").mkdir(parents=True)
    (root / "labels.json").write_text('{"1": "lesion"}')
    rng = np.random.default_rng(0)
    for number in range(4):
        image, label = SETS[name](rng, number)
        place = {"affine": np.diag([1.0, 1.0, 3.0, 1.0])} if "volume" in name else {"spacing_mm": (3.0, 1.0, 1.0)}
        np.savez(root / f"images/{number}.npz", image=image, label=label, **place)
    (root / "split.json").write_text(json.dumps({"train": ["0", "1", "2"], "val": ["3"], "test": []}))
    return root


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), RUNS)
def test_it_trains_and_is_scored(tiny_base, tmp_path, name, method):
    root = write(tmp_path / "set", name)
    recipe = make_recipe(
        {
            "model": {"base": str(tiny_base), **KINDS_OF_METHOD[method]},
            "data": {
                "path": str(root), "split": str(root / "split.json"), "samples_per_case": 2, "flip": True,
                "intensity": "percentile",
            },
            "prompts": {"click": 0.3, "clicks": 0.3, "box": 0.3, "neighbour": 0.3, "correction_probability": 1.0},
            "optim": {"epochs": 1, "batch_size": 1},
            "run": {"output": str(tmp_path / "run")},
        }
    )  # fmt: skip
    result = loop.train(recipe, show_progress=False)
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert math.isfinite(row["loss"]) and ("dice" in row) == (method in ("msa", "decoder"))  # something was clicked
    assert (tmp_path / "run" / "best.json").exists()
    predictor, dataset = open_predictor(str(result.folder)), open_dataset(root)
    for protocol in ("1-point", "box") if method in ("msa", "decoder") else ("1-point",):
        found = evaluate(predictor, dataset, dataset.cases, model_name="m", protocol=protocol)
        assert not any(math.isinf(row.metrics.dice) for row in found.cases)
        found.summary()
        found.save(tmp_path / protocol)


@pytest.mark.parametrize("name", SETS)
def test_a_click_is_answered(tiny_base, tmp_path, name):
    from medsam_adapter import MSAAdapterConfig, MSAModel, MSAPredictor, MSAProcessor

    model = MSAModel.from_base(tiny_base, MSAAdapterConfig(bottleneck_ratio=0.25, use_depth=True, num_slices=4))
    predictor = MSAPredictor(model, MSAProcessor.from_model(model, intensity="percentile"), device="cpu")
    dataset = open_dataset(write(tmp_path / "set", name))
    for case in dataset.cases:
        sample = dataset.read(case)
        predictor.set_volume(sample.scan)
        where = np.argwhere(sample.labels)
        z, y, x = where[0] if len(where) else (0, 0, 0)
        logits = predictor.predict(points=[[int(x), int(y), int(z)]], labels=[1], return_logits=True)
        shape = sample.scan.shape_zyx if sample.scan.is_volume else sample.scan.shape_zyx[1:]
        assert logits.shape == shape and np.isfinite(logits).all()
