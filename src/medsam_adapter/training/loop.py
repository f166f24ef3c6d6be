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
from medsam_adapter.training.network_task import NetworkTask, values_without_effect
from medsam_adapter.training.nonfinite import nonfinite_error
from medsam_adapter.training.processes import make_accelerator
from medsam_adapter.training.progress import Progress
from medsam_adapter.training.prompted_task import PromptedTask
from medsam_adapter.training.random_state import random_state, set_random_state
from medsam_adapter.training.recipe import Recipe
from medsam_adapter.training.run_folder import clear_run, log_metrics, start_run, truncate_metrics
from medsam_adapter.training.run_lock import RunLock
from medsam_adapter.training.setup import open_data
from medsam_adapter.training.sharded import load_optimizer_state, optimizer_state, whole
from medsam_adapter.writing import naming_write_errors, write_text

ROOM = "make room, then go on with --resume"


@dataclass
class TrainingResult:
    """Where the run lies and the best validation Dice (NaN without validation cases)."""

    folder: Path
    best_dice: float
    best_epoch: int
    seconds: float  # of this session


def train(recipe: Recipe, resume: bool = False, show_progress: bool = True, overwrite: bool = False) -> TrainingResult:
    """Train an adapter, or what else `model.method` names.

    Args:
        resume: go on from the run folder's newest sound checkpoint, exactly as if the run had not stopped.
        overwrite: an earlier run in the folder is removed, as this one begins; without it and `resume` it is refused.

    Raises:
        MSAInputError: what the user can mend in recipe or data, or a folder that cannot be written to or in which
            another process trains.
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
    check_run_folder(recipe)
    with RunLock(Path(recipe.run.output), resume or overwrite) as lock:
        return _Run(recipe, accelerator, show_progress).fit(resume, lock)


class _Run:
    def __init__(self, recipe: Recipe, accelerator: Accelerator, show_progress: bool):
        self.recipe, self.accelerator, self.folder = recipe, accelerator, Path(recipe.run.output)
        self.show_progress = show_progress and accelerator.is_main_process
        self.data = open_data(recipe.data)
        if self.show_progress:
            for note in self.data.notes:
                self._say(note)
            if recipe.is_network and (names := values_without_effect(recipe)):
                self._say(f"These values do not count for what {recipe.model.method} learns: {', '.join(names)}.")
        kind = NetworkTask if recipe.is_network else PromptedTask
        self.task: PromptedTask | NetworkTask = kind(recipe, self.data, accelerator, self.show_progress)
        self.model = self.task.model
        self.progress, self.steps_saved = Progress(), 0
        self.random_state: dict | None = None  # of the checkpoint, until it is put back

    def fit(self, resume: bool, lock: RunLock) -> TrainingResult:
        began = self.began = time.perf_counter()
        recipe, accelerator = self.recipe, self.accelerator
        checkpoint = load_checkpoint(self.folder, self._say) if resume else None
        loader = self.task.loader()
        objective = self.task.objective()
        optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=self.task.learning_rate,
            weight_decay=self.task.weight_decay,
        )
        objective, optimizer = accelerator.prepare(objective, optimizer)  # the loader is shared out already
        self.optimizer, self.progress.steps_an_epoch = optimizer, len(loader)
        self.updates_an_epoch = math.ceil(len(loader) / recipe.optim.gradient_accumulation)
        scheduler = self.scheduler = self._schedule(self._restore(checkpoint) if checkpoint else 0)
        lock.take()
        if accelerator.is_main_process:  # only now, since a resume that is refused has to leave the folder as it was
            self._write_what_is_known(resume)
        if recipe.run.tracker != "none":
            accelerator.init_trackers(recipe.name, config=_flat(dataclasses.asdict(recipe)))
        bar = self.progress.bar(recipe.optim, not self.show_progress)
        with Signals(accelerator.is_main_process, accelerator.num_processes == 1) as self.signals:
            # A run may have been stopped after its last step and before its last validation.
            while self.progress.share_done < 1 or self.progress.steps_done:
                self._epoch_to_its_end(objective, loader, optimizer, scheduler, bar)
        bar.close()
        if recipe.run.tracker != "none":
            accelerator.end_training()
        best = self.progress.best_dice, self.progress.best_epoch
        return TrainingResult(self.folder, *best, time.perf_counter() - began)

    def _schedule(self, updates_done: int) -> torch.optim.lr_scheduler.LambdaLR:
        """The learning rate after so many updates, by the recipe as it is now; a checkpoint's values do not count."""
        for group in self.optimizer.param_groups:
            group["initial_lr"], group["weight_decay"] = self.task.learning_rate, self.task.weight_decay
        rule = self.progress.learning_rate_rule(self.recipe.optim, self.updates_an_epoch * self.recipe.optim.epochs)
        return torch.optim.lr_scheduler.LambdaLR(self.optimizer.optimizer, rule, last_epoch=updates_done - 1)

    def _write_what_is_known(self, resume: bool) -> None:
        if not resume:
            clear_run(self.folder)
            clear_checkpoints(self.folder)
        cases = {"train": self.task.num_train_cases, "val": len(self.data.val), "test": len(self.data.test)}
        start_run(self.folder, self.recipe, self.data.dataset, cases)
        save_split(self.folder / "split.json", self.data.split)
        if resume:
            truncate_metrics(self.folder, self.progress.epochs_done)

    def _epoch_to_its_end(self, objective, loader, optimizer, scheduler, bar) -> None:
        """Train what is left of an epoch, validate, log, save."""
        run, accelerator, epoch = self.recipe.run, self.accelerator, self.progress.epochs_done
        means = self._epoch(epoch, objective, loader, optimizer, scheduler, bar)
        last = self.progress.share_done >= 1
        row = {"epoch": epoch + 1, **means}
        is_validated = last or (epoch + 1) % run.validate_every == 0
        if is_validated:
            trained = random_state()
            try:
                row |= self._validate(epoch + 1, bar)
            except StopNow:
                self._checkpoint(trained)
                assert self.signals.received is not None  # it is what stops a validation
                raise interrupted(self.signals.received, self.folder, self.progress.place) from None
        row["seconds"] = round(time.perf_counter() - self.began, 1)
        if accelerator.is_main_process:
            log_metrics(self.folder, row)
            if is_validated:
                with naming_write_errors(self.folder, hint=ROOM):
                    self.task.write_card(self.folder)  # which counts this epoch, too
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
                self.accelerator.backward(out["loss"] * self._share_of_update(number, len(loader)))
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

    def _share_of_update(self, number: int, steps: int) -> float:
        """What lets the steps of an epoch's last update weigh the same where they are fewer: Accelerate divides each
        loss by the full number of steps."""
        accumulation = self.recipe.optim.gradient_accumulation
        return accumulation / min(accumulation, steps - number // accumulation * accumulation)

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
                with naming_write_errors(self.folder, hint=ROOM):
                    self.task.save(self.folder, state)
                write_text(self.folder / "best.json", json.dumps(facts) + "\n")  # of weights that are there
        return {} if math.isnan(dice) else {"val_dice": round(dice, 4)}

    def _checkpoint(self, state_of_random: dict | None = None) -> None:
        """Save; all processes come here, one writes."""
        self.progress.seconds = time.perf_counter() - self.began
        state = {
            "model": trainable_state(self.model), "optimizer": optimizer_state(self.optimizer),
            "scheduler": {"last_epoch": self.scheduler.last_epoch, "updates_an_epoch": self.updates_an_epoch},
            "random": gather_object([state_of_random or random_state()]), **self.progress.state(),
        }  # fmt: skip
        if self.accelerator.scaler is not None:
            state["scaler"] = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder, state, self.progress.step, self.recipe.run.keep_checkpoints)
        self.steps_saved = self.progress.step
        self.accelerator.wait_for_everyone()

    def _restore(self, state: dict) -> int:
        """Put back what `_checkpoint` saved; returns the number of updates that are done, as the recipe counts them."""
        restore_weights(self.model, state["model"], self.folder)
        load_optimizer_state(self.optimizer, state["optimizer"])
        if "scaler" in state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.progress.take(state, self.recipe.optim, self.folder)
        self.steps_saved = self.progress.step
        self.began -= self.progress.seconds  # as if all sessions had been one
        randoms = state.get("random", [])
        if len(randoms) == self.accelerator.num_processes:
            self.random_state = randoms[self.accelerator.process_index]
        return self._updates_done(state)

    def _updates_done(self, state: dict) -> int:
        """As the checkpoint says (a scaler may have skipped some), unless an epoch had another number of updates."""
        accumulation = self.recipe.optim.gradient_accumulation
        steps_then = state.get("steps_an_epoch", self.progress.steps_an_epoch)  # earlier versions did not note it
        updates_then = state["scheduler"].get("updates_an_epoch", math.ceil(steps_then / accumulation))
        if updates_then == self.updates_an_epoch:
            return state["scheduler"]["last_epoch"]
        progress = self.progress
        return progress.epochs_done * self.updates_an_epoch + math.ceil(progress.steps_done / accumulation)


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
