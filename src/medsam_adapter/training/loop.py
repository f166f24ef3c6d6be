"""The training loop on Accelerate: epochs, validation, the best adapter, checkpoints, exact resume.

Nothing random depends on what ran before: samples are drawn from (seed, epoch, index), prompts from (seed, step,
process). So a resumed run needs no random state, only the number of epochs that are done. What is trained, on what and
how it is scored is a task's matter: `prompted_task.py`, `network_task.py`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from tqdm.auto import tqdm

from medsam_adapter.data.splits import save_split
from medsam_adapter.errors import MSAError
from medsam_adapter.training.checkpoint import load_checkpoint, restore_weights, save_checkpoint, trainable_state
from medsam_adapter.training.network_task import NetworkTask
from medsam_adapter.training.prompted_task import PromptedTask
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.training.run_folder import log_metrics, start_run, truncate_metrics
from medsam_adapter.training.setup import open_data


@dataclass
class TrainingResult:
    """Where the run lies and the best validation Dice (NaN without validation cases)."""

    folder: Path
    best_dice: float
    best_epoch: int
    seconds: float


def train(recipe: Recipe, resume: bool = False, show_progress: bool = True) -> TrainingResult:
    """Train an adapter, or what else `model.method` names.

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
        self.data = open_data(recipe.data)
        kind = NetworkTask if recipe.is_network else PromptedTask
        self.task: PromptedTask | NetworkTask = kind(recipe, self.data, accelerator, self.show_progress)
        self.model = self.task.model
        self.best_dice, self.best_epoch, self.first_epoch = math.nan, 0, 0
        self.trained_seconds, self.share_done = 0.0, 0.0

    def fit(self, resume: bool) -> TrainingResult:
        began = time.perf_counter()
        recipe, accelerator = self.recipe, self.accelerator
        checkpoint = load_checkpoint(self.folder) if resume else None
        loader = self.task.loader()
        if accelerator.is_main_process:
            start_run(self.folder, recipe, self.data.dataset, self.data.split)
            save_split(self.folder / "split.json", self.data.split)
            if not resume:
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
        objective = self.task.objective()
        optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=self.task.learning_rate,
            weight_decay=self.task.weight_decay,
        )
        objective, optimizer, loader = accelerator.prepare(objective, optimizer, loader)
        updates = math.ceil(len(loader) / recipe.optim.gradient_accumulation) * recipe.optim.epochs
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer.optimizer, self._learning_rate_rule(updates))
        if checkpoint:
            self._restore(checkpoint, optimizer, scheduler)
        if recipe.run.tracker != "none":
            accelerator.init_trackers(recipe.name, config=_flat(dataclasses.asdict(recipe)))
        bar = self._bar(len(loader))
        epoch = self.first_epoch
        while self.share_done < 1:
            means = self._epoch(epoch, objective, loader, optimizer, scheduler, bar)
            last = self.share_done >= 1
            row = {"epoch": epoch + 1, **means, "seconds": round(time.perf_counter() - began, 1)}
            if last or (epoch + 1) % recipe.run.validate_every == 0:
                row |= self._validate(epoch + 1, bar)
            if accelerator.is_main_process:
                log_metrics(self.folder, row)
                if last or (epoch + 1) % recipe.run.checkpoint_every == 0:
                    self._checkpoint(epoch + 1, optimizer, scheduler)
            accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=epoch + 1)
            accelerator.wait_for_everyone()
            epoch += 1
        bar.close()
        if recipe.run.tracker != "none":
            accelerator.end_training()
        return TrainingResult(self.folder, self.best_dice, self.best_epoch, time.perf_counter() - began)

    def _epoch(self, epoch, objective, loader, optimizer, scheduler, bar) -> dict[str, float]:
        objective.train()
        loader.set_epoch(epoch)
        loader.dataset.set_epoch(epoch)
        sums, counts = {}, {}
        began = time.perf_counter()
        for number, batch in enumerate(loader):
            seed = (self.recipe.run.seed, epoch, number, self.accelerator.process_index)
            with self.accelerator.accumulate(objective), self.accelerator.autocast():
                out = objective(batch, seed, self.share_done)
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
            bar.update(0 if self.recipe.optim.minutes else 1)
            now = time.perf_counter()
            is_over = self._count_time(now - began, epoch * len(loader) + number + 1, len(loader), bar)
            began = now
            if is_over:
                break
        return means | {"learning_rate": scheduler.get_last_lr()[0]}

    def _bar(self, steps_an_epoch: int) -> tqdm:
        is_quiet = not self.show_progress
        if self.recipe.optim.minutes:
            return tqdm(total=100, initial=int(100 * self.share_done), unit="%", disable=is_quiet)
        total, done = steps_an_epoch * self.recipe.optim.epochs, self.first_epoch * steps_an_epoch
        return tqdm(total=total, initial=done, unit="step", disable=is_quiet)

    def _learning_rate_rule(self, updates: int) -> Callable[[int], float]:
        """Factor of the learning rate after so many updates; in a run of so many minutes the time says it."""
        warmup = self.recipe.optim.warmup_fraction
        if not self.recipe.optim.minutes:
            return lambda step: learning_rate_factor(step, updates, warmup)
        parts = 10_000
        return lambda step: learning_rate_factor(round(self.share_done * parts), parts, warmup)

    def _count_time(self, seconds: float, steps_done: int, steps_an_epoch: int, bar: tqdm) -> bool:
        """Note what a step took; whether the time is over. Reading the cases and validation do not count."""
        self.trained_seconds += seconds
        if not self.recipe.optim.minutes:
            self.share_done = steps_done / (steps_an_epoch * self.recipe.optim.epochs)
            return False
        self.share_done = self._slowest(self.trained_seconds) / (60 * self.recipe.optim.minutes)
        bar.update(min(100, int(100 * self.share_done)) - bar.n)
        return self.share_done >= 1

    def _slowest(self, seconds: float) -> float:
        """The same number in every process, so that all stop together."""
        if self.accelerator.num_processes == 1:
            return seconds
        times = torch.tensor([seconds], device=self.accelerator.device)
        return float(self.accelerator.gather(times).max())

    def _validate(self, epoch: int, bar) -> dict[str, float]:
        """Dice on the validation cases, at one click for each volume by default; the best weights so far are kept."""
        dice = math.nan
        if self.accelerator.is_main_process:
            if self.data.val:
                bar.set_description("validating")
                dice = self.task.evaluate(self.data.val).summary().overall.dice.mean
                bar.set_description(None)
            if math.isnan(self.best_dice) or dice > self.best_dice or not self.data.val:
                self.best_dice, self.best_epoch = dice, epoch
                trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
                facts = {"epoch": epoch, "val_dice": _or_none(dice), "trained_parameters": trained}
                (self.folder / "best.json").write_text(json.dumps(facts) + "\n")
                self.task.save(self.folder)
        return {} if math.isnan(dice) else {"val_dice": round(dice, 4)}

    def _checkpoint(self, epochs_done: int, optimizer, scheduler) -> None:
        state = {
            "model": trainable_state(self.model), "optimizer": optimizer.state_dict(), "scheduler":
            scheduler.state_dict(), "epochs_done": epochs_done, "best_dice": self.best_dice, "best_epoch":
            self.best_epoch, "trained_seconds": self.trained_seconds, "share_done": self.share_done,
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
        self.trained_seconds, self.share_done = state["trained_seconds"], state["share_done"]
        if not self.recipe.optim.minutes:  # the recipe may have been given more epochs since
            self.share_done = self.first_epoch / self.recipe.optim.epochs
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
