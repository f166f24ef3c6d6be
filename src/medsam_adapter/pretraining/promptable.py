"""Training of a promptable backbone from nothing, on synthetic scenes (`msa pretrain promptable RECIPE`).

One step: encode B scenes once; for each of P targets decode an opening prompt (click, several clicks, box, box and
click, or a mask of the neighbouring slice), then a few rounds in which a simulated person corrects the largest error,
the previous logits going in as mask prompt. The loss sums over rounds. Scene i is the same whatever the machine, so a
resumed run goes on as if it had never stopped; of several processes each makes its part of a step's scenes.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm
from transformers import SamModel

from medsam_adapter.errors import MSAError, RecipeError
from medsam_adapter.losses import balanced_bce_loss, dice_loss, hard_dice
from medsam_adapter.pretraining.backbone import BackboneConfig, build_backbone
from medsam_adapter.pretraining.resuming import plain_recipe, refuse_another_run
from medsam_adapter.pretraining.synthetic import make_scene
from medsam_adapter.prompts.decode import decode_masks
from medsam_adapter.prompts.simulate import PromptSet, correct, opening_prompts
from medsam_adapter.training.checkpoint import (
    clear_checkpoints,
    load_checkpoint,
    restore_weights,
    save_checkpoint,
    trainable_state,
)
from medsam_adapter.training.processes import make_accelerator, refuse_sharding
from medsam_adapter.training.recipe_reading import load_yaml
from medsam_adapter.training.run_folder import clear_run, truncate_log
from medsam_adapter.training.run_lock import RunLock
from medsam_adapter.writing import naming_write_errors, write_text


@dataclass
class PromptableRecipe:
    """All that makes a backbone."""

    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 4000
    """Optimisation steps in all."""
    batch_size: int = 8
    """Scenes in a step."""
    prompts_per_scene: int = 4
    """Targets P in a scene."""
    max_corrections: int = 3
    """Most corrective rounds after the opening prompt: none in 40 % of the steps, else drawn evenly from 0 to this."""
    learning_rate: float = 5e-4
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.05
    """Weight decay of AdamW."""
    warmup_steps: int = 200
    """Steps of linear warm-up."""
    decay_fraction: float = 0.3
    """Share of the steps, at the end, in which the learning rate falls linearly to zero."""
    curriculum_steps: int = 2500
    """Steps until the hardest scenes of a batch have full difficulty; easier ones always stay in the mix."""
    mixed_precision: str = "bf16"
    """no, bf16 or fp16."""
    seed: int = 0
    """Seed of weights, scenes and prompts."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    workers: int = 1
    """Processes that make scenes."""


def load_promptable_recipe(path: Path) -> PromptableRecipe:
    """Read a recipe. Raises `RecipeError` as `training.recipe` does."""
    return load_yaml(PromptableRecipe, path)


def learning_rate(recipe: PromptableRecipe, step: int) -> float:
    """Warm-up, plateau, linear decay to zero: a plateau lets a run be ended, or prolonged, at any checkpoint."""
    decay_steps = max(1, round(recipe.steps * recipe.decay_fraction))
    up, down = (step + 1) / max(1, recipe.warmup_steps), (recipe.steps - step) / decay_steps
    return recipe.learning_rate * max(0.0, min(1.0, up, down))


class Scenes(IterableDataset):
    """Batches of scenes from step `start` on: (pixel_values (B, 3, S, S), targets (B, P, S, S) bool).

    Args:
        process_index, num_processes: which part of each step this process makes. Processes together see the scenes that
            one would see with the batch of them all; its loading workers take turns.
    """

    def __init__(self, recipe: PromptableRecipe, start: int, process_index: int = 0, num_processes: int = 1):
        self.recipe, self.start = recipe, start
        self.process_index, self.num_processes = process_index, num_processes

    def __iter__(self):
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in range(self.start + first, self.recipe.steps, stride):
            yield self.batch(step)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        hardest = min(1.0, max(0.0, (step - 150) / max(1, recipe.curriculum_steps - 150)))
        size = recipe.batch_size * self.num_processes
        first_seed = (recipe.seed * 1_000_003 + step) * size
        levels = hardest * np.random.default_rng((recipe.seed, step, 1)).uniform(size=size) ** 0.6
        mine = range(self.process_index * recipe.batch_size, (self.process_index + 1) * recipe.batch_size)
        scenes = [
            make_scene(first_seed + i, recipe.backbone.image_size, float(levels[i]), recipe.prompts_per_scene)
            for i in mine
        ]
        return torch.stack([s.pixel_values for s in scenes]), torch.stack([s.targets for s in scenes])


