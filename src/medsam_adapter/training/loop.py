"""The training loop on Accelerate: epochs, validation, the best adapter, checkpoints, exact resume.

Nothing random depends on what ran before: samples are drawn from (seed, epoch, index), prompts from (seed, step,
process). So a resumed run needs no random state, only the number of epochs that are done.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from medsam_adapter.data.augment import Augmentation
from medsam_adapter.data.loader import PreparedCase, PromptedDataset, collate, load_cases, normalise
from medsam_adapter.data.splits import save_split
from medsam_adapter.errors import MSAError
from medsam_adapter.evaluation.evaluate import evaluate
from medsam_adapter.evaluation.protocol import check_protocol
from medsam_adapter.hub.card import write_card
from medsam_adapter.inference.predictor import MSAPredictor
from medsam_adapter.training.checkpoint import load_checkpoint, restore_weights, save_checkpoint, trainable_state
from medsam_adapter.training.objective import PromptedObjective
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.training.run_folder import log_metrics, start_run, truncate_metrics
from medsam_adapter.training.setup import (
    keep_frozen_encoder_in,
    make_model,
    make_processor,
    make_text_sampler,
    open_data,
    open_feature_store,
)


@dataclass
class TrainingResult:
    """Where the run lies and the best validation Dice (NaN without validation cases)."""

    folder: Path
    best_dice: float
    best_epoch: int
    seconds: float


def train(recipe: Recipe, resume: bool = False, show_progress: bool = True) -> TrainingResult:
    """Train an adapter.

    Args:
        resume: go on from the run folder's checkpoint, exactly as if the run had not stopped.

    Raises:
        MSAInputError: what the user can mend in recipe or data.
        MSAError: a loss that is not a number; the batch's case ids are in the text.
    """
    accelerator = Accelerator(
        mixed_precision=recipe.optim.mixed_precision,
        gradient_accumulation_steps=recipe.optim.gradient_accumulation,
        log_with=None if recipe.run.tracker == "none" else recipe.run.tracker,
        project_dir=recipe.run.output,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, data_seed=recipe.run.seed),
    )
    return _Run(recipe, accelerator, show_progress).fit(resume)


class _Run:
    def __init__(self, recipe: Recipe, accelerator: Accelerator, show_progress: bool):
        self.recipe, self.accelerator, self.folder = recipe, accelerator, Path(recipe.run.output)
        self.show_progress = show_progress and accelerator.is_main_process
        check_protocol(recipe.run.validate_prompts)
        self.data = open_data(recipe.data)
        torch.manual_seed(recipe.run.seed)
        self.model = make_model(recipe, self.data.dataset)
        self.processor = make_processor(recipe, self.model, self.data.dataset)
        if recipe.optim.mixed_precision == "bf16":
            keep_frozen_encoder_in(self.model, torch.bfloat16)
        if recipe.optim.gradient_checkpointing:
            self.model.activation_checkpointing_enable()
        if recipe.optim.compile:
            for layer in self.model.vision_encoder.layers:  # block by block: equal blocks are compiled once
                layer.compile()
        self.store = open_feature_store(recipe, self.model)
        self.texts = make_text_sampler(recipe, self.data.dataset, tqdm.write if self.show_progress else None)
        if (
            accelerator.device.type == "cpu"
        ):  # torch's fused attention is slower than its parts for the decoder's few tokens
            self.model.mask_decoder.config._attn_implementation = "eager"
        self.best_dice, self.best_epoch, self.first_epoch = math.nan, 0, 0

    def fit(self, resume: bool) -> TrainingResult:
        began = time.perf_counter()
        recipe, accelerator = self.recipe, self.accelerator
        checkpoint = load_checkpoint(self.folder) if resume else None
        loader = self._loader()
        if accelerator.is_main_process:
            start_run(self.folder, recipe)
            save_split(self.folder / "split.json", self.data.split)
            if not resume:
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
        objective = PromptedObjective(self.model, recipe.prompts, recipe.loss)
        optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=recipe.optim.learning_rate,
            weight_decay=recipe.optim.weight_decay,
        )
        objective, optimizer, loader = accelerator.prepare(objective, optimizer, loader)
        updates = math.ceil(len(loader) / recipe.optim.gradient_accumulation) * recipe.optim.epochs
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer.optimizer, lambda step: learning_rate_factor(step, updates, recipe.optim.warmup_fraction)
        )
        if checkpoint:
            self._restore(checkpoint, optimizer, scheduler)
        if recipe.run.tracker != "none":
            accelerator.init_trackers(recipe.name, config=_flat(dataclasses.asdict(recipe)))
        total = len(loader) * recipe.optim.epochs
        bar = tqdm(total=total, initial=self.first_epoch * len(loader), unit="step", disable=not self.show_progress)
        for epoch in range(self.first_epoch, recipe.optim.epochs):
            means = self._epoch(epoch, objective, loader, optimizer, scheduler, bar)
            last = epoch + 1 == recipe.optim.epochs
            row = {"epoch": epoch + 1, **means, "seconds": round(time.perf_counter() - began, 1)}
            if last or (epoch + 1) % recipe.run.validate_every == 0:
                row |= self._validate(epoch + 1, bar)
            if accelerator.is_main_process:
                log_metrics(self.folder, row)
                if last or (epoch + 1) % recipe.run.checkpoint_every == 0:
                    self._checkpoint(epoch + 1, optimizer, scheduler)
            accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=epoch + 1)
            accelerator.wait_for_everyone()
        bar.close()
        if recipe.run.tracker != "none":
            accelerator.end_training()
        return TrainingResult(self.folder, self.best_dice, self.best_epoch, time.perf_counter() - began)

    def _loader(self) -> DataLoader:
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
        chunk = self._chunk_slices() if is_volume else 1
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

    def _chunk_slices(self) -> int:
        adapter = next(iter(self.model.peft_config.values()))
        return adapter.num_slices

    def _epoch(self, epoch, objective, loader, optimizer, scheduler, bar) -> dict[str, float]:
        objective.train()
        loader.set_epoch(epoch)
        loader.dataset.set_epoch(epoch)
        sums, counts = {}, {}
        for number, batch in enumerate(loader):
            seed = (self.recipe.run.seed, epoch, number, self.accelerator.process_index)
            with self.accelerator.accumulate(objective), self.accelerator.autocast():
                out = objective(
                    batch.get("pixel_values"), batch["targets"], batch["slice_mask"], seed, batch.get("frozen"),
                    batch.get("texts"), batch.get("text_targets"),
                    (epoch + number / len(loader)) / self.recipe.optim.epochs,
                )  # fmt: skip
                if not torch.isfinite(out["loss"]):
                    raise MSAError(
                        f"the loss became {out['loss'].item()} in epoch {epoch + 1}, step {number + 1}",
                        expected="a finite loss",
                        found=f"cases {', '.join(batch['case_id'])}",
                        hint="lower optim.learning_rate, or look at these cases with `msa data check`",
                    )
                self.accelerator.backward(out["loss"])
                if self.accelerator.sync_gradients and self.recipe.optim.gradient_clipping:
                    trained = [p for p in objective.parameters() if p.requires_grad]
                    self.accelerator.clip_grad_norm_(trained, self.recipe.optim.gradient_clipping)
                optimizer.step()
                if self.accelerator.sync_gradients and not self.accelerator.optimizer_step_was_skipped:
                    scheduler.step()
                optimizer.zero_grad()
            for key, value in out.items():
                value = value.item()
                if not math.isnan(value):
                    sums[key], counts[key] = sums.get(key, 0) + value, counts.get(key, 0) + 1
            means = {key: round(sums[key] / counts[key], 4) for key in sums}
            dice = means.get("dice", means.get("dice_text"))
            bar.set_postfix(epoch=epoch + 1, loss=means["loss"], dice=dice, best=self.best_dice, refresh=False)
            bar.update()
        return means | {"learning_rate": scheduler.get_last_lr()[0]}

    def _validate(self, epoch: int, bar) -> dict[str, float]:
        """Dice on the validation cases, at one click for each volume by default; the best adapter so far is kept."""
        dice, accelerator = math.nan, self.accelerator
        if accelerator.is_main_process:
            if self.data.val:
                bar.set_description("validating")
                predictor = MSAPredictor(self.model, self.processor, accelerator.device, self.store)
                result = evaluate(
                    predictor,
                    self.data.dataset,
                    self.data.val,
                    model_name=self.recipe.name,
                    protocol=self.recipe.run.validate_prompts,
                    bank=self.recipe.text.bank,
                    targets=self.recipe.data.targets,
                )
                dice = result.summary().overall.dice.mean
                bar.set_description(None)
            if math.isnan(self.best_dice) or dice > self.best_dice or not self.data.val:
                self.best_dice, self.best_epoch = dice, epoch
                self.model.save_pretrained(self.folder)
                self.processor.save_pretrained(self.folder)
                (self.folder / "best.json").write_text(json.dumps({"epoch": epoch, "val_dice": _or_none(dice)}) + "\n")
                write_card(self.folder)
        return {} if math.isnan(dice) else {"val_dice": round(dice, 4)}

    def _checkpoint(self, epochs_done: int, optimizer, scheduler) -> None:
        state = {
            "model": trainable_state(self.model), "optimizer": optimizer.state_dict(), "scheduler":
            scheduler.state_dict(), "epochs_done": epochs_done, "best_dice": self.best_dice, "best_epoch":
            self.best_epoch,
        }  # fmt: skip
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        save_checkpoint(self.folder, state)

    def _restore(self, state: dict, optimizer, scheduler) -> None:
        restore_weights(self.model, state["model"], self.folder)
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        if "scaler" in state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.first_epoch = state["epochs_done"]
        self.best_dice, self.best_epoch = state["best_dice"], state["best_epoch"]
        if self.accelerator.is_main_process:
            truncate_metrics(self.folder, self.first_epoch)


def learning_rate_factor(step: int, total: int, warmup_fraction: float) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(total * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def _flat(values: dict, prefix: str = "") -> dict:
    out = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return out


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
