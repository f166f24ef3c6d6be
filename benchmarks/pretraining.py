"""`python -m benchmarks.pretraining DATA`: what self-supervised pre-training is worth with few labels.

sam-tiny's encoder is pre-trained on the unlabelled slices and pictures of DATA (the hippocampus volumes of the training
part only), then an adapter is trained with 8 labelled hippocampus volumes from that base, and, for comparison, from
sam-tiny as it ships. Same recipe, same volumes, three seeds; one click for each structure and volume on the 20 test
volumes. Figures come from the results.json files that this writes; what is there already is not made again, so that the
arms can run side by side.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

from accelerate.state import AcceleratorState
from transformers.utils import logging

from medsam_adapter.data.splits import save_split
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.pretraining.ssl import pretrain_ssl
from medsam_adapter.pretraining.ssl_recipe import load_ssl_recipe
from medsam_adapter.training.checkpoint import has_checkpoint
from medsam_adapter.training.loop import train
from medsam_adapter.training.recipe import Recipe, load_recipe
from medsam_adapter.training.run_folder import versions
from medsam_adapter.training.setup import open_data

CONFIGS = Path(__file__).parents[1] / "hub_configs"
PICTURES = ("isic2017", "idrid_optic_disc", "hc18_ultrasound", "breast_usg", "brisc_brain_tumor", "dsb2018_nuclei")
ARMS = {
    "none": None,
    "ssl": {"emix": 1, "shed": 1, "mae": 1, "stay": 0},
    "ssl-stay": {"emix": 1, "shed": 1, "mae": 1, "stay": 10},
}
"""Weights of the objectives before the adapter is trained; `ssl` is the paper's three."""


def main() -> None:
    """Pre-train, adapt, evaluate; print the table of all that is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with hippocampus/ and folders of pictures")
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="of pre-training")
    parser.add_argument("--batch", type=int, default=24, help="pictures in a step of pre-training")
    parser.add_argument("--volumes", type=int, default=8, help="labelled volumes")
    parser.add_argument("--epochs", type=int, default=40, help="of the adapter's training")
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/pretraining"))
    options = parser.parse_args()
    logging.disable_progress_bar()
    for arm in options.arms:
        base = "sam-tiny" if ARMS[arm] is None else str(pretrain(arm, options))
        for seed in options.seeds:
            adapt(arm, base, seed, options)
    rows = collect(options.output)
    (options.output / "results.json").write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")
    print(table(rows))


def pretrain(arm: str, options) -> Path:
    """The run folder of an arm's pre-training."""
    folder = options.output / arm / "base"
    if (folder / "done.json").exists():
        return folder
    recipe = load_ssl_recipe(CONFIGS / "ssl-tiny" / "recipe.yaml")
    split = options.output / arm / "split.json"
    save_split(split, open_data(adapter_recipe("sam-tiny", 0, Path("unused"), options).data).split)
    hippocampus = options.data / "hippocampus" / "imagesTr"
    recipe.sources = [
        {"kind": "folder", "path": str(hippocampus), "intensity": "percentile", "orientation": "PIL",
         "cases": str(split), "part": "train", "weight": 3.0},
        {"kind": "folder", "path": str(options.data / "ct_multiorgan"), "intensity": "percentile",
         "exclude": ["label*"], "weight": 0.5},
        *({"kind": "folder", "path": str(options.data / name / "images"), "weight": 0.5} for name in PICTURES),
    ]  # fmt: skip
    for name, weight in ARMS[arm].items():
        setattr(recipe.weights, name, float(weight))
    recipe.steps, recipe.batch_size = options.steps, options.batch
    recipe.checkpoint_every = recipe.check_every = max(1, options.steps // 4)
    result = pretrain_ssl(recipe, folder, resume=has_checkpoint(folder), overwrite=True)
    AcceleratorState._reset_state(reset_partial_state=True)  # one process, two precisions: Accelerate wants to be told
    (folder / "done.json").write_text(json.dumps({"check": result.check, "seconds": round(result.seconds)}) + "\n")
    return folder


def adapter_recipe(base: str, seed: int, output: Path, options) -> Recipe:
    """The hippocampus recipe with few volumes."""
    return load_recipe(
        CONFIGS / "msa-hippocampus" / "recipe.yaml",
        [
            f"--data.path={options.data / 'hippocampus'}", f"--data.max_train_cases={options.volumes}",
            f"--model.base={base}", f"--run.seed={seed}", f"--run.output={output}", f"--optim.epochs={options.epochs}",
            f"--run.validate_every={max(1, options.epochs // 4)}",
        ],
    )  # fmt: skip


def adapt(arm: str, base: str, seed: int, options) -> None:
    """Train an adapter on an arm's base and evaluate it."""
    folder = options.output / arm / f"seed{seed}"
    if (folder / "test" / "results.json").exists():
        return
    recipe = adapter_recipe(base, seed, folder, options)
    train(recipe, overwrite=True)
    data = open_data(recipe.data)
    result = evaluate(MSAPredictor.from_pretrained(folder), data.dataset, data.test, model_name=f"{arm}, seed {seed}")
    result.save(folder / "test")
    print(json.dumps({"arm": arm, "seed": seed, "dice": result.summary().overall.dice.mean}), flush=True)


def collect(output: Path) -> dict[str, dict]:
    """{arm: Dice and HD95 of each seed, what the pre-training was} of all that is done."""
    rows = {}
    for arm, weights in ARMS.items():
        found = [EvaluationResult.load(file) for file in sorted(output.glob(f"{arm}/seed*/test/results.json"))]
        done = output / arm / "base" / "done.json"
        if found:
            rows[arm] = {
                "dice": [round(result.summary().overall.dice.mean, 4) for result in found],
                "hd95_mm": [round(result.summary().overall.hd95_mm.mean, 2) for result in found],
                "weights": weights,
                "pre-training": json.loads(done.read_text()) if done.exists() else None,
            }
    return rows


def table(rows: dict[str, dict]) -> str:
    """Markdown: one line for each arm, the mean over its seeds and each seed."""
    lines = ["| pre-training | Dice, mean over seeds | each seed | HD95 (mm) |", "|---|---|---|---|"]
    for arm, row in rows.items():
        each = ", ".join(f"{value:.3f}" for value in row["dice"])
        lines.append(
            f"| {arm} | {statistics.fmean(row['dice']):.3f} | {each} | {statistics.fmean(row['hd95_mm']):.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
