"""What a run folder says of itself: all that a card, a publication or a list of adapters needs, read once."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from medsam_adapter.backbones import base_name
from medsam_adapter.baselines.names import NETWORK_FILE
from medsam_adapter.errors import CheckpointError
from medsam_adapter.evaluation.model_hash import model_sha256
from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.hub.private_words import last_part
from medsam_adapter.hub.trained import Trained, what_was_trained

NEEDED = ("recipe.yaml", "config.json", "best.json")
EMISSIONS = "emissions.csv"


@dataclass
class RunFacts:
    """One finished (or running) training.

    Attributes:
        folder: of the run.
        recipe: recipe.yaml as resolved.
        config: config.json of the model.
        best: best.json, the epoch that was kept and its validation Dice (None without validation cases).
        data: data.json, what was known of the data set; empty for runs of before there was one.
        versions: versions.json, with the hardware.
        rows: metrics.jsonl, a row for each epoch.
        trained: what was trained, in words.
    """

    folder: Path
    recipe: dict[str, Any]
    config: dict[str, Any]
    best: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    rows: list[dict[str, Any]]
    trained: Trained

    @classmethod
    def read(cls, folder: str | Path) -> RunFacts:
        """Raises CheckpointError for a folder that is no run, or a network's, or one whose files are broken."""
        folder = Path(folder)
        if (folder / NETWORK_FILE).is_file():
            is_mixed = (folder / "adapter_config.json").is_file() or (folder / "config.json").is_file()
            raise CheckpointError(
                "this is a network without prompts, and such are not published", file=folder,
                expected="the run of an adapter or of a fine-tuned SAM",
                found=NETWORK_FILE + (" beside the files of a SAM" if is_mixed else ""),
                hint="train the adapter into a folder of its own" if is_mixed
                else "msa predict and msa evaluate take the folder as it is",
            )  # fmt: skip
        missing = [name for name in NEEDED if not (folder / name).is_file()]
        if not missing and not list(folder.glob("*.safetensors")):
            missing = ["adapter_model.safetensors"]
        if missing:
            raise CheckpointError(
                "this is not the folder of a finished run", file=folder, expected=", ".join(NEEDED) + " and weights",
                found="no such folder" if not folder.is_dir() else f"no {', '.join(missing)}",
                hint="give run.output of a training that has validated once: msa train",
            )  # fmt: skip
        try:
            recipe = yaml.safe_load((folder / "recipe.yaml").read_bytes())
            config, best = (json.loads((folder / name).read_bytes()) for name in ("config.json", "best.json"))
            data, versions = _optional(folder / "data.json"), _optional(folder / "versions.json")
            metrics = folder / "metrics.jsonl"
            rows = [json.loads(line) for line in metrics.read_bytes().splitlines()] if metrics.exists() else []
            trained = what_was_trained(folder, recipe)
            return cls(folder, recipe, config, best, data, versions, rows, trained)
        except (ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise CheckpointError(
                "a file of the run cannot be read", file=folder, expected="what msa train wrote", found=repr(error),
                hint="train again, or put back the file",
            ) from error  # fmt: skip

    @property
    def name(self) -> str:
        return self.recipe["name"]

    @property
    def is_whole(self) -> bool:
        """Whether the folder holds all weights, and not an adapter."""
        return not (self.folder / "adapter_config.json").exists()

    @property
    def started_from(self) -> str | None:
        """Name of the adapter whose weights it started from, without the way to it; None for a fresh one on a SAM."""
        given = self.recipe["model"]["base"]
        return None if base_name(given) == base_name(self.trained.base) else last_part(given)

    @property
    def targets(self) -> list[str]:
        """What it segments."""
        labels = sorted(self.config.get("id2label", {}).items(), key=lambda item: int(item[0]))
        return [name for _, name in labels if name != "background"]

    @property
    def modality(self) -> str:
        return self.data.get("modality") or ""

    @property
    def size_mb(self) -> float:
        return sum(file.stat().st_size for file in self.folder.glob("*.safetensors")) / 1e6

    @property
    def hours(self) -> float:
        """Wall time of the training. Runs of earlier versions counted their seconds anew in each session."""
        seconds, last = 0.0, 0.0
        for row in self.rows:
            now = float(row.get("seconds", 0))
            seconds += now - last if now >= last else now
            last = now
        return seconds / 3600

    @cached_property
    def num_stored(self) -> int:
        """Parameters in the weight files."""
        count = 0
        for file in self.folder.glob("*.safetensors"):
            try:
                with safe_open(file, "pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (safe_open has no iterator)
                        size = 1
                        for side in opened.get_slice(name).get_shape():
                            size *= side
                        count += size
            except SafetensorError as error:
                raise CheckpointError(
                    "cannot be read", file=file, expected="safetensors", found=str(error), hint="train again"
                ) from error
        return count

    def emissions(self) -> dict[str, Any] | None:
        """What CodeCarbon has measured, if somebody ran it and left its emissions.csv here; in the Hub's form."""
        file = self.folder / EMISSIONS
        if not file.is_file():
            return None
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        try:
            grams = 1000 * sum(float(row["emissions"]) for row in rows)  # CodeCarbon writes kg, the Hub wants g
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                "is not a file of CodeCarbon", file=file, expected="a column emissions, in kg", found=repr(error),
                hint="remove it, or put back what codecarbon wrote",
            ) from error  # fmt: skip
        place = ", ".join(dict.fromkeys(row.get("country_name") or "" for row in rows)).strip(", ")
        facts = {
            "emissions": round(grams, 3), "source": "CodeCarbon", "training_type": "fine-tuning",
            "geographical_location": place, "hardware_used": self.versions.get("hardware", ""),
        }  # fmt: skip
        return {key: value for key, value in facts.items() if value not in ("", None)}

    def stored_results(self) -> list[tuple[Path, EvaluationResult]]:
        """Evaluations that lie in the run folder, such as those of `msa evaluate RUN -o RUN/evaluation`."""
        found = sorted({*self.folder.glob("results.json"), *self.folder.glob("*/results.json"),
                        *self.folder.glob("*/*/results.json")})  # fmt: skip
        return [(file.parent, EvaluationResult.load(file)) for file in found]

    @cached_property
    def sha256(self) -> str | None:
        return model_sha256(self.folder)

    def is_own(self, result: EvaluationResult) -> bool:
        """Whether a result is of these very weights; one without a hash, whether it bears the run's name."""
        digest = result.settings.get("model_sha256")
        return digest == self.sha256 if digest else self.bears_name(result)

    def bears_name(self, result: EvaluationResult) -> bool:
        return result.model in (self.folder.resolve().name, self.name)


def _optional(file: Path) -> dict[str, Any]:
    return json.loads(file.read_bytes()) if file.is_file() else {}
