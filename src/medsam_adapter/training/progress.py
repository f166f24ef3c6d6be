"""How far a run is: its place in the data, what it has summed up, its best so far, and the time it took."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from medsam_adapter.errors import CheckpointError
from medsam_adapter.training.recipe import OptimSection
from medsam_adapter.training.schedule import learning_rate_factor


@dataclass
class Progress:
    """What a checkpoint keeps beside weights, optimiser and random states.

    Attributes:
        epochs_done: epochs that are closed: trained, validated, logged.
        steps_done: steps of the epoch after these; 0 between epochs.
        steps_an_epoch: of one process.
        sums, counts: of what the steps of that epoch reported.
        best_dice, best_epoch: of the validations; NaN and 0 before the first.
        seconds: wall time of all sessions so far, all that they did included.
        trained_seconds: reading the cases, validation and saving do not count.
        share_done: of the whole training.
    """

    epochs_done: int = 0
    steps_done: int = 0
    steps_an_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    best_dice: float = math.nan
    best_epoch: int = 0
    seconds: float = 0.0
    trained_seconds: float = 0.0
    share_done: float = 0.0

    @property
    def step(self) -> int:
        """Steps since the start."""
        return self.epochs_done * self.steps_an_epoch + self.steps_done

    @property
    def place(self) -> str:
        """In words."""
        return f"epoch {self.epochs_done + 1}, step {self.steps_done} of {self.steps_an_epoch}"

    def add(self, reported: Mapping[str, torch.Tensor]) -> None:
        """Note what a step reported; what it did not do is NaN and does not count."""
        for key, value in reported.items():
            number = value.item()
            if not math.isnan(number):
                self.sums[key], self.counts[key] = self.sums.get(key, 0) + number, self.counts.get(key, 0) + 1

    def means(self) -> dict[str, float]:
        """Of the epoch so far."""
        return {key: round(self.sums[key] / self.counts[key], 4) for key in self.sums}

    def close_epoch(self) -> None:
        self.epochs_done, self.steps_done, self.sums, self.counts = self.epochs_done + 1, 0, {}, {}

    def count_step(self, seconds: float, optim: OptimSection, accelerator: Accelerator) -> bool:
        """Note that a step is done, and what it took; whether the time of a run of minutes is over."""
        self.steps_done += 1
        self.trained_seconds += seconds
        if not optim.minutes:
            self.share_done = self.step / (self.steps_an_epoch * optim.epochs)
            return False
        slowest = self.trained_seconds
        if accelerator.num_processes > 1:  # the same number in every process, so that all stop together
            slowest = float(accelerator.gather(torch.tensor([slowest], device=accelerator.device)).max())
        self.share_done = slowest / (60 * optim.minutes)
        return self.share_done >= 1

    def bar(self, optim: OptimSection, is_quiet: bool) -> tqdm:
        if optim.minutes:
            return tqdm(total=100, initial=self._percent, unit="%", disable=is_quiet)
        return tqdm(total=self.steps_an_epoch * optim.epochs, initial=self.step, unit="step", disable=is_quiet)

    def show(self, bar: tqdm, optim: OptimSection) -> None:
        """Bring a bar to where the run is."""
        means = self.means()
        dice = means.get("dice", means.get("dice_text"))
        bar.set_postfix(epoch=self.epochs_done + 1, loss=means["loss"], dice=dice, best=self.best_dice, refresh=False)
        bar.update((self._percent if optim.minutes else self.step) - bar.n)

    def learning_rate_rule(self, optim: OptimSection, updates: int) -> Callable[[int], float]:
        """Factor of the learning rate after so many updates; in a run of so many minutes the time says it."""
        if not optim.minutes:
            return lambda step: learning_rate_factor(step, updates, optim.warmup_fraction)
        parts = 10_000
        return lambda step: learning_rate_factor(round(self.share_done * parts), parts, optim.warmup_fraction)

    def state(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def take(self, state: Mapping[str, Any], optim: OptimSection, folder: Path) -> None:
        """Be as far as a checkpoint; those of earlier versions know whole epochs only.

        Raises:
            CheckpointError: it lies within an epoch, and an epoch has another number of steps now.
        """
        steps_an_epoch = self.steps_an_epoch
        for each in dataclasses.fields(self):
            setattr(self, each.name, state.get(each.name, getattr(self, each.name)))
        if self.steps_done and self.steps_an_epoch != steps_an_epoch:
            raise CheckpointError(
                "the checkpoint lies within an epoch of other length", file=folder,
                expected=f"{self.steps_an_epoch} steps an epoch", found=f"{steps_an_epoch}",
                hint="resume with the same data, batch size and number of processes",
            )  # fmt: skip
        self.steps_an_epoch = steps_an_epoch
        if not optim.minutes:  # the recipe may have been given more epochs since
            self.share_done = self.step / (self.steps_an_epoch * optim.epochs)

    @property
    def _percent(self) -> int:
        return min(100, int(100 * self.share_done))
