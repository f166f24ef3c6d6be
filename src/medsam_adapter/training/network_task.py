"""Training a network without prompts in the same loop: what `loop.py` needs to know of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from medsam_adapter.baselines import get_baseline
from medsam_adapter.baselines.base import Baseline
from medsam_adapter.baselines.predictor import NetworkPredictor
from medsam_adapter.data.fingerprint import take_fingerprint
from medsam_adapter.data.loader import collate, wanted_targets
from medsam_adapter.data.patches.augment import PatchAugmentation
from medsam_adapter.data.patches.dataset import PatchDataset, load_patch_cases
from medsam_adapter.data.sample import Case
from medsam_adapter.errors import RecipeError
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.evaluation.protocol import check_protocol
from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.processing_msa import MSAProcessor
from medsam_adapter.training.global_batches import shared_loader
from medsam_adapter.training.processes import num_processes, refuse_sharding, sum_over_processes
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.training.setup import TrainingData, check_flip

NO_EFFECT: dict[str, tuple[str, ...]] = {
    "model": ("base", "image_size", "adapter", "lora"),
    "data": ("intensity", "window_hu", "chunk_slices", "objects", "feature_cache"),
    "prompts": (),
    "text": (),
    "loss": (),
    "optim": ("batch_size", "learning_rate", "weight_decay", "gradient_checkpointing", "compile"),
}
"""{section: keys of a recipe that are for prompted models}; all keys where none is named."""


class NetworkTask:
    """A baseline, planned from the training cases and trained on random patches of them.

    Of the recipe it takes data and split, targets, epochs or minutes and the loop's switches. Patch, batch and the grid
    are its plan's, learning rate and weight decay its own; see `values_without_effect`.
    """

    def __init__(self, recipe: Recipe, data: TrainingData, accelerator: Accelerator, show_progress: bool):
        self.recipe, self.data, self.accelerator, self.show_progress = recipe, data, accelerator, show_progress
        check_protocol(recipe.run.validate_prompts)
        self.processor = _make_processor(recipe, data)
        refuse_sharding(accelerator, f"model.method: {recipe.model.method}")
        self.baseline: Baseline = get_baseline(recipe.model.method, recipe.model.size)
        targets = wanted_targets(data.dataset, recipe.data.targets)
        with tqdm(total=len(data.train), desc="planning", unit="case", disable=not show_progress) as bar:
            fingerprint = take_fingerprint(
                data.dataset, data.train, targets, recipe.data.orientation, progress=lambda done, total: bar.update()
            )
        self.plan = self.baseline.plan(fingerprint)
        if not self.plan.is_picture:
            check_flip(recipe.data, self.plan.orientation)
        self.processor.orientation = self.plan.orientation
        torch.manual_seed(recipe.run.seed)
        self.model = self.baseline.build(self.plan)
        self.learning_rate, self.weight_decay = self.baseline.learning_rate, self.baseline.weight_decay

    def objective(self) -> torch.nn.Module:
        """Called with a batch, a seed and the share of the training that is done."""
        return _PatchObjective(self.baseline, self.model, self.accelerator.process_index)

    def loader(self) -> DataLoader:
        """Read the training cases onto the plan's grid and cut patches from them."""
        recipe, data = self.recipe, self.data
        with tqdm(total=len(data.train), desc="reading", unit="case", disable=not self.show_progress) as bar:
            cases = load_patch_cases(data.dataset, data.train, self.plan, lambda done, total: bar.update())
        self.num_train_cases = len(cases)
        augmentation = PatchAugmentation(self.plan, recipe.data.flip) if recipe.data.augment else None
        patches = PatchDataset(cases, self.plan, recipe.data.samples_per_case, augmentation, recipe.run.seed)
        each = len(patches) // self.accelerator.num_processes
        if not each:
            raise RecipeError(
                "there are more processes than patches in an epoch", expected=f"at most {len(patches)} processes",
                found=str(self.accelerator.num_processes), hint="raise data.samples_per_case, or use fewer processes",
            )  # fmt: skip
        return shared_loader(
            patches, min(self.plan.batch_size, each), recipe.run.seed, self.accelerator, collate, recipe.data.workers,
            drop_last=True,
        )  # fmt: skip

    def evaluate(self, cases: Sequence[Case]) -> EvaluationResult:
        """The network as it is now; each process asks of its share of the cases."""
        return evaluate(
            self._predictor(),
            self.data.dataset,
            cases,
            model_name=self.recipe.name,
            protocol=self.recipe.run.validate_prompts,  # which says of which cases and targets it is asked
            targets=self.recipe.data.targets,
            share_cases=True,
        )

    def whole_state(self) -> None:
        """Each process has all weights."""

    def save(self, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write weights, plan and how scans are shown; `state` is of no use here (see `PromptedTask.save`)."""
        self._predictor().save_pretrained(folder)

    def write_card(self, folder: Path) -> None:
        """A network has none."""

    def _predictor(self) -> NetworkPredictor:
        return NetworkPredictor(self.baseline, self.model, self.plan, self.processor)


def values_without_effect(recipe: Recipe) -> list[str]:
    """Names of the recipe's values that are not the defaults, and that a network learns nothing from."""
    default, names = Recipe(), []
    for section, keys in NO_EFFECT.items():
        own, usual = getattr(recipe, section), getattr(default, section)
        for key in keys or [field.name for field in dataclasses.fields(own)]:
            if getattr(own, key) != getattr(usual, key):
                names.append(f"{section}.{key}")
    return names


def _make_processor(recipe: Recipe, data: TrainingData) -> MSAProcessor:
    """How scans are shown in pictures; made before anything is planned, since a wrong intensity is refused here."""
    intensity = recipe.data.intensity or (None if recipe.data.window_hu else data.dataset.intensity)
    return MSAProcessor(intensity=intensity, window_hu=recipe.data.window_hu)


class _PatchObjective(torch.nn.Module):
    """The baseline's loss as a module that holds the network, so that devices and processes are Accelerate's matter."""

    def __init__(self, baseline: Baseline, network: torch.nn.Module, process_index: int):
        super().__init__()
        self.baseline, self.network, self.process_index = baseline, network, process_index

    def forward(self, batch: dict[str, Any], seed: tuple[int, ...], progress: float) -> dict[str, torch.Tensor]:
        """Several processes draw from seeds of their own and learn the mean of their losses, each of its own patches:
        Dice over a batch is no sum that could be taken apart."""
        drawn = np.random.default_rng((*seed, 1 + self.process_index)).integers(2**31)
        generator = torch.Generator().manual_seed(int(drawn))
        loss = self.baseline.loss(self.network, batch["image"], batch["targets"], generator)
        if num_processes() > 1:  # all see the same value, so that all stop where it is not a number
            loss = loss + (sum_over_processes(loss) / num_processes() - loss).detach()
        return {"loss": loss}
