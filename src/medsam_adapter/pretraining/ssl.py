"""Self-supervised pre-training of SAM's image encoder (`msa pretrain ssl RECIPE`).

Medical SAM Adapter, https://arxiv.org/abs/2304.12620, pre-trains with e-Mix, ShED and MAE together. Its coefficients
and mask ratio are not public: they are values of the recipe.

What a step draws depends on (seed, step, process, objective) alone, and so do its pictures; a resumed run needs no
random state, and goes on to the bit as if it had never stopped.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm

from medsam_adapter.backbones import resolve_base
from medsam_adapter.errors import MSAError, RecipeError
from medsam_adapter.pretraining.collapse import HeldPictures, measure, warning_of
from medsam_adapter.pretraining.emix import EMix
from medsam_adapter.pretraining.mae import MAE
from medsam_adapter.pretraining.resuming import plain_recipe, refuse_another_run
from medsam_adapter.pretraining.shed import ShED
from medsam_adapter.pretraining.sources import Mixture, open_source
from medsam_adapter.pretraining.ssl_model import open_start, save_result
from medsam_adapter.pretraining.ssl_recipe import SslRecipe, check_ssl_recipe
from medsam_adapter.pretraining.stay import Stay
from medsam_adapter.pretraining.tokens import embed_patches
from medsam_adapter.training.checkpoint import (
    clear_checkpoints,
    load_checkpoint,
    restore_weights,
    save_checkpoint,
    trainable_state,
)
from medsam_adapter.training.interruption import Signals, interrupted
from medsam_adapter.training.processes import make_accelerator, refuse_sharding
from medsam_adapter.training.run_folder import clear_run, truncate_log, versions
from medsam_adapter.training.run_lock import RunLock
from medsam_adapter.training.schedule import learning_rate_factor
from medsam_adapter.writing import naming_write_errors, write_text

FREE = ("workers", "log_every", "check_every", "checkpoint_every")
"""Fields of the recipe that may change on resume, besides the number of steps."""
OBJECTIVES = ("emix", "shed", "mae", "stay")


class SelfSupervised(nn.Module):
    """Encoder and objectives in one module, so that data-parallel training sees all that is trained, in one forward.

    Args:
        vision_encoder: a `SamVisionEncoder`, with adapters or without; what has requires_grad is trained.
        recipe: objectives of weight 0 are left out altogether.
    """

    def __init__(self, vision_encoder: nn.Module, recipe: SslRecipe):
        super().__init__()
        vision = vision_encoder.config
        channels, grid = vision.output_channels, vision.image_size // vision.patch_size
        makers = {
            "emix": lambda: EMix(channels, recipe.projection_width, recipe.temperature),
            "shed": lambda: ShED(channels, grid, recipe.shuffle_fraction),
            "mae": lambda: MAE(
                vision.hidden_size, channels, grid, vision.patch_size, recipe.mask_ratio, recipe.decoder_width,
                recipe.decoder_depth,
            ),
            "stay": lambda: Stay(vision_encoder),
        }  # fmt: skip
        self.vision_encoder = vision_encoder
        self.weights = {name: getattr(recipe.weights, name) for name in OBJECTIVES if getattr(recipe.weights, name)}
        self.objectives = nn.ModuleDict({name: makers[name]() for name in self.weights})

    def forward(self, pixel_values: Tensor, seed: tuple[int, ...]) -> dict[str, Tensor]:
        """Each objective's loss by name, and `loss`, their weighted sum.

        Args:
            pixel_values: (B, 3, S, S).
            seed: numbers that name this step and process.
        """
        patches = embed_patches(self.vision_encoder, pixel_values)
        losses = {}
        for name, objective in self.objectives.items():
            mixed = np.random.SeedSequence((*seed, OBJECTIVES.index(name))).generate_state(1, np.uint64)[0]
            generator = torch.Generator().manual_seed(int(mixed >> np.uint64(1)))
            losses[name] = objective(self.vision_encoder, patches, pixel_values, generator)
        return {"loss": sum(self.weights[name] * loss for name, loss in losses.items()), **losses}


@dataclass
class SslResult:
    """Where the run lies, how far it is, how many pictures could not be read, and the last look for collapse.

    `check` is what `collapse.measure` returns, or {} if nobody has looked.
    """

    folder: Path
    step: int
    num_skipped: int
    check: dict[str, float]
    seconds: float


def pretrain_ssl(
    recipe: SslRecipe,
    output: Path,
    resume: bool = False,
    stop_after: int | None = None,
    show_progress: bool = True,
    overwrite: bool = False,
) -> SslResult:
    """Train an encoder, or adapters in it, and write it to `output` with recipe, versions, log and checkpoint.

    Args:
        output: run folder; its `checkpoints/` let `resume` go on. With train: encoder it opens as a `SamModel`, with
            train: adapters as an `MSAModel`.
        stop_after: end this session after so many steps (the checkpoint is written).
        overwrite: an earlier run in the folder is removed; without it and `resume` it is refused.

    Raises:
        MSAInputError: what the user can mend in recipe, base or sources; an output that is the base or in which another
            process trains, or on resume the checkpoint of another recipe.
        MSAError: a loss that is not a number; the batch's pictures are in the text.
    """
    check_ssl_recipe(recipe)
    # What is written would be read again on resume, and `stay` would hold on to what has been trained.
    if Path(output).resolve() == Path(resolve_base(recipe.base)).resolve():
        raise RecipeError(
            "the run would write over its own base", file=output, expected="another --output",
            found=f"base: {recipe.base}",
        )  # fmt: skip
    accelerator = make_accelerator(recipe.mixed_precision)
    refuse_sharding(accelerator, "msa pretrain ssl")
    with RunLock(Path(output), resume or overwrite) as lock:
        return _Run(recipe, Path(output), accelerator, show_progress).fit(resume, stop_after, lock)


class _Run:
    def __init__(self, recipe: SslRecipe, folder: Path, accelerator: Accelerator, show_progress: bool):
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.is_main = accelerator.is_main_process
        self.show_progress = show_progress and self.is_main
        self.sources = [open_source(section) for section in recipe.sources]
        self.source_weights = [float(section.get("weight", 1.0)) for section in recipe.sources]
        torch.manual_seed(recipe.seed)
        self.model = open_start(recipe)
        self.image_size = self.model.config.vision_config.image_size
        self.objective = SelfSupervised(self.model.vision_encoder, recipe)
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
                {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
        )
        self.step, self.seconds = 0, 0.0
        self.skipped: dict[str, dict[str, Any]] = {}
        self.start_check: dict[str, float] = {}
        self.last_check: dict[str, float] = {}
        self.rows: list[dict[str, float]] = []  # losses of the steps that are not logged yet

    def fit(self, resume: bool, stop_after: int | None, lock: RunLock) -> SslResult:
        recipe, accelerator = self.recipe, self.accelerator
        state = load_checkpoint(self.folder, tqdm.write) if resume else None
        held = self._held_pictures()
        lock.take()
        if self.is_main and not state:
            clear_run(self.folder)
            clear_checkpoints(self.folder)
        wrapped, optimizer = accelerator.prepare(self.objective, self.optimizer)
        if state:
            self._restore(state, optimizer)  # a recipe that does not fit must not replace the one that does
        if self.is_main:
            write_text(self.folder / "recipe.yaml", recipe.to_yaml())
            write_text(self.folder / "versions.json", json.dumps(versions(), indent=1) + "\n")
        self._start_log()
        if held and not state:
            self._check(held)
        began = time.perf_counter() - self.seconds
        end = min(recipe.steps, self.step + stop_after) if stop_after else recipe.steps
        wrapped.train()
        loader = self._loader(end)
        bar = tqdm(total=end, initial=self.step, unit="step", disable=not self.show_progress)
        with Signals(self.is_main, accelerator.num_processes == 1) as signals, bar:
            for batch in loader:
                if isinstance(batch, Exception):
                    raise batch
                self.rows.append(self._train_step(batch, wrapped, optimizer))
                self.step = batch["step"] + 1
                self.seconds = time.perf_counter() - began
                bar.set_postfix({name: f"{value:.3f}" for name, value in self.rows[-1].items()}, refresh=False)
                bar.update()
                is_last = self.step == recipe.steps
                is_checkpoint = self.step % recipe.checkpoint_every == 0 or self.step == end
                if self.step % recipe.log_every == 0 or is_checkpoint:
                    self._log_losses(self.rows, optimizer)
                    self.rows = []
                if held and (self.step % recipe.check_every == 0 or is_last):
                    self._check(held)
                stopped = signals.agreed(accelerator)
                if is_checkpoint or stopped:
                    self._checkpoint(optimizer)
                if stopped and self.step != end:
                    place, command = f"step {self.step} of {recipe.steps}", "msa pretrain ssl FOLDER -o FOLDER --resume"
                    raise interrupted(stopped, self.folder, place, command)
        return SslResult(self.folder, self.step, len(self.skipped), self.last_check, self.seconds)

    def _mixture(self, steps: int, seed: int, augment: bool, **parts) -> Mixture:
        return Mixture(
            self.sources, self.source_weights, self.recipe.batch_size, steps, self.image_size, seed, augment=augment,
            **parts,
        )  # fmt: skip

    def _loader(self, end: int) -> DataLoader:
        accelerator, recipe = self.accelerator, self.recipe
        mixture = self._mixture(
            end, recipe.seed, recipe.augment, start=self.step, process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )  # fmt: skip
        is_cuda = accelerator.device.type == "cuda"
        return DataLoader(_Batches(mixture), batch_size=None, num_workers=recipe.workers, pin_memory=is_cuda)

    def _held_pictures(self) -> HeldPictures | None:
        if not self.recipe.check_every or not self.is_main:
            return None
        mixture = self._mixture(10**6, self.recipe.seed + 1_000_003, False)
        held = HeldPictures().fill(mixture, self.recipe.check_pictures)
        return held if len(held.classes) >= 2 else None

    def _train_step(self, batch: dict, wrapped: nn.Module, optimizer) -> dict[str, float]:
        accelerator, recipe = self.accelerator, self.recipe
        factor = learning_rate_factor(batch["step"], recipe.steps, recipe.warmup_fraction)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        for name, reason in batch["skipped"]:
            self.skipped.setdefault(name, {"step": batch["step"] + 1, "name": name, "reason": reason})
        pixel_values = batch["pixel_values"].to(accelerator.device, non_blocking=True)
        out = wrapped(pixel_values, (recipe.seed, batch["step"], accelerator.process_index))
        values = dict(zip(out, torch.stack([loss.detach().float() for loss in out.values()]).tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            bad = [name for name, value in values.items() if name != "loss" and not math.isfinite(value)]
            raise MSAError(
                f"the loss became {values['loss']} in step {batch['step'] + 1}", expected="a finite loss",
                found=f"{', '.join(bad) or 'the sum'} on {', '.join(batch['names'])}",
                hint="look at these pictures, lower learning_rate, or take mixed_precision: no; then --resume",
            )  # fmt: skip
        accelerator.backward(out["loss"])
        if recipe.gradient_clipping:
            trained = [p for p in wrapped.parameters() if p.requires_grad]
            accelerator.clip_grad_norm_(trained, recipe.gradient_clipping)
        optimizer.step()
        optimizer.zero_grad()
        return values

    # -- what is written -----------------------------------------------------------------------------------------------

    def _log(self, row: dict) -> None:
        if self.is_main:
            with naming_write_errors(self.folder / "log.jsonl"), (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")

    def _start_log(self) -> None:
        """An empty log, or on resume the lines up to the checkpoint."""
        if not self.is_main:
            return
        if self.step:
            truncate_log(self.folder / "log.jsonl", "step", self.step)
        else:
            write_text(self.folder / "log.jsonl", "")
            (self.folder / "skipped.jsonl").unlink(missing_ok=True)

    def _log_losses(self, rows: list[dict[str, float]], optimizer) -> None:
        means = {name: round(sum(row[name] for row in rows) / len(rows), 5) for name in rows[0]}
        rate = float(f"{optimizer.param_groups[0]['lr']:.4g}")
        self._log({"step": self.step, **means, "learning_rate": rate, "seconds": round(self.seconds, 1)})

    def _check(self, held: HeldPictures) -> None:
        features = held.features(self.model.vision_encoder, self.recipe.batch_size)
        self.last_check = measure(features, held.classes)
        self.start_check = self.start_check or self.last_check
        row = {"step": self.step, "check": self.last_check, "start": self.start_check}
        warning = warning_of(self.last_check, self.start_check, self.recipe.collapse_fraction)
        if warning:
            row["warning"] = warning
            tqdm.write(f"warning: step {self.step}: {warning}", file=sys.stderr)
        self._log(row)

    def _checkpoint(self, optimizer) -> None:
        gathered = gather_object(list(self.skipped.values()))  # each process meets other pictures
        self.skipped = {row["name"]: row for row in gathered}
        if self.is_main:
            state = {
                "model": trainable_state(self.objective), "optimizer": optimizer.state_dict(), "step": self.step,
                "seconds": self.seconds, "skipped": list(self.skipped.values()), "start_check": self.start_check,
                "last_check": self.last_check, "rows": self.rows, "recipe": plain_recipe(self.recipe),
            }  # fmt: skip
            if self.accelerator.scaler is not None:
                state["scaler"] = self.accelerator.scaler.state_dict()
            if self.skipped:
                lines = "".join(json.dumps(row) + "\n" for row in self.skipped.values())
                write_text(self.folder / "skipped.jsonl", lines)
            with naming_write_errors(self.folder):
                save_result(self.model, self.folder, self.recipe)
            save_checkpoint(self.folder, state, self.step)  # last: who finds it finds all the rest
        self.accelerator.wait_for_everyone()

    def _restore(self, state: dict, optimizer) -> None:
        restore_weights(self.objective, state["model"], self.folder)
        refuse_another_run(self.recipe, state, FREE, self.folder / "recipe.yaml")
        optimizer.load_state_dict(state["optimizer"])
        if "scaler" in state and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.start_check, self.last_check = state["start_check"], state["last_check"]
        self.rows = state.get("rows", [])
        self.skipped = {row["name"]: row for row in state["skipped"]}


class _Batches(IterableDataset):
    """A mixture whose errors come through as they are: a DataLoader would put a worker's traceback into their text."""

    def __init__(self, mixture: Mixture):
        self.mixture = mixture

    def __iter__(self):
        try:
            yield from self.mixture
        except MSAError as error:
            yield error
