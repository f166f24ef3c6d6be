"""Training a SAM that is steered by prompts: what `loop.py` needs to know of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from medsam_adapter.data.augment import Augmentation
from medsam_adapter.data.layouts.files import some
from medsam_adapter.data.loader import PreparedCase, PromptedDataset, collate, load_cases
from medsam_adapter.data.sample import Case
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.evaluation.protocol import check_protocol
from medsam_adapter.evaluation.results import EvaluationResult
from medsam_adapter.hub.card import write_card
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.training.global_batches import shared_loader
from medsam_adapter.training.methods import WHOLE, chunk_slices
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.processes import is_sharded, name_wrapped_blocks, whole_weights
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.training.setup import (
    TrainingData,
    check_flip,
    make_model,
    make_processor,
    make_text_sampler,
    open_feature_store,
    prepare_for_training,
)
from medsam_adapter.training.sharded import whole


class PromptedTask:
    """Adapters, LoRA or SAM's own weights, trained with simulated prompts.

    Args:
        show_progress: progress bars, and remarks about the texts.
    """

    def __init__(self, recipe: Recipe, data: TrainingData, accelerator: Accelerator, show_progress: bool):
        check_protocol(recipe.run.validate_prompts)
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
        # Made here, as it moves the model to its device: once FSDP has sharded it, that would leave the optimiser with
        # tensors that the model no longer has.
        self._predictor = MSAPredictor(self.model, self.processor, self.accelerator.device, self.store)
        self._objective = _PromptedBatch(PromptedObjective(self.model, self.recipe.prompts, self.recipe.loss))
        name_wrapped_blocks(self.accelerator, self.model)
        return self._objective

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
        self.num_train_cases = len(cases)
        used = {case.case_id for case in cases}
        left_out = [case.case_id for case in data.train if case.case_id not in used]
        if left_out and self.show_progress:
            what = f"{len(left_out)} of {len(data.train)} cases show no target and are left out"
            tqdm.write(f"{what}: {some(left_out)}.", file=sys.stderr)
        if self.store is not None:
            self._keep_features(cases)
        is_volume = any(len(case.image) > 1 for case in cases)
        if is_volume:
            check_flip(recipe.data, self.processor.orientation)
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
        return shared_loader(
            dataset, recipe.optim.batch_size, recipe.run.seed, self.accelerator, collate, recipe.data.workers
        )

    def _keep_features(self, cases: list[PreparedCase]) -> None:
        """Frozen features of each training case: from the store, or computed now by the first process."""
        assert self.store is not None
        accelerator = self.accelerator
        self.model.to(accelerator.device).eval()
        with accelerator.main_process_first(), accelerator.autocast():
            slices = sum(len(case.image) for case in cases)
            with tqdm(total=slices, desc="encoding once", unit="slice", disable=not self.show_progress) as bar:
                for case in cases:
                    pixels = self.processor.normalise(case.image.float() / 255, case.resized_hw)
                    case.frozen = self.store.get(pixels)
                    bar.update(len(pixels))

    def evaluate(self, cases: Sequence[Case]) -> EvaluationResult:
        """The model as it is now, by `run.validate_prompts`; each process asks of its share of the cases."""
        recipe = self.recipe
        self.model.eval()
        with whole_weights(self.accelerator, self._objective):
            return evaluate(
                self._predictor,
                self.data.dataset,
                cases,
                model_name=recipe.name,
                protocol=recipe.run.validate_prompts,
                bank=recipe.text.bank,
                targets=recipe.data.targets,
                share_cases=True,
            )

    def whole_state(self) -> dict[str, torch.Tensor] | None:
        """What is saved, gathered from all processes, which must all ask; None where each has all of it."""
        if not is_sharded(self.accelerator):
            return None
        is_all, gathered, found = self.recipe.model.method in WHOLE, {}, {}
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            # PEFT writes the few weights of a prompt encoder that has an adapter, trained or not.
            if is_all or tensor.requires_grad or name.startswith("prompt_encoder.") or ".modules_to_save." in name:
                if id(tensor) not in gathered:  # tied weights stay one tensor
                    gathered[id(tensor)] = whole(tensor.detach()).cpu()
                found[name] = gathered[id(tensor)]
        return found

    def save(self, folder: Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write model and processor.

        Args:
            state: what `whole_state` gave.
        """
        given: dict[str, Any] = {} if state is None else {"state_dict": state}
        self.model.save_pretrained(folder, **given)
        self.processor.save_pretrained(folder)

    def write_card(self, folder: Path) -> None:
        """README.md from what the run folder holds; nothing where somebody has taken the best model away."""
        if (folder / "best.json").is_file():
            write_card(folder)


class _PromptedBatch(torch.nn.Module):
    """`PromptedObjective` for a batch as the loader gives it."""

    def __init__(self, objective: PromptedObjective):
        super().__init__()
        self.objective = objective

    def forward(self, batch: dict[str, Any], seed: tuple[int, ...], progress: float) -> dict[str, torch.Tensor]:
        return self.objective(
            batch.get("pixel_values"), batch["targets"], batch["slice_mask"], seed, batch.get("frozen"),
            batch.get("texts"), batch.get("text_targets"), progress, batch["sample"], batch["counts"],
        )  # fmt: skip
