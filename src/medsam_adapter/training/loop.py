"""The training loop on Accelerate: epochs, validation, the best adapter, checkpoints, exact resume.

Samples are drawn from (seed, epoch, index), prompts from (seed, epoch, step) and the sample, whatever ran before. So a
run goes on from any step: it skips, unread, the samples of those that are done. Nor do they depend on the process:
several learn what one would from the same batches (`processes.py`). What a signal does: `interruption.py`. What is
trained, on what and how it is scored is a task's matter: `prompted_task.py`, `network_task.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import skip_first_batches
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from medsam_adapter.data.splits import save_split
from medsam_adapter.training.checkpoint import (
    clear_checkpoints,
    load_checkpoint,
    restore_weights,
    save_checkpoint,
    trainable_state,
)
from medsam_adapter.training.interruption import Signals, StopNow, interrupted
from medsam_adapter.training.methods import check_run_folder
from medsam_adapter.training.network_task import NetworkTask
from medsam_adapter.training.nonfinite import nonfinite_error
from medsam_adapter.training.processes import make_accelerator
from medsam_adapter.training.progress import Progress
from medsam_adapter.training.prompted_task import PromptedTask
from medsam_adapter.training.random_state import random_state, set_random_state
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.training.run_folder import log_metrics, start_run, truncate_metrics
from medsam_adapter.training.setup import open_data
from medsam_adapter.training.sharded import load_optimizer_state, optimizer_state, whole
from medsam_adapter.writing import naming_write_errors, write_text


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
        resume: go on from the run folder's newest sound checkpoint, exactly as if the run had not stopped.

    Raises:
        MSAInputError: what the user can mend in recipe or data, or a folder that cannot be written to.
        Interrupted: a SIGINT or SIGTERM; the run is saved.
        MSAError: a loss that is not a number; the batch's case ids are in the text, the batch in the run folder.
    """
    accelerator = make_accelerator(
        recipe.optim.mixed_precision,
        recipe.optim.gradient_accumulation,
        recipe.optim.batch_size,
        log_with=None if recipe.run.tracker == "none" else recipe.run.tracker,
        project_dir=recipe.run.output,
    )
    return _Run(recipe, accelerator, show_progress).fit(resume)