def prompt_loss(model: SamModel, pixel_values: Tensor, targets: Tensor, rng: np.random.Generator, max_corrections: int):
    """Loss of one step and the Dice after the opening and after the last round.

    Args:
        pixel_values: (B, 3, S, S).
        targets: (B, P, S, S) bool.
    """
    size = pixel_values.shape[-1]
    embeddings = model.vision_encoder(pixel_values)[0]  # (B, C, g, g)
    stride = size // (4 * embeddings.shape[-1])
    soft = F.avg_pool2d(targets.flatten(0, 1)[:, None].float(), stride)[:, 0]  # (BP, h, w)
    hard = (soft > 0.5).cpu().numpy()
    prompts: PromptSet = opening_prompts(hard, stride, rng)
    multimask = rng.random() < 0.2
    loss, first_dice = 0.0, None
    rounds = 1 + (int(rng.integers(0, max_corrections + 1)) if rng.random() < 0.6 else 0)
    for number in range(rounds):
        logits, iou = decode_masks(
            model,
            embeddings,
            **prompts.tensors(embeddings.device, (len(targets), -1)),
            multimask_output=multimask and number == 0,
        )
        logits, iou = logits.float().flatten(0, 1), iou.float().flatten(0, 1)  # (BP, M, h, w), (BP, M)
        repeated = soft[:, None].expand_as(logits)
        each = balanced_bce_loss(logits, repeated) + dice_loss(logits, repeated)  # (BP, M)
        best = each.argmin(1, keepdim=True)
        loss = loss + each.gather(1, best).mean()
        with torch.no_grad():
            overlap = ((logits > 0) & (repeated > 0.5)).sum((-2, -1))
            union = ((logits > 0) | (repeated > 0.5)).sum((-2, -1))
        loss = loss + 0.1 * F.mse_loss(iou, overlap / union.clamp_min(1))
        shown = logits.detach().gather(1, best[..., None, None].expand(-1, 1, *logits.shape[-2:]))[:, 0]
        last_dice = hard_dice(shown, soft).mean()
        first_dice = last_dice if first_dice is None else first_dice
        if number + 1 < rounds:
            prompts = correct(prompts, shown.cpu().numpy(), hard, stride, rng)
    return loss / rounds, first_dice, last_dice


class _Promptable(nn.Module):
    """`prompt_loss` as a module's forward: through DDP's own, else processes drift apart."""

    def __init__(self, model: SamModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, targets: Tensor, seed: tuple[int, ...], max_corrections: int):
        return prompt_loss(self.model, pixel_values, targets, np.random.default_rng(seed), max_corrections)


def pretrain_promptable(
    recipe: PromptableRecipe, output: Path, resume: bool = False, stop_after: int | None = None, overwrite: bool = False
) -> int:
    """Train a backbone and write it to `output` as a `SamModel` folder with `recipe.json` and `log.jsonl`.

    The backbone is written after the last step of all. Returns the number of steps that are done.

    Args:
        output: run folder; from its `checkpoints/` `resume=True` goes on exactly.
        stop_after: end this session after so many steps (the checkpoint is written), for training in stages.
        overwrite: an earlier run in the folder is removed; without it and `resume` it is refused.

    Raises:
        RecipeError: values that cannot be trained with.
        CheckpointError: nothing to resume, the checkpoint of another recipe, or of more steps.
        OutputError: an earlier run would be lost, another process trains there, or it cannot be written.
        MSAError: a loss that is no number.
    """
    _check(recipe)
    # A step may do without a kind of prompt, and so without its weights.
    kinds = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = make_accelerator(recipe.mixed_precision, kwargs_handlers=[kinds])
    refuse_sharding(accelerator, "msa pretrain promptable")
    with RunLock(output, resume or overwrite) as lock:
        return _train(recipe, output, accelerator, resume, stop_after, lock)


