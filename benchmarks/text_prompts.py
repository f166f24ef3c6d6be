"""`python -m benchmarks.text_prompts`: what sentences are worth against clicks, on phantom CTs, offline.

Three adapters of the same recipe and budget for three organs: trained with sentences alone, with clicks alone, and with
both. Each is asked by sentences of the bank's held-out third, on cases that training never saw: for one organ, for
several at once (their union), for an organ on a part of a scan that does not show it (24 further phantoms), and for
something of another body region. Figures come from the results.json files that this writes.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.utils import logging

from medsam_adapter.data.intensity import to_unit
from medsam_adapter.data.phantom import make_phantom, write_phantom_dataset
from medsam_adapter.data.sample import Scan
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.prompts.text_bank import TextBank
from medsam_adapter.prompts.types import ObjectPrompt
from medsam_adapter.training.loop import train
from medsam_adapter.training.recipe import load_recipe
from medsam_adapter.training.run_folder import versions
from medsam_adapter.training.setup import TrainingData, open_data

RECIPE = Path(__file__).parents[1] / "hub_configs" / "msa-phantom-text" / "recipe.yaml"
NO_KIND = {"click": 0, "clicks": 0, "box": 0, "box_and_click": 0, "neighbour": 0, "text": 0, "text_and_click": 0}
COLOURS = ((255, 80, 80), (80, 255, 80), (80, 160, 255))
MIXES = {
    "sentences": {"text": 1},
    "clicks": {"click": 0.5, "clicks": 0.1, "box": 0.15, "box_and_click": 0.05, "neighbour": 0.2},
    "both": {"click": 0.3, "clicks": 0.05, "box": 0.05, "neighbour": 0.1, "text": 0.4, "text_and_click": 0.1},
}


def main() -> None:
    """Train, ask, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=24, help="phantoms in all; a quarter is for the test")
    parser.add_argument("--epochs", type=int, help="the recipe's if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", choices=MIXES, default=list(MIXES))
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/text_prompts"))
    options = parser.parse_args()
    logging.disable_progress_bar()
    phantoms = write_phantom_dataset(options.output / "phantom", options.cases)
    rows = {}
    for name in options.only:
        overrides = ["--data.path", str(phantoms), "--run.output", str(options.output / name)]
        overrides += ["--run.seed", str(options.seed), "--run.validate_prompts", "1-point"]
        for kind, weight in (NO_KIND | MIXES[name]).items():
            overrides += [f"--prompts.{kind}", str(weight)]
        if options.epochs:
            overrides += ["--optim.epochs", str(options.epochs)]
        recipe, folder = load_recipe(RECIPE, overrides), options.output / name
        epochs = [json.loads(line) for line in _lines(folder / "metrics.jsonl")]
        if not epochs or epochs[-1]["epoch"] < recipe.optim.epochs:  # what is trained is not trained again
            train(recipe, overwrite=True)
            epochs = [json.loads(line) for line in _lines(folder / "metrics.jsonl")]
        predictor, data = MSAPredictor.from_pretrained(folder), open_data(recipe.data)
        rows[name] = {"minutes": round(epochs[-1]["seconds"] / 60, 1), "epochs": recipe.optim.epochs}
        rows[name] |= ask(predictor, data, recipe.data.targets, recipe.uses_text, folder, options.seed)
        if recipe.uses_text:
            write_picture(predictor, data, recipe.data.targets, folder / "text.png")
        print(json.dumps({name: rows[name]}), flush=True)
    content = {"versions": versions(), "rows": rows, "seed": options.seed, "cases": options.cases}
    (options.output / "results.json").write_text(json.dumps(content, indent=1) + "\n")
    print(table(rows))


def ask(
    predictor: MSAPredictor, data: TrainingData, targets: list[str], uses_text: bool, folder: Path, seed: int
) -> dict[str, float]:
    """Mean Dice by protocol, and the shares of empty masks for what is absent."""
    out = {}
    for protocol in ("1-point", *(("text", "text-union", "text-absent") if uses_text else ())):
        result = evaluate(
            predictor, data.dataset, data.test, model_name=protocol, protocol=protocol, targets=targets,
            seed=seed,
        )  # fmt: skip
        overall = result.summary().overall
        if protocol == "text-absent":
            out["empty, other region"] = overall.n_excluded / (overall.n_excluded + overall.n)
        else:
            out[protocol] = round(overall.dice.mean, 4)
            out |= {f"{protocol}: {t}": round(s.dice.mean, 4) for t, s in result.summary().targets.items()}
        result.save(folder / "results" / protocol)
    if uses_text:
        empty, asked = ask_where_it_is_not(predictor, targets, seed)
        out |= {"empty, organ not on the slices": empty / asked if asked else math.nan, "asked": asked}
    return out


def ask_where_it_is_not(
    predictor: MSAPredictor, targets: list[str], seed: int, num_phantoms: int = 24, fewest_slices: int = 3
) -> tuple[int, int]:
    """Further phantoms cut to the slices below, or above, one organ, which is then asked for.

    Returns:
        (empty answers, questions).
    """
    bank, empty, asked, rng = TextBank.load().for_labels(targets), 0, 0, np.random.default_rng(seed)
    for number in range(num_phantoms):
        sample = make_phantom(8_000_000 + number)
        values = {name: value for value, name in sample.label_names.items()}
        for target in targets:
            sentences = bank.targets[target].held_out
            prompt = ObjectPrompt(text=sentences[rng.integers(len(sentences))])
            shown = np.flatnonzero((sample.labels == values[target]).any((1, 2)))
            for part in (slice(0, shown[0]), slice(shown[-1] + 1, None)):
                array = sample.scan.array[part]
                if len(array) < fewest_slices:
                    continue
                scan = Scan(array, sample.scan.spacing_mm, sample.scan.affine)
                logits = predictor.predict_objects(predictor.encode(scan), [prompt])
                empty, asked = empty + int(not (logits > 0).any()), asked + 1
    return empty, asked


def write_picture(predictor: MSAPredictor, data: TrainingData, targets: list[str], file: Path) -> None:
    """Slices of the first test scan: as it is, what sentences found, the reference."""
    sample, bank = data.dataset.read(data.test[0]), TextBank.load().for_labels(targets)
    prompts = [ObjectPrompt(text=bank.targets[target].held_out[0]) for target in targets]
    logits = predictor.predict_objects(predictor.encode(sample.scan), prompts)
    found = np.where(logits.max(0) > 0, logits.argmax(0) + 1, 0)
    values = {name: value for value, name in sample.label_names.items()}
    reference = np.zeros_like(found)
    for number, target in enumerate(targets, 1):
        reference[sample.labels == values[target]] = number
    grey = to_unit(sample.scan.array, "ct:soft-tissue")
    depth, columns = len(grey), []
    for labels in (np.zeros_like(found), found, reference):
        rows = []
        for z in (depth // 3, depth // 2, 4 * depth // 5):
            picture = np.repeat(grey[z][..., None] * 255, 3, -1)
            for number in range(1, len(targets) + 1):
                inside = labels[z] == number
                picture[inside] = 0.5 * picture[inside] + 0.5 * np.array(COLOURS[(number - 1) % len(COLOURS)])
            rows.append(picture)
        columns.append(np.concatenate(rows, 0))
    image = Image.fromarray(np.concatenate(columns, 1).astype(np.uint8))
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(file)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def table(rows: dict[str, dict]) -> str:
    """Markdown: one line for each adapter."""
    columns = ("1-point", "text", "text-union", "empty, organ not on the slices", "empty, other region", "minutes")
    lines = ["| trained with | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:.3g}" if c in row else "" for c in columns) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