class _Run:
    def __init__(self, recipe: Recipe, accelerator: Accelerator, show_progress: bool):
        self.recipe, self.accelerator, self.folder = recipe, accelerator, Path(recipe.run.output)
        self.show_progress = show_progress and accelerator.is_main_process
        check_run_folder(recipe)
        self.data = open_data(recipe.data)
        if self.show_progress:
            for note in self.data.notes:
                self._say(note)
        kind = NetworkTask if recipe.is_network else PromptedTask
        self.task: PromptedTask | NetworkTask = kind(recipe, self.data, accelerator, self.show_progress)
        self.model = self.task.model
        self.progress, self.steps_saved = Progress(), 0
        self.random_state: dict | None = None  # of the checkpoint, until it is put back

    def fit(self, resume: bool) -> TrainingResult:
        began = time.perf_counter()
        recipe, accelerator = self.recipe, self.accelerator
        checkpoint = load_checkpoint(self.folder, self._say) if resume else None
        loader = self.task.loader()
        if accelerator.is_main_process:
            start_run(self.folder, recipe, self.data.dataset, self.data.split)
            save_split(self.folder / "split.json", self.data.split)
            if not resume:
                (self.folder / "metrics.jsonl").unlink(missing_ok=True)
                clear_checkpoints(self.folder)
        objective = self.task.objective()
        optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=self.task.learning_rate,
            weight_decay=self.task.weight_decay,
        )
        objective, optimizer = accelerator.prepare(objective, optimizer)  # the loader is shared out already
        updates = math.ceil(len(loader) / recipe.optim.gradient_accumulation) * recipe.optim.epochs
        rule = self.progress.learning_rate_rule(recipe.optim, updates)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer.optimizer, rule)
        self.optimizer, self.scheduler, self.progress.steps_an_epoch = optimizer, scheduler, len(loader)
        if checkpoint:
            self._restore(checkpoint)
        if recipe.run.tracker != "none":
            accelerator.init_trackers(recipe.name, config=_flat(dataclasses.asdict(recipe)))
        bar = self.progress.bar(recipe.optim, not self.show_progress)
        with Signals(accelerator.is_main_process, accelerator.num_processes == 1) as self.signals:
            # A run may have been stopped after its last step and before its last validation.
            while self.progress.share_done < 1 or self.progress.steps_done:
                self._epoch_to_its_end(objective, loader, optimizer, scheduler, bar, began)
        bar.close()
        if recipe.run.tracker != "none":
            accelerator.end_training()
        best = self.progress.best_dice, self.progress.best_epoch
        return TrainingResult(self.folder, *best, time.perf_counter() - began)

    def _epoch_to_its_end(self, objective, loader, optimizer, scheduler, bar, began: float) -> None:
        """Train what is left of an epoch, validate, log, save."""
        run, accelerator, epoch = self.recipe.run, self.accelerator, self.progress.epochs_done
        means = self._epoch(epoch, objective, loader, optimizer, scheduler, bar)
        last = self.progress.share_done >= 1
        row = {"epoch": epoch + 1, **means, "seconds": round(time.perf_counter() - began, 1)}
        if last or (epoch + 1) % run.validate_every == 0:
            trained = random_state()
            try:
                row |= self._validate(epoch + 1, bar)
            except StopNow:
                self._checkpoint(trained)
                assert self.signals.received is not None  # it is what stops a validation
                raise interrupted(self.signals.received, self.folder, self.progress.place) from None
        if accelerator.is_main_process:
            log_metrics(self.folder, row)
        self.progress.close_epoch()
        stopped = self.signals.agreed(self.accelerator)
        if last or stopped or (epoch + 1) % run.checkpoint_every == 0:
            self._checkpoint()
        accelerator.log({k: v for k, v in row.items() if k != "epoch"}, step=epoch + 1)
        if stopped and not last:
            raise interrupted(stopped, self.folder, f"epoch {epoch + 1}")

    def _epoch(self, epoch, objective, loader, optimizer, scheduler, bar) -> dict[str, float]:
        objective.train()
        progress, optim = self.progress, self.recipe.optim
        began = time.perf_counter()
        for number, batch in self._steps_left(epoch, loader):
            seed = (self.recipe.run.seed, epoch, number)
            with self.accelerator.accumulate(objective), self.accelerator.autocast():
                out = objective(batch, seed, progress.share_done)
                self._stop_unless_finite("loss", out["loss"], batch, epoch, number, seed)
                self.accelerator.backward(out["loss"])
                if self.accelerator.sync_gradients and optim.gradient_clipping:
                    trained = [p for p in objective.parameters() if p.requires_grad]
                    norm = self.accelerator.clip_grad_norm_(trained, optim.gradient_clipping)
                    if norm is not None and self.accelerator.scaler is None:  # a scaler skips such a step
                        self._stop_unless_finite("gradient's norm", norm, batch, epoch, number, seed)
                optimizer.step()
                if self.accelerator.sync_gradients and not self.accelerator.optimizer_step_was_skipped:
                    scheduler.step()
                optimizer.zero_grad()
            progress.add(out)
            is_over = progress.count_step(time.perf_counter() - began, optim, self.accelerator)
            progress.show(bar, optim)
            if self.accelerator.sync_gradients:  # gradients that were summed up so far are in no checkpoint
                self._save_or_stop()
            began = time.perf_counter()
            if is_over:
                break
        return progress.means() | {"learning_rate": scheduler.get_last_lr()[0]}

    def _steps_left(self, epoch: int, loader) -> Iterator[tuple[int, dict]]:
        """(number, batch) of the epoch's steps that are not done; samples of the others are not read."""
        loader.set_epoch(epoch)
        loader.dataset.set_epoch(epoch)
        done = self.progress.steps_done
        if not done:
            self._restore_random_state()
        # In a run of minutes the time may be over, and only the validation be left.
        if self.progress.share_done < 1:
            for number, batch in enumerate(skip_first_batches(loader, done) if done else loader, done):
                self._restore_random_state()  # after the loader, which draws from it as it starts
                yield number, batch
        self._restore_random_state()

    def _restore_random_state(self) -> None:
        if self.random_state is not None:
            set_random_state(self.random_state)
            self.random_state = None

    def _stop_unless_finite(self, name: str, value: torch.Tensor, batch: dict, epoch: int, number: int, seed) -> None:
        """All processes stop together, whichever met it."""
        value = whole(value.detach())
        is_finite = torch.isfinite(value).float().reshape(1)
        if not (is_finite if self.accelerator.num_processes == 1 else self.accelerator.gather(is_finite)).all():
            raise nonfinite_error(
                self.folder, self.accelerator, batch, what=f"the {name} became {value.item()}", epoch=epoch + 1,
                step=number + 1, seed=seed, learning_rate=self.scheduler.get_last_lr()[0],
            )  # fmt: skip

    def _save_or_stop(self) -> None:
        """A checkpoint within an epoch, where it is time for one or a signal came."""
        stopped = self.signals.agreed(self.accelerator)
        every = self.recipe.run.checkpoint_every_steps
        is_due = every and self.progress.step - self.steps_saved >= every
        if stopped or is_due:
            self._checkpoint()
        if stopped:
            raise interrupted(stopped, self.folder, self.progress.place)

    def _say(self, text: str) -> None:
        if self.accelerator.is_main_process:
            tqdm.write(text, file=sys.stderr)

    def _validate(self, epoch: int, bar) -> dict[str, float]:
        """Dice on the validation cases, at one click for each volume by default; the best weights so far are kept.

        Each process asks of its share of the cases and knows the result of all.
        """
        dice, is_alone = math.nan, self.accelerator.num_processes == 1
        if self.data.val:
            bar.set_description("validating")
            # Of several processes none may leave: the others would wait for its share.
            with self.signals.at_once() if is_alone else contextlib.nullcontext():
                dice = self.task.evaluate(self.data.val).summary().overall.dice.mean
            bar.set_description(None)
        best = self.progress.best_dice
        if math.isnan(best) or dice > best or not self.data.val:
            self.progress.best_dice, self.progress.best_epoch = dice, epoch
            state = self.task.whole_state()
            if self.accelerator.is_main_process:
                trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
                facts = {"epoch": epoch, "val_dice": _or_none(dice), "trained_parameters": trained}
                write_text(self.folder / "best.json", json.dumps(facts) + "\n")
                with naming_write_errors(self.folder, hint="make room, then go on with --resume"):
                    self.task.save(self.folder, state)
        return {} if math.isnan(dice) else {"val_dice": round(dice, 4)}

    def _checkpoint(self, state_of_random: dict | None = None) -> None:
        """Save; all processes come here, one writes."""
        state = {
            "model": trainable_state(self.model), "optimizer": optimizer_state(self.optimizer),
            "scheduler": self.scheduler.state_dict(),
            "random": gather_object([state_of_random or random_state()]), **self.progress.state(),
        }  # fmt: skip
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder, state, self.progress.step, self.recipe.run.keep_checkpoints)
        self.steps_saved = self.progress.step
        self.accelerator.wait_for_everyone()

    def _restore(self, state: dict) -> None:
        """Put back what `_checkpoint` saved."""
        restore_weights(self.model, state["model"], self.folder)
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if "scaler" in state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress.take(state, self.recipe.optim, self.folder)
        self.steps_saved = self.progress.step
        randoms = state.get("random", [])
        if len(randoms) == self.accelerator.num_processes:
            self.random_state = randoms[self.accelerator.process_index]
        if self.accelerator.is_main_process:
            truncate_metrics(self.folder, self.progress.epochs_done)


def _flat(values: dict, prefix: str = "") -> dict:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[prefix + key] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return out


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)