def _train(
    recipe: PromptableRecipe, output: Path, accelerator: Accelerator, resume: bool, stop_after: int | None,
    lock: RunLock,
) -> int:  # fmt: skip
    torch.manual_seed(recipe.seed)
    model = build_backbone(recipe.backbone)
    if (
        accelerator.device.type == "cpu"
    ):  # torch's fused attention is twice as slow as its parts for the decoder's few tokens
        model.mask_decoder.config._attn_implementation = "eager"
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    state = load_checkpoint(output, tqdm.write) if resume else None
    if state:
        refuse_another_run(recipe, state, ("checkpoint_every", "workers"), output / "recipe.json")
        restore_weights(model, state["model"], output)
    start = state["step"] if state else 0
    is_main = accelerator.is_main_process
    lock.take()
    if is_main:
        if not state:
            clear_run(output)
            clear_checkpoints(output)
        with naming_write_errors(output):
            write_text(output / "recipe.json", json.dumps(asdict(recipe), indent=1) + "\n")
            truncate_log(output / "log.jsonl", "step", start if state else -1)
    objective, optimizer = accelerator.prepare(_Promptable(model), optimizer)
    if state:  # after it: prepare would put AdamW's counters on a GPU, to be read there one by one at each step
        optimizer.load_state_dict(state["optimizer"])
        if "scaler" in state and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
    end = min(recipe.steps, start + stop_after) if stop_after else recipe.steps
    loader = DataLoader(
        Scenes(recipe, start, accelerator.process_index, accelerator.num_processes),
        batch_size=None,
        num_workers=recipe.workers,
        prefetch_factor=4 if recipe.workers else None,
    )
    window, began = [], time.perf_counter()
    model.train()
    done = start
    steps = zip(range(start, end), loader, strict=False)
    progress = tqdm(steps, initial=start, total=end, unit="step", mininterval=5, disable=not is_main)
    for step, (pixel_values, targets) in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        device = accelerator.device
        with accelerator.autocast():
            loss, first, last = objective(
                pixel_values.to(device), targets.to(device), (recipe.seed, step), recipe.max_corrections
            )
        if not torch.isfinite(loss):
            raise MSAError(
                f"the loss became {loss.item()} in step {step + 1}", expected="a finite loss",
                hint="lower learning_rate, or take mixed_precision: no; then --resume",
            )  # fmt: skip
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        window.append((loss.item(), first.item(), last.item()))
        done = step + 1
        if done % 100 == 0 or done == end:
            mean = np.mean(window, axis=0)
            row = {
                "step": done,
                "loss": round(float(mean[0]), 4),
                "dice_first": round(float(mean[1]), 4),
                "dice_last": round(float(mean[2]), 4),
                "learning_rate": round(learning_rate(recipe, step), 7),
                "seconds": round(time.perf_counter() - began, 1),
            }
            if is_main:
                with naming_write_errors(output / "log.jsonl"), (output / "log.jsonl").open("a") as log:
                    log.write(json.dumps(row) + "\n")
            progress.set_postfix(loss=row["loss"], first=row["dice_first"], last=row["dice_last"], refresh=False)
            window = []
        if is_main and (done % recipe.checkpoint_every == 0 or done == end):
            state = {
                "model": trainable_state(model), "optimizer": optimizer.state_dict(), "step": done,
                "recipe": plain_recipe(recipe),
            }  # fmt: skip
            if accelerator.scaler is not None:
                state["scaler"] = accelerator.scaler.state_dict()
            save_checkpoint(output, state, done)
    if is_main and done == recipe.steps:
        export_backbone(model, output)
    return done


def _check(recipe: PromptableRecipe) -> None:
    """Raises RecipeError for a number that is too small to train with."""
    least = {
        "steps": 1, "batch_size": 1, "prompts_per_scene": 1, "max_corrections": 0, "warmup_steps": 0,
        "curriculum_steps": 0, "seed": 0, "checkpoint_every": 1, "workers": 0,
    }  # fmt: skip
    for name, smallest in least.items():
        if getattr(recipe, name) < smallest:
            raise RecipeError(f"{name} is too small", expected=f"at least {smallest}", found=str(getattr(recipe, name)))


def export_backbone(model: SamModel, folder: Path) -> None:
    """Write a backbone as a `SamModel` folder, weights in half precision, to be loaded in float32.

    Half the bytes; the rounding (2^-11) is far below what training moves a weight in a step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().half().contiguous() for k, v in model.state_dict().items()}
    state.pop("prompt_encoder.shared_embedding.positional_embedding")  # tied to shared_image_embedding's
    with naming_write_errors(folder):  # under another name first: a good file is not replaced by half of one
        save_file(state, folder / ".model.safetensors", metadata={"format": "pt"})
        (folder / ".model.safetensors").replace(folder / "model.safetensors")
    model.config.dtype = torch.float32
    model.config.architectures = ["SamModel"]
    model.config.save_pretrained(folder)
