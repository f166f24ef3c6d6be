"""Training a SAM that is steered by prompts: what `loop.py` needs to know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from medsam_adapter.data.augment import Augmentation
from medsam_adapter.data.loader import PreparedCase, PromptedDataset, collate, load_cases, normalise
from medsam_adapter.data.sample import Case
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.evaluation.protocol import check_protocol
from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.hub.card import write_card
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.training.methods import check_run_folder, chunk_slices
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.training.setup import (
    TrainingData,
    make_model,
    make_processor,
    make_text_sampler,
    open_feature_store,
    prepare_for_training,
)


class PromptedTask:
    """Adapters, LoRA or SAM's own weights, trained with simulated prompts.

    Args:
        show_progress: progress bars, and remarks about the texts.
    """

    def __init__(self, recipe: Recipe, data: TrainingData, accelerator: Accelerator, show_progress: bool):
        check_protocol(recipe.run.validate_prompts)
        check_run_folder(recipe)
        self.recipe, self.data, self.accelerator, self.show_progress = recipe, data, accelerator, show_progress
        torch.manual_seed(recipe.run.seed)
        self.model = make_model(recipe, data.dataset)
        self.processor = make_processor(recipe, self.model, data.dataset)
        prepare_for_training(self.model, recipe, accelerator.device.type)
        if recipe.optim.compile:
            for layer in self.model.vision_encoder.layers:  # block by block: equal blocks are compiled once
                layer.compile()
        self.store = open_feature_store(recipe, self.model)
        self.texts = make_text_sampler(recipe, data.dataset, tqdm.write if show_progress else None)
        self.learning_rate, self.weight_decay = recipe.optim.learning_rate, recipe.optim.weight_decay

    def objective(self) -> torch.nn.Module:
        """Called with a batch, a seed and the share of the training that is done."""
        return _PromptedBatch(PromptedObjective(self.model, self.recipe.prompts, self.recipe.loss))

    def loader(self) -> DataLoader:
        """Read the training cases and cut samples from them."""
        recipe, data = self.recipe, self.data
        with tqdm(total=len(data.train), desc="reading", unit="case", disable=not self.show_progress) as bar:
            cases = load_cases(
                data.dataset,
                data.train,
                self.processor,
                recipe.data.targets,
                lambda done, total: bar.update(),
                each_rater=recipe.data.raters == "each",
            )
        if self.store is not None:
            self._keep_features(cases)
        is_volume = any(len(case.image) > 1 for case in cases)
        adapters = self.model.peft_config if self.model._hf_peft_config_loaded else {}
        chunk = chunk_slices(recipe, next(iter(adapters.values()), None)) if is_volume else 1
        vision = self.model.config.vision_config
        dataset = PromptedDataset(
            cases,
            self.processor,
            chunk,
            4 * vision.image_size // vision.patch_size,
            recipe.data.objects,
            recipe.data.samples_per_case,
            Augmentation(self.processor.image_size, recipe.data.flip) if recipe.data.augment else None,
            recipe.run.seed,
            self.texts,
            recipe.text.anywhere,
        )
        return DataLoader(
            dataset, recipe.optim.batch_size, shuffle=True, collate_fn=collate, num_workers=recipe.data.workers
        )

    def _keep_features(self, cases: list[PreparedCase]) -> None:
        """Frozen features of each training case: from the store, or computed now by the first process."""
        accelerator = self.accelerator
        self.model.to(accelerator.device).eval()
        with accelerator.main_process_first(), accelerator.autocast():
            slices = sum(len(case.image) for case in cases)
            with tqdm(total=slices, desc="encoding once", unit="slice", disable=not self.show_progress) as bar:
                for case in cases:
                    pixels = normalise(case.image.float() / 255, case.resized_hw, self.processor)
                    case.frozen = self.store.get(pixels)
                    bar.update(len(pixels))

    def evaluate(self, cases: Sequence[Case]) -> EvaluationResult:
        """The model as it is now, by `run.validate_prompts`."""
        recipe = self.recipe
        return evaluate(
            MSAPredictor(self.model, self.processor, self.accelerator.device, self.store),
            self.data.dataset,
            cases,
            model_name=recipe.name,
            protocol=recipe.run.validate_prompts,
            bank=recipe.text.bank,
            targets=recipe.data.targets,
        )

    def save(self, folder: Path) -> None:
        """Write model, processor and card; best.json is there already."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        write_card(folder)


class _PromptedBatch(torch.nn.Module):
    """`PromptedObjective` for a batch as the loader gives it."""

    def __init__(self, objective: PromptedObjective):
        super().__init__()
        self.objective = objective

    def forward(self, batch: dict[str, Any], seed: tuple[int, ...], progress: float) -> dict[str, torch.Tensor]:
        return self.objective(
            batch.get("pixel_values"), batch["targets"], batch["slice_mask"], seed, batch.get("frozen"),
            batch.get("texts"), batch.get("text_targets"), progress,
        )  # fmt: skip
